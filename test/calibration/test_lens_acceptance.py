# SPDX-License-Identifier: Apache-2.0
"""`calibrate lens` and `calibrate settle` on simulated cameras whose lenses they know nothing of.

What was asked for: dioptres within 0.05 over the range, with hysteresis and drift, whether the temperature is told
or not. Intrinsics within 0.5 %.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from dualfocus_ros.calibration.lens import LensResult, calibrate_lens
from dualfocus_ros.calibration.placements import PlacementMeter, SweepPlan
from dualfocus_ros.calibration.placing import wanted_placements
from dualfocus_ros.calibration.settle import SettleConfig, measure_settle
from dualfocus_ros.camera.simulated_lens import SimulatedLensDevice
from dualfocus_ros.camera.simulated_lens_config import SimulatedLensConfig
from dualfocus_ros.camera.simulated_plane import Placement as Pose
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.lens_calibration import FocusCurve

FOCUS_DPT, FX = 0.05, 0.005
BOARD = "charuco:8x6:0.03:0.022:DICT_4X4_50"
# Near the lens a board of this size has too few corners in the picture, far from it too small markers.
NEAR_M, FAR_M, PLACEMENTS = 0.22, 0.6, 6
SMALL = {"width": 320, "height": 240, "target": BOARD}
LENSES = {
    "warms up and tells": SimulatedLensConfig(
        **SMALL, lens_seed=4, hysteresis=30.0, dpt_per_k=0.015, warmup_s=60.0, k1=-0.1, field_curvature_dpt=0.08
    ),
    "warms up and does not tell, larger is farther, swings": SimulatedLensConfig(
        **SMALL,
        lens_seed=5,
        far_dpt=6.2,
        near_dpt=0.5,
        dead_zone=0.0,
        hysteresis=10.0,
        dpt_per_k=-0.015,
        warmup_s=60.0,
        tells_temperature=False,
        motion="ring",
        axis_shift_px=5.0,
    ),
}


@cache
def calibrated(name: str) -> tuple[SimulatedLensDevice, LensResult, float]:
    """Return the device, what was found, and the temperature at the end."""
    config, board = LENSES[name], parse_board(BOARD)
    rng = np.random.default_rng(1)
    with SimulatedLensDevice(config) as device:
        meter = PlacementMeter(device, board, SweepPlan(coarse=20, fine=22, settle_s=0.13))
        placements = []
        for want in wanted_placements(PLACEMENTS, NEAR_M, FAR_M):
            about = want.distance_m * rng.uniform(0.97, 1.03)
            device.place(Pose(about, want.tilt_x_deg, want.tilt_y_deg, rng.uniform(-5.0, 5.0)))
            placements.append(meter.measure())
        end_c = device.temperature_c(device.clock.now())
    lens = config.lens_model
    return device, calibrate_lens(placements, board, lens, name="x", unit="step", date=""), end_c


@pytest.mark.parametrize("name", list(LENSES))
def test_dioptres_are_right_over_the_range(name: str) -> None:
    device, result, end_c = calibrated(name)
    c = result.calibration
    assert (c.temperature_c is not None) == device.config.tells_temperature
    celsius = end_c if c.temperature_c is None else c.temperature_c
    at = np.linspace(c.curve.positions[0], c.curve.positions[-1], 200)
    truth = np.array([device.true_focus_dpt(float(u), celsius) for u in at])
    # The board stood at 1.67 to 4.55 dpt, and its near and far ends reach beyond.
    assert truth.min() < 1.8 and truth.max() > 4.5
    found = np.array([c.curve.dioptres_at(float(u)) for u in at])
    assert float(np.abs(found - truth).max()) < FOCUS_DPT
    assert c.hysteresis == pytest.approx(device.config.hysteresis, abs=2.0)


@pytest.mark.parametrize("name", list(LENSES))
def test_intrinsics_are_right_over_the_range(name: str) -> None:
    device, result, _ = calibrated(name)
    c, size = result.calibration, (device.config.width, device.config.height)
    for focus_dpt in np.linspace(c.focus_dpt[0], c.focus_dpt[-1], 9):
        found, truth = c.intrinsics_at(float(focus_dpt), *size), device.true_intrinsics(float(focus_dpt))
        assert found is not None
        assert found.fx_px == pytest.approx(truth.fx_px, rel=FX)
        assert (found.cx_px, found.cy_px) == pytest.approx((truth.cx_px, truth.cy_px), abs=2.0)
    k1 = c.distortion[0]
    assert k1 == pytest.approx(device.config.k1, abs=0.04)


def test_told_temperature_tells_the_drift() -> None:
    device, result, _ = calibrated("warms up and tells")
    assert result.calibration.dpt_per_k == pytest.approx(device.config.dpt_per_k, abs=0.004)
    assert result.curve.field_curvature_dpt == pytest.approx(device.config.field_curvature_dpt, abs=0.05)


def test_typed_distances_do_without_a_board() -> None:
    config = SimulatedLensConfig(width=320, height=240, target="texture", lens_seed=7, dpt_per_k=0.0)
    with SimulatedLensDevice(config) as device:
        meter = PlacementMeter(device, None, SweepPlan(coarse=20, fine=22, settle_s=0.13))
        placements = []
        for distance_m in (0.8, 0.21, 0.45, 0.27, 1.2, 0.34):
            device.place(Pose(distance_m))
            placements.append(meter.measure(distance_m))
    c = calibrate_lens(placements, None, config.lens_model, name="x", unit="step", date="").calibration
    at = np.linspace(c.curve.positions[0], c.curve.positions[-1], 100)
    truth = np.array([device.true_focus_dpt(float(u), config.ambient_c) for u in at])
    assert truth.min() < 0.9 and truth.max() > 4.6
    assert float(np.abs([c.curve.dioptres_at(float(u)) for u in at] - truth).max()) < 0.12
    known = [c.curve.dioptres_at(float(np.interp(1.0 / d, truth, at))) - 1.0 / d for d in (0.8, 0.45, 0.27, 0.34)]
    assert float(np.abs(known).max()) < FOCUS_DPT
    assert c.intrinsics == ()


def test_settle_times_are_those_of_the_lens() -> None:
    config = SimulatedLensConfig(
        width=160,
        height=120,
        target="texture",
        tilt_y_deg=0.0,
        f_number=0.8,
        full_scale_electrons=40000.0,
        dpt_per_k=0.0,
        slew_dpt_per_s=25.0,
        settle_s=0.06,
        exposure_s=0.005,
        readout_s=0.002,
        hysteresis=4.0,
    )
    with SimulatedLensDevice(config) as device:
        u = np.linspace(config.low, config.high, 60)
        curve = FocusCurve(tuple(map(float, u)), tuple(device.true_focus_dpt(float(v), 22.0) for v in u))
        found = measure_settle(device, curve, SettleConfig(tolerance_dpt=0.05, repetitions=12, max_settle_s=1.0))
        assert len(found.moves) >= 4
        for move in found.moves:
            tolerance_dpt = move.tolerance * (move.dpt_per_unit or 1.0)
            truth_s = device.true_settle_s(move.start, move.target, tolerance_dpt)
            assert move.curve.settle_s == pytest.approx(truth_s, rel=0.06, abs=0.004)
