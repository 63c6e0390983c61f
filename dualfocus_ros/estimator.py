# SPDX-License-Identifier: Apache-2.0
"""The whole algorithm: focal stack -> aligned stack -> engine -> depth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualfocus_ros.align import BREATHING_CHOICES, Breathing, KeptSlices, align, breathing_source
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
        if not 0.0 <= self.min_depth_m < self.max_depth_m:
            raise ParameterError(
                f"expected 0 <= min_depth_m < max_depth_m, got {self.min_depth_m} and {self.max_depth_m}"
            )
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ParameterError(f"expected min_confidence in 0..1, got {self.min_confidence}")


SAME_POSITION = 0.25  # of the smallest step: slices this near are taken to be of one focus position


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

    def __init__(self, engine: DepthEngine, config: EstimatorConfig | None = None) -> None:
        """Take an engine that is already entered (loaded).

        After each estimate, `timing`, `residual_px` (N, 3) and `breathing` (the source that was used, never
        auto) tell how it came about.
        """
        self.engine = engine
        self.config = config or EstimatorConfig()
        self.timing = Timing(0.0, 0.0)
        self.breathing: Breathing = self.config.breathing
        self.residual_px: npt.NDArray[np.float64] = np.zeros((0, 3))
        self._kept = KeptSlices()
        self._last: FocalStack | None = None

    def prepare(self, slices: Iterable[FocalSlice]) -> None:
        """Do what can be done for slices before their stack is complete, if that will be like the last one.

        Args:
            slices: all that there are so far of the stack to come; what was done for others is forgotten.

        Raises:
            AlignmentError: if a slice cannot be brought into the frame of the last stack.
            EngineError: if the engine fails.
        """
        last = self._last
        if last is None or not isinstance(self.engine, StreamingEngine) or not self.engine.streams:
            return
        slices = tuple(slices)
        self._kept.keep_only((*slices, *last.slices))
        positions = 1.0 / last.focus_distance_m
        off_dpt = SAME_POSITION * float(np.abs(np.diff(positions)).min())
        for s in slices:
            row = int(np.argmin(np.abs(positions - s.focus_dpt)))
            if abs(positions[row] - s.focus_dpt) > off_dpt:
                continue  # of a focus that the last stack had not
            image, seen, number = self._kept.prepare(s, last, self.breathing)
            if seen is None:
                self.engine.prepare(image, number, row, len(positions))

    def estimate(self, stack: FocalStack) -> DepthEstimate:
        """Estimate depth in the reference frame of the stack.

        Raises:
            AlignmentError: if the slices cannot be brought into one frame.
            EngineError: if the engine fails.
        """
        start = time.perf_counter()
        self.breathing = breathing_source(stack, self.config.breathing)
        aligned = align(stack, self.breathing, kept=self._kept)
        self._last = stack
        middle = time.perf_counter()
        output = self.engine.infer(aligned)
        depth_m = self._limit(output, aligned)
        self.timing = Timing(middle - start, time.perf_counter() - middle)
        self.residual_px = aligned.residual_px
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
