# SPDX-License-Identifier: Apache-2.0
"""Intrinsics that follow the lens, and the pose of every placement, from the corners of a board: one adjustment.

A pinhole with radial distortion (plumb_bob: k1, k2) whose focal length changes with the position of the lens,
evenly and a little bent, and whose principal point moves evenly. Each placement has one pose for all its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import least_squares

from dualfocus_ros.calibration.boards import Corners
from dualfocus_ros.calibration.focus_samples import Integers
from dualfocus_ros.calibration.placements import Placement, Shot
from dualfocus_ros.calibration.sharpness import FloatArray
from dualfocus_ros.camera.target_board import Board
from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.types import LensModel

# Pictures of a placement that are used at most: they are alike.
MAX_PICTURES = 8
# Corners farther from where they should be count less, pixels.
ROBUST_PX = 0.3
# Standard deviations of what is believed beforehand: change of the focal length over the range (relative, even and
# bent), way of the principal point (pixels), distortion.
PRIOR_BREATHING, PRIOR_BEND, PRIOR_SHIFT_PX, PRIOR_DISTORTION = 0.1, 0.02, 3.0, 0.5
# A focal length that is not known better than this (relative) makes distances useless.
MAX_FOCAL_LENGTH_ERROR = 0.02
# Global parameters: log of the focal length, its change, its bend, principal point (2), its way (2), k1, k2.
GLOBALS = 9
# Least curvature, of the largest.
_NO_CURVATURE = 1e-14
# Of the sum of squares and of the parameters, at which the adjustment ends: far below the noise.
PRECISION = 1e-6


@dataclass(frozen=True)
class LensGeometry:
    """Intrinsics as a function of the position of the lens.

    Attributes:
        low: position that counts as -1; `high` as 1.
        high: see `low`.
        values: the GLOBALS.
        errors: their standard deviations.
        residual_px: root mean square of the distances of the corners from where they should be.
    """

    low: float
    high: float
    values: FloatArray
    errors: FloatArray
    residual_px: float

    def at(self, position: float) -> tuple[float, float, float, float]:
        """Return fx, fy, cx, cy in pixels at a position of the lens."""
        f, cx, cy = _intrinsics(self.values, np.array([_normal(position, self.low, self.high)]))
        return float(f[0]), float(f[0]), float(cx[0]), float(cy[0])

    @property
    def distortion(self) -> tuple[float, ...]:
        """Coefficients of plumb_bob."""
        return float(self.values[7]), float(self.values[8]), 0.0, 0.0, 0.0

    @property
    def focal_length_error(self) -> float:
        """Standard deviation of the focal length, relative."""
        return float(self.errors[0])


@dataclass(frozen=True)
class Adjusted:
    """What the corners tell.

    Attributes:
        geometry: of the lens.
        corner_z_m: (placements, P) z of every corner of the board, metres.
        tilts_deg: (placements,) between board and picture plane.
        solution: parameters of the adjustment.
    """

    geometry: LensGeometry
    corner_z_m: FloatArray
    tilts_deg: FloatArray
    solution: FloatArray


# A picture in which the board was found.
_Found = tuple[Shot, Corners]


@dataclass(frozen=True)
class _Observations:
    placement: Integers
    point: Integers
    normal_position: FloatArray
    pixels: FloatArray


def adjust(
    placements: Sequence[Placement],
    board: Board,
    lens: LensModel,
    play: float = 0.0,
    before: Adjusted | None = None,
) -> Adjusted:
    """Find intrinsics and poses.

    Args:
        placements: with corners of the board.
        board: that was seen.
        lens: focal length and pixel pitch of these pictures, to start from.
        play: of the lens against its actuator, in units.
        before: found before, of the same placements: to start from.

    Raises:
        CalibrationError: if the placements do not determine the focal length.
    """
    shots = [_used(p) for p in placements]
    lens_positions = [s.position - s.direction * 0.5 * play for used in shots for s, _ in used]
    low, high = min(lens_positions), max(lens_positions)
    seen = _observations(shots, play, low, high)
    start = before.solution if before is not None else _start(placements[0].image_size, shots, board, lens)
    prior = np.array([PRIOR_BREATHING, PRIOR_BEND, PRIOR_SHIFT_PX, PRIOR_SHIFT_PX, *[PRIOR_DISTORTION] * 2])
    places = np.array([1, 2, 5, 6, 7, 8])

    def residuals(x: FloatArray) -> FloatArray:
        off = (_project(x, board.corners_m, seen) - seen.pixels) / ROBUST_PX
        return np.concatenate([off.ravel(), x[places] / prior])

    if before is None:  # far off, the robust loss would take many small steps
        start = least_squares(residuals, start, x_scale="jac", ftol=1e-3, xtol=1e-3).x
    found = least_squares(residuals, start, loss="soft_l1", x_scale="jac", ftol=PRECISION, xtol=PRECISION)
    x = found.x
    off_px = np.hypot(*(_project(x, board.corners_m, seen) - seen.pixels).T)
    geometry = LensGeometry(
        low, high, x[:GLOBALS], _errors(found.jac, found.fun)[:GLOBALS], float(np.sqrt((off_px**2).mean()))
    )
    _check(geometry)
    poses = [_rotate(x, i) for i in range(len(placements))]
    z = np.array([board.corners_m @ r[2] + t[2] for r, t in poses])
    tilts = np.degrees([np.arccos(np.clip(abs(r[2, 2]), 0.0, 1.0)) for r, _ in poses])
    return Adjusted(geometry, z, np.asarray(tilts), x)


def _start(size: tuple[int, int], shots: Sequence[Sequence[_Found]], board: Board, lens: LensModel) -> FloatArray:
    """Return the parameters of a thin lens with its axis in the middle, and poses by that."""
    x = np.zeros(GLOBALS + 6 * len(shots))
    x[0] = np.log(lens.focal_length_m / lens.pixel_pitch_m)
    x[3:5] = (size[0] - 1) / 2, (size[1] - 1) / 2
    for i, used in enumerate(shots):
        x[GLOBALS + 6 * i : GLOBALS + 6 * i + 6] = _pose(used, board, x)
    return x


def _used(placement: Placement) -> list[_Found]:
    """Return the pictures in which the board was found, not all of many."""
    found = [(s, s.corners) for s in placement.shots if s.corners is not None]
    if not found:
        raise CalibrationError("expected pictures with the board in every placement, one has none")
    every = np.unique(np.linspace(0, len(found) - 1, min(MAX_PICTURES, len(found))).round().astype(int))
    return [found[i] for i in every]


def _observations(shots: Sequence[Sequence[_Found]], play: float, low: float, high: float) -> _Observations:
    placement, point, position, pixels = [], [], [], []
    for i, used in enumerate(shots):
        for shot, corners in used:
            count = len(corners.ids)
            placement.append(np.full(count, i))
            point.append(corners.ids)
            position.append(np.full(count, _normal(shot.position - shot.direction * 0.5 * play, low, high)))
            pixels.append(corners.pixels)
    return _Observations(
        np.concatenate(placement), np.concatenate(point), np.concatenate(position), np.concatenate(pixels)
    )


def _pose(used: Sequence[_Found], board: Board, start: FloatArray) -> FloatArray:
    """Return rotation vector and place (6,) of a board by the picture in which most of it was found."""
    _, best = max(used, key=lambda found: len(found[1].ids))
    f = float(np.exp(start[0]))
    k = np.array([[f, 0.0, start[3]], [0.0, f, start[4]], [0.0, 0.0, 1.0]])
    points = board.corners_m[best.ids]
    good, rvec, tvec = cv2.solvePnP(points, best.pixels, k, None, flags=cv2.SOLVEPNP_IPPE)
    if not good:
        raise CalibrationError(
            "expected the corners to be those of a flat board, they are not: is it the board told?"
        )
    rvec, tvec = cv2.solvePnPRefineLM(points, best.pixels, k, None, rvec, tvec)
    return np.concatenate([rvec.ravel(), tvec.ravel()])


def _project(x: FloatArray, points_m: FloatArray, seen: _Observations) -> FloatArray:
    """Return pixels (O, 2) of all observations."""
    count = (len(x) - GLOBALS) // 6
    poses = [_rotate(x, i) for i in range(count)]
    r = np.stack([p[0] for p in poses])[seen.placement]
    t = np.stack([p[1] for p in poses])[seen.placement]
    at = np.einsum("oij,oj->oi", r, points_m[seen.point]) + t
    plane = at[:, :2] / at[:, 2:]
    square = (plane**2).sum(axis=1)
    bent = plane * (1.0 + x[7] * square + x[8] * square**2)[:, None]
    f, cx, cy = _intrinsics(x, seen.normal_position)
    return np.column_stack([f * bent[:, 0] + cx, f * bent[:, 1] + cy])


def _rotate(x: FloatArray, i: int) -> tuple[FloatArray, FloatArray]:
    pose = x[GLOBALS + 6 * i : GLOBALS + 6 * i + 6]
    return cv2.Rodrigues(pose[:3])[0], pose[3:]


def _intrinsics(x: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    f = np.exp(x[0]) * (1.0 + x[1] * position + x[2] * position**2)
    return f, x[3] + x[5] * position, x[4] + x[6] * position


def _normal(position: float, low: float, high: float) -> float:
    return 2.0 * (position - low) / max(high - low, 1e-9) - 1.0


def _errors(jacobian: FloatArray, residuals: FloatArray) -> FloatArray:
    """Return standard deviations by the curvature at the solution; huge where it has none."""
    free = max(len(residuals) - jacobian.shape[1], 1)
    variance = float((residuals**2).sum() / free)
    normal = jacobian.T @ jacobian
    scale = np.sqrt(np.maximum(np.diag(normal), 1e-30))
    curvature, axes = np.linalg.eigh(normal / scale / scale[:, None])
    spread = (axes**2 / np.maximum(curvature, _NO_CURVATURE)).sum(axis=1)
    errors: FloatArray = np.sqrt(spread * variance) / scale
    return errors


def _check(geometry: LensGeometry) -> None:
    error = geometry.focal_length_error
    if not error <= MAX_FOCAL_LENGTH_ERROR:
        raise CalibrationError(
            f"expected placements that tell the focal length within {100 * MAX_FOCAL_LENGTH_ERROR:g} %, got "
            f"{100 * error:.2g} %: tilt the board by 20 to 40 degrees, to all sides, also where it is far"
        )
