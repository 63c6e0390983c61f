# SPDX-License-Identifier: Apache-2.0
"""Alignment of a stream of stacks: metadata, what is known of the lens, motion, and one warp.

The residual of the lens is estimated from the images until enough sweeps have said the same; then it is only
looked after now and then, and alignment costs the warp and a glance for motion and noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dualfocus_ros.align import (
    AlignedSlice,
    Breathing,
    KeptSlices,
    align_by,
    has_constant_view,
    metadata_intrinsics,
    reference_to_slice,
    slice_intrinsics,
)
from dualfocus_ros.alignment.base import ResidualEstimator
from dualfocus_ros.alignment.classical import ClassicalResidual
from dualfocus_ros.alignment.exposure import Exposure, ExposureMeter
from dualfocus_ros.alignment.memory import CONVERGED_SWEEPS, LensMemory, same_position_dpt, tells
from dualfocus_ros.alignment.motion import (
    NEGLIGIBLE_MOTION_PX,
    Motion,
    MotionMeter,
    across_px,
    check_motion,
    drift_of,
    even_part,
)
from dualfocus_ros.alignment.network import NetworkResidual
from dualfocus_ros.alignment.residual import LEAST_SIDE_PX, NO_RESIDUAL, StackResidual, estimate_residual
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.noise import NEGLIGIBLE_NOISE, noise_level
from dualfocus_ros.types import AlignedStack, FocalSlice, FocalStack, Image, Intrinsics

FloatArray = npt.NDArray[np.float64]
Residual = Literal["auto", "classical", "network", "none"]
RESIDUAL_CHOICES: tuple[str, ...] = get_args(Residual)

CHECK_EVERY_SWEEPS = 20  # a lens that is well known is looked at again this often
SAME_NOISE = 0.25  # relative change of the noise up to which slices are calmed as before


@dataclass(frozen=True)
class AlignmentReport:
    """How the last stack was aligned.

    Attributes:
        source: of the field of view by metadata, never auto.
        residual_px: (N, 3) what was corrected beyond the metadata, see `AlignedStack.residual_px`.
        motion_px: how far the image moved during the stack.
        sweeps: of how many sweeps the residual of the least known slice is; None: it is not estimated.
        estimated: whether the images of this stack were used to estimate it.
        noise: that the slices were freed of, standard deviation in 1/255 of the full range; 0: there was little.
        exposure_difference: largest difference of light between slices that was taken out, as a share; 0: none.
        trouble: why what was learned could not be kept; empty: nothing is wrong.
    """

    source: Breathing = "none"
    residual_px: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    motion_px: float = 0.0
    sweeps: int | None = None
    estimated: bool = False
    noise: float = 0.0
    exposure_difference: float = 0.0
    trouble: str = ""

    @property
    def converged(self) -> bool:
        """Whether enough sweeps have been seen for the residual to be known, or it is not estimated at all."""
        return self.sweeps is None or self.sweeps >= CONVERGED_SWEEPS

    def in_words(self) -> str:
        """Return how well the residual is known, for diagnostics."""
        if self.sweeps is None:
            return "not estimated"
        return "converged" if self.converged else f"learning, {self.sweeps} of {CONVERGED_SWEEPS} sweeps"


def make_residual_estimator(name: str, threads: int | None = None) -> ResidualEstimator:
    """Return an estimator by name, not entered; `auto` is `classical`, see docs/alignment.md for why.

    Args:
        name: one of RESIDUAL_CHOICES but none.
        threads: that `network` may use; None: one for each core.

    Raises:
        AlignmentError: if there is none of that name.
    """
    if name in ("auto", "classical"):
        return ClassicalResidual()
    if name == "network":
        return NetworkResidual(threads=threads)
    raise AlignmentError(f"expected residual to be one of {RESIDUAL_CHOICES}, got {name!r}")


class Aligner:
    """Aligns stack after stack of one camera. One thread uses it.

    What was warped is kept for the next stack that has the same slice, as the same image object.
    """

    def __init__(
        self,
        estimator: ResidualEstimator | None = None,
        memory: LensMemory | None = None,
        *,
        always: bool = False,
        denoise: bool = True,
    ) -> None:
        """Take an estimator that is already entered; None: the metadata are believed.

        Args:
            estimator: of the residual.
            memory: of the lens; None: an empty one.
            always: estimate the residual also where the metadata say that the field of view is constant; such
                stacks are mostly registered already, and then an estimate can only harm.
            denoise: take noise out of slices that have more than a little.
        """
        self.report = AlignmentReport()
        self._estimator, self._always, self._denoise = estimator, always, denoise
        self._memory = memory or LensMemory()
        self._meter = MotionMeter()
        self._kept = KeptSlices()
        self._light = ExposureMeter()
        self._last: _Aligned | None = None
        self._estimated: tuple[Image, ...] = ()  # of the stack that the lens was last looked at in
        self._unchecked = 0  # sweeps since then
        self._noise = 0.0
        self._measured: tuple[Image, ...] = ()  # what is left of the stack that the noise was measured in

    def align(
        self,
        stack: FocalStack,
        source: Breathing,
        max_motion_px: float = math.inf,
        *,
        normalise_exposure: bool = True,
    ) -> AlignedStack:
        """Bring the slices of a stack into one frame, and to one exposure.

        Args:
            stack: as captured.
            source: of the field of view, see `align.breathing_source`; not auto.
            max_motion_px: how far the image may move during the stack; inf: any.
            normalise_exposure: give all slices the exposure of the reference, see docs/exposure.md.

        Raises:
            MotionError: if it moved farther.
            AlignmentError: if the slices cannot be brought into one frame.
            EngineError: if the estimator fails.
        """
        motion = self._meter.measure(stack)
        intrinsics = metadata_intrinsics(stack, source)
        if self._estimator is None or not (self._always or _worth_estimating(intrinsics)):
            motion_px = across_px(motion, stack)
            self._report(source, motion_px)
            check_motion(motion_px, max_motion_px)
            residual = NO_RESIDUAL + drift_of(motion, stack)
        else:
            residual = self._residual(stack, source, intrinsics, motion, max_motion_px)
        noise = self._noise_of(stack)
        light = self._light.measure if normalise_exposure else self._light.ignore
        exposure = light(stack, intrinsics, residual)
        aligned = align_by(stack, intrinsics, residual, self._kept, noise, exposure.gains)
        self._last = _Aligned(stack, source, residual, self._kept.resampled, noise, exposure)
        self.report = replace(
            self.report,
            residual_px=aligned.residual_px,
            noise=noise,
            exposure_difference=exposure.difference,
        )
        return aligned

    def prepare(self, slices: Sequence[FocalSlice]) -> list[tuple[int, AlignedSlice]]:
        """Align slices of a stack to come as those of the last one were; forget all others.

        Return those whose place in the stack, from 0, is known, with it; none while the lens is being learned, or
        the exposure changes from stack to stack.
        """
        last = self._last
        if last is None or not self.report.converged:
            return []
        self._kept.keep_only((*slices, *last.stack.slices))
        self._light.look_at(slices, last.stack.slices)
        if not last.exposure.steady:
            return []
        found = []
        for s in slices:
            row = last.row(s)
            if row is not None:
                to_slice = last.ref_to_slice(s, row)
                gain = last.exposure.gains[row]
                warped = self._kept.warp(s.image, to_slice, resample=last.resampled, noise=last.noise, gain=gain)
                found.append((row, warped))
        return found

    def _report(
        self, source: Breathing, motion_px: float, sweeps: int | None = None, *, estimated: bool = False
    ) -> None:
        before = self.report
        self.report = replace(before, source=source, motion_px=motion_px, sweeps=sweeps, estimated=estimated)

    def _noise_of(self, stack: FocalStack) -> float:
        """Return the noise that slices are to be freed of.

        It is measured anew once no slice is left of those that it was measured in.
        """
        if not self._denoise:
            return 0.0
        images = tuple(s.image for s in stack.slices)
        self._measured = _shared(images, self._measured)
        if not self._measured:
            self._measured, self._noise = images, _steady_noise(noise_level(images), self._noise)
        return self._noise

    def _residual(
        self,
        stack: FocalStack,
        source: Breathing,
        intrinsics: Sequence[Intrinsics],
        motion: Motion | None,
        max_motion_px: float,
    ) -> FloatArray:
        """Return the residual (N, 3) of the lens and of motion; raise MotionError beyond the limit."""
        k = intrinsics[stack.reference]
        known, sweeps = self._memory.recall(stack, k, source)
        motion_px, drift = across_px(motion, stack), drift_of(motion, stack)
        estimate = self._is_due(stack, int(sweeps.min()), motion_px)
        if not estimate:
            self._report(source, motion_px, int(sweeps.min()))
            check_motion(motion_px, max_motion_px)
            return known + drift
        assert self._estimator is not None
        found = estimate_residual(stack, intrinsics, self._estimator, known + drift)
        if motion is None or sweeps.min() > 1:
            # What the lens is known to do is no motion. Of the first stack nothing is known: it may be either.
            off_px = np.where(tells(found.information)[:, None], found.residual - known, 0.0)
            within_px = float(np.hypot(*off_px[:, 1:].T).max())
            if motion is None or within_px < motion_px:  # it may have moved before the stack was begun
                motion_px, drift = within_px, even_part(off_px, stack) if motion is not None else drift
        self._report(source, motion_px, int(sweeps.min()), estimated=True)
        check_motion(motion_px, max_motion_px)
        self._memory.learn(stack, k, StackResidual(found.residual - drift, found.information), source)
        known, sweeps = self._memory.recall(stack, k, source)
        self.report = replace(self.report, sweeps=int(sweeps.min()), trouble=self._memory.trouble)
        return known + drift

    def _is_due(self, stack: FocalStack, sweeps: int, motion_px: float) -> bool:
        """Say whether the lens is to be looked at in this stack: not if a slice of it was used for that before."""
        images = tuple(s.image for s in stack.slices)
        if _shared(images, self._estimated):
            return False
        self._unchecked += 1
        learning = sweeps < CONVERGED_SWEEPS or self._memory.contradicted(stack)
        due = learning or motion_px > NEGLIGIBLE_MOTION_PX or self._unchecked >= CHECK_EVERY_SWEEPS
        if due:
            self._estimated, self._unchecked = images, 0
        return due


@dataclass(frozen=True)
class _Aligned:
    """How a stack was aligned, for slices of the next one."""

    stack: FocalStack
    source: Breathing
    residual: FloatArray
    resampled: bool
    noise: float
    exposure: Exposure

    def row(self, s: FocalSlice) -> int | None:
        """Return the place that a slice will have in a stack like this one; None: it has none."""
        like = self.stack.slices[0].image
        if s.image.shape != like.shape or s.image.dtype != like.dtype:
            return None
        focus_dpt = 1.0 / self.stack.focus_distance_m
        row = int(np.argmin(np.abs(focus_dpt - s.focus_dpt)))
        return row if abs(focus_dpt[row] - s.focus_dpt) <= same_position_dpt(focus_dpt) else None

    def ref_to_slice(self, s: FocalSlice, row: int) -> FloatArray:
        """Return the affine map (2, 3) from reference pixels to those of a slice at that place."""
        reference = self.stack.slices[self.stack.reference]
        own = slice_intrinsics(s, reference, self.stack.lens, self.source)
        return reference_to_slice(reference.intrinsics, own, *self.residual[row])


def _shared(images: Sequence[Image], others: Sequence[Image]) -> tuple[Image, ...]:
    """Return which of the images are among the others, as the same objects."""
    return tuple(image for image in images if any(image is other for other in others))


def _steady_noise(found: float, before: float) -> float:
    """Return the noise that slices are to be freed of; it stays while that of the camera hardly changes."""
    if before > 0.0 and abs(found / before - 1.0) < SAME_NOISE:
        return before
    if found <= NEGLIGIBLE_NOISE:
        return 0.0
    # In steps, so that it depends little on which stack came first.
    return (1.0 + SAME_NOISE) ** round(math.log(found, 1.0 + SAME_NOISE))


def _worth_estimating(intrinsics: Sequence[Intrinsics]) -> bool:
    """Say whether the field of view changes by metadata, and there is enough to see."""
    smallest = min(intrinsics[0].width, intrinsics[0].height)
    return smallest >= LEAST_SIDE_PX and not has_constant_view(intrinsics)


@contextmanager
def make_aligner(
    residual: str = "auto",
    alignment_file: str | Path = "",
    *,
    denoise: bool = True,
    threads: int | None = None,
) -> Iterator[Aligner]:
    """Yield an aligner with the estimator of that name loaded, for as long as the context lasts.

    Args:
        residual: one of RESIDUAL_CHOICES.
        alignment_file: keeps what is learned of the lens; empty: nothing does.
        denoise: take noise out of slices that have more than a little.
        threads: that the estimator may use; None: one for each core.

    Raises:
        AlignmentError: if there is no estimator of that name, or the file is not usable.
        EngineError: if the estimator cannot be loaded.
    """
    memory = LensMemory(alignment_file or None)
    if residual == "none":
        yield Aligner(memory=memory, denoise=denoise)
        return
    with make_residual_estimator(residual, threads) as estimator:
        yield Aligner(estimator, memory, always=residual != "auto", denoise=denoise)
