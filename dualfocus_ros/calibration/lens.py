# SPDX-License-Identifier: Apache-2.0
"""The whole calibration of a lens: from measured placements to its lens file, in one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.calibration.focus_curve import FittedCurve, fit_curve
from dualfocus_ros.calibration.focus_samples import FocusPoints, gather
from dualfocus_ros.calibration.intrinsics import Adjusted, adjust
from dualfocus_ros.calibration.placements import RUN_UP_PART, Placement
from dualfocus_ros.calibration.sharpness import FloatArray
from dualfocus_ros.camera.target_board import Board
from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.types import LensModel

# Intrinsics of the lens file are told at so many focus positions.
INTRINSICS = 7
# A point that lies farther off than this is named, dioptres.
OUTLIER_DPT = 0.08


@dataclass(frozen=True)
class LensResult:
    """What a calibration found.

    Attributes:
        calibration: the lens file, without settle times.
        points: of the focus curve.
        curve: as fitted.
        adjusted: intrinsics and poses; None: the distances were typed in.
        notes: what the user should know, in words.
    """

    calibration: LensCalibration
    points: FocusPoints
    curve: FittedCurve
    adjusted: Adjusted | None
    notes: tuple[str, ...]


def calibrate_lens(
    placements: Sequence[Placement], board: Board | None, lens: LensModel, *, name: str, unit: str, date: str
) -> LensResult:
    """Find focus curve, hysteresis, drift and intrinsics.

    Args:
        placements: as measured; where their distances are typed in, those count, else the board tells them.
        board: that was seen; None: there was none, then there are no intrinsics.
        lens: data sheet values; its pixel pitch is that of these pictures.
        name: of the lens file.
        unit: of the actuator.
        date: ISO 8601.

    Raises:
        CalibrationError: if the placements do not determine it.
    """
    if not placements:
        raise CalibrationError("expected placements of the target, got none")
    _check_sizes(placements)
    seen = [i for i, p in enumerate(placements) if any(shot.corners is not None for shot in p.shots)]
    play, adjusted = 0.0, None
    for _ in range(2):
        # Corners tell the intrinsics where the lens is; where it lags the actuator, the curve tells.
        if board is not None and seen:
            adjusted = adjust([placements[i] for i in seen], board, lens, play, adjusted)
        distances_m = [
            _distances_m(i + 1, p, adjusted, seen.index(i) if i in seen else None)
            for i, p in enumerate(placements)
        ]
        curve, points = fit_curve(gather(placements, distances_m))
        play = curve.hysteresis
    positions, focus_dpt = curve.sampled()
    at, rows = _intrinsics(adjusted, curve)
    calibration = LensCalibration(
        name=name,
        lens=lens,
        image_size=placements[0].image_size,
        curve=FocusCurve(tuple(map(float, positions)), tuple(map(float, focus_dpt))),
        unit=unit,
        calibrated=True,
        date=date,
        method=_method(placements, board),
        hysteresis=curve.hysteresis,
        temperature_c=curve.reference_c,
        dpt_per_k=curve.dpt_per_k,
        focus_dpt=at,
        intrinsics=rows,
        distortion_model="plumb_bob" if adjusted is not None else "",
        distortion=adjusted.geometry.distortion if adjusted is not None else (),
        residuals=_residuals(curve, adjusted),
    )
    return LensResult(calibration, points, curve, adjusted, _notes(points, curve))


def _distances_m(number: int, placement: Placement, adjusted: Adjusted | None, i: int | None) -> FloatArray:
    """Return the distance of every window of a placement along the axis (K,), metres; `i` is its pose's number."""
    if placement.distance_m is not None:
        return np.full(len(placement.ids), placement.distance_m)
    if adjusted is None or i is None:
        raise CalibrationError(
            f"expected a board that is found, or a distance, for every placement; placement {number} has neither"
        )
    z_m: FloatArray = adjusted.corner_z_m[i, placement.ids.astype(int)]
    return z_m


def _check_sizes(placements: Sequence[Placement]) -> None:
    sizes = {p.image_size for p in placements}
    if len(sizes) > 1:
        raise CalibrationError(f"expected placements with pictures of one size, got {sorted(sizes)}")


def _intrinsics(
    adjusted: Adjusted | None, curve: FittedCurve
) -> tuple[tuple[float, ...], tuple[tuple[float, float, float, float], ...]]:
    """Return focus positions, ascending, and fx, fy, cx, cy there."""
    if adjusted is None:
        return (), ()
    positions = np.asarray(np.linspace(*curve.reach, INTRINSICS), np.float64)
    found = sorted(zip(curve.dioptres_at(positions), positions, strict=True))
    return tuple(float(d) for d, _ in found), tuple(adjusted.geometry.at(float(u)) for _, u in found)


def _method(placements: Sequence[Placement], board: Board | None) -> str:
    typed = sum(p.distance_m is not None for p in placements)
    parts = [f"{len(placements) - typed} placements of {board}"] if typed < len(placements) else []
    return " and ".join([*parts, *([f"{typed} distances typed in"] if typed else [])])


def _residuals(curve: FittedCurve, adjusted: Adjusted | None) -> dict[str, float]:
    off = curve.residual_dpt
    found = {
        "focus_rms_dpt": float(np.sqrt((off**2).mean())),
        "focus_median_dpt": float(np.median(np.abs(off))),
        "focus_max_dpt": float(np.abs(off).max()),
        "focus_points": float(len(off)),
        "field_curvature_dpt": curve.field_curvature_dpt,
    }
    if adjusted is not None:
        geometry = adjusted.geometry
        found |= {"corners_rms_px": geometry.residual_px, "focal_length_error": geometry.focal_length_error}
    return found


def _notes(points: FocusPoints, curve: FittedCurve) -> tuple[str, ...]:
    """Return what is odd, in words."""
    notes = []
    off = np.abs(curve.residual_dpt)
    for i in np.unique(points.placement[off > OUTLIER_DPT]).astype(int):
        own = points.placement == i
        count = int((off[own] > OUTLIER_DPT).sum())
        notes.append(
            f"placement {i + 1}: {count} of {int(own.sum())} points lie over {OUTLIER_DPT} dpt off the curve; "
            "did something move?"
        )
    span = float(np.ptp(points.position))
    if curve.hysteresis > RUN_UP_PART * span:
        notes.append(
            f"the lens lags by {curve.hysteresis:.3g} units, more than the sweeps allow for: the "
            "hysteresis may be larger still"
        )
    if curve.reference_c is None and np.abs(curve.drift_dpt).sum() > OUTLIER_DPT:
        notes.append(
            f"the focus drifted by about {abs(curve.drift_dpt[1] - curve.drift_dpt[0]):.2f} dpt meanwhile, and "
            "the camera tells no temperature: the curve is that of the warm camera; let it warm up before use"
        )
    return tuple(notes)
