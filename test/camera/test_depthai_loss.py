# SPDX-License-Identifier: Apache-2.0
"""The driver for OAK cameras when the camera is lost, stalls, fails or is misused: nothing is left open."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from depthai_helpers import device_of, settled
from fake_depthai import FakeOak
from fake_motor import Misuse, flickering

from dualfocus_ros.errors import CameraError, DeviceError, LensError, ParameterError


@pytest.fixture(params=[3, 2])
def oak(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOak]:
    fake = FakeOak(request.param).install(monkeypatch)
    yield fake
    fake.check()


def test_an_unplugged_camera_is_noticed_and_comes_back(oak: FakeOak) -> None:
    device = device_of()
    for _ in range(2):
        with pytest.raises(DeviceError, match="lost|X_LINK_ERROR|closed"), device:
            settled(device, 100.0)
            oak.unplug()
            for _ in range(3):
                device.read(5.0)
        with pytest.raises(DeviceError, match="no OAK camera"), device:
            pass
        oak.plug()
    with device:
        assert settled(device, 50.0).position == 50.0
    with pytest.raises(DeviceError), device:
        oak.unplug()
        device.move_to(10.0)


def test_a_stalled_camera_is_a_device_error(oak: FakeOak) -> None:
    with device_of() as device:
        oak.stalled = True
        with pytest.raises(DeviceError, match=r"no frame within 0\.05 s"):
            for _ in range(3):
                device.read(0.05)
        oak.stalled = False
        device.read(5.0)


CALLS = {
    3: "getAllAvailableDevices Device getConnectedCameraFeatures setMaxReconnectionAttempts Pipeline create build "
    "requestOutput createOutputQueue createInputQueue start send tryGetAll getCvFrame",
    2: "getAllAvailableDevices Device getConnectedCameraFeatures startPipeline getOutputQueue getInputQueue send "
    "tryGetAll getCvFrame",
}


@pytest.mark.parametrize(
    ("oak", "call"), [(v, call) for v, calls in CALLS.items() for call in calls.split()], indirect=["oak"]
)
def test_an_error_of_any_call_closes_the_camera_and_can_be_recovered_from(oak: FakeOak, call: str) -> None:
    device = device_of()
    oak.fail[call] = RuntimeError("it broke")
    with pytest.raises(DeviceError, match="it broke"), device:
        pass
    oak.check()
    del oak.fail[call]
    with device:
        assert settled(device, 7.0).position == 7.0


@pytest.mark.parametrize("call", ["close", "stop"])
def test_closing_survives_an_error_and_does_not_hide_another(oak: FakeOak, call: str) -> None:
    oak.fail[call] = RuntimeError("no answer")
    device = device_of()
    with pytest.raises(ValueError, match="of the user"), device:
        raise ValueError("of the user")
    if call == "close" or oak.version == 3:
        assert any("no answer" in note for note in device.notes)


@pytest.mark.parametrize("when", ["open", "read"])
def test_interrupt_ends_a_wait(oak: FakeOak, when: str) -> None:
    device = device_of(auto_time_s=60.0 if when == "open" else 0.0)
    oak.picture = flickering(64, 48)  # so that automatics are waited for

    def interrupt() -> None:
        time.sleep(0.1)
        device.interrupt()

    thread = threading.Thread(target=interrupt)
    started_s = time.monotonic()
    with pytest.raises(DeviceError, match="interrupted"):
        if when == "open":
            thread.start()
        with device:
            oak.stalled = True
            thread.start()
            for _ in range(3):
                device.read(30.0)
    thread.join()
    assert time.monotonic() - started_s < 20.0
    oak.stalled = False
    with device_of() as again:
        again.read(5.0)


def test_opening_again_and_again_leaks_nothing(oak: FakeOak) -> None:
    device = device_of()
    with device:
        device.read(5.0)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with device:
            device.move_to(3.0)
            device.read(5.0)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)


def test_cameras_are_chosen_by_id_and_socket(oak: FakeOak, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_of(device_id="14442C10D13EABCE00") as device:
        device.read(5.0)
    with pytest.raises(DeviceError, match="0BADC0DE.*given deviceInfo"), device_of(device_id="0BADC0DE"):
        pass
    with pytest.raises(CameraError, match=r"OV9282 at CAM_B has a fixed focus.*\['CAM_A'\]") as fixed:
        device_of(socket="CAM_B").__enter__()
    assert not isinstance(fixed.value, DeviceError)
    with pytest.raises(CameraError, match=r"sensor at CAM_D, this camera has \['CAM_A', 'CAM_B'\]"):
        device_of(socket="CAM_D").__enter__()
    for changes in ({"socket": "CAM_Z"}, {"width": 63}, {"readout_s": -1.0}):
        with pytest.raises(ParameterError):
            device_of(**changes)
    if oak.version == 2:
        with pytest.raises(CameraError, match="at most 1920 x 1080"), device_of(width=3840, height=2160):
            pass
    with device_of(), pytest.raises(DeviceError, match="no OAK camera that is free"), device_of():
        pass
    oak.check()
    monkeypatch.setitem(sys.modules, "depthai", None)  # not installed
    with pytest.raises(CameraError, match="pip install depthai") as missing:
        device_of().__enter__()
    assert not isinstance(missing.value, DeviceError)


def test_misuse_is_refused(oak: FakeOak) -> None:
    device = device_of()
    for use in (lambda: device.read(0.1), lambda: device.move_to(1.0)):
        with pytest.raises(CameraError, match="open"):
            use()
    device.interrupt()  # may be called at any time
    with device:
        assert (device.focus_range.low, device.focus_range.high, device.focus_range.step) == (0.0, 255.0, 1.0)
        for position in (-1.0, 255.6, float("nan")):
            with pytest.raises(LensError, match=r"0 \.\. 255"):
                device.move_to(position)
        with pytest.raises(CameraError, match="open already"):
            device.__enter__()
        device.read(5.0)


def test_the_fake_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    oak = FakeOak(3)
    dai = oak.module()
    control = dai.CameraControl()
    with pytest.raises(TypeError):
        control.setManualFocus(3.0)
    with pytest.raises(Misuse, match=r"0 \.\. 255"):
        control.setManualFocus(256)
    device = dai.Device()
    pipeline = dai.Pipeline(device)
    with pytest.raises(Misuse, match="without a camera"):
        pipeline.start()
    camera = pipeline.create(dai.node.Camera)
    with pytest.raises(Misuse, match="before build"):
        camera.requestOutput((64, 48), dai.ImgFrame.Type.NV12)
    queue = camera.build(dai.CameraBoardSocket.CAM_A).requestOutput((64, 48), dai.ImgFrame.Type.NV12)
    with pytest.raises(Misuse, match="blocks"):
        queue.createOutputQueue(maxSize=4, blocking=True)
    with pytest.raises(Misuse, match="by itself"):
        pipeline.start()
    device.close()
    with pytest.raises(Misuse, match="closed device"):
        device.getConnectedCameraFeatures()
