# SPDX-License-Identifier: Apache-2.0
"""The driver for Raspberry Pi cameras where one is lost, stalls, fails or is misused: nothing is left open."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from fake_motor import Misuse, flickering
from fake_picamera2 import FakeRaspberryPi
from picamera2_helpers import CONFIG, device_of, settled

from dualfocus_ros.camera import picamera2_controls
from dualfocus_ros.camera.picamera2 import Picamera2Device
from dualfocus_ros.errors import CameraError, DeviceError, LensError, ParameterError


@pytest.fixture
def pi(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRaspberryPi]:
    fake = FakeRaspberryPi().install(monkeypatch)
    yield fake
    fake.check()


def test_a_pulled_cable_is_noticed_and_the_camera_comes_back(pi: FakeRaspberryPi) -> None:
    device = device_of(frame_timeout_s=0.1)
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"no frame within 0\.1 s"), device:
            settled(device, 2.0)
            pi.stalled = True
            device.read(0.1)
            device.read(0.1)
        pi.stalled = False
    with device:
        assert not settled(device, 3.0).moving
    assert len(pi.opened) == 3


def test_reading_goes_on_after_a_wait_that_was_too_short(pi: FakeRaspberryPi) -> None:
    """The capture under way is neither lost nor handed out late: its buffer comes back."""
    with device_of() as device:
        for _ in range(10):  # more than there are buffers
            pi.stalled = True
            with pytest.raises(DeviceError):
                for _ in range(3):  # one may be ready
                    device.read(0.02)
            pi.stalled = False
            resumed_s = time.monotonic()
            time.sleep(0.04)
            assert device.read(5.0).exposure[1] > resumed_s
        assert pi.camera.held == 0


@pytest.mark.parametrize(
    "call",
    [
        "global_camera_info",
        "Picamera2",
        "create_video_configuration",
        "configure",
        "camera_configuration",
        "set_controls",
        "start",
        "capture_request",
        "get_metadata",
        "make_array",
    ],
)
def test_an_error_of_any_call_closes_the_camera_and_can_be_recovered_from(pi: FakeRaspberryPi, call: str) -> None:
    device = device_of()
    pi.fail[call] = RuntimeError("it broke")
    with pytest.raises(DeviceError, match="it broke"), device:
        pass
    pi.check()
    del pi.fail[call]
    with device:
        assert not settled(device, 1.0).moving


@pytest.mark.parametrize("call", ["set_controls", "capture_request", "get_metadata", "make_array"])
def test_an_error_while_running_leaves_nothing_behind(pi: FakeRaspberryPi, call: str) -> None:
    device = device_of()
    with pytest.raises(DeviceError, match="it broke"), device:
        pi.fail[call] = RuntimeError("it broke")
        device.move_to(1.0)
        device.read(5.0)
    pi.check()
    pi.fail.clear()
    with device:
        device.read(5.0)


def test_closing_survives_an_error_and_does_not_hide_another(pi: FakeRaspberryPi) -> None:
    device = device_of()
    pi.fail["close"] = RuntimeError("no release")
    with pytest.raises(ValueError, match="of the user"), device:
        raise ValueError("of the user")
    assert any("no release" in note for note in device.notes)


@pytest.mark.parametrize("when", ["open", "read"])
def test_interrupt_ends_a_wait(pi: FakeRaspberryPi, when: str) -> None:
    device = device_of(auto_time_s=60.0 if when == "open" else 0.0)
    pi.picture = flickering(64, 48)  # so that automatics are waited for

    def interrupt() -> None:
        time.sleep(0.15)
        device.interrupt()

    thread = threading.Thread(target=interrupt)
    started_s = time.monotonic()
    with pytest.raises(DeviceError, match="interrupted"):
        if when == "open":
            thread.start()
        with device:
            pi.stalled = True
            thread.start()
            device.read(30.0)
            device.read(30.0)
    thread.join()
    assert time.monotonic() - started_s < 20.0
    pi.check()
    pi.stalled = False
    with device_of() as again:
        again.read(5.0)


def test_opening_again_and_again_leaks_nothing(pi: FakeRaspberryPi) -> None:
    device = device_of(auto_time_s=0.0)
    with device:
        device.read(5.0)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with device:
            device.read(5.0)
            device.move_to(3.0)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)


def test_what_is_missing_is_named(pi: FakeRaspberryPi, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="number 1, libcamera finds .'imx708'"), device_of(camera_num=1):
        pass
    pi.lens = None
    with pytest.raises(CameraError, match="imx708. has no LensPosition") as fixed, device_of():
        pass
    assert not isinstance(fixed.value, DeviceError)
    pi.cameras = []
    with pytest.raises(DeviceError, match="finds no camera"), device_of():
        pass
    monkeypatch.setattr(sys.modules["picamera2"], "Picamera2", object)
    with pytest.raises(CameraError, match="July 2024 or newer"), device_of():
        pass
    monkeypatch.setitem(sys.modules, "libcamera", None)
    with pytest.raises(CameraError, match="apt install python3-picamera2.*--system-site-packages") as missing:
        device_of().__enter__()
    assert not isinstance(missing.value, DeviceError)


def test_a_camera_in_use_is_a_device_error(pi: FakeRaspberryPi) -> None:
    with device_of(), pytest.raises(DeviceError, match="another program"), device_of():
        pass


def test_sizes_and_modes_that_are_not_taken_are_refused(pi: FakeRaspberryPi) -> None:
    pi.adjusts_to = (96, 64)
    with pytest.raises(CameraError, match="gives 96 x 64"), device_of():
        pass
    pi.adjusts_to = None
    with (
        pytest.raises(CameraError, match="nearest is 2304 x 1296"),
        device_of(sensor_width=640, sensor_height=480),
    ):
        pass
    with device_of(sensor_width=2304, sensor_height=1296) as device:
        assert device.read(5.0).image.shape == (48, 64, 3)
    for changes in ({"width": 65}, {"sensor_width": 640}, {"buffers": 1}, {"rate_hz": 0.0}):
        with pytest.raises(ParameterError):
            device_of(**changes)


def test_misuse_is_refused(pi: FakeRaspberryPi) -> None:
    device = device_of()
    for use in (lambda: device.read(0.1), lambda: device.move_to(1.0), lambda: device.focus_range):
        with pytest.raises(CameraError, match="open"):
            use()
    device.interrupt()  # may be called at any time
    with device:
        assert (device.focus_range.low, device.focus_range.high, device.focus_range.step) == (0.0, 15.0, 0.0)
        for position in (-0.1, 15.1, float("nan")):
            with pytest.raises(LensError, match=r"0 \.\. 15 dpt"):
                device.move_to(position)
        with pytest.raises(CameraError, match="open already"):
            device.__enter__()
        device.read(5.0)


def test_nothing_of_the_vendor_is_imported_before_entering(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("picamera2", "libcamera"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    importlib.reload(picamera2_controls)
    Picamera2Device(CONFIG)


def test_the_fake_is_strict(pi: FakeRaspberryPi) -> None:
    """What the tests above rely on: misuse, and buffers that run out."""
    module = sys.modules["picamera2"]
    manual = sys.modules["libcamera"].controls.AfModeEnum.Manual
    camera = module.Picamera2()
    with pytest.raises(Misuse, match="before configure"):
        camera.set_controls({"LensPosition": 1.0})
    camera.configure(
        camera.create_video_configuration(main={"format": "RGB888", "size": (64, 48)}, buffer_count=2)
    )
    with pytest.raises(Misuse, match="while stopped"):
        camera.capture_request()
    with pytest.raises(RuntimeError, match="not advertised"):
        camera.set_controls({"Focus": 1.0})
    camera.set_controls({"LensPosition": 9.0, "FrameDurationLimits": (5000, 5000)})
    camera.start()
    held = [camera.capture_request(), camera.capture_request()]
    assert held[1].get_metadata()["LensPosition"] == 1.0  # ignored: not Manual
    with pytest.raises(Misuse, match="started twice"):
        camera.start()
    with pytest.raises(concurrent_timeout()):
        camera.capture_request(wait=0.1)
    camera.cancel_all_and_flush()
    held[0].release()
    camera.set_controls({"AfMode": manual, "LensPosition": 4.0})
    held[1].release()
    positions = []
    for _ in range(8):
        request = camera.capture_request()
        positions.append(request.get_metadata()["LensPosition"])
        request.release()
    assert positions[0] == 1.0 and positions[-1] == 4.0 and 2.5 in positions
    with pytest.raises(Misuse, match="after its release"):
        request.get_metadata()
    camera.close()
    pi.misused.clear()


def concurrent_timeout() -> type[BaseException]:
    # Until Python 3.10 it is not the built-in TimeoutError.
    timeout: type[BaseException] = importlib.import_module("concurrent.futures").TimeoutError
    return timeout
