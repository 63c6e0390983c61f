# SPDX-License-Identifier: Apache-2.0
"""A device and a lens file as a camera: what it reports of a frame against where the lens really was."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scripted_device import ScriptedDevice

from dualfocus_ros import optics
from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig
from dualfocus_ros.camera.hardware import DEFAULT_SETTLE_S, HardwareCamera
from dualfocus_ros.errors import CalibrationError, CameraError, DeviceError, LensError, ParameterError
from dualfocus_ros.focus_sweep import FocusSweep, SweepControl
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import CameraFrame, LensModel

CONFIG = DeviceConfig(width=64, height=48)
# Not a straight line: 0 to 4 dpt over 20 to 220.
CURVE = FocusCurve((20.0, 120.0, 220.0), (0.0, 1.0, 4.0))
LENS = LensCalibration(
    name="scripted",
    lens=LensModel(0.004, 2.0, 4e-5),
    image_size=(64, 48),
    curve=CURVE,
    calibrated=True,
    settle=((1.0, 0.04), (200.0, 0.06)),
)


def camera_of(device: ScriptedDevice, **changes: Any) -> HardwareCamera:
    return HardwareCamera(device, dataclasses.replace(LENS, **changes), CONFIG)


def settled(camera: HardwareCamera, focus_m: float) -> CameraFrame:
    camera.set_focus(focus_m)
    for _ in range(30):
        frame = camera.read()
        if frame.lens_state.focus_speed_mps == 0.0:
            return frame
    raise AssertionError("the lens does not settle")


@pytest.mark.parametrize("latency", [0, 1, 3])
@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("play", [0.0, 12.0])
def test_every_frame_that_counts_as_settled_is(latency: int, tells: bool, play: float) -> None:
    """Whatever the pipeline delays: where the camera says that the lens stood still, it stood where it says."""
    device = ScriptedDevice(play=play, latency_frames=latency, tells_position=tells)
    rng = np.random.default_rng(3)
    with camera_of(device, hysteresis=play) as camera:
        for focus_dpt in rng.uniform(0.3, 3.7, 40):
            frame = settled(camera, 1.0 / focus_dpt)
            start, end = device.truth[-1]
            assert start == end, "it moved during the exposure"
            assert frame.lens_state.focus_dpt == pytest.approx(CURVE.dioptres_at(start), abs=1e-9)
            # The actuator goes in whole steps: half of one off at most, where the curve is steepest.
            assert frame.lens_state.focus_dpt == pytest.approx(focus_dpt, abs=0.5 * 0.03 + 1e-6)
            assert frame.stamp_ns == frame.lens_state.stamp_ns


def test_frames_of_a_moving_lens_are_marked_and_come_near_the_truth() -> None:
    device = ScriptedDevice(takes_s=0.4)
    with camera_of(device, settle=((0.0, 0.4), (200.0, 0.4))) as camera:
        settled(camera, 1.0)
        camera.set_focus(0.3)
        moving = []
        while (frame := camera.read()).lens_state.focus_speed_mps != 0.0:
            moving.append((frame, 0.5 * sum(device.truth[-1])))
    assert len(moving) >= 10
    for frame, position in moving:
        assert frame.lens_state.focus_dpt == pytest.approx(CURVE.dioptres_at(position), abs=0.1)
        assert frame.lens_state.focus_speed_mps < 0.0  # nearer and nearer
    s = [f.lens_state.focus_distance_m for f, _ in moving[3:]]
    speeds = [f.lens_state.focus_speed_mps for f, _ in moving[3:]]
    np.testing.assert_allclose(np.diff(s) * 30.0, 0.5 * (np.array(speeds[1:]) + speeds[:-1]), rtol=0.25)


def test_a_lens_that_is_slower_than_calibrated_is_noticed_where_the_device_tells_its_position() -> None:
    device = ScriptedDevice(takes_s=0.5, tells_position=True)
    with camera_of(device) as camera:
        settled(camera, 1.0)
        frame = settled(camera, 0.3)
        assert device.truth[-1][0] == device.truth[-1][1] == pytest.approx(CURVE.position_at(1 / 0.3), abs=0.5)
        assert frame.lens_state.focus_distance_m == pytest.approx(0.3, rel=0.01)


def test_without_a_measured_settle_time_it_waits_long_and_says_so() -> None:
    device = ScriptedDevice(takes_s=0.2)
    with camera_of(device, settle=()) as camera:
        settled(camera, 1.0)
        before_s = device.clock.now()
        settled(camera, 0.3)
        assert device.clock.now() - before_s >= DEFAULT_SETTLE_S
        assert any("settle time" in note for note in camera.notes)
    assert not [note for note in camera_of(device).notes if "settle" in note]


def test_a_starting_point_is_told_to_be_one() -> None:
    assert any("starting point" in note for note in camera_of(ScriptedDevice(), calibrated=False).notes)
    assert camera_of(ScriptedDevice()).notes == ()


def test_the_temperature_is_made_up_for() -> None:
    device = ScriptedDevice(temperature_c=30.0)
    with camera_of(device, temperature_c=25.0, dpt_per_k=0.02) as camera:
        camera.read()
        frame = settled(camera, 1.0)
        # At 30 degrees this lens is focused 0.1 dpt nearer than its curve says.
        assert device.truth[-1][0] == pytest.approx(CURVE.position_at(0.9), abs=0.5)
        assert frame.lens_state.focus_dpt == pytest.approx(1.0, abs=0.015)


def test_what_drifts_out_of_the_range_is_focused_on_as_nearly_as_can_be_and_told_truly() -> None:
    device = ScriptedDevice(temperature_c=35.0)
    with camera_of(device, temperature_c=25.0, dpt_per_k=0.02) as camera:
        assert camera.focus_range_m == (0.25, math.inf)  # that of the lens file, whatever the temperature
        for focus_m, taken_dpt in ((math.inf, 0.2), (0.25, 4.0), (1.0, 1.0)):
            assert 1.0 / camera.nearest_focus_m(focus_m) == pytest.approx(taken_dpt, abs=0.015)
            assert settled(camera, focus_m).lens_state.focus_dpt == pytest.approx(taken_dpt, abs=0.015)


def test_the_temperature_is_known_from_the_first_move_on() -> None:
    device = ScriptedDevice(temperature_c=35.0)
    with camera_of(device, temperature_c=25.0, dpt_per_k=0.02) as camera:
        settled(camera, 1.0)
    assert device.truth[-1][0] == pytest.approx(CURVE.position_at(0.8), abs=0.5)


class Lit(ScriptedDevice):
    """A device in a light that changes; its automatic exposure makes a picture of level 100 of any."""

    def __init__(self) -> None:
        self.light = self.exposure = 1.0
        super().__init__(
            picture=lambda at: np.full((48, 64), min(100.0 * self.light * self.exposure, 255), np.uint8)
        )

    @property
    def read_so_far(self) -> int:
        return len(self.truth)

    def meter(self) -> bool:
        super().meter()
        self.exposure = 1.0 / self.light
        return True


def levels(camera: HardwareCamera, device: Lit, lights: Sequence[float]) -> list[float]:
    """Return the level of the last picture of a sweep in each light."""
    frames = FocusSweep(camera, SweepConfig(near_m=0.3, far_m=2.0, slices=4)).frames()
    found = []
    for light in lights:
        device.light = light
        settled = [f for f in frames_of_sweep(frames) if f.lens_state.focus_speed_mps == 0.0]
        found.append(float(settled[-1].image.mean()))
    return found


def frames_of_sweep(frames: Iterator[CameraFrame], slices: int = 4) -> Iterator[CameraFrame]:
    while slices:
        frame = next(frames)
        slices -= frame.lens_state.focus_speed_mps == 0.0
        yield frame


def test_the_exposure_is_found_anew_once_the_light_has_changed() -> None:
    device = Lit()
    with camera_of(device) as camera:
        # A dozen pictures, of three sweeps.
        assert levels(camera, device, [1.0, 1.2, 0.8, 0.3, 0.3, 0.3, 0.3]) == pytest.approx(
            [100.0, 120.0, 80.0, 30.0, 30.0, 30.0, 100.0], abs=1.0
        )
        assert levels(camera, device, [2.0] * 8)[-1] == pytest.approx(100.0, abs=1.0)
        assert device.metered == camera.counts["exposure found anew"] == 2
        assert device.commands == [c for c in device.commands if 20.0 <= c <= 220.0 or c == 0.0]


def test_the_exposure_is_found_before_a_sweep_that_is_asked_for_while_paused() -> None:
    device = Lit()
    control = SweepControl(SweepConfig(near_m=0.3, far_m=2.0, slices=4), paused=True)
    with camera_of(device) as camera:
        frames = FocusSweep(camera, control, heard=lambda: device.read_so_far == 40 and control.request_sweep())
        device.light = 0.3
        first = next(frame for frame in frames.frames() if frame.lens_state.focus_speed_mps == 0.0)
        assert device.metered == 1 and first.image.mean() == pytest.approx(100.0, abs=1.0)


@pytest.mark.parametrize(
    "settings", [{"meter_again": 0.0}, {"hold_exposure": False}, {"exposure_s": 0.01, "gain": 2.0}]
)
def test_the_exposure_stays_where_it_is_not_to_be_found_anew(settings: dict[str, Any]) -> None:
    device = Lit()
    with HardwareCamera(device, LENS, dataclasses.replace(CONFIG, **settings)) as camera:
        assert levels(camera, device, [1.0, 0.3, 0.3, 0.3])[-1] == pytest.approx(30.0)
    assert device.metered == 0
    with pytest.raises(ParameterError, match="meter_again above 1"):
        dataclasses.replace(CONFIG, meter_again=0.9)


def test_a_device_that_has_nothing_to_find_is_not_asked_again() -> None:
    class Fixed(Lit):
        def meter(self) -> bool:
            self.metered += 1
            return False

    device = Fixed()
    with camera_of(device) as camera:
        assert levels(camera, device, [1.0, *[0.3] * 8])[-1] == pytest.approx(30.0)
        assert device.metered == 1 and not camera.counts["exposure found anew"]


def test_an_error_on_closing_does_not_hide_the_one_before() -> None:
    class Broken(ScriptedDevice):
        def __exit__(self, *args: Any) -> None:
            super().__exit__(*args)
            raise OSError("gone")

    device = Broken()
    camera = camera_of(device)
    with pytest.raises(DeviceError, match="lost"), camera:
        device.lost = True
        camera.read()
    device.lost = False
    with pytest.raises(OSError, match="gone"), camera:
        pass
    with pytest.raises(CameraError, match="open"):
        camera.read()


def test_the_play_takes_from_the_range_and_no_more() -> None:
    device = ScriptedDevice(play=10.0, reach=ActuatorRange(20.0, 220.0, 1.0))
    with camera_of(device, hysteresis=10.0) as camera:
        near, far = camera.focus_range_m
        assert 1.0 / near == pytest.approx(CURVE.dioptres_at(215.0))
        assert 1.0 / far == pytest.approx(CURVE.dioptres_at(25.0))
        for focus_m in (near, far, near):
            frame = settled(camera, focus_m)
            assert frame.lens_state.focus_distance_m == pytest.approx(focus_m, rel=0.02)


def test_infinity_is_within_the_range_of_a_curve_that_starts_at_zero() -> None:
    with camera_of(ScriptedDevice()) as camera:
        assert camera.focus_range_m == (0.25, math.inf)
        assert settled(camera, math.inf).lens_state.focus_distance_m == math.inf


def test_nearest_focus_is_what_the_lens_then_takes() -> None:
    device = ScriptedDevice(reach=ActuatorRange(0.0, 250.0, 10.0))
    with camera_of(device) as camera:
        for wanted in (0.3, 0.77, 2.0, 5.0):
            taken = camera.nearest_focus_m(wanted)
            assert settled(camera, wanted).lens_state.focus_distance_m == taken
        assert camera.nearest_focus_m(1.0) == camera.nearest_focus_m(1.001)


def test_intrinsics_follow_the_focus() -> None:
    knots = (0.0, 2.0, 4.0)
    fx = [0.004 / (1 - 0.004 * d) / 4e-5 * 1.1 for d in knots]
    rows = tuple((f, f + 1.0, 31.0 + i, 23.0) for i, f in enumerate(fx))
    with camera_of(ScriptedDevice(), focus_dpt=knots, intrinsics=rows) as camera:
        k = settled(camera, 0.5).intrinsics
        assert k.fx_px == pytest.approx(fx[1], abs=0.02) and k.fy_px == pytest.approx(k.fx_px + 1.0)
        assert k.cx_px == pytest.approx(32.0, abs=0.02)
    with camera_of(ScriptedDevice()) as camera:  # no calibrated ones: a thin lens
        frame = settled(camera, 0.5)
        assert frame.intrinsics.fx_px == pytest.approx(
            optics.focal_length_px(0.004, 4e-5, frame.lens_state.focus_distance_m)
        )


def test_a_device_that_is_lost_can_be_opened_again() -> None:
    device = ScriptedDevice()
    camera = camera_of(device)
    for _ in range(3):
        with pytest.raises(DeviceError, match="lost"), camera:
            settled(camera, 1.0)
            device.lost = True
            camera.read()
        with pytest.raises(DeviceError, match="not there"), camera:
            pass
        device.lost = False
    with camera:
        assert settled(camera, 0.5).lens_state.focus_distance_m == pytest.approx(0.5, rel=0.01)
    assert device.opened == device.closed == 4


def test_misuse_and_files_that_do_not_fit_are_refused() -> None:
    camera = camera_of(ScriptedDevice())
    for use in (camera.read, lambda: camera.set_focus(1.0), lambda: camera.nearest_focus_m(1.0)):
        with pytest.raises(CameraError, match="open"):
            use()
    with camera:
        for focus_m in (0.2, math.nan, -1.0, 0.0):
            with pytest.raises(LensError, match=r"0\.25 \.\. inf m"):
                camera.set_focus(focus_m)
    far_away = camera_of(ScriptedDevice(reach=ActuatorRange(1000.0, 2000.0)))
    with pytest.raises(CalibrationError, match="another lens"), far_away:
        pass
    assert far_away.device.opened == far_away.device.closed == 1  # type: ignore[attr-defined]
    with pytest.raises(CalibrationError, match="64 x 48"):
        HardwareCamera(ScriptedDevice(), LENS, DeviceConfig(width=64, height=64))
    with (
        pytest.raises(CameraError, match="64 x 48"),
        HardwareCamera(ScriptedDevice(size=(32, 24)), LENS, CONFIG) as camera,
    ):
        camera.read()


def test_stamps_that_lag_for_ever_are_an_error_and_not_a_hang() -> None:
    device = ScriptedDevice(latency_frames=0)
    with camera_of(device) as camera:
        settled(camera, 1.0)
        device._next_start_s -= 100.0
        camera.set_focus(0.5)
        with pytest.raises(DeviceError, match="stamps"):
            camera.read()
