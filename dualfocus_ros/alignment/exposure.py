# SPDX-License-Identifier: Apache-2.0
"""Exposure of the slices against the reference, from stack to stack: the gains that make it one.

What a lens does to the light repeats at each focus position; the gains then stay, so that a slice can be
prepared before its stack is complete. Differences that are too small to matter are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualfocus_ros.align import reference_to_slice
from dualfocus_ros.alignment.memory import same_position_dpt
from dualfocus_ros.alignment.residual import shrunk
from dualfocus_ros.photometry import (
    GAIN_STEP,
    Gain,
    cell_size_px,
    light_cells,
    light_range,
    relative_light,
    warped_cells,
)
from dualfocus_ros.types import FloatImage, FocalSlice, FocalStack, Image, Intrinsics

FloatArray = npt.NDArray[np.float64]

# Differences of light up to this one are left: rounding once more would harm as much, see docs/exposure.md. So
# are those ...
NEGLIGIBLE_GAIN = 0.025
# ... that are no more than so many standard errors of their measurement.
SURE = 3.0


@dataclass(frozen=True)
class Exposure:
    """How the slices of a stack are made to have the exposure of its reference.

    Attributes:
        gains: (N,) of the slices; None: the slice is left as it is.
        steady: whether those of a next stack are to be expected the same.
    """

    gains: tuple[Gain | None, ...]
    steady: bool = True

    @property
    def difference(self) -> float:
        """Largest difference of light, over the channels, that is taken out: 0.1 is 10 % more in one slice."""
        steps = np.array([gain.steps for gain in self.gains if gain is not None])
        if not len(steps):
            return 0.0
        most, least = np.maximum(steps.max(axis=0), 0), np.minimum(steps.min(axis=0), 0)  # the reference has 0
        return math.expm1(GAIN_STEP * float((most - least).max()))


@dataclass(frozen=True)
class _Held:
    """Gains of the last stack, (N, C) in steps, and what they are of."""

    steps: npt.NDArray[np.int64]
    focus_dpt: FloatArray
    reference: int

    def fits(self, stack: FocalStack, channels: int) -> bool:
        """Say whether a stack has the same focus positions, reference and channels."""
        focus_dpt = 1.0 / stack.focus_distance_m
        return (
            self.steps.shape == (len(focus_dpt), channels)
            and self.reference == stack.reference
            and bool(np.abs(self.focus_dpt - focus_dpt).max() <= same_position_dpt(focus_dpt))
        )


class ExposureMeter:
    """Measures the exposure of the slices of stack after stack of one camera. One thread uses it."""

    def __init__(self) -> None:
        """Start with no stack."""
        self._cells: dict[int, tuple[Image, FloatImage]] = {}  # by identity of the image, which is held
        self._held: _Held | None = None

    def look_at(self, slices: Iterable[FocalSlice], others: Iterable[FocalSlice] = ()) -> None:
        """Do what can be done for slices before their stack is complete; forget all but these and others.

        Nothing is done if the last stack was not measured: the next one may not be either.
        """
        if self._held is not None:
            self._look_at(tuple(slices), others)

    def ignore(self, stack: FocalStack, intrinsics: Sequence[Intrinsics], residual: FloatArray) -> Exposure:
        """Return that a stack is left as it is; forget all stacks. The arguments are those of `measure`."""
        self._cells, self._held = {}, None
        return Exposure((None,) * len(stack.slices))

    def measure(self, stack: FocalStack, intrinsics: Sequence[Intrinsics], residual: FloatArray) -> Exposure:
        """Return the gains of a stack: those of the last one while they hold.

        Args:
            stack: as captured.
            intrinsics: of every slice (N,), by metadata.
            residual: (N, 3) what was found beyond the metadata, see `align.align`.
        """
        self._look_at(stack.slices)
        images = [s.image for s in stack.slices]
        usable = light_range(images)
        cells = self._aligned_cells(images, intrinsics, residual, stack.reference)
        light, error = relative_light(cells, stack.reference, usable)
        held = self._held
        fits = held is not None and held.fits(stack, light.shape[1])
        before = held.steps if held is not None and fits else np.zeros(light.shape, np.int64)
        steps = _steps(light, error, before)
        self._held = _Held(steps, 1.0 / stack.focus_distance_m, stack.reference)
        full = 255 if images[0].dtype == np.uint8 else round(usable[1] * 65535.0)
        gains = tuple(Gain(tuple(int(s) for s in row), full) if row.any() else None for row in steps)
        return Exposure(gains, steady=bool((steps == before).all()))

    def _look_at(self, slices: Sequence[FocalSlice], others: Iterable[FocalSlice] = ()) -> None:
        wanted = {id(s.image) for s in (*slices, *others)}
        self._cells = {key: kept for key, kept in self._cells.items() if key in wanted}
        for s in slices:
            if id(s.image) not in self._cells:
                self._cells[id(s.image)] = (s.image, light_cells(s.image))

    def _aligned_cells(
        self, images: Sequence[Image], intrinsics: Sequence[Intrinsics], residual: FloatArray, reference: int
    ) -> list[FloatImage]:
        size_px = cell_size_px(images[0].shape[1], images[0].shape[0])
        return [
            warped_cells(
                self._cells[id(image)][1], shrunk(reference_to_slice(intrinsics[reference], k, *error), size_px)
            )
            for image, k, error in zip(images, intrinsics, residual, strict=True)
        ]


def _steps(light: FloatArray, error: FloatArray, before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return gains (N, C) in steps: those of before unless the light (N, C), a logarithm, says otherwise.

    A channel that tells nothing is taken to do as the others of its slice; a slice that tells nothing stays.
    """
    known = np.isfinite(error)
    told = known.any(axis=1, keepdims=True)
    shares = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    gain = np.where(known, -light, -(light * shares).sum(axis=1, keepdims=True))
    worst = np.where(known, error, 0.0).max(axis=1, keepdims=True)
    sure = np.maximum(NEGLIGIBLE_GAIN, SURE * np.where(known, error, worst))
    for steps in (before, np.zeros_like(before)):
        if (~told | (np.abs(gain - steps * GAIN_STEP) <= sure)).all():
            return steps
    return np.where(told, np.rint(gain / GAIN_STEP).astype(np.int64), before)
