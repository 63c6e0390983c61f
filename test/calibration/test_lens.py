# SPDX-License-Identifier: Apache-2.0
"""The calibration of a lens from what pictures told: against a lens that is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lens_truth import BOARD, LENS, POSES, SIZE, KnownLens

from dualfocus_ros.calibration.intrinsics import adjust
from dualfocus_ros.calibration.lens import LensResult, calibrate_lens
from dualfocus_ros.camera.simulated_plane import Placement as Pose
from dualfocus_ros.errors import CalibrationError

FOCUS_DPT = 0.015
FX = 0.003


def calibrated(lens: KnownLens, **changes: object) -> LensResult:
    placements = changes["placements"] if "placements" in changes else lens.measure()
    return calibrate_lens(placements, lens.board, LENS, name="x", unit="step", date="2026-11-28")  # type: ignore[arg-type]


def worst_dpt(result: LensResult, lens: KnownLens) -> float:
    """Return the largest error of the curve over its range, at its reference temperature, else at the end."""
    c = result.calibration
    part = 1.0 if c.temperature_c is None else 1.0 - (40.0 - c.temperature_c) / lens.warming_k
    at = np.linspace(c.curve.positions[0], c.curve.positions[-1], 100)
    truth = [lens.focus_dpt(float(u), 0, part) for u in at]
    return float(np.abs([c.curve.dioptres_at(float(u)) - t for u, t in zip(at, truth, strict=True)]).max())


def worst_fx(result: LensResult, lens: KnownLens) -> float:
    c = result.calibration
    errors = [c.intrinsics_at(d, *SIZE).fx_px / lens.fx_px(d) - 1.0 for d in np.linspace(2.0, 5.0, 7)]  # type: ignore[union-attr]
    return float(np.abs(errors).max())


def test_it_finds_curve_and_intrinsics() -> None:
    lens = KnownLens(k1=-0.15)
    result = calibrated(lens)
    c = result.calibration
    assert worst_dpt(result, lens) < FOCUS_DPT
    assert worst_fx(result, lens) < FX
    assert c.distortion[0] == pytest.approx(-0.15, abs=0.01)
    assert c.calibrated and c.unit == "step" and c.image_size == SIZE and not result.notes
    nearest = max(1.0 / (p.distance_m * 1.05) for p in POSES)
    assert c.curve.focus_dpt[-1] > nearest > c.curve.focus_dpt[0]
    assert c.intrinsics_at(3.0, *SIZE).cx_px == pytest.approx((SIZE[0] - 1) / 2, abs=1.0)  # type: ignore[union-attr]


def test_a_curve_may_fall() -> None:
    lens = KnownLens(curve=lambda u: 0.6 + 6.0 * max(1.0 - u / 1000.0, 0.0) ** 1.3, play=20.0)
    result = calibrated(lens)
    assert result.calibration.curve.focus_dpt[0] > result.calibration.curve.focus_dpt[-1]
    assert worst_dpt(result, lens) < FOCUS_DPT
    assert result.calibration.hysteresis == pytest.approx(20.0, abs=1.0)


def test_it_tells_play_from_drift() -> None:
    lens = KnownLens(play=30.0, dpt_per_k=-0.03)
    result = calibrated(lens)
    assert result.calibration.hysteresis == pytest.approx(30.0, abs=1.0)
    assert result.calibration.dpt_per_k == pytest.approx(-0.03, abs=0.002)
    assert worst_dpt(result, lens) < FOCUS_DPT
    assert worst_fx(result, lens) < FX


def test_without_temperature_the_curve_is_that_of_the_end() -> None:
    lens = KnownLens(play=30.0, dpt_per_k=0.03, told=False)
    result = calibrated(lens)
    assert result.calibration.temperature_c is None
    assert result.calibration.dpt_per_k == 0.0
    assert worst_dpt(result, lens) < 0.03
    assert any("warm" in note for note in result.notes)


def test_curved_focus_does_not_bend_the_curve() -> None:
    lens = KnownLens(curvature_dpt=0.3)
    result = calibrated(lens)
    assert result.curve.field_curvature_dpt == pytest.approx(0.3, abs=0.05)
    assert worst_dpt(result, lens) < 0.025


def test_a_placement_that_moved_is_told_and_does_little() -> None:
    lens = KnownLens()
    placements = list(lens.measure())
    wrong = lens.measure((Pose(0.31, 25.0, 0.0),))[0]
    # Half of the corners of the first placement were sharp where another board would be.
    mixed = np.where(np.arange(len(wrong.ids)) % 2 == 0, wrong.sharpness, placements[0].sharpness)
    placements[0] = replace(placements[0], sharpness=mixed)
    result = calibrated(lens, placements=placements)
    assert worst_dpt(result, lens) < 0.03
    assert any("placement 1" in note for note in result.notes)


def test_typed_distances_need_no_board_and_may_join_one() -> None:
    lens = KnownLens(noise=(0.003, 0.05))
    board = lens.measure()
    typed = tuple(
        replace(p, distance_m=pose.distance_m, shots=tuple(replace(s, corners=None) for s in p.shots))
        for pose in (Pose(1.05), Pose(0.5), Pose(0.25), Pose(0.17), Pose(0.33))
        for p in lens.measure((pose,), steps=50)
    )
    alone = calibrate_lens(typed, None, LENS, name="x", unit="step", date="")
    assert alone.calibration.intrinsics == () and alone.adjusted is None
    assert worst_dpt(alone, lens) < 0.04
    both = calibrated(lens, placements=(*board[:3], typed[0], *board[3:]))
    assert worst_dpt(both, lens) < 0.03
    assert both.calibration.curve.focus_dpt[0] < 1.0
    assert worst_fx(both, lens) < FX
    assert "1 distances typed in" in both.calibration.method


def test_what_is_infinitely_far_may_be_typed_in() -> None:
    lens = KnownLens(curve=lambda u: -0.5 + 6.0 * u / 1000.0)
    far = lens.measure((Pose(1e9),))[0]
    far = replace(far, distance_m=float("inf"), shots=tuple(replace(s, corners=None) for s in far.shots))
    result = calibrated(lens, placements=(*lens.measure(), far))
    assert result.calibration.curve.focus_dpt[0] == pytest.approx(0.0, abs=0.03)
    assert worst_dpt(result, lens) < 0.03


def test_a_lens_that_lags_more_than_the_sweeps_allow_for_is_told() -> None:
    assert any("lags" in note for note in calibrated(KnownLens(play=90.0)).notes)


def test_boards_that_face_the_camera_do_not_tell_the_focal_length() -> None:
    lens = KnownLens(breathing=(800.0, 0.0))
    flat = lens.measure(tuple(Pose(d) for d in (0.4, 0.25, 0.6)))
    with pytest.raises(CalibrationError, match="tilt the board"):
        adjust(flat, BOARD, LENS)


def test_the_errors_of_the_focal_length_are_as_large_as_told() -> None:
    lens = KnownLens(noise=(0.005, 0.3))
    found = adjust(lens.measure(), BOARD, LENS)
    off = found.geometry.at(500.0)[0] / lens.fx_px(lens.curve(500.0)) - 1.0
    assert abs(off) < 4.0 * found.geometry.focal_length_error
    assert 1e-4 < found.geometry.focal_length_error < 0.01


@pytest.mark.parametrize(
    ("poses", "message"),
    [((), "got none"), ((Pose(0.4, 0.0, 5.0),), "over|tilt"), ((Pose(0.05, 25.0, 0.0),), "found")],
)
def test_too_little_is_refused(poses: tuple[Pose, ...], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrated(KnownLens(), placements=KnownLens().measure(poses))


def test_pictures_of_two_sizes_are_refused() -> None:
    first, second, *_ = KnownLens().measure()
    with pytest.raises(CalibrationError, match="one size"):
        calibrated(KnownLens(), placements=(first, replace(second, image_size=(320, 240))))
