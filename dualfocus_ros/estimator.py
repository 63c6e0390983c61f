# SPDX-License-Identifier: Apache-2.0
"""The whole algorithm: focal stack -> aligned stack -> engine -> depth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dualfocus_ros.align import BREATHING_CHOICES, Breathing, breathing_source
from dualfocus_ros.alignment.aligner import RESIDUAL_CHOICES, Aligner, AlignmentReport, Residual
from dualfocus_ros.engine.base import DepthEngine, EngineOutput, StreamingEngine
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.types import MIN_SLICES, AlignedStack, DepthEstimate, FloatImage, FocalSlice, FocalStack


@dataclass(frozen=True)
class EstimatorConfig:
    """What of the estimate the user chooses.

    `min_depth_m` and `max_depth_m` bound the output: nearer becomes -inf, farther +inf (REP 117).
    Estimates of less than `min_confidence` become NaN.
    """

    breathing: Breathing = field(
        default="auto",
        metadata={
            "doc": "Where the change of the field of view with focus comes from: camera_info, thin_lens, none, "
            "or auto (camera_info where its K follows the focus, else thin_lens).",
            "choices": BREATHING_CHOICES,
            "live": True,
        },
    )
    residual: Residual = field(
        default="auto",
        metadata={
            "doc": "What finds the errors of alignment that the metadata do not tell, from the images: classical, "
            "network, none, or auto (classical, but nothing where the field of view is constant).",
            "choices": RESIDUAL_CHOICES,
        },
    )
    alignment_file: str = field(
        default="",
        metadata={
            "doc": "File that keeps what was learned of the lens for the next start; empty: nothing is kept."
        },
    )
    denoise: bool = field(
        default=True,
        metadata={
            "doc": "Take noise out of the slices of a noisy camera before depth is estimated: noise looks sharp."
        },
    )
    normalise_exposure: bool = field(
        default=True,
        metadata={
            "doc": "Give all slices of a stack the brightness and white balance of its reference before depth is "
            "estimated, where they differ.",
            "live": True,
        },
    )
    max_motion_px: float = field(
        default=4.0,
        metadata={
            "doc": "Stacks during which the image moves farther are left out; inf: none are.",
            "unit": "px",
            "min": 0.0,
            "live": True,
        },
    )
    min_depth_m: float = field(
        default=0.0,
        metadata={"doc": "Nearer depths are published as -inf (REP 117).", "unit": "m", "min": 0.0, "live": True},
    )
    max_depth_m: float = field(
        default=math.inf,
        metadata={"doc": "Farther depths are published as +inf (REP 117).", "unit": "m", "min": 0.0, "live": True},
    )
    min_confidence: float = field(
        default=0.0,
        metadata={
            "doc": "Depths of less confidence are published as NaN.",
            "min": 0.0,
            "max": 1.0,
            "live": True,
        },
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        if self.breathing not in BREATHING_CHOICES:
            raise ParameterError(f"expected breathing to be one of {BREATHING_CHOICES}, got {self.breathing!r}")
        if self.residual not in RESIDUAL_CHOICES:
            raise ParameterError(f"expected residual to be one of {RESIDUAL_CHOICES}, got {self.residual!r}")
        if not self.max_motion_px >= 0.0:
            raise ParameterError(f"expected max_motion_px of at least 0, got {self.max_motion_px}")
        if not 0.0 <= self.min_depth_m < self.max_depth_m:
            raise ParameterError(
                f"expected 0 <= min_depth_m < max_depth_m, got {self.min_depth_m} and {self.max_depth_m}"
            )
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ParameterError(f"expected min_confidence in 0..1, got {self.min_confidence}")


@dataclass(frozen=True)
class Timing:
    """Where the time of one estimate went, in seconds."""

    align_s: float
    engine_s: float


class DepthEstimator:
    """Turns focal stacks into depth with one engine. Not thread-safe: one thread calls it.

    What was done for a slice is kept for the next stack that has it, as the same image object; so images must not
    be written to once they were given away.
    """

    def __init__(
        self, engine: DepthEngine, config: EstimatorConfig | None = None, aligner: Aligner | None = None
    ) -> None:
        """Take an engine that is already entered (loaded).

        After each estimate, `timing` and `alignment` tell how it came about.

        Args:
            engine: estimates depth.
            config: what the user chooses; of how to align, `breathing`, `normalise_exposure` and
                `max_motion_px` alone.
            aligner: what else is to be known of alignment, see `make_aligner`; None: the metadata are believed.
        """
        self.engine = engine
        self.config = config or EstimatorConfig()
        self.timing = Timing(0.0, 0.0)
        self._aligner = aligner or Aligner()
        self._count = 0  # of slices of the last stack

    @property
    def alignment(self) -> AlignmentReport:
        """How the last stack was aligned."""
        return self._aligner.report

    def prepare(self, slices: Iterable[FocalSlice]) -> None:
        """Do what can be done for slices before their stack is complete, if that will be like the last one.

        Args:
            slices: all that there are so far of the stack to come; what was done for others is forgotten.

        Raises:
            AlignmentError: if a slice cannot be brought into the frame of the last stack.
            EngineError: if the engine fails.
        """
        if not isinstance(self.engine, StreamingEngine) or not self.engine.streams:
            return
        for row, s in self._aligner.prepare(tuple(slices)):
            if s.seen is None:
                self.engine.prepare(s.aligned, s.number, row, self._count)

    def estimate(self, stack: FocalStack) -> DepthEstimate:
        """Estimate depth in the reference frame of the stack.

        Raises:
            MotionError: if the camera moved too much.
            AlignmentError: if the slices cannot be brought into one frame.
            EngineError: if the engine fails.
        """
        start = time.perf_counter()
        config = self.config  # may be set by another thread meanwhile
        source = breathing_source(stack, config.breathing)
        aligned = self._aligner.align(
            stack, source, config.max_motion_px, normalise_exposure=config.normalise_exposure
        )
        self._count = len(stack.slices)
        middle = time.perf_counter()
        output = self.engine.infer(aligned)
        depth_m = self._limit(output, aligned)
        self.timing = Timing(middle - start, time.perf_counter() - middle)
        return DepthEstimate(
            depth_m=depth_m,
            confidence=output.confidence,
            all_in_focus=output.all_in_focus,
            intrinsics=aligned.intrinsics,
            stamp_ns=aligned.stamp_ns,
            frame_id=aligned.frame_id,
        )

    def _limit(self, output: EngineOutput, stack: AlignedStack) -> FloatImage:
        """Apply range and confidence limits, and the validity mask, to the depth of the engine."""
        depth_m = output.depth_m
        config = self.config
        if stack.valid is not None:
            unseen = stack.valid.sum(axis=0) < MIN_SLICES
            depth_m = np.where(unseen, np.float32(np.nan), depth_m)
        if config.min_confidence > 0.0:
            depth_m = np.where(output.confidence < config.min_confidence, np.float32(np.nan), depth_m)
        if config.min_depth_m > 0.0:
            depth_m = np.where(depth_m < config.min_depth_m, np.float32(-np.inf), depth_m)
        if math.isfinite(config.max_depth_m):
            depth_m = np.where(depth_m > config.max_depth_m, np.float32(np.inf), depth_m)
        return depth_m
