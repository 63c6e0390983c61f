# SPDX-License-Identifier: Apache-2.0
"""Chooses the moves by which settling is measured: they end where sharpness tells best where the lens is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.calibration.settle_signal import FloatArray, Gauge, StaticSweep, make_gauge
from dualfocus_ros.camera.device import ActuatorRange
from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.lens_calibration import FocusCurve

# Over the whole range sharpness has to change by more than this, and by so many deviations.
LEAST_CHANGE, LEAST_CHANGE_NOISES = 0.02, 10.0
LEAST_TEXTURE = 0.3
# Positions are usable where one picture tells them to this many tolerances ...
MAX_PICTURE_NOISE = 1.0
# ... and the gauge there reaches this many.
LEAST_REACH = 2.5
# Longest moves that are tried, from the whole range down to half of it.
TRIED = 26


@dataclass(frozen=True)
class Tolerance:
    """What counts as settled: `dpt` where a curve is there, else `part` of the range."""

    dpt: float
    part: float
    curve: FocusCurve | None

    def slope(self, position: float, reach: ActuatorRange) -> float | None:
        """Return dioptres per unit of the actuator at a position; None: there is no curve."""
        if self.curve is None:
            return None
        step = 0.02 * (reach.high - reach.low)
        below, above = max(position - step, reach.low), min(position + step, reach.high)
        return abs(self.curve.dioptres_at(above) - self.curve.dioptres_at(below)) / (above - below)

    def at(self, position: float, reach: ActuatorRange) -> float:
        """Return it in units of the actuator."""
        slope = self.slope(position, reach)
        whole = reach.high - reach.low
        return self.part * whole if slope is None else self.dpt / max(slope, 1e-6 / whole)

    def __str__(self) -> str:
        """Return it as text."""
        return f"{100 * self.part:g} % of the range" if self.curve is None else f"{self.dpt:g} dpt"


@dataclass(frozen=True)
class Target:
    """One move, and the gauge for where it ends, from the static sweep.

    Attributes:
        start: position of the actuator.
        position: where it goes.
        tolerance: deviation that counts as settled, in units of the actuator.
        dpt_per_unit: of the curve there; None: not known.
        gauge: for the deviation.
    """

    start: float
    position: float
    tolerance: float
    dpt_per_unit: float | None
    gauge: Gauge


def check_signal(sweep: StaticSweep, texture: float, unit: str) -> None:
    """Raise CalibrationError where sharpness cannot tell the position of the lens at all.

    Args:
        sweep: over the whole range.
        texture: part of the energy, where it is largest, that is not noise.
        unit: of the actuator.
    """
    if texture < LEAST_TEXTURE:
        raise CalibrationError(
            f"expected a scene with texture, {100 * texture:.0f} % of the finest detail in the middle of the "
            "picture is more than noise: point the camera at something like a lit page of print"
        )
    change = np.ptp(sweep.features, axis=0)
    noise = np.median(sweep.noise, axis=0)
    if not (change > np.maximum(LEAST_CHANGE, LEAST_CHANGE_NOISES * noise)).any():
        raise CalibrationError(
            f"expected the sharpness to change with the position of the lens, from {sweep.positions[0]:g} to "
            f"{sweep.positions[-1]:g} {unit} it changes by {100 * change.max():.2f} %: the lens is stuck, or does "
            "not take the commands"
        )


def choose_target(sweep: StaticSweep, move: float, reach: ActuatorRange, tolerance: Tolerance) -> Target | None:
    """Return the best move of a signed length, within a range; None: there is none that can be measured.

    Args:
        sweep: static, from the side that the move comes from.
        move: signed length.
        reach: positions that may be used.
        tolerance: what counts as settled.
    """
    noise = sweep.position_noise()
    wanted = np.array([tolerance.at(float(u), reach) for u in sweep.positions])
    slack = 1e-6 * (reach.high - reach.low) + 0.5 * reach.step
    start = sweep.positions - move
    possible = (start >= reach.low - slack) & (start <= reach.high + slack)
    possible &= noise <= MAX_PICTURE_NOISE * wanted
    for i in np.argsort(np.where(possible, noise / wanted, np.inf)):
        if not possible[i]:
            return None
        position = float(sweep.positions[i])
        gauge = make_gauge(sweep, position)
        if gauge is not None and gauge.reach >= LEAST_REACH * wanted[i]:
            slope = tolerance.slope(position, reach)
            return Target(reach.nearest(float(start[i])), position, float(wanted[i]), slope, gauge)
    return None


def choose_targets(
    sweeps: Mapping[float, StaticSweep], slices: int, reach: ActuatorRange, tolerance: Tolerance
) -> list[tuple[Target, ...]]:
    """Return the moves, the longest first: all of the range, half of it, one step of a sweep; from both sides.

    A move has to end where sharpness tells the position, so the longest may be shorter than the range.

    Args:
        sweeps: static, from below under 1 and from above under -1.
        slices: of the sweep.
        reach: positions that may be used.
        tolerance: what counts as settled.

    Raises:
        CalibrationError: if sharpness tells no position well enough.
    """
    whole = reach.high - reach.low

    def both(length: float) -> tuple[Target, ...]:
        found = [choose_target(sweeps[sign], sign * length, reach, tolerance) for sign in (1.0, -1.0)]
        return tuple(t for t in found if t is not None) if None not in found else ()

    chosen = [next((pair for m in np.linspace(whole, 0.55 * whole, TRIED) if (pair := both(float(m)))), ())]
    for length in (0.5 * whole, max(whole / (slices - 1), reach.step)):
        chosen.append(both(length))
    chosen = [pair for pair in chosen if pair]
    if not chosen:
        raise CalibrationError(
            f"expected positions that sharpness tells to {tolerance}, there are none: put a textured scene where "
            "the lens can focus on it, give more light, or allow a larger tolerance"
        )
    return chosen


def usable_range(reach: ActuatorRange, curve: FocusCurve | None) -> ActuatorRange:
    """Return the part of an actuator's range that a curve covers.

    Raises:
        CalibrationError: if there is none.
    """
    if curve is None:
        return reach
    low, high = max(reach.low, curve.positions[0]), min(reach.high, curve.positions[-1])
    if reach.step > 0.0:
        low, high = reach.nearest(low), reach.nearest(high)
    if not high - low > max(reach.step, 0.0):
        raise CalibrationError(
            f"expected a lens file for positions {reach.low:g} to {reach.high:g} {reach.unit}, got one for "
            f"{curve.positions[0]:g} to {curve.positions[-1]:g}: is it of another lens?"
        )
    return ActuatorRange(low, high, reach.step, reach.unit)


def sweep_positions(reach: ActuatorRange, count: int) -> FloatArray:
    """Return the positions of a static sweep, ascending.

    Raises:
        CalibrationError: if the lens has too few.
    """
    grid = np.unique([reach.nearest(float(u)) for u in np.linspace(reach.low, reach.high, count)])
    if len(grid) < 5:
        raise CalibrationError(f"expected a lens that takes 5 positions or more, this one takes {len(grid)}")
    return grid
