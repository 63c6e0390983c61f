# SPDX-License-Identifier: Apache-2.0
"""Exposure, gain, white balance and focus of the V4L2 camera: held during a sweep, and as before after it."""

from __future__ import annotations

import errno
import time

import numpy as np
import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import config, grey_camera  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import FakeCamera, uvc_controls, vcm_controls  # noqa: E402

from dualfocus_ros.camera.v4l2 import V4l2Config, V4l2Device  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError  # noqa: E402

# What the automatics of the stand-in find.
FOUND = {"EXPOSURE_ABSOLUTE": 17, "GAIN": 64, "WHITE_BALANCE_TEMPERATURE": 5200}
AUTOMATIC = {"EXPOSURE_AUTO": 3, "AUTO_WHITE_BALANCE": 1, "FOCUS_AUTO": 1, "EXPOSURE_AUTO_PRIORITY": 1}
MANUAL = {
    "EXPOSURE_AUTO": 1,
    "EXPOSURE_ABSOLUTE": 33,
    "EXPOSURE_AUTO_PRIORITY": 1,
    "GAIN": 7,
    "AUTO_WHITE_BALANCE": 0,
    "WHITE_BALANCE_TEMPERATURE": 3123,
    "FOCUS_AUTO": 0,
    "FOCUS_ABSOLUTE": 45,
}


def with_controls(*, new_names: bool = True, without: tuple[str, ...] = (), **values: int) -> FakeCamera:
    camera = grey_camera()
    camera.controls = uvc_controls(new_names=new_names, without=without, **values)
    camera.power_up()
    return camera


def values_of(camera: FakeCamera) -> dict[str, int]:
    return {key: c.value for key, c in camera.controls.items()}


def long_enough() -> V4l2Config:
    """Time for the automatics of the stand-in, which halve their distance each frame."""
    return config(auto_time_s=0.15)


@pytest.mark.parametrize("new_names", [True, False])
@pytest.mark.parametrize("forgetful", [True, False])
def test_what_the_automatics_find_is_held(new_names: bool, forgetful: bool) -> None:
    camera = with_controls(new_names=new_names)
    camera.forgetful = forgetful
    with FakeV4l2(camera) as v4l2, V4l2Device(long_enough()) as device:
        held = values_of(camera)
        shown = {key: held[key] for key in FOUND}
        assert shown == FOUND
        assert (held["EXPOSURE_AUTO"], held["AUTO_WHITE_BALANCE"], held["FOCUS_AUTO"]) == (1, 0, 0)
        assert held["EXPOSURE_AUTO_PRIORITY"] == 0
        assert device.notes == ()
        first = max(camera.shots)
        for _ in range(6):
            device.read(2.0)
        later = [s for q, s in camera.shots.items() if q > first]
        assert {(round(s.exposure_s, 9), s.gain) for s in later} == {(0.0017, 64)}
        assert not any("POWER_LINE" in call for call in v4l2.calls)


@pytest.mark.parametrize("gain", [0.0, 20.0])
@pytest.mark.parametrize("forgetful", [True, False])
def test_what_the_automatics_find_in_another_light_is_held(forgetful: bool, gain: float) -> None:
    camera = with_controls(**MANUAL)
    camera.forgetful = forgetful
    before = values_of(camera)
    with FakeV4l2(camera):
        with V4l2Device(config(auto_time_s=0.15, gain=gain)) as device:
            found = {**FOUND, "GAIN": round(gain) or FOUND["GAIN"]}
            assert {key: camera.controls[key].value for key in FOUND} == found
            camera.controls["EXPOSURE_ABSOLUTE"].target = 29
            camera.controls["WHITE_BALANCE_TEMPERATURE"].target = 3000
            before_s = np.ptp(device.read(2.0).exposure)
            assert {key: camera.controls[key].value for key in FOUND} == found
            device.meter()
            found |= {"EXPOSURE_ABSOLUTE": 29, "WHITE_BALANCE_TEMPERATURE": 3000}
            assert {key: camera.controls[key].value for key in FOUND} == found
            assert np.ptp(device.read(2.0).exposure) - before_s == pytest.approx(0.0029 - 0.0017, abs=1e-6)
            assert camera.controls["EXPOSURE_AUTO"].value == 1
        assert values_of(camera) == before


def test_a_camera_set_to_manual_finds_its_exposure_anew() -> None:
    camera = with_controls(**MANUAL)
    with FakeV4l2(camera), V4l2Device(long_enough()):
        assert {key: camera.controls[key].value for key in FOUND} == FOUND


@pytest.mark.parametrize("new_names", [True, False])
@pytest.mark.parametrize("inactive", ["EACCES", "EIO", "ignored"])
@pytest.mark.parametrize("automatic", [True, False])
def test_every_control_is_put_back(new_names: bool, inactive: str, automatic: bool) -> None:
    # Automatics that stand where they will stay, since values of a camera under way have no "before".
    camera = with_controls(new_names=new_names, **({**AUTOMATIC, **FOUND} if automatic else MANUAL))
    camera.inactive = inactive
    before = values_of(camera)
    with FakeV4l2(camera):
        with V4l2Device(config(exposure_s=0.003, gain=20.0)) as device:
            device.move_to(200)
            during = values_of(camera)
            assert (during["EXPOSURE_ABSOLUTE"], during["GAIN"], during["FOCUS_ABSOLUTE"]) == (30, 20, 200)
        after = values_of(camera)
        if automatic:
            # Autofocus has the lens again.
            assert camera.focus_log[-1][1] == 200.0
            before["FOCUS_ABSOLUTE"] = after["FOCUS_ABSOLUTE"]
            # And automatic exposure the gain, which the frames until the end have begun to move.
            before["GAIN"], before["EXPOSURE_ABSOLUTE"] = after["GAIN"], after["EXPOSURE_ABSOLUTE"]
        assert after == before


@pytest.mark.parametrize("automatic", [True, False])
def test_held_controls_are_put_back_after_an_error_too(automatic: bool) -> None:
    camera = with_controls(**({**AUTOMATIC, **FOUND} if automatic else MANUAL))
    before = values_of(camera)
    with FakeV4l2(camera):
        with pytest.raises(RuntimeError, match="of the user"), V4l2Device(config()):
            raise RuntimeError("of the user")
        assert values_of(camera) == before
        camera.fate = lambda q: "good" if q < 30 else "lost"
        with pytest.raises(DeviceError), V4l2Device(config(frame_timeout_s=0.1, auto_time_s=1.0)):
            pass
        assert values_of(camera) == before


def test_the_focus_is_put_back_while_the_lens_still_obeys() -> None:
    camera = with_controls(**MANUAL)
    with FakeV4l2(camera) as v4l2:
        with V4l2Device(config()) as device:
            device.move_to(200)
        assert v4l2.calls.index("S_CTRL FOCUS_ABSOLUTE=45") < v4l2.calls.index("STREAMOFF")
    assert camera.focus_log[-1][1:] == (45.0, True)


def test_given_exposure_and_gain_hold_from_the_start() -> None:
    camera = with_controls()
    with FakeV4l2(camera), V4l2Device(config(exposure_s=0.00301, gain=99.0)) as device:
        start = max(camera.shots)
        for _ in range(4):
            device.read(2.0)
        shots = [s for q, s in camera.shots.items() if q > start]
        assert {(round(s.exposure_s, 9), s.gain) for s in shots} == {(0.003, 99)}


def test_a_given_gain_survives_the_exposures_automatic() -> None:
    camera = with_controls()
    with FakeV4l2(camera), V4l2Device(config(auto_time_s=0.15, gain=99.0)):
        assert camera.controls["GAIN"].value == 99
        assert camera.controls["EXPOSURE_ABSOLUTE"].value == FOUND["EXPOSURE_ABSOLUTE"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"exposure_s": 0.5}, r"exposure within 0.0003 .. 0.2047, the range of exposure_time_absolute, got 0.5"),
        ({"gain": 300.0}, r"gain within 0 .. 255, the range of gain, got 300"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    camera = with_controls(**MANUAL)
    before = values_of(camera)
    with FakeV4l2(camera) as v4l2:
        with pytest.raises(CameraError, match=words) as told, V4l2Device(config(**settings)):
            pass
        assert not isinstance(told.value, DeviceError)
        assert values_of(camera) == before
        assert v4l2.open_fds() == v4l2.mappings() == 0


def test_automatics_are_left_alone_when_nothing_is_to_be_held() -> None:
    camera = with_controls()
    with FakeV4l2(camera) as v4l2, V4l2Device(config(hold_exposure=False)) as device:
        device.move_to(50)
        device.read(2.0)
        written = [call for call in v4l2.calls if call.startswith("S_CTRL")]
        assert written == ["S_CTRL FOCUS_AUTO=0", "S_CTRL FOCUS_ABSOLUTE=50"]


@pytest.mark.parametrize(
    ("without", "notes"),
    [
        (("EXPOSURE_AUTO", "EXPOSURE_ABSOLUTE", "GAIN"), ("auto_exposure (exposure_auto)", "gain_automatic")),
        (("AUTO_WHITE_BALANCE", "WHITE_BALANCE_TEMPERATURE"), ("white_balance_automatic",)),
        (("EXPOSURE_AUTO_PRIORITY", "FOCUS_AUTO", "WHITE_BALANCE_TEMPERATURE", "GAIN"), ()),
    ],
)
def test_missing_controls_are_told_and_not_fatal(without: tuple[str, ...], notes: tuple[str, ...]) -> None:
    camera = with_controls(without=without)
    with FakeV4l2(camera), V4l2Device(config()) as device:
        device.move_to(100)
        device.read(2.0)
        missing = [note for note in device.notes if note.startswith("no control")]
        assert len(missing) == len(notes)
        for told, expected in zip(missing, notes, strict=True):
            assert f"no control {expected}" in told and "cannot be held" in told


def test_a_setting_that_no_control_takes_is_told() -> None:
    camera = with_controls(without=("EXPOSURE_ABSOLUTE", "GAIN"))
    with FakeV4l2(camera), V4l2Device(config(exposure_s=0.001, gain=3.0)) as device:
        assert any("the exposure asked for is not set" in note for note in device.notes)
        assert any("the gain asked for is not set" in note for note in device.notes)


def test_a_camera_without_a_focus_control_says_what_to_do() -> None:
    camera = with_controls(without=("FOCUS_ABSOLUTE", "FOCUS_AUTO"))
    with FakeV4l2(camera) as v4l2:
        with pytest.raises(CameraError, match="no control focus_absolute.*focus_device") as told:
            V4l2Device(config()).__enter__()
        assert not isinstance(told.value, DeviceError)
        assert v4l2.open_fds() == 0
        assert "STREAMON" not in v4l2.calls


def test_a_focus_range_of_nothing_is_no_lens() -> None:
    camera = with_controls()
    camera.controls["FOCUS_ABSOLUTE"].maximum = 0
    with FakeV4l2(camera), pytest.raises(CameraError, match="can be moved"), V4l2Device(config()):
        pass


def test_a_lens_with_a_device_of_its_own() -> None:
    camera = with_controls(without=("FOCUS_ABSOLUTE", "FOCUS_AUTO"))
    camera.lens_controls = vcm_controls()
    with FakeV4l2(camera, lens_path="/dev/v4l-subdev0") as v4l2:
        with V4l2Device(config(focus_device="/dev/v4l-subdev0")) as device:
            assert (device.focus_range.low, device.focus_range.high, device.focus_range.step) == (0.0, 1023.0, 1.0)
            device.move_to(777)
            since = time.monotonic()
            while device.read(2.0).exposure[0] < since + 10 * camera.lens_lag_s:
                pass
            assert max(camera.shots.items())[1].position == pytest.approx(777, abs=2)
        assert camera.lens_controls["FOCUS_ABSOLUTE"].value == 0
        assert v4l2.open_fds() == 0
        with (
            pytest.raises(DeviceError, match="/dev/v4l-subdev7"),
            V4l2Device(config(focus_device="/dev/v4l-subdev7")),
        ):
            pass
        assert v4l2.open_fds() == 0


def test_a_camera_busy_with_the_control_before_is_asked_again() -> None:
    camera = with_controls()
    with FakeV4l2(camera) as v4l2, V4l2Device(config()) as device:
        v4l2.busy["FOCUS_ABSOLUTE"] = 3
        device.move_to(100)
        assert camera.focus_log[-1][1] == 100.0
        v4l2.busy["FOCUS_ABSOLUTE"] = 10**6
        with pytest.raises(DeviceError, match="focus_absolute"):
            device.move_to(105)
        v4l2.busy.clear()


def test_a_camera_that_never_describes_its_controls_has_none() -> None:
    camera = with_controls()
    with FakeV4l2(camera) as v4l2:
        v4l2.errors["QUERYCTRL"] = errno.EIO
        with pytest.raises(CameraError, match="no control focus_absolute"), V4l2Device(config()):
            pass


def test_refused_values_are_told() -> None:
    camera = with_controls(EXPOSURE_AUTO=3)
    camera.controls["EXPOSURE_AUTO"].menu = (3,)
    with FakeV4l2(camera), V4l2Device(config()) as device:
        assert any("auto_exposure cannot be turned off" in note for note in device.notes)
        assert any("exposure time is not known" in note for note in device.notes)
