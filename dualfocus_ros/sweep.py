# SPDX-License-Identifier: Apache-2.0
"""The focus sweep: where the focus goes. `focus_sweep` moves it there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from dualfocus_ros import optics
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.types import MIN_SLICES

Spacing = Literal["dioptres", "metres"]
Pattern = Literal["sawtooth", "back_and_forth"]
SPACING_CHOICES: tuple[str, ...] = get_args(Spacing)
PATTERN_CHOICES: tuple[str, ...] = get_args(Pattern)


@dataclass(frozen=True)
class SweepConfig:
    """Where the focus goes. `distances_m`, where given, replaces near, far, slices and spacing."""

    near_m: float = field(
        default=0.4,
        metadata={"live": True, "doc": "Nearest focus distance of the sweep.", "unit": "m", "min": 0.0},
    )
    far_m: float = field(
        default=5.0,
        metadata={
            "live": True,
            "doc": "Farthest focus distance of the sweep; inf is legal.",
            "unit": "m",
            "min": 0.0,
        },
    )
    slices: int = field(
        default=10,
        metadata={"live": True, "doc": "Number of focus positions of one sweep.", "min": MIN_SLICES, "max": 64},
    )
    spacing: str = field(
        default="dioptres",
        metadata={
            "live": True,
            "doc": "Quantity in which the focus positions are evenly spaced.",
            "choices": SPACING_CHOICES,
        },
    )
    distances_m: tuple[float, ...] = field(
        default=(),
        metadata={
            "live": True,
            "doc": "Explicit focus distances; replaces near, far, slices and spacing.",
            "unit": "m",
        },
    )
    pattern: str = field(
        default="sawtooth",
        metadata={
            "live": True,
            "doc": "sawtooth starts each sweep at the near end, back_and_forth turns around at both ends.",
            "choices": PATTERN_CHOICES,
        },
    )

    smart: bool = field(
        default=False,
        metadata={
            "live": True,
            "doc": "Put the focus positions where the depth of the scene is, by what the depth node last found; "
            "see docs/smart_sweep.md.",
        },
    )
    smart_full_every: int = field(
        default=10,
        metadata={
            "live": True,
            "doc": "With smart, every how many-th sweep is a full one, which finds what is new in the scene.",
            "min": 1,
            "max": 1000,
        },
    )
    smart_slices: int = field(
        default=0,
        metadata={
            "live": True,
            "doc": "With smart, number of focus positions of the sweeps in between: fewer are faster; 0: as many "
            "as of a full one, which is the most.",
            "min": 0,
            "max": 64,
        },
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        if self.spacing not in SPACING_CHOICES:
            raise ParameterError(f"expected sweep.spacing to be one of {SPACING_CHOICES}, got {self.spacing!r}")
        if self.pattern not in PATTERN_CHOICES:
            raise ParameterError(f"expected sweep.pattern to be one of {PATTERN_CHOICES}, got {self.pattern!r}")
        self._check_smart()
        if self.distances_m:
            self._check_distances()
        elif not 0.0 < self.near_m < self.far_m:
            raise ParameterError(f"expected 0 < sweep.near_m < sweep.far_m, got {self.near_m} and {self.far_m}")
        elif self.slices < MIN_SLICES:
            raise ParameterError(f"expected sweep.slices of at least {MIN_SLICES}, got {self.slices}")
        elif self.spacing == "metres" and math.isinf(self.far_m):
            raise ParameterError("expected a finite sweep.far_m with sweep.spacing metres: dioptres reach inf")

    def _check_smart(self) -> None:
        if self.smart_full_every < 1:
            raise ParameterError(f"expected sweep.smart_full_every of at least 1, got {self.smart_full_every}")
        if self.smart_slices != 0 and self.smart_slices < MIN_SLICES:
            raise ParameterError(
                f"expected sweep.smart_slices of at least {MIN_SLICES} (0: as many as of a full sweep), got "
                f"{self.smart_slices}"
            )

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
