# SPDX-License-Identifier: Apache-2.0
"""Settle times of lenses whose dynamics are known, measured by pictures alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from settle_lens import CURVE, Dynamics, SettleLens, braking, creeping, hunting, ringing

from dualfocus_ros.calibration import settle_targets
from dualfocus_ros.calibration.settle import SettleConfig, SettleResult, measure_settle, settle_table
from dualfocus_ros.calibration.settle_fit import Samples, SettleCurve, fit_settling, last_outside_s
from dualfocus_ros.calibration.settle_moves import MoveResult
from dualfocus_ros.calibration.settle_plot import render_settle
from dualfocus_ros.calibration.settle_signal import block_energies, log_energies, middle, noise_of
from dualfocus_ros.camera.device import ActuatorRange, DeviceFrame
from dualfocus_ros.errors import CalibrationError, DeviceError, ParameterError
from dualfocus_ros.lens_calibration import FocusCurve

QUICK = SettleConfig(positions=17, repetitions=12, max_repetitions=36, rest_s=0.2, max_settle_s=1.0)
TOLERANCE_DPT = 0.02


@pytest.fixture(scope="module")
def quick() -> SettleResult:
    with SettleLens(creeping(0.02)) as device:
        return measure_settle(device, CURVE, QUICK)


def measured(dynamics: Dynamics, config: SettleConfig = QUICK, **lens: Any) -> tuple[SettleResult, list[float]]:
    """Return the result, and the relative error of every move against the truth."""
    with SettleLens(dynamics, **lens) as device:
        result = measure_settle(device, CURVE, config)
        truth = [device.true_settle_s(m.start, m.target, TOLERANCE_DPT) for m in result.moves]
    return result, [m.curve.settle_s / t - 1.0 for m, t in zip(result.moves, truth, strict=True)]


@pytest.mark.parametrize(
    ("dynamics", "lens"),
    [
        (creeping(0.02), {"dead_s": 0.03, "exposure_s": 0.02}),
        (braking(4000.0, 0.06), {"dead_s": 0.05}),
        (braking(9000.0, 0.3), {"exposure_s": 0.02}),
        (ringing(0.08, 0.05), {"dead_s": 0.02}),
        (ringing(0.2, 0.09), {"exposure_s": 0.005}),
    ],
    ids=["creep 20 ms", "brake 60 ms", "brake 300 ms", "ring 50 ms", "ring 90 ms"],
)
def test_settle_times_are_right_within_10_percent(dynamics: Dynamics, lens: dict[str, float]) -> None:
    result, errors = measured(dynamics, **lens)
    assert len(errors) == 6 and {np.sign(m.move) for m in result.moves} == {1.0, -1.0}
    assert np.abs(errors).max() < 0.10
    assert np.median(np.abs(errors)) < 0.03
    lengths, times = zip(*result.settle, strict=True)
    assert list(lengths) == sorted(lengths) and list(times) == sorted(times)
    assert lengths[0] == pytest.approx(1000.0 / 9.0, abs=1.0) and lengths[-1] == pytest.approx(1000.0, abs=30.0)


def test_the_slower_side_counts_and_spread_and_noise_are_told() -> None:
    result, errors = measured(creeping(0.06), faster_up=2.0)
    assert np.abs(errors).max() < 0.10
    of_length: dict[float, list[MoveResult]] = {}
    for m in result.moves:
        of_length.setdefault(abs(m.move), []).append(m)
    for length, settle_s in result.settle:
        if length in of_length:
            assert settle_s == max(m.curve.settle_s for m in of_length[length])
    assert all(0.0 < m.curve.spread_s < 0.1 * m.curve.settle_s for m in result.moves)
    assert all(0.0 < m.curve.noise < 0.25 * m.tolerance for m in result.moves)


def test_lost_and_late_frames_and_drift_do_not_spoil_it() -> None:
    # The drift is 0.4 dpt in the course of the measurement: 20 tolerances.
    result, errors = measured(braking(6000.0, 0.12), lost=0.15, late_s=0.08, drift_per_s=0.2)
    assert np.abs(errors).max() < 0.10
    assert any("did not come in time" in note for note in result.notes)


def test_actuators_with_coarse_steps_and_a_falling_curve() -> None:
    """A webcam: 51 positions of 0.2 dpt, ten tolerances apart, and dioptres that fall with the position."""
    curve = FocusCurve((0.0, 250.0), (10.0, 0.0))
    with SettleLens(creeping(0.05), curve=curve, step=5.0, sharp_dpt=5.0) as device:
        result = measure_settle(device, curve, QUICK)
        for m in result.moves:
            assert m.target % 5.0 == 0.0 and m.start % 5.0 == 0.0
            true_s = device.true_settle_s(m.start, m.target, TOLERANCE_DPT)
            assert m.curve.settle_s == pytest.approx(true_s, rel=0.10)


def test_without_a_curve_the_tolerance_is_a_part_of_the_range() -> None:
    tau_s = 0.05
    with SettleLens(creeping(tau_s)) as device:
        result = measure_settle(device, None, QUICK)
    for m in result.moves:
        assert m.tolerance == pytest.approx(10.0) and m.dpt_per_unit is None
        assert m.curve.settle_s == pytest.approx(tau_s * np.log(abs(m.move) / 10.0), rel=0.10)


def test_noise_raises_the_repetitions_and_then_the_tolerance_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle_targets, "MAX_PICTURE_NOISE", 1.5)
    config = SettleConfig(
        positions=17, repetitions=8, max_repetitions=16, rest_s=0.2, max_settle_s=1.0, tolerance_dpt=0.003
    )
    with SettleLens(creeping(0.03), noise=3.0) as device:
        result = measure_settle(device, CURVE, config)
        for m in result.moves:
            reached_dpt = m.tolerance * (m.dpt_per_unit or 0.0)
            true_s = device.true_settle_s(m.start, m.target, reached_dpt)
            assert m.curve.settle_s == pytest.approx(true_s, rel=0.2)
    assert max(m.repetitions for m in result.moves) == 16
    raised = [m for m in result.moves if m.tolerance * (m.dpt_per_unit or 0.0) > 0.0033]
    assert raised and sum("the noise allows no tolerance below" in n for n in result.notes) >= len(raised)


def test_a_scene_that_is_sharp_at_one_end_only_has_its_longest_move_extrapolated() -> None:
    curve = FocusCurve((0.0, 1000.0), (0.0, 40.0))
    with SettleLens(braking(3000.0, 0.1), curve=curve, sharp_dpt=20.0) as device:
        result = measure_settle(device, curve, QUICK)
    longest = max(abs(m.move) for m in result.moves)
    assert longest < 980.0 and result.settle[-1][0] == 1000.0
    assert any("extrapolated" in note for note in result.notes)
    # At constant speed the time grows evenly: 1000 at 3000 a second, and half of the braking.
    assert result.settle[-1][1] == pytest.approx(1000.0 / 3000.0 + 0.05, rel=0.10)


@pytest.mark.parametrize(
    ("dynamics", "lens", "message"),
    [
        (hunting(0.3, 30.0), {}, "come to rest|still moves"),
        (creeping(5.0), {}, "come to rest|still moves"),
        (creeping(0.03), {"contrast": 0.0}, "scene with texture"),
        (creeping(0.03), {"contrast": 0.0, "noise": 0.0}, "scene with texture"),
        (creeping(0.03), {"stuck": True}, "the lens is stuck"),
        (creeping(0.03), {"stamp_error_s": -0.1}, "stamps of the camera lag"),
        (creeping(0.03), {"stamp_error_s": -5.0}, "they lag by 5.0"),
        (creeping(0.03), {"stamp_error_s": 0.1}, "time stamps of the camera are wrong"),
    ],
    ids=["hunts", "creeps", "no texture", "grey", "stuck", "lags 0.1 s", "lags 5 s", "from the future"],
)
def test_what_cannot_be_measured_is_one_clear_error(
    dynamics: Dynamics, lens: dict[str, Any], message: str
) -> None:
    with SettleLens(dynamics, **lens) as device, pytest.raises(CalibrationError, match=message):
        measure_settle(device, CURVE, QUICK)


def test_stamps_that_lag_less_than_the_lens_are_in_the_settle_time_as_in_use() -> None:
    """Of a device whose stamps are 20 ms early, and a lens that needs 50 ms to begin."""
    result, _ = measured(creeping(0.06), dead_s=0.05, stamp_error_s=-0.02)
    with SettleLens(creeping(0.06), dead_s=0.05) as right:
        for m in result.moves:
            true_s = right.true_settle_s(m.start, m.target, TOLERANCE_DPT)
            assert m.curve.settle_s == pytest.approx(true_s - 0.02, rel=0.08)


def test_a_lens_file_of_another_lens_or_too_few_positions() -> None:
    with SettleLens(creeping(0.03)) as device:
        with pytest.raises(CalibrationError, match="is it of another lens"):
            measure_settle(device, FocusCurve((2000.0, 3000.0), (0.0, 5.0)), QUICK)
        device.focus_range = ActuatorRange(0.0, 1000.0, 500.0)
        with pytest.raises(CalibrationError, match="takes 3"):
            measure_settle(device, CURVE, QUICK)
    with pytest.raises(ParameterError, match="tolerance_dpt"):
        SettleConfig(tolerance_dpt=0.0)


def test_a_device_that_goes_is_a_device_error() -> None:
    class Going(SettleLens):
        def read(self, timeout_s: float) -> DeviceFrame:
            if self.clock.now() > 30.0:
                raise DeviceError("the camera is gone")
            return super().read(timeout_s)

    with Going(creeping(0.03)) as device, pytest.raises(DeviceError, match="gone"):
        measure_settle(device, CURVE, QUICK)


def samples_of(deviation: Any, exposure_s: float, noise: float, repetitions: int = 16) -> Samples:
    """Return exposures at 30 Hz, with staggered phases, of a deviation that is a function of time."""
    rng = np.random.default_rng(1)
    starts = np.concatenate([np.arange(0.0, 0.6, 1.0 / 30.0) + i / 30.0 / repetitions for i in range(repetitions)])
    parts = np.linspace(0.0, exposure_s, 41)
    means = np.array([np.mean(deviation(s + parts)) for s in starts]) + rng.normal(0.0, noise, len(starts))
    return Samples(
        starts, starts + exposure_s, means, np.repeat(np.arange(repetitions), len(starts) // repetitions)
    )


@pytest.mark.parametrize("exposure_s", [0.001, 0.03])
def test_the_averaging_over_the_exposure_is_undone(exposure_s: float) -> None:
    # The mean over 30 ms of a swing of 60 ms is 0.64 of it: without more ado the last swing would be missed.
    def swing(t: Any) -> Any:
        return 10.0 * np.exp(-t / 0.1) * np.cos(2.0 * np.pi * t / 0.06)

    t = np.arange(0.0, 0.6, 1e-4)
    true_s = t[np.abs(swing(t)) > 1.0][-1]
    curve = fit_settling(samples_of(swing, exposure_s, 0.05), 1.0, 8.0, 1.0 / 30.0)
    assert curve.settle_s == pytest.approx(true_s, abs=0.004)


def test_frames_with_wrong_stamps_do_not_move_the_curve() -> None:
    good = samples_of(lambda t: 20.0 * np.exp(-t / 0.05), 0.01, 0.05)
    wrong = good.deviation.copy()
    wrong[::37] += 9.0
    bad = Samples(good.start_s, good.end_s, wrong, good.repetition)
    curve = fit_settling(bad, 1.0, 15.0, 1.0 / 30.0)
    assert curve.settle_s == pytest.approx(0.05 * np.log(20.0), rel=0.03)


def test_the_last_time_outside_the_tolerance() -> None:
    t = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert last_outside_s(t, np.array([9.0, 3.0, 1.0, 0.0, 0.0]), 2.0) == (pytest.approx(0.15), True)
    assert last_outside_s(t, np.array([9.0, 0.0, -3.0, 1.0, 0.0]), 2.0) == (pytest.approx(0.225), True)
    assert last_outside_s(t, np.zeros(5), 2.0) == (0.0, True)
    assert last_outside_s(t, np.full(5, 3.0), 2.0) == (0.4, False)


def move_result(start: float, target: float, settle_s: float) -> MoveResult:
    none = np.zeros(0)
    samples = Samples(none, none, none, none.astype(int))
    return MoveResult(start, target, 1.0, None, samples, SettleCurve(none, none, 0.0, settle_s, 0.0, True), 1)


def test_the_table_rises_and_its_end_is_extrapolated() -> None:
    moves = [
        move_result(0, 800, 0.30),
        move_result(800, 0, 0.25),
        move_result(0, 400, 0.20),
        move_result(0, 100, 0.22),
    ]
    settle, notes = settle_table(moves, 1000.0)
    assert settle == ((100.0, 0.22), (400.0, 0.22), (800.0, 0.30), (1000.0, pytest.approx(0.34)))
    assert len(notes) == 1
    settle, notes = settle_table(moves, 800.0)
    assert settle[-1] == (800.0, 0.30) and notes == ()


def test_noise_is_told_from_a_lens_that_moves() -> None:
    rng = np.random.default_rng(2)
    texture = rng.normal(0.0, 40.0, (128, 128)).astype(np.float32)
    still, moving = [], []
    for i in range(24):
        grain = rng.normal(0.0, 3.0, texture.shape).astype(np.float32)
        still.append(block_energies(120.0 + cv2.GaussianBlur(texture, (0, 0), 1.0) + grain))
        moving.append(block_energies(120.0 + cv2.GaussianBlur(texture, (0, 0), 1.0 + 0.01 * i) + grain))
    noise = noise_of(np.stack(still))
    scatter = log_energies(np.stack(still)).std(axis=0)
    assert noise == pytest.approx(scatter, rel=0.6)
    assert (np.ptp(log_energies(np.stack(moving)), axis=0)[:2] > 20.0 * noise[:2]).all()
    assert (noise_of(np.stack(moving)) < 4.0 * noise).all()


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"),
    [("mono8", (48, 64), np.uint8), ("bgr8", (48, 64, 3), np.uint8), ("mono16", (48, 64), np.uint16)]
    + [("nv12", (72, 64), np.uint8), ("bayer_rggb8", (48, 64), np.uint8), ("yuv422_yuy2", (48, 64, 2), np.uint8)],
)
def test_pictures_of_all_encodings_are_read(encoding: str, shape: tuple[int, ...], dtype: Any) -> None:
    image = np.random.default_rng(0).integers(10, 200, shape).astype(dtype)
    grey = middle(DeviceFrame(image, encoding, (0.0, 0.01)))
    assert grey.shape == (24, 32) and grey.dtype == np.float32 and grey.std() > 5.0


def test_brightness_does_not_count_as_sharpness() -> None:
    texture = np.random.default_rng(0).normal(100.0, 20.0, (64, 64)).astype(np.float32)
    assert log_energies(block_energies(texture)) == pytest.approx(
        log_energies(block_energies(1.3 * texture)), abs=1e-3
    )


def test_the_plot_shows_every_move(quick: SettleResult) -> None:
    picture = cv2.imdecode(np.frombuffer(render_settle(quick, "lens"), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] > 700 and picture.shape[1] > 900
    # The line at the settle time is red, in each of the six panels.
    red = picture[..., 2].astype(int) - picture[..., 1] > 60
    rows, columns = np.array_split(np.arange(picture.shape[0]), 3), np.array_split(np.arange(picture.shape[1]), 2)
    assert all(red[np.ix_(r, c)].sum() > 80 for r in rows for c in columns)
