# SPDX-License-Identifier: Apache-2.0
"""The module depthai, version 3 or 2, as far as the driver uses it, with OAK cameras behind it.

Signatures are those of depthai 3.12 and 2.33; `test_depthai` compares them with the real module where there is
one. Controls reach the lens frames later; frames tell the position that the lens was told as of their exposure or,
with `lead_frames`, too early; a device can stall, vanish (every call raises, queues close) and come back. What the
real one would silently ignore is a `Misuse` here.

    oak = FakeOak(version=3)
    oak.install(monkeypatch)
    ... use the driver ...
    oak.check()   # all closed, no thread left, nothing misused
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from fake_depthai_messages import (
    CameraBoardSocket,
    CameraControl,
    CameraFeatures,
    ColorOrder,
    DeviceInfo,
    ImgFrame,
    ImgResizeMode,
)
from fake_depthai_nodes import CameraNodeV3, ColorCamera, MessageQueue, PipelineV2, PipelineV3, XLinkIn, XLinkOut
from fake_depthai_sensor import Sensor
from fake_motor import Bgr, Misuse, Truths

if TYPE_CHECKING:
    import pytest

LOST = "Communication exception - possible device error/misconfiguration. Original message '{}' (X_LINK_ERROR)'"


class FakeOak:
    """The cameras that are plugged in, and how they behave; change it while they run.

    Attributes:
        version: of depthai, 3 or 2.
        ids: of the devices that are there.
        features: of the sensors of each.
        lens_frames: from a control to the lens.
        lead_frames: how many frames too early a position is reported.
        tells_position: whether frames tell the position of the lens.
        settles: whether the lens ever comes to its target.
        stalled: whether frames do not come any more.
        late_s: time from the readout until a frame is there.
        lose: says by its number whether a frame is lost.
        fail: errors to raise, by the name of the call.
        readout_s: time to read all rows.
        limits_us: of the exposure.
        light: on the scene, by which automatic exposure is shorter.
        picture: makes the image of a lens position.
    """

    def __init__(self, version: int = 3, **behaviour: Any) -> None:
        self.version = version
        self.ids = ["14442C10D13EABCE00"]
        self.features = [
            CameraFeatures(CameraBoardSocket.CAM_A, "IMX378", True),
            CameraFeatures(CameraBoardSocket.CAM_B, "OV9282", False),
        ]
        self.lens_frames = 3
        self.lead_frames = 0
        self.units_per_s = float("inf")
        self.tells_position = True
        self.settles = True
        self.stalled = False
        self.late_s = 0.0
        self.lose: Callable[[int], bool] = lambda number: False
        self.fail: dict[str, Exception] = {}
        self.readout_s = 0.002
        self.limits_us = (1, 33000)
        self.light = 1.0
        self.picture: Callable[[float], Bgr] | None = None
        for name, value in behaviour.items():
            if not hasattr(self, name):
                raise TypeError(f"a FakeOak has no {name!r}")
            setattr(self, name, value)
        self.truths = Truths()
        self.opened: list[FakeDevice] = []
        self.misused: list[str] = []

    @property
    def device(self) -> FakeDevice:
        """The device that was opened last."""
        return self.opened[-1]

    def unplug(self) -> None:
        """Take the devices away: those that are open are lost."""
        self.ids = []
        for device in self.opened:
            device.lost = True

    def plug(self) -> None:
        self.ids = ["14442C10D13EABCE00"]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeOak:
        """Put the module where an import finds it, for the time of a test."""
        monkeypatch.setitem(sys.modules, "depthai", self.module())
        return self

    def module(self) -> ModuleType:
        made: Any = ModuleType("depthai")
        made.Device = type("Device", (DeviceV3 if self.version == 3 else DeviceV2,), {"oak": self})
        made.DeviceInfo = DeviceInfo
        made.CameraBoardSocket, made.CameraControl, made.ImgFrame = CameraBoardSocket, CameraControl, ImgFrame
        if self.version == 3:
            made.ImgResizeMode, made.Pipeline = ImgResizeMode, PipelineV3
            made.node = SimpleNamespace(Camera=CameraNodeV3)
        else:
            made.Pipeline = PipelineV2
            made.ColorCameraProperties = SimpleNamespace(ColorOrder=ColorOrder)
            made.node = SimpleNamespace(ColorCamera=ColorCamera, XLinkIn=XLinkIn, XLinkOut=XLinkOut)
        return made  # type: ignore[no-any-return]

    def misuse(self, what: str) -> Misuse:
        self.misused.append(what)
        return Misuse(what)

    def called(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def check(self) -> None:
        """Assert that nothing was misused or is left open."""
        assert not self.misused
        for device in self.opened:
            assert device.closed, "a device was not closed"
            assert device.thread is None or not device.thread.is_alive(), "a thread is left"


class FakeDevice:
    """depthai.Device: what both versions have. The sensor is a thread."""

    oak: FakeOak

    def __init__(self, deviceInfo: DeviceInfo | None = None) -> None:
        oak = self.oak
        oak.called("Device")
        if not any(not d.closed for d in oak.opened) and (
            oak.ids if deviceInfo is None else deviceInfo.name in oak.ids
        ):
            self.closed = self.lost = False
            self.thread: threading.Thread | None = None
            self.frames: deque[ImgFrame] = deque(maxlen=1)
            self.controls: deque[CameraControl] = deque()
            self._stopping = threading.Event()
            oak.opened.append(self)
            return
        raise RuntimeError(
            "No available devices" if deviceInfo is None else "Cannot find any device with given deviceInfo"
        )

    @classmethod
    def getAllAvailableDevices(cls) -> list[DeviceInfo]:
        cls.oak.called("getAllAvailableDevices")
        in_use = any(not d.closed for d in cls.oak.opened)
        return [] if in_use else [DeviceInfo(i) for i in cls.oak.ids]

    def getConnectedCameraFeatures(self) -> list[CameraFeatures]:
        self.need("getConnectedCameraFeatures")
        return self.oak.features

    def getChipTemperature(self) -> Any:
        self.need("getChipTemperature")
        return SimpleNamespace(average=47.5, css=47.0, mss=47.0, upa=48.0, dss=48.0)

    def isClosed(self) -> bool:
        return self.closed or self.lost

    def close(self) -> None:
        self.closed = True
        self._stopping.set()
        if self.thread is not None:
            self.thread.join()
        self.oak.called("close")

    def need(self, what: str) -> None:
        if self.closed:
            raise self.oak.misuse(f"{what} of a closed device")
        self.oak.called(what)
        if self.lost:
            raise RuntimeError(LOST.format(f"Couldn't read data from stream: '{what}'"))

    def run(self, size: tuple[int, int], rate_hz: float) -> None:
        """Start the sensor."""
        self.sensor = sensor = Sensor(self.oak, size, 1.0 / rate_hz)

        def expose() -> None:
            number, stamp_s = 0, time.monotonic()
            while True:
                number, stamp_s = number + 1, stamp_s + sensor.period_s
                done_s = stamp_s + self.oak.readout_s + self.oak.late_s
                if self._stopping.wait(max(0.0, done_s - time.monotonic())) or self.lost:
                    return
                sent = [self.controls.popleft() for _ in range(len(self.controls))]
                frame = sensor.expose(number, stamp_s, sent)
                if not self.oak.stalled and not self.oak.lose(number):
                    self.frames.append(frame)

        self.thread = threading.Thread(target=expose, name="fake depthai", daemon=True)
        self.thread.start()


class DeviceV3(FakeDevice):
    reconnects = 1

    def setMaxReconnectionAttempts(self, maxAttempts: int, callback: Any = None) -> None:
        self.need("setMaxReconnectionAttempts")
        self.reconnects = maxAttempts


class DeviceV2(FakeDevice):
    def startPipeline(self, pipeline: PipelineV2, /) -> bool:
        self.need("startPipeline")
        camera = pipeline.check(self.oak)
        self._streams = pipeline.streams
        if camera.socket not in {f.socket for f in self.oak.features}:
            return False
        self.run(camera.size, camera.fps)
        return True

    def getOutputQueue(self, name: str, maxSize: int, blocking: bool = True) -> MessageQueue:
        return self._queue("getOutputQueue", name, maxSize, blocking)

    def getInputQueue(self, name: str, maxSize: int, blocking: bool = True) -> MessageQueue:
        return self._queue("getInputQueue", name, maxSize, blocking)

    def _queue(self, what: str, name: str, size: int, blocking: bool) -> MessageQueue:
        self.need(what)
        if name not in self._streams:
            raise RuntimeError(f"Queue for stream name '{name}' doesn't exist")
        return MessageQueue(self, "frames" if what == "getOutputQueue" else "controls", size, blocking)
