# SPDX-License-Identifier: Apache-2.0
"""The focus sweep: which focus comes next, and waiting until the lens is there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from dualfocus_ros import optics
from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.errors import LensError, ParameterError
from dualfocus_ros.types import MIN_SLICES, CameraFrame

Spacing = Literal["dioptres", "metres"]
Pattern = Literal["sawtooth", "back_and_forth"]
SPACING_CHOICES: tuple[str, ...] = get_args(Spacing)
PATTERN_CHOICES: tuple[str, ...] = get_args(Pattern)


@dataclass(frozen=True)
class SweepConfig:
    """Where the focus goes. `distances_m`, where given, replaces near, far, slices and spacing."""

    near_m: float = field(
        default=0.4, metadata={"doc": "Nearest focus distance of the sweep.", "unit": "m", "min": 0.0}
    )
    far_m: float = field(
        default=5.0,
        metadata={"doc": "Farthest focus distance of the sweep; inf is legal.", "unit": "m", "min": 0.0},
    )
    slices: int = field(
        default=10, metadata={"doc": "Number of focus positions of one sweep.", "min": MIN_SLICES, "max": 64}
    )
    spacing: str = field(
        default="dioptres",
        metadata={"doc": "Quantity in which the focus positions are evenly spaced.", "choices": SPACING_CHOICES},
    )
    distances_m: tuple[float, ...] = field(
        default=(),
        metadata={"doc": "Explicit focus distances; replaces near, far, slices and spacing.", "unit": "m"},
    )
    pattern: str = field(
        default="sawtooth",
        metadata={
            "doc": "sawtooth starts each sweep at the near end, back_and_forth turns around at both ends.",
            "choices": PATTERN_CHOICES,
        },
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        if self.spacing not in SPACING_CHOICES:
            raise ParameterError(f"expected sweep.spacing to be one of {SPACING_CHOICES}, got {self.spacing!r}")
        if self.pattern not in PATTERN_CHOICES:
            raise ParameterError(f"expected sweep.pattern to be one of {PATTERN_CHOICES}, got {self.pattern!r}")
        if self.distances_m:
            self._check_distances()
        elif not 0.0 < self.near_m < self.far_m:
            raise ParameterError(f"expected 0 < sweep.near_m < sweep.far_m, got {self.near_m} and {self.far_m}")
        elif self.slices < MIN_SLICES:
            raise ParameterError(f"expected sweep.slices of at least {MIN_SLICES}, got {self.slices}")
        elif self.spacing == "metres" and math.isinf(self.far_m):
            raise ParameterError("expected a finite sweep.far_m with sweep.spacing metres: dioptres reach inf")

    def _check_distances(self) -> None:
        distances = self.distances_m
        if not all(d > 0.0 for d in distances):
            raise ParameterError(f"expected sweep.distances_m above 0 m, got {list(distances)}")
        if len(set(distances)) < MIN_SLICES or len(set(distances)) != len(distances):
            raise ParameterError(
                f"expected {MIN_SLICES} or more distinct sweep.distances_m, got {list(distances)}"
            )


def focus_positions_m(config: SweepConfig) -> tuple[float, ...]:
    """Return the focus distances of one sweep in metres, nearest first."""
    if config.distances_m:
        return tuple(sorted(config.distances_m))
    if config.spacing == "metres":
        return tuple(float(d) for d in np.linspace(config.near_m, config.far_m, config.slices))
    power_dpt = np.linspace(1.0 / config.near_m, 1.0 / config.far_m, config.slices)
    return tuple(float(d) for d in optics.dioptres_to_metres(power_dpt))


def focus_schedule(positions_m: tuple[float, ...], pattern: str) -> Iterator[float]:
    """Yield focus distances for ever. The turning points of back_and_forth are exposed once."""
    indices = list(range(len(positions_m)))
    if pattern == "back_and_forth":
        indices += indices[-2:0:-1]
    while True:
        for i in indices:
            yield positions_m[i]


class FocusSweep:
    """Drives the focus of a camera through a schedule and hands out every frame."""

    # A lens that is not where it should be after its own settle time and this many frames is stuck.
    MAX_FRAMES_TO_SETTLE = 60

    def __init__(self, camera: FocusCamera, config: SweepConfig) -> None:
        """Take an opened camera.

        Raises:
            LensError: if the lens cannot reach the focus range of the sweep.
        """
        self._camera = camera
        fixed = camera.focus_positions_m
        self.positions_m = tuple(sorted(fixed)) if fixed is not None else focus_positions_m(config)
        near_m, far_m = camera.focus_range_m
        if self.positions_m[0] < near_m * (1.0 - 1e-9) or self.positions_m[-1] > far_m * (1.0 + 1e-9):
            raise LensError(
                f"expected a sweep within the focus range of the lens, {near_m} to {far_m} m, "
                f"got {self.positions_m[0]} to {self.positions_m[-1]} m: set sweep.near_m and sweep.far_m"
            )
        self._schedule = focus_schedule(self.positions_m, config.pattern)

    def frames(self) -> Iterator[CameraFrame]:
        """Yield every frame of the camera; move to the next position after each settled frame.

        Frames exposed while the lens moved come too, marked by the focus speed of their lens state.

        Raises:
            LensError: if the lens does not settle.
            CameraError: if the camera fails.
        """
        for target_m in self._schedule:
            self._camera.set_focus(target_m)
            for _ in range(self.MAX_FRAMES_TO_SETTLE):
                frame = self._camera.read()
                yield frame
                if frame.lens_state.focus_speed_mps == 0.0:
                    break
            else:
                raise LensError(
                    f"expected the lens to settle at {target_m} m, it still moves after "
                    f"{self.MAX_FRAMES_TO_SETTLE} frames (now at {frame.lens_state.focus_distance_m} m)"
                )
