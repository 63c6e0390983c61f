# SPDX-License-Identifier: Apache-2.0
"""The driver for OAK cameras against fakes of depthai 3 and 2: what it reports against where the lens was."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depthai_helpers import CONFIG, device_of, seen, settled
from fake_depthai import FakeOak

from dualfocus_ros import image_encodings
from dualfocus_ros.camera.hardware import HardwareCamera
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.types import LensModel


@pytest.fixture(params=[3, 2])
def oak(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOak]:
    fake = FakeOak(request.param).install(monkeypatch)
    yield fake
    fake.check()


@pytest.mark.parametrize("exposure_s", [0.0, 0.0035])
def test_a_lens_that_counts_as_at_rest_was_told_its_target_before_the_exposure(
    oak: FakeOak, exposure_s: float
) -> None:
    rng = np.random.default_rng(5)
    with device_of(exposure_s=exposure_s) as device:
        for position in (0, 255, *rng.integers(0, 256, 8)):
            frame = settled(device, float(position))
            truth = oak.truths.of(frame.exposure)
            assert truth.at_rest and truth.positions[0] == position == frame.position
            assert device.read(5.0).moving is False


@pytest.mark.parametrize("behaviour", [{"lead_frames": 1}, {"lens_frames": 8}, {"late_s": 0.01}, {"lose": 3}])
def test_late_lost_and_hasty_reports_do_not_make_a_moving_lens_look_at_rest(
    oak: FakeOak, behaviour: dict[str, Any]
) -> None:
    every = behaviour.pop("lose", 0)
    if every:
        oak.lose = lambda number: number % every == 0
    for name, value in behaviour.items():
        setattr(oak, name, value)
    with device_of() as device:
        for position in (10.0, 250.0, 11.0, 12.0):
            truth = oak.truths.of(settled(device, position).exposure)
            assert truth.at_rest and truth.positions[0] == position


def test_frames_of_a_lens_under_way_are_marked(oak: FakeOak) -> None:
    with device_of() as device:
        settled(device, 0.0)
        device.move_to(200.0)
        first = device.read(5.0)
        assert first.moving and first.position == 0.0
        oak.settles = False
        with pytest.raises(AssertionError, match="does not settle"):
            settled(device, 100.0, frames=40)


def test_a_camera_that_does_not_tell_the_position_says_so(oak: FakeOak) -> None:
    oak.tells_position = False
    with device_of() as device:
        frame = device.read(5.0)
        assert frame.position is None and frame.moving is None


def test_times_are_those_of_the_exposure(oak: FakeOak) -> None:
    for readout_s in (0.0, 0.002):
        with device_of(exposure_s=0.0015, gain=400.0, readout_s=readout_s) as device:
            frames = [device.read(5.0) for _ in range(5)]
        starts = [f.exposure[0] for f in frames]
        assert starts == sorted(set(starts))
        for frame in frames:
            truth = oak.truths.of(frame.exposure)
            assert frame.exposure[0] == pytest.approx(truth.exposure[0], abs=3e-6)
            late_s = 0.0 if readout_s else 1.0 / 250.0 - 0.002
            assert frame.exposure[1] == pytest.approx(truth.exposure[1] + late_s, abs=3e-6)
        assert starts[-1] <= time.monotonic() < starts[-1] + 1.0


def test_the_newest_frame_is_handed_out(oak: FakeOak) -> None:
    with device_of() as device:
        time.sleep(0.05)
        oak.stalled = True
        time.sleep(0.05)
        older, newest = oak.device.frames
        assert device.read(5.0).exposure[0] == pytest.approx(newest.stamp_s - 1e-6 * newest.exposure_us, abs=3e-6)
        assert newest.stamp_s > older.stamp_s


def test_images_are_bgr(oak: FakeOak) -> None:
    with device_of() as device:
        frame = device.read(5.0)
    assert frame.image.shape == (48, 64, 3) and frame.temperature_c == 47.5
    image_encodings.check_layout(frame.image, frame.encoding)
    rgb = image_encodings.decode_image(frame.image.tobytes(), 48, 64, frame.encoding, False, 192)
    assert rgb[0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize("given", [(0.0, 0.0), (0.0015, 0.0), (0.0, 800.0), (0.0015, 800.0)])
def test_exposure_gain_and_white_balance_are_held(oak: FakeOak, given: tuple[float, float]) -> None:
    # What the automatics of the fake find in the light of 1, by their middle: 1150 us at ISO 220.
    found = {
        (0.0, 0.0): (1150, 220),
        (0.0015, 0.0): (1500, 1150 * 220 / 1500),
        (0.0, 800.0): (1150 * 220 / 800, 800),
        (0.0015, 800.0): (1500, 800),
    }[given]
    with device_of(exposure_s=given[0], gain=given[1]) as device:
        held = seen(device)
        assert len(set(held)) == 1
        assert held[0][:2] == pytest.approx(found, rel=0.25)
        assert device.notes == ()
        oak.light = 0.5
        assert seen(device) == held
        assert device.meter()
        anew = seen(device)
        assert len(set(anew)) == 1
        # As bright as before in half of the light, where there is anything to find.
        brighter = 1.0 if all(given) else 2.0
        assert anew[0][0] * anew[0][1] == pytest.approx(brighter * found[0] * found[1], rel=0.3)
        for is_now, asked in zip(anew[0][:2], (1e6 * given[0], given[1]), strict=True):
            assert not asked or is_now == round(asked)


def test_automatics_stay_on_where_nothing_is_to_be_held(oak: FakeOak) -> None:
    with device_of(hold_exposure=False) as device:
        assert all(len(set(values)) > 2 for values in zip(*seen(device), strict=True))
    with device_of(hold_exposure=False, exposure_s=0.0015) as device:
        exposures, gains, whites = zip(*seen(device), strict=True)
        # OAK cameras cannot have one of them automatic.
        assert set(exposures) == {1500} and len(set(gains)) == 1 and len(set(whites)) > 2
        assert any("both are held" in note for note in device.notes)


def test_what_the_camera_cannot_do_is_noted(oak: FakeOak) -> None:
    with device_of(exposure_s=0.5, gain=100.0) as device:
        assert any("33000 us, not the 500000 asked for" in note for note in device.notes)
    oak.fail["getChipTemperature"] = RuntimeError("no such sensor")
    with device_of() as device:
        assert device.read(5.0).temperature_c is None and len(device.notes) == 1
        assert "no such sensor" in device.notes[0]
    with device_of(chip_temperature=False) as device:
        assert device.read(5.0).temperature_c is None and device.notes == ()


def test_with_a_lens_file_it_is_a_camera_that_knows_metres(oak: FakeOak) -> None:
    """The lens file's settle time is too short for the camera's pipeline: the driver notices."""
    calibration = LensCalibration(
        name="oak",
        lens=LensModel(0.0048, 2.0, 1e-4),
        image_size=(64, 48),
        curve=FocusCurve((120.0, 255.0), (0.0, 12.0)),
        calibrated=True,
        settle=((1.0, 0.002), (255.0, 0.004)),
    )
    with HardwareCamera(device_of(), calibration, CONFIG) as camera:
        for focus_m in (0.2, 2.0, 0.1, 1.0):
            camera.set_focus(focus_m)
            for _ in range(100):
                frame = camera.read()
                if frame.lens_state.focus_speed_mps == 0.0:
                    break
            assert frame.lens_state.focus_dpt == pytest.approx(1.0 / focus_m, abs=0.05)
            there = oak.device.sensor.motor.at(time.monotonic())
            assert calibration.curve.dioptres_at(there) == pytest.approx(frame.lens_state.focus_dpt, abs=1e-6)


CHECK = Path(__file__).with_name("fake_depthai_check.py")


@pytest.mark.skipif(importlib.util.find_spec("depthai") is None, reason="depthai is not installed")
def test_the_fake_has_the_signatures_of_the_real_one() -> None:
    """In a process of its own: the fake and the real one are both called depthai."""
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
