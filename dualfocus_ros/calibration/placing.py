# SPDX-License-Identifier: Apache-2.0
"""Where a calibration target is to be put, one placement after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualfocus_ros.errors import CalibrationError

TILT_DEG = 30.0
# Turns about the x and y axis of the camera, in parts of TILT_DEG, and what to tell people.
TILTS: tuple[tuple[float, float, str], ...] = (
    (0.8, 0.0, "top edge leaning back"),
    (0.0, -1.0, "left edge nearer"),
    (-1.0, 0.3, "bottom edge leaning back"),
    (0.0, 1.0, "right edge nearer"),
    (0.7, 0.8, "lower left corner nearer"),
    (-0.6, -1.0, "upper right corner nearer"),
)
MOST_PLACEMENTS = 40


@dataclass(frozen=True)
class Wanted:
    """A placement as it is asked for: about there, turned about so.

    Attributes:
        distance_m: of the middle of the target.
        tilt_x_deg: turn about the x axis of the camera.
        tilt_y_deg: turn about its y axis.
        words: for people.
    """

    distance_m: float
    tilt_x_deg: float
    tilt_y_deg: float
    words: str


def wanted_placements(count: int, near_m: float, far_m: float) -> tuple[Wanted, ...]:
    """Return placements evenly spaced in dioptres, near and far in turns.

    A lens that warms up drifts: where distance went one way with time, drift could not be told from its curve.

    Args:
        count: of placements, 3 or more.
        near_m: nearest distance.
        far_m: farthest distance.

    Raises:
        CalibrationError: if it is no such range.
    """
    if not 0.0 < near_m < far_m or not np.isfinite(far_m):
        raise CalibrationError(f"expected 0 < near < far in metres, got {near_m} and {far_m}")
    if not 3 <= count <= MOST_PLACEMENTS:
        raise CalibrationError(f"expected 3 to {MOST_PLACEMENTS} placements, got {count}")
    distances = 1.0 / np.linspace(1.0 / near_m, 1.0 / far_m, count)
    found = []
    for i, place in enumerate(_in_turns(count)):
        part_x, part_y, how = TILTS[i % len(TILTS)]
        distance_m = float(distances[place])
        words = f"about {distance_m:.2f} m away, turned by about {TILT_DEG:.0f} degrees: {how}"
        found.append(Wanted(distance_m, part_x * TILT_DEG, part_y * TILT_DEG, words))
    return tuple(found)


def _in_turns(count: int) -> list[int]:
    """Return 0 .. count - 1 so that neighbours in time lie far apart and both ends come early and late."""
    step = next(s for s in range(max(2, round(0.618 * count)), 2 * count) if np.gcd(s, count) == 1)
    return [(i * step) % count for i in range(count)]
