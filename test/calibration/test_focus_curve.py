# SPDX-License-Identifier: Apache-2.0
"""The joint fit of the focus curve, by samples of known windows."""

from __future__ import annotations

import numpy as np
import pytest
from lens_truth import KnownLens, rising

from dualfocus_ros.calibration.focus_curve import fit_curve
from dualfocus_ros.calibration.focus_samples import FocusSamples, gather
from dualfocus_ros.errors import CalibrationError

PLAY = 24.0


def samples(lens: KnownLens, distances_m: tuple[float, ...] = ()) -> FocusSamples:
    """Return those of a session with true distances, or a part of its windows."""
    from lens_truth import POSES

    placements = lens.measure()
    corners = lens.board.corners_m
    middle = 0.5 * (corners[0] + corners[-1])
    true_z = [((corners - middle) @ pose.rotation().T + pose.middle())[:, 2] for pose in POSES]
    if distances_m:
        true_z = [np.where(np.isin(np.round(z, 3), distances_m), z, np.nan) for z in true_z]
    return gather(placements, true_z)


def test_every_window_is_told_once_from_either_side() -> None:
    found = samples(KnownLens(play=PLAY))
    p = found.points
    assert set(p.direction) == {1.0, -1.0}
    up, down = p.direction == 1, p.direction == -1
    assert len(p.position) == len(found.off_axis) and up.sum() > 100
    # The same window, half of the play later from below and earlier from above.
    both = np.intersect1d(p.focus_dpt[up], p.focus_dpt[down])
    at = {s: dict(zip(p.focus_dpt[p.direction == s], p.position[p.direction == s], strict=True)) for s in (1, -1)}
    assert float(np.median([at[1][d] - at[-1][d] for d in both])) == pytest.approx(PLAY, abs=1.0)


def test_samples_without_some_windows_keep_their_numbers_right() -> None:
    found = samples(KnownLens())
    drop = np.zeros(len(found.off_axis), bool)
    drop[::3] = True
    fewer = found.without(drop)
    assert fewer.window.max() == (~drop).sum() - 1
    assert fewer.points.focus_dpt[fewer.window[0]] == found.points.focus_dpt[1]
    assert (fewer.points.focus_dpt == found.points.focus_dpt[~drop]).all()
    kept = ~drop[found.window]
    assert (fewer.sharpness == found.sharpness[kept]).all()


def test_the_joint_fit_is_better_than_the_peaks() -> None:
    """Over a bent curve, each peak by itself is off."""
    lens = KnownLens(play=PLAY, noise=(0.002, 0.0), curve=lambda u: 0.6 + 6.0 * (max(u, 0.0) / 1000.0) ** 1.8)
    found = samples(lens)
    curve, points = fit_curve(found)

    def off(p) -> float:
        truth = [lens.focus_dpt(u, int(s), 1.0) for u, s in zip(p.position, p.direction, strict=True)]
        return float(np.sqrt(np.mean((np.array(truth) - p.focus_dpt) ** 2)))

    assert off(points) < 0.5 * off(found.points)
    at = np.linspace(*curve.reach, 50)
    assert float(np.abs(curve.dioptres_at(at) - [lens.curve(float(u)) for u in at]).max()) < 0.01
    assert curve.hysteresis == pytest.approx(PLAY, abs=0.3)


def test_beyond_the_knots_it_goes_straight_on() -> None:
    curve, _ = fit_curve(samples(KnownLens()))
    end = curve.knots[-1]
    first, second = np.diff(curve.dioptres_at(np.array([end, end + 10.0, end + 20.0])))
    assert first == pytest.approx(second) and first > 0.0


def test_windows_that_tell_something_else_are_left_out() -> None:
    found = samples(KnownLens(noise=(0.002, 0.0)))
    wrong = found.points.focus_dpt.copy()
    wrong[::15] += 0.4
    from dataclasses import replace

    curve, _ = fit_curve(replace(found, points=replace(found.points, focus_dpt=wrong)))
    at = np.linspace(*curve.reach, 50)
    assert float(np.abs(curve.dioptres_at(at) - [rising(float(u)) for u in at]).max()) < 0.015
    assert curve.residual_dpt[::15] == pytest.approx(-0.4, abs=0.05)


def test_the_curve_is_monotone_where_noise_is_not() -> None:
    lens = KnownLens(
        noise=(0.1, 0.0), curve=lambda u: 2.0 + 1.5 * np.clip((u - 300.0) / 400.0, 0.0, 1.0) + u / 5000
    )
    curve, _ = fit_curve(samples(lens))
    assert (np.diff(curve.sampled()[1]) > 0.0).all()


def test_too_few_windows_or_too_small_a_range_are_refused() -> None:
    found = samples(KnownLens())
    few = np.ones(len(found.off_axis), bool)
    few[:4] = False
    with pytest.raises(CalibrationError, match="windows"):
        fit_curve(found.without(few))
    narrow = np.abs(found.points.focus_dpt - 3.0) > 0.08
    with pytest.raises(CalibrationError, match="nearer and farther"):
        fit_curve(found.without(narrow))
