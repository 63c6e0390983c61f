# SPDX-License-Identifier: Apache-2.0
"""How the focus of the simulated lens moves, and what its mechanics get wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# The mechanical error is drawn at knots this far apart and linear in between, so that it depends on the
# position alone: the same from sweep to sweep, and neighbouring slices still differ.
_KNOT_DPT = 0.05


@dataclass(frozen=True)
class Move:
    """One move of the focus: constant speed, then braking evenly over the settle time.

    Attributes:
        start_s: when it starts.
        from_dpt: where.
        to_dpt: where it ends.
        slew_dpt_per_s: speed before braking.
        settle_s: time that braking takes, the tail of which is what users call settling.
    """

    start_s: float
    from_dpt: float
    to_dpt: float
    slew_dpt_per_s: float
    settle_s: float

    @property
    def _braking_dpt(self) -> float:
        return min(abs(self.to_dpt - self.from_dpt), 0.5 * self.slew_dpt_per_s * self.settle_s)

    @property
    def end_s(self) -> float:
        """When the lens stands still."""
        way = abs(self.to_dpt - self.from_dpt)
        if way == 0.0:
            return self.start_s
        return self.start_s + (way - self._braking_dpt) / self.slew_dpt_per_s + self.settle_s

    def position_dpt(self, time_s: float) -> float:
        """Return the focus position in dioptres; exactly `to_dpt` from `end_s` on."""
        if time_s >= self.end_s:
            return self.to_dpt
        if time_s <= self.start_s:
            return self.from_dpt
        sign = math.copysign(1.0, self.to_dpt - self.from_dpt)
        left_s = self.end_s - time_s
        if left_s > self.settle_s:
            return self.from_dpt + sign * self.slew_dpt_per_s * (time_s - self.start_s)
        return self.to_dpt - sign * self._braking_dpt * (left_s / self.settle_s) ** 2

    def moves_within(self, start_s: float, end_s: float) -> bool:
        """Return whether the lens moves at any time between `start_s` and `end_s`."""
        return self.end_s > self.start_s and self.start_s < end_s and start_s < self.end_s


@dataclass(frozen=True)
class MechanicalError:
    """What the driver does not know of a slice: factor on its focal length in pixels, and shift in pixels."""

    scale: float = 1.0
    shift_x_px: float = 0.0
    shift_y_px: float = 0.0


class Mechanics:
    """The repeatable mechanical error of a lens over its focus positions; none at the nearest position."""

    def __init__(
        self, seed: int, dpt_range: tuple[float, float], scale_error: float, shift_error_px: float
    ) -> None:
        """Draw the error.

        Args:
            seed: of the randomness.
            dpt_range: farthest and nearest focus position in dioptres.
            scale_error: largest deviation of the scale from 1.
            shift_error_px: largest shift along each axis, pixels.
        """
        self._nearest_dpt = dpt_range[1]
        count = math.ceil((dpt_range[1] - dpt_range[0]) / _KNOT_DPT) + 2
        bounds = np.array([scale_error, shift_error_px, shift_error_px])
        self._knots = np.random.default_rng([seed, 1]).uniform(-1.0, 1.0, (count, 3)) * bounds
        self._knots[0] = 0.0

    def at(self, focus_dpt: float) -> MechanicalError:
        """Return the error at a focus position."""
        at = (self._nearest_dpt - focus_dpt) / _KNOT_DPT
        scale, x, y = (float(np.interp(at, np.arange(len(self._knots)), column)) for column in self._knots.T)
        return MechanicalError(1.0 + scale, x, y)
