# SPDX-License-Identifier: Apache-2.0
"""What a focus curve is fitted to: how sharp windows of known distance were at which position of the lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualfocus_ros.calibration.placements import Placement
from dualfocus_ros.calibration.sharpness import FloatArray, find_peaks, near_top

Integers = npt.NDArray[np.int64]

# Samples at least this sharp, of a window's sharpest, are used: there 1 / energy^2 is a parabola.
NEAR_PEAK = 0.6
LEAST_SAMPLES = 5
# How much farther samples may reach on one side of the peak than on the other.
LOPSIDED = 1.4


@dataclass(frozen=True)
class FocusPoints:
    """Where things were sharp: K points, each of one window while the lens came from one side.

    Attributes:
        position: of the actuator.
        direction: 1 the lens came from below, -1 from above.
        focus_dpt: inverse distance of the thing, dioptres.
        error_units: of the position, standard deviation.
        time_s: when.
        temperature_c: NaN: not told.
        placement: number of the placement.
    """

    position: FloatArray
    direction: FloatArray
    focus_dpt: FloatArray
    error_units: FloatArray
    time_s: FloatArray
    temperature_c: FloatArray
    placement: FloatArray


@dataclass(frozen=True)
class FocusSamples:
    """M sharpnesses near the peaks of K windows.

    Attributes:
        points: (K) where the peaks are, each by itself: a start.
        off_axis: (K,) square of the distance of the window from the middle of the picture, 1 in its corners.
        window: (M,) number of the window.
        position: (M,) of the actuator.
        time_s: (M,) when.
        temperature_c: (M,) NaN: not told.
        sharpness: (M,) gradient energy, 1 at the sharpest sample of the window.
    """

    points: FocusPoints
    off_axis: FloatArray
    window: Integers
    position: FloatArray
    time_s: FloatArray
    temperature_c: FloatArray
    sharpness: FloatArray

    @property
    def direction(self) -> FloatArray:
        """From which side the lens came (M,)."""
        return self.points.direction[self.window]

    def without(self, windows: npt.NDArray[np.bool_]) -> FocusSamples:
        """Return them without some of the windows (K,)."""
        kept = ~windows
        number = np.cumsum(kept) - 1
        own = kept[self.window]
        p = self.points
        points = FocusPoints(
            *(
                values[kept]
                for values in (
                    p.position,
                    p.direction,
                    p.focus_dpt,
                    p.error_units,
                    p.time_s,
                    p.temperature_c,
                    p.placement,
                )
            )
        )
        return FocusSamples(
            points,
            self.off_axis[kept],
            number[self.window[own]],
            self.position[own],
            self.time_s[own],
            self.temperature_c[own],
            self.sharpness[own],
        )


def gather(placements: Sequence[Placement], distances_m: Sequence[FloatArray]) -> FocusSamples:
    """Return the samples of all windows with a peak.

    Args:
        placements: as measured.
        distances_m: of the windows of each (windows,), metres along the axis, inf is legal; NaN: not known.
    """
    found: list[_Window] = []
    for i, (placement, z_m) in enumerate(zip(placements, distances_m, strict=True)):
        for direction in (1, -1):
            found += _windows(placement, direction, z_m, i)
    points = np.array([w.point for w in found]).reshape(-1, 7).T
    rows = np.concatenate([w.rows for w in found], axis=1) if found else np.zeros((4, 0))
    return FocusSamples(
        FocusPoints(*points),
        np.array([w.off_axis for w in found]),
        np.repeat(np.arange(len(found)), [w.rows.shape[1] for w in found]),
        *rows,
    )


@dataclass(frozen=True)
class _Window:
    point: tuple[float, ...]
    off_axis: float
    rows: FloatArray  # position, time, temperature, sharpness


def _windows(placement: Placement, direction: int, z_m: FloatArray, number: int) -> list[_Window]:
    shots = sorted((s.position, i) for i, s in enumerate(placement.shots) if s.direction == direction)
    order = [i for _, i in shots]
    u = np.array([position for position, _ in shots])
    times = np.array([placement.shots[i].time_s for i in order])
    told = [placement.shots[i].temperature_c for i in order]
    celsius = np.array([np.nan if t is None else t for t in told])
    sharpness = placement.sharpness[order]
    peaks = find_peaks(u, sharpness)
    off_axis = placement.off_axis()
    found = []
    for k in np.flatnonzero(np.isfinite(peaks.positions) & (z_m > 0.0)):
        known = np.flatnonzero(np.isfinite(sharpness[:, k]))
        e = sharpness[known, k]
        first, last = near_top(e, int(e.argmax()), NEAR_PEAK)
        at, error = float(peaks.positions[k]), float(peaks.errors[k])
        own = known[first : last + 1]
        # Where the range of the lens ends near a peak, far samples of one side alone would pull at it.
        reach = LOPSIDED * min(at - u[own[0]], u[own[-1]] - at)
        own = own[np.abs(u[own] - at) <= reach]
        if len(own) < LEAST_SAMPLES:
            continue
        when, warm = (float(np.interp(at, u, values)) for values in (times, celsius))
        point = (at, direction, 1.0 / float(z_m[k]), error, when, warm, number)
        rows = np.stack([u[own], times[own], celsius[own], sharpness[own, k] / e.max()])
        found.append(_Window(point, float(off_axis[k]), rows))
    return found
