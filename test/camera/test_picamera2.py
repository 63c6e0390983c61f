# SPDX-License-Identifier: Apache-2.0
"""The driver for Raspberry Pi cameras against a fake one: what it reports against where the lens really was."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_picamera2 import FakeRaspberryPi
from picamera2_helpers import CONFIG, device_of, seen, settled

from dualfocus_ros import image_encodings
from dualfocus_ros.camera import picamera2_controls
from dualfocus_ros.camera.device import DeviceConfig
from dualfocus_ros.camera.hardware import HardwareCamera
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.types import LensModel


@pytest.fixture
def pi(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRaspberryPi]:
    fake = FakeRaspberryPi().install(monkeypatch)
    yield fake
    fake.check()


@pytest.mark.parametrize(("exposure_s", "shortest_us"), [(0.0, 2000), (0.0, 4000), (0.001, 2000), (0.007, 8500)])
def test_a_lens_that_counts_as_at_rest_was_told_its_target_before_the_exposure(
    pi: FakeRaspberryPi, exposure_s: float, shortest_us: int
) -> None:
    pi.limits_us = (shortest_us, 1_000_000)
    rng = np.random.default_rng(5)
    with device_of(exposure_s=exposure_s) as device:
        for position in (0.0, 15.0, *rng.uniform(0.0, 15.0, 6)):
            frame = settled(device, position)
            truth = pi.truths.of(frame.exposure)
            assert truth.at_rest and truth.positions[0] == pytest.approx(position, abs=1e-6)
            assert frame.position == pytest.approx(position, abs=1e-3)
            # It stays so.
            assert not device.read(5.0).moving


def test_frames_of_a_lens_under_way_are_marked_and_tell_where_it_was_told_to_be(pi: FakeRaspberryPi) -> None:
    pi.motor_dpt_per_s = 300.0
    with device_of() as device:
        settled(device, 0.0)
        device.move_to(14.0)
        under_way = []
        while (frame := device.read(5.0)).moving:
            under_way.append(frame)
        told = [f.position for f in under_way if f.position is not None]
        # 14 dpt at 1.5 dpt a step, one step for the control and one a frame.
        assert len(under_way) >= 9
        frames = np.rint(np.diff([f.exposure[0] for f in under_way]) * 250.0)
        assert told == sorted(told) and np.all(np.diff(told) <= (frames + 1) * 1.5 + 1e-6)
        for moving in under_way:
            truth = pi.truths.of(moving.exposure)
            # Never ahead of the metadata, and behind by the steps of a frame or two.
            assert moving.position is not None and 0.0 <= moving.position - truth.positions[0] <= 2 * 3.0 + 1e-6
        assert any(not pi.truths.of(f.exposure).at_rest for f in under_way)


@pytest.mark.parametrize("tells_position", [True, False])
def test_late_and_lost_frames_do_not_make_a_moving_lens_look_at_rest(
    pi: FakeRaspberryPi, tells_position: bool
) -> None:
    pi.tells_position = tells_position
    pi.late_s = 0.012
    pi.lose = lambda number: number % 3 == 0
    with device_of() as device:
        for position in (3.0, 14.0, 1.0, 1.2):
            truth = pi.truths.of(settled(device, position).exposure)
            assert truth.at_rest and truth.positions[0] == pytest.approx(position, abs=1e-6)


def test_a_lens_that_never_settles_never_counts_as_at_rest(pi: FakeRaspberryPi) -> None:
    with device_of() as device:
        pi.settles = False
        with pytest.raises(AssertionError, match="does not settle"):
            settled(device, 5.0, frames=40)


def test_times_are_those_of_the_exposure(pi: FakeRaspberryPi) -> None:
    with device_of(exposure_s=0.004, gain=2.0) as device:
        frame = device.read(5.0)
        start, end = frame.exposure
        # 4 ms for a row, and then no longer than the shortest frame period, 2 ms, to read all.
        truth = pi.truths.of(frame.exposure)
        assert start == pytest.approx(truth.exposure[0], abs=2e-6)
        assert truth.exposure[1] <= end <= truth.exposure[1] + 0.0003
        assert start <= time.monotonic() < end + 1.0
        stamp_s = device.clock.stamp_ns(0.5 * (start + end)) * 1e-9
        assert stamp_s == pytest.approx(time.time() - (time.monotonic() - 0.5 * (start + end)), abs=0.01)
        nexts = [device.read(5.0).exposure[0] for _ in range(5)]
    assert nexts == sorted(set(nexts)) and nexts[0] > start


def test_the_newest_frame_is_handed_out(pi: FakeRaspberryPi) -> None:
    with device_of() as device:
        device.read(5.0)
        time.sleep(0.1)
        asked_s = time.monotonic()
        assert device.read(5.0).exposure[0] > asked_s - 0.09


def test_images_are_bgr(pi: FakeRaspberryPi) -> None:
    with device_of() as device:
        frame = device.read(5.0)
    assert frame.image.shape == (48, 64, 3) and frame.temperature_c == 41.0
    image_encodings.check_layout(frame.image, frame.encoding)
    rgb = image_encodings.decode_image(frame.image.tobytes(), 48, 64, frame.encoding, False, 192)
    assert rgb[0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize("given", [(0.0, 0.0), (0.0015, 0.0), (0.0, 4.0), (0.0015, 4.0)])
def test_exposure_gain_and_white_balance_are_held(pi: FakeRaspberryPi, given: tuple[float, float]) -> None:
    with device_of(exposure_s=given[0], gain=given[1]) as device:
        held = seen(device)
        assert len(set(held)) == 1
        exposure_us, gain, _ = held[0]
        # Automatics of the fake lie within these; without a value of its own it would expose 20000 us.
        assert exposure_us == (1500 if given[0] else pytest.approx(1150, abs=150))
        assert gain == (4.0 if given[1] else pytest.approx(2.2, abs=0.21))
        assert device.notes == ()
        pi.light = 0.5
        assert seen(device) == held
        device.meter()
        anew = seen(device)
        assert len(set(anew)) == 1
        assert anew[0][0] == (1500 if given[0] else pytest.approx(2300, abs=300))
        assert anew[0][1] == (4.0 if given[1] else pytest.approx(2.2, abs=0.21))


def test_automatics_stay_on_where_nothing_is_to_be_held(pi: FakeRaspberryPi) -> None:
    with device_of(hold_exposure=False) as device:
        exposures, gains, colours = zip(*seen(device), strict=True)
        assert len(set(exposures)) > 2 and len(set(gains)) > 2 and len(set(colours)) > 2
    with device_of(hold_exposure=False, exposure_s=0.003) as device:
        exposures, gains, colours = zip(*seen(device), strict=True)
        assert set(exposures) == {3000} and len(set(gains)) > 2 and len(set(colours)) > 2


def test_what_the_camera_cannot_do_is_noted(pi: FakeRaspberryPi) -> None:
    with device_of(rate_hz=1000.0) as device:
        assert any("500 Hz" in note for note in device.notes)
    with device_of(exposure_s=0.02) as device:
        assert any("45.45 Hz" in note for note in device.notes)
        assert set(seen(device, 3)) == {(20000, *seen(device, 1)[0][1:])}
    pi.metadata = {"AnalogueGain": 8.0}
    with device_of(gain=30.0) as device:
        assert any("AnalogueGain 8" in note for note in device.notes)


def test_stamps_of_either_clock(monkeypatch: pytest.MonkeyPatch, pi: FakeRaspberryPi) -> None:
    """libcamera documents CLOCK_BOOTTIME, the Raspberry Pi gives CLOCK_MONOTONIC."""
    slept_s = 5000.0
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock: time.monotonic_ns() + round(slept_s * 1e9), raising=True
    )
    for offset_s in (0.0, slept_s):
        pi.clock_offset_s = offset_s
        with device_of() as device:
            start = device.read(5.0).exposure[0]
            assert start <= time.monotonic() < start + 1.0


def test_metadata_may_lack_what_not_every_sensor_tells(pi: FakeRaspberryPi) -> None:
    assert picamera2_controls.exposure_of({}, 10.0, 0.03, 0.01) == (9.97, 10.01)
    assert picamera2_controls.held_controls(DeviceConfig(), {"AeEnable": (0, 1, 1)}, {}) == {"AeEnable": False}
    # A mode that cannot be slower than its frame period.
    assert picamera2_controls.exposure_of({"ExposureTime": 1000}, 10.0, 0.03, 0.05) == (9.999, 10.03)


def test_with_a_lens_file_it_is_a_camera_that_knows_metres(pi: FakeRaspberryPi) -> None:
    """The lens file's settle time is too short for libcamera's pipeline: the driver notices."""
    calibration = LensCalibration(
        name="imx708",
        lens=LensModel(0.00474, 1.8, 1e-4),
        image_size=(64, 48),
        curve=FocusCurve((0.0, 12.0), (0.0, 10.0)),
        calibrated=True,
        settle=((0.1, 0.005), (12.0, 0.01)),
    )
    with HardwareCamera(device_of(), calibration, CONFIG) as camera:
        for focus_m in (0.2, 2.0, 0.15, 1.0):
            camera.set_focus(focus_m)
            for _ in range(100):
                frame = camera.read()
                if frame.lens_state.focus_speed_mps == 0.0:
                    break
            assert frame.lens_state.focus_distance_m == pytest.approx(focus_m, rel=1e-3)
            now = pi.camera._sensor.motor.at(time.monotonic())
            assert now == pytest.approx(12.0 / 10.0 / focus_m, abs=1e-3)
