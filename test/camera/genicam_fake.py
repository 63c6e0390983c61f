# SPDX-License-Identifier: Apache-2.0
"""A GenICam camera and the modules of pypylon that lead to it, for where there is no pypylon."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from genicam_stand_in import Choice, Command, Lens, Node, NodeMap, Number, Selected, fake_genicam


class Automatic(Choice):
    """The switch of an automatic that finds values at once."""

    finds: Callable[[], None]

    def SetValue(self, value: str) -> None:
        super().SetValue(value)
        if value == "Continuous":
            self.finds()


class FakeWorld:
    """One camera with a lens, and the modules of pypylon that lead to it. `genicam` is its module of that name.

    `vanish_after` counts uses of the library down to the camera's unplugging. Frames are exposed at the rate that
    is set, whether somebody waits or not; `exposed` has the true exposure of each frame that was handed out.
    """

    SENSOR, TRANSFER_S, FOUND_EXPOSURE_US = (1280, 960), 0.003, 5000.0

    def __init__(
        self, kind: str = "FocalPower", *, old: bool = False, gige: bool = False, shutter: str = "Global"
    ):
        self.genicam = fake_genicam()
        self.lens = Lens(self.genicam, kind, self.use)
        self.removed = self.in_use = False
        self.vanish_after: int | None = None
        self.uses = self.failing = 0
        self.stamps, self.clock_runs = True, 1.0
        self.exposed: list[tuple[float, float]] = []
        self.open_cameras = self.devices = 0
        self.per_s = 125_000_000 if gige else 1_000_000_000
        self._boot_s = time.monotonic() - 1000.0
        self.nodes = {**self._camera_nodes(), **self._clock_nodes(gige), **self.lens.nodes}
        if shutter:
            self.nodes["SensorShutterMode"] = Choice(self.genicam, shutter, ("Global", "Rolling"), access=3)
            self.nodes["SensorReadoutTime"] = Number(self.genicam, 2000.0, 0.0, 1e6, access=3)
        self.map = NodeMap(self.genicam, self.nodes, old=old)
        self.pylon = self._pylon()

    def use(self) -> None:
        self.uses += 1
        if self.vanish_after is not None and self.uses > self.vanish_after:
            self.removed = True
        if self.removed:
            raise self.genicam.RuntimeException(
                "The device has been removed. : RuntimeException thrown (file 'y')"
            )

    def settings(self) -> dict[str, Any]:
        """What a user would find set on the camera."""
        found = {n: node.value for n, node in self.nodes.items() if not isinstance(node, (Command, Selected))}
        found |= {n: dict(node.values) for n, node in self.nodes.items() if isinstance(node, Selected)}
        return {n: v for n, v in found.items() if n not in ("TimestampLatchValue", "GevTimestampValue")}

    def count(self, time_s: float) -> int:
        return round((time_s - self._boot_s) * self.per_s * self.clock_runs)

    def _camera_nodes(self) -> dict[str, Node]:
        g, more = self.genicam, {"touched": self.use}
        width, height = self.SENSOR
        nodes: dict[str, Any] = {}

        def binned(size: int, name: str) -> int:
            return size // nodes[name].value

        def off(switch: str) -> Callable[[], int]:
            return lambda: 4 if nodes[switch].value == "Off" else 3

        trigger = Choice(g, "FrameStart", ("FrameStart", "FrameBurstStart"), **more)
        colour = Choice(g, "Red", ("Red", "Green", "Blue"), **more)
        automatic = ("Off", "Once", "Continuous")
        nodes |= {
            "BinningHorizontal": Number(g, 1, 1, 4, **more),
            "BinningVertical": Number(g, 1, 1, 4, **more),
            "Width": Number(
                g, 1280, 16, lambda: binned(width, "BinningHorizontal") - nodes["OffsetX"].value, 4, **more
            ),
            "Height": Number(
                g, 960, 16, lambda: binned(height, "BinningVertical") - nodes["OffsetY"].value, 2, **more
            ),
            "OffsetX": Number(
                g, 0, 0, lambda: binned(width, "BinningHorizontal") - nodes["Width"].value, 4, **more
            ),
            "OffsetY": Number(
                g, 0, 0, lambda: binned(height, "BinningVertical") - nodes["Height"].value, 2, **more
            ),
            "PixelFormat": Choice(g, "BayerRG12p", ("BayerRG12p", "BayerRG8", "Mono8", "RGB8"), **more),
            "AcquisitionMode": Choice(g, "SingleFrame", ("SingleFrame", "Continuous"), **more),
            "TriggerSelector": trigger,
            "TriggerMode": Selected(g, trigger, {"FrameStart": "On", "FrameBurstStart": "Off"}, **more),
            "AcquisitionFrameRateEnable": Node(g, False, **more),
            "AcquisitionFrameRate": Number(g, 5.0, 0.1, 200.0, **more),
            "ExposureAuto": Automatic(g, "Off", automatic, **more),
            "ExposureTime": Number(g, 4000.0, 20.0, 1e6, unit="us", access=off("ExposureAuto"), **more),
            "GainAuto": Automatic(g, "Continuous", automatic, **more),
            "Gain": Number(g, 3.0, 0.0, 24.0, unit="dB", access=off("GainAuto"), **more),
            "BalanceWhiteAuto": Automatic(g, "Off", automatic, **more),
            "BalanceRatioSelector": colour,
            "BalanceRatio": Selected(
                g, colour, {"Red": 1.5, "Green": 1.0, "Blue": 2.0}, access=off("BalanceWhiteAuto"), **more
            ),
        }
        nodes["ExposureAuto"].finds = lambda: setattr(nodes["ExposureTime"], "value", self.FOUND_EXPOSURE_US)
        nodes["GainAuto"].finds = lambda: setattr(nodes["Gain"], "value", 9.0)
        nodes["BalanceWhiteAuto"].finds = lambda: nodes["BalanceRatio"].values.update(Red=1.1, Green=1.2, Blue=1.3)
        return nodes

    def _clock_nodes(self, gige: bool) -> dict[str, Node]:
        g, more = self.genicam, {"touched": self.use}
        command, value = (
            ("GevTimestampControlLatch", "GevTimestampValue")
            if gige
            else ("TimestampLatch", "TimestampLatchValue")
        )
        latched = Node(g, 0, 3, **more)

        def latch() -> None:
            latched.value = self.count(time.monotonic())

        nodes: dict[str, Node] = {command: Command(g, latch, **more), value: latched}
        if gige:
            nodes["GevTimestampTickFrequency"] = Node(g, self.per_s, 3, **more)
        return nodes

    def _pylon(self) -> ModuleType:
        module = ModuleType("pypylon.pylon")
        numbers = ("0001", "0002")
        infos = [
            SimpleNamespace(GetSerialNumber=lambda n=n: n, GetModelName=lambda: "fake camera") for n in numbers
        ]
        factory = SimpleNamespace(
            EnumerateDevices=lambda: () if self.removed else tuple(infos), CreateDevice=lambda info: info
        )
        module.TlFactory = SimpleNamespace(GetInstance=lambda: factory)
        module.InstantCamera = lambda device: FakeCamera(self)
        module.ConfigurationEventHandler = object
        module.RegistrationMode_ReplaceAll = module.Cleanup_Delete = module.TimeoutHandling_Return = 1
        module.GrabStrategy_LatestImageOnly = 2
        return module


class FakeCamera:
    """InstantCamera, as far as the driver needs it."""

    def __init__(self, world: FakeWorld) -> None:
        self.world, self._grabbing, self._open = world, False, False
        self._next = 0
        world.devices += 1

    def RegisterConfiguration(self, *_: Any) -> None:
        pass

    def Open(self) -> None:
        if self.world.in_use:
            raise self.world.genicam.RuntimeException("The device is controlled by another application. : thrown")
        self.world.use()
        self._open = True
        self.world.open_cameras += 1

    def Close(self) -> None:
        if self._open:
            self.world.open_cameras -= 1
        self._open = self._grabbing = False

    def DestroyDevice(self) -> None:
        self.Close()
        self.world.devices -= 1

    def GetNodeMap(self) -> NodeMap:
        self.world.use()
        return self.world.map

    def IsCameraDeviceRemoved(self) -> bool:
        return self.world.removed

    def IsGrabbing(self) -> bool:
        return self._grabbing and not self.world.removed

    def StartGrabbing(self, strategy: int) -> None:
        self.world.use()
        assert strategy == 2, "a backlog of old frames"
        triggered = "On" in self.world.nodes["TriggerMode"].values.values()  # type: ignore[attr-defined]
        self._grabbing = not triggered and self.world.nodes["AcquisitionMode"].value == "Continuous"
        self._start_s, self._next = time.monotonic(), 0

    def StopGrabbing(self) -> None:
        self._grabbing = False

    def RetrieveResult(self, wait_ms: int, handling: int) -> Any:
        self.world.use()
        assert wait_ms == 0, "pylon's waits end by SIGALRM"
        number = self._newest(time.monotonic())
        if number < self._next:
            return SimpleNamespace(IsValid=lambda: False)
        self._next = number + 1
        return self._result(*self._times(number))

    def _times(self, number: int) -> tuple[float, float]:
        """Start of the exposure and end of the readout."""
        nodes = self.world.nodes
        start = self._start_s + number / nodes["AcquisitionFrameRate"].value
        return start, start + nodes["ExposureTime"].value * 1e-6 + 0.002

    def _newest(self, now_s: float) -> int:
        number = self._next - 1
        while self._times(number + 1)[1] + self.world.TRANSFER_S <= now_s:
            number += 1
        return number

    def _result(self, start: float, end: float) -> Any:
        world, nodes = self.world, self.world.nodes
        good = world.failing <= 0
        world.failing -= 1
        rolling = "SensorShutterMode" not in nodes or nodes["SensorShutterMode"].value != "Global"
        world.exposed.append((start, end - (0.0 if rolling else 0.002)))
        width, height = nodes["Width"].value, nodes["Height"].value
        channels = 3 if nodes["PixelFormat"].value == "RGB8" else 1
        pixels = np.zeros((height, width * channels + 8), np.uint8)
        pixels[:, : width * channels] = np.arange(width * channels, dtype=np.uint32).astype(np.uint8)
        pixels[:, width * channels :] = 255  # padding
        return SimpleNamespace(
            IsValid=lambda: True,
            GrabSucceeded=lambda: good,
            GetWidth=lambda: width,
            GetHeight=lambda: height,
            GetPaddingX=lambda: 8,
            GetTimeStamp=lambda: world.count(start) if world.stamps else 0,
            GetBuffer=lambda: bytearray(pixels.tobytes()),
            Release=lambda: None,
        )
