# SPDX-License-Identifier: Apache-2.0
"""Motion of the camera, seen from sweep to sweep.

Two slices of one focus position are blurred alike and carry the same lens error; what differs between them from
one sweep to the next is motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.alignment.base import Grid
from dualfocus_ros.alignment.classical import ClassicalResidual, band_pass
from dualfocus_ros.alignment.memory import same_position_dpt
from dualfocus_ros.alignment.residual import FloatArray, linear_grey
from dualfocus_ros.errors import MotionError
from dualfocus_ros.noise import full_scale
from dualfocus_ros.types import FloatImage, FocalStack, Image

WORK_PIXELS = 80 * 60  # slices are made smaller by a whole number to about that
LEAST_SIDE_PX = 20
PROBES = 4  # slices of a stack that are looked at, spread over it
STRUCTURE = 0.03  # standard deviation, mean light 1, below which a slice shows too little to tell motion by
DARK = 0.03  # mean, of the full range, up to which a slice shows noise alone
ALIKE = 0.8  # correlation from which two images are taken to lie upon each other but for a pixel
UNRELATED = 0.3  # response of phase correlation below which two images have too little in common
# Motion within a sweep below which it is neither corrected nor a reason to look at the lens again, pixels.
NEGLIGIBLE_MOTION_PX = 0.5


@dataclass(frozen=True)
class Motion:
    """How the image moved since the last sweep.

    Slices that show nothing, since they are dark, burnt out or of a white wall, have no say.

    Attributes:
        velocity_px_s: (2,) median over the slices that were compared.
        fastest_px_s: largest speed of a single slice; inf where one has nothing in common with the last sweep.
    """

    velocity_px_s: npt.NDArray[np.float64]
    fastest_px_s: float


class MotionMeter:
    """Compares slices with those that had the same focus the sweep before."""

    def __init__(self) -> None:
        """Start with no sweep."""
        self._seen: dict[int, _Probe] = {}
        self._shape: tuple[int, ...] = ()

    def measure(self, stack: FocalStack) -> Motion | None:
        """Return the motion since the last stack; None where that cannot be told.

        It cannot for the first stack, one of another size, and one with no new slice that shows anything.
        """
        shape = stack.slices[0].image.shape
        if shape != self._shape:
            self._seen, self._shape = {}, shape
        if min(shape[:2]) < LEAST_SIDE_PX:
            return None
        same_dpt = same_position_dpt(1.0 / stack.focus_distance_m)
        velocities: list[npt.NDArray[np.float64]] = []
        for n in np.unique(np.linspace(0, len(stack.slices) - 1, PROBES).round().astype(int)):
            s, before = stack.slices[n], self._seen.get(int(n))
            if before is not None and before.image is s.image:
                continue
            if before is not None and abs(before.focus_dpt - s.focus_dpt) > same_dpt:
                before = None  # sweeps may differ, and slices of another focus are blurred otherwise
            probe = self._seen[int(n)] = _Probe(s.image, s.stamp_ns, s.focus_dpt)
            span_s = (s.stamp_ns - before.stamp_ns) * 1e-9 if before is not None else 0.0
            if before is not None and span_s > 0.0 and probe.tells and before.tells:
                velocities.append(probe.moved_px(before) / span_s)
        if not velocities:
            return None
        speeds = [float(np.hypot(*v)) for v in velocities]
        finite = [v for v, speed in zip(velocities, speeds, strict=True) if math.isfinite(speed)]
        return Motion(np.median(finite, axis=0) if finite else np.zeros(2), max(speeds))


class _Probe:
    """A slice, small."""

    def __init__(self, image: Image, stamp_ns: int, focus_dpt: float) -> None:
        self.image, self.stamp_ns, self.focus_dpt = image, stamp_ns, focus_dpt
        height, width = image.shape[:2]
        self._shrink = max(
            1, min(round(math.sqrt(height * width / WORK_PIXELS)), min(height, width) // LEAST_SIDE_PX)
        )
        self._small = linear_grey(image, self._shrink)
        self._band = band_pass(self._small)
        channels = 1 if image.ndim == 2 else image.shape[2]
        lit = float(np.mean(cv2.mean(image)[:channels])) > DARK * full_scale([image])
        self.tells = lit and float(self._band.std()) > STRUCTURE

    def moved_px(self, before: _Probe) -> npt.NDArray[np.float64]:
        """Return the displacement (2,) of the image since another slice, pixels; inf where they are unrelated."""
        height, width = self._small.shape
        coarse = np.zeros(2)
        if _correlation(before._band, self._band) < ALIKE:
            shift, response = cv2.phaseCorrelate(before._band, self._band, _window(width, height))
            if response < UNRELATED:
                return np.full(2, np.inf)
            coarse = np.rint(shift)
        moved = _shifted(self._small, coarse)
        grid = Grid.of(width, height, (width - 1) / 2, (height - 1) / 2)
        (found,) = ClassicalResidual().relate([before._small, moved], [(0, 1)], grid)
        matrix = found[:, :3] + np.eye(3)  # where nothing is seen nothing moves
        return np.asarray((coarse + np.linalg.solve(matrix, found[:, 3])[1:]) * self._shrink)


def _correlation(a: FloatImage, b: FloatImage) -> float:
    return float(cv2.mean(cv2.multiply(a, b))[0]) / (float(a.std()) * float(b.std()) + 1e-9)


def _window(width: int, height: int) -> FloatImage:
    window: FloatImage = cv2.createHanningWindow((width, height), cv2.CV_32F)
    return window


def _shifted(image: FloatImage, by_px: npt.NDArray[np.float64]) -> FloatImage:
    """Return the image as seen `by_px` further along x and y."""
    if not by_px.any():
        return image
    back = np.array([[1.0, 0.0, by_px[0]], [0.0, 1.0, by_px[1]]])
    size = (image.shape[1], image.shape[0])
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def across_px(motion: Motion | None, stack: FocalStack) -> float:
    """Return how far the image moved while the stack was taken, pixels; 0 where that is not known."""
    span_s = _after_reference_s(stack)
    return motion.fastest_px_s * float(np.ptp(span_s)) if motion is not None and np.ptp(span_s) > 0.0 else 0.0


def drift_of(motion: Motion | None, stack: FocalStack) -> FloatArray:
    """Return what even motion adds to the residual: (N, 3), zero where it is negligible."""
    drift = np.zeros((len(stack.slices), 3))
    if motion is not None:
        drift[:, 1:] = _after_reference_s(stack)[:, None] * motion.velocity_px_s
    return _unless_negligible(drift)


def even_part(off_px: FloatArray, stack: FocalStack) -> FloatArray:
    """Return what of the shifts in (N, 3) grows evenly with time."""
    after_s = _after_reference_s(stack)
    drift = np.zeros((len(after_s), 3))
    if after_s.any():
        drift[:, 1:] = np.outer(after_s, after_s @ off_px[:, 1:] / (after_s @ after_s))
    return _unless_negligible(drift)


def _unless_negligible(drift: FloatArray) -> FloatArray:
    return drift if np.ptp(drift[:, 1:], axis=0).max() >= NEGLIGIBLE_MOTION_PX else np.zeros_like(drift)


def _after_reference_s(stack: FocalStack) -> FloatArray:
    """Return how long after the reference slice each one was taken (N,), seconds."""
    reference_ns = stack.slices[stack.reference].stamp_ns
    return np.array([s.stamp_ns - reference_ns for s in stack.slices]) * 1e-9


def check_motion(motion_px: float, limit_px: float) -> None:
    """Raise MotionError beyond the limit."""
    if motion_px > limit_px:
        raise MotionError(
            f"the image moved by {motion_px:.1f} px during the sweep, max_motion_px is {limit_px:g}: hold the "
            "camera still, sweep faster, or allow more (of the first stack, it may be the lens)"
        )
