# SPDX-License-Identifier: Apache-2.0
"""A stack that anyone can compute, and what a network made of it when it was exported.

Drivers, compilers of engines and half precision each can make a network wrong without an error. So the manifest of
a model holds its answer to a stack given by formulas here, and whoever runs the model can compare.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dualfocus_ros.engine.base import DepthEngine, EngineOutput
from dualfocus_ros.engine.manifest import SELF_CHECK_CELLS, ModelManifest
from dualfocus_ros.errors import EngineError
from dualfocus_ros.types import AlignedStack, Intrinsics, LensModel

E = TypeVar("E", bound=DepthEngine)

SLICES, CELL_PX = 5, 8
LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=2.25e-5)
NEAREST_DPT, FARTHEST_DPT = 2.5, 1.5
CHECK_SHAPE = (SLICES, CELL_PX * SELF_CHECK_CELLS[0], CELL_PX * SELF_CHECK_CELLS[1])  # slices, height, width
# Waves of the texture: periods in pixels, from fine to coarse.
PERIODS_PX = (2.7, 3.9, 5.3, 7.9, 13.0, 29.0)
GREY, CONTRAST = 0.45, 0.09
# The turn by which each wave differs in direction, and each colour in phase.
TURN_RAD = 2.4


def check_stack() -> AlignedStack:
    """Return the stack: a slanted plane with a texture of waves, each damped by the blur of the place."""
    height, width = (CELL_PX * cells for cells in SELF_CHECK_CELLS)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    focus_dpt = np.linspace(NEAREST_DPT, FARTHEST_DPT, SLICES)
    depth_dpt = true_inverse_depth()
    gain = LENS.blur_gain_px_per_dpt(1.0 / NEAREST_DPT)
    images = []
    for position in focus_dpt:
        # A disc damps a wave much as a Gaussian of a quarter of its diameter does.
        sigma_px = 0.25 * gain * np.abs(depth_dpt - position)
        image = np.full((height, width, 3), GREY)
        for k, period_px in enumerate(PERIODS_PX):
            frequency = 2.0 * np.pi / period_px
            damped = CONTRAST * np.exp(-0.5 * (frequency * sigma_px) ** 2)
            phase = frequency * (x * np.cos(TURN_RAD * k) + y * np.sin(TURN_RAD * k))
            for colour in range(3):
                image[..., colour] += damped * np.sin(phase + TURN_RAD * colour)
        images.append(np.rint(255.0 * image.clip(0.0, 1.0)).astype(np.uint8))
    f_px = LENS.focal_length_m / LENS.pixel_pitch_m
    centre = (0.5 * (width - 1), 0.5 * (height - 1))
    focus_m = np.asarray(1.0 / focus_dpt, np.float64)
    return AlignedStack(tuple(images), None, focus_m, Intrinsics(width, height, f_px, f_px, *centre), LENS)


def true_inverse_depth() -> npt.NDArray[np.float64]:
    """Return the inverse depth (H, W) of the plane, dioptres: it falls from left to right within the range."""
    height, width = (CELL_PX * cells for cells in SELF_CHECK_CELLS)
    t = (np.arange(width) + 0.5) / width
    inside = FARTHEST_DPT + (NEAREST_DPT - FARTHEST_DPT) * (0.9 - 0.8 * t)
    return np.tile(inside, (height, 1))


def summary_of(output: EngineOutput) -> list[list[float]]:
    """Return the mean inverse depth of each cell of the picture, dioptres, row by row."""
    rows, columns = SELF_CHECK_CELLS
    inverse = 1.0 / output.depth_m.astype(np.float64)
    cells = inverse.reshape(rows, CELL_PX, columns, CELL_PX).mean(axis=(1, 3))
    return [[round(float(value), 6) for value in row] for row in cells]


class Answers(Protocol):
    """An engine, or what it runs."""

    @property
    def device(self) -> str:
        """Where it runs, in words."""

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth."""


def checked(engine: E, manifest: ModelManifest) -> E:
    """Return an engine that was just loaded, once it gave the right answer; else leave it.

    Raises:
        EngineError: as `self_check`.
    """
    try:
        self_check(engine, manifest)
    except EngineError:
        engine.__exit__(None, None, None)
        raise
    return engine


def self_check(engine: Answers, manifest: ModelManifest) -> float | None:
    """Return by how much of the depth the engine is off what the manifest says; None where that says nothing.

    Raises:
        EngineError: if that is more than the manifest allows, or the engine fails.
    """
    if manifest.self_check is None:
        return None
    expected = np.array(manifest.self_check.inverse_depth_dpt)
    found = np.array(summary_of(engine.infer(check_stack())))
    off = float(np.max(np.abs(found - expected) / expected))
    if not off <= manifest.self_check.tolerance:
        raise EngineError(
            f"model {manifest.name} on {engine.device} gives depth that is up to {100 * off:.2g} % off its own "
            f"reference, allowed are {100 * manifest.self_check.tolerance:.2g} %: export or compile it again, or "
            "update what runs it"
        )
    return off
