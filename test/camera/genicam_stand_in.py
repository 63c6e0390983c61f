# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for features of pypylon's cameras: a lens beside those of a real camera object."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

# Features of pylon's emulated camera that the driver may change.
EMULATED = (
    *("Width", "Height", "OffsetX", "OffsetY", "BinningHorizontal", "BinningVertical", "PixelFormat"),
    *("AcquisitionMode", "TriggerMode", "AcquisitionFrameRateEnable", "AcquisitionFrameRate"),
    *("ExposureAuto", "ExposureTime", "ExposureMode", "GainAuto", "Gain"),
)
ACCESS = {"NI": 0, "NA": 1, "WO": 2, "RO": 3, "RW": 4}


def fake_genicam() -> ModuleType:
    """The module pypylon.genicam, as far as the driver needs it."""
    module = ModuleType("pypylon.genicam")
    for name, value in ACCESS.items():
        setattr(module, name, value)
    root = type("GenericException", (Exception,), {})
    module.GenericException = root
    kinds = (
        "Access",
        "OutOfRange",
        "InvalidArgument",
        "LogicalError",
        "Property",
        "DynamicCast",
        "Runtime",
        "Timeout",
    )
    for kind in kinds:
        setattr(module, f"{kind}Exception", type(f"{kind}Exception", (root,), {}))
    return module


class Node:
    """A feature. `access` is a number or a function that returns one; `touched` is called at every use."""

    def __init__(
        self,
        genicam: Any,
        value: Any = None,
        access: int | Callable[[], int] = 4,
        *,
        touched: Callable[[], None] = lambda: None,
        unit: str = "",
    ) -> None:
        self.genicam, self.value, self.access, self.touched, self.unit = genicam, value, access, touched, unit

    def GetAccessMode(self) -> int:
        self.touched()
        return self.access() if callable(self.access) else self.access

    def GetValue(self) -> Any:
        if self.GetAccessMode() not in (3, 4):
            raise self.genicam.AccessException("Node is not readable. : AccessException thrown (file 'x.h')")
        return self.value

    def SetValue(self, value: Any) -> None:
        if self.GetAccessMode() not in (2, 4):
            raise self.genicam.AccessException("Node is not writable. : AccessException thrown (file 'x.h')")
        self.check(value)
        self.value = value

    def check(self, value: Any) -> None:
        """Raise where the feature cannot take the value."""


class Number(Node):
    """IFloat or IInteger, by the type of its value."""

    def __init__(self, genicam: Any, value: float, low: float, high: Any, inc: float | None = None, **more: Any):
        super().__init__(genicam, value, **more)
        self.low, self.high, self.inc = low, high, inc
        if isinstance(value, float):
            self.HasInc = lambda: self.inc is not None
        else:
            self.inc = inc or 1

    def GetMin(self) -> float:
        return self.low

    def GetMax(self) -> float:
        return self.high() if callable(self.high) else self.high

    def GetInc(self) -> float:
        if self.inc is None:
            raise self.genicam.RuntimeException("no increment")
        return self.inc

    def GetUnit(self) -> str:
        return self.unit

    def check(self, value: Any) -> None:
        if isinstance(self.value, int) != isinstance(value, int):
            raise TypeError("Wrong number or type of arguments for overloaded function")
        if not self.GetMin() <= value <= self.GetMax():
            raise self.genicam.OutOfRangeException(f"Value {value} must be within the range. : thrown")
        off = 0.0 if self.inc is None else (value - self.low) / self.inc
        if abs(off - round(off)) > 1e-6:
            raise self.genicam.OutOfRangeException(f"Value {value} is not on the grid. : thrown")


class Choice(Node):
    """IEnumeration."""

    def __init__(self, genicam: Any, value: str, entries: tuple[str, ...], **more: Any) -> None:
        super().__init__(genicam, value, **more)
        self.names = entries

    def GetSymbolics(self) -> tuple[str, ...]:
        return self.names

    def GetEntryByName(self, name: str) -> Any:
        return SimpleNamespace(GetAccessMode=lambda: 3 if name in self.names else 0)

    def check(self, value: str) -> None:
        if value not in self.names:
            raise self.genicam.InvalidArgumentException(f"cannot convert value '{value}'. : thrown")


class Selected(Node):
    """A feature with one value for each entry of a selector."""

    def __init__(self, genicam: Any, selector: Choice, values: dict[str, Any], **more: Any) -> None:
        self.selector, self.values = selector, values
        super().__init__(genicam, None, **more)

    @property
    def value(self) -> Any:
        return self.values[self.selector.value]

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None:
            self.values[self.selector.value] = value


class Command(Node):
    """ICommand."""

    def __init__(self, genicam: Any, run: Callable[[], None], access: int = 2, **more: Any) -> None:
        super().__init__(genicam, None, access, **more)
        self.run = run

    def Execute(self) -> None:
        if self.GetAccessMode() not in (2, 4):
            raise self.genicam.AccessException("Node is not writable. : thrown")
        self.run()


class Lens:
    """A lens as the category OpticControl of the SFNC describes it.

    It must be initialised before it moves, and a stepper is Busy, and takes no command, while it moves.
    """

    def __init__(self, genicam: Any, kind: str = "FocalPower", touched: Callable[[], None] = lambda: None) -> None:
        self.kind, self.takes_s = kind, 0.0
        self.state, self.temperature_c = "NotInitialized", 31.5
        self.moves: list[float] = []
        self._still_at_s = 0.0
        more = {"touched": touched}
        moved: Number
        if kind == "FocusStepper":
            moved = Number(genicam, 40, 0, 1000, 4, access=self._access, **more)
        elif kind == "LensOpticalPower":
            moved = Number(genicam, 0.25, -3.5, 4.0, access=self._access, unit="dpt", **more)
        else:
            moved = Number(genicam, 0.5, -2.0, 5.0, 0.01, access=self._access, unit="dpt", **more)
        self.node = moved
        moved.check = self._move(moved.check)  # type: ignore[method-assign]
        self.nodes: dict[str, Node] = {kind: moved}
        if kind == "LensOpticalPower":
            self.state = "Ready"
            self.connection = Choice(genicam, "NotConnect", ("Connect", "NotConnect"), **more)
            self.nodes["LensConnection"] = self.connection
            # On these cameras it is the step of the autofocus.
            self.nodes["FocusStepper"] = Number(genicam, 0.2, 0.1, 0.4, unit="dpt", **more)
            return
        status = Choice(genicam, "", ("NotConnected", "NotInitialized", "NotSupported", "Busy", "Ready", "Error"))
        status.access, status.touched = 3, touched
        status.GetValue = lambda: (touched(), self.told_state())[1]  # type: ignore[method-assign]
        self.nodes |= {
            "OpticControllerInitialize": Command(genicam, self._initialize, **more),
            "OpticControllerStatus": status,
            "OpticControllerTemperature": Number(genicam, self.temperature_c, -40.0, 120.0, access=3, **more),
            "FocusAuto": Choice(genicam, "Continuous", ("Off", "Once", "Continuous"), **more),
        }

    def told_state(self) -> str:
        busy = self.state == "Ready" and time.monotonic() < self._still_at_s
        return "Busy" if busy else self.state

    def _initialize(self) -> None:
        if self.state == "NotInitialized":
            self.state = "Ready"
            self._still_at_s = time.monotonic() + 0.05

    def _access(self) -> int:
        if self.kind == "LensOpticalPower":
            return 4 if self.connection.value == "Connect" else 1
        if self.state != "Ready":
            return 1
        return 3 if self.told_state() == "Busy" else 4

    def _move(self, check: Callable[[float], None]) -> Callable[[float], None]:
        def moved(value: float) -> None:
            check(value)
            self.moves.append(value)
            self._still_at_s = time.monotonic() + self.takes_s

        return moved


class NodeMap:
    """Features beside those of another node map. What is in neither is as in old or new versions of pypylon."""

    def __init__(self, genicam: Any, nodes: dict[str, Node], base: Any = None, old: bool = False) -> None:
        self.genicam, self.nodes, self.base, self.old = genicam, nodes, base, old

    def GetNode(self, name: str) -> Any:
        if name in self.nodes:
            return self.nodes[name]
        if self.base is not None:
            return self.base.GetNode(name)
        if self.old:
            raise self.genicam.LogicalErrorException("Node not existing (file 'genicam_wrap.cpp', line 1)")
        return Node(self.genicam, None, 0)


class CameraWithLens:
    """A real camera object of pypylon whose node map has a lens too."""

    def __init__(self, genicam: Any, camera: Any, lens: Lens) -> None:
        self.camera, self.removed = camera, False
        self._map = lambda: NodeMap(genicam, lens.nodes, camera.GetNodeMap())
        self.at_close: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.camera, name)

    def GetNodeMap(self) -> NodeMap:
        return self._map()

    def IsCameraDeviceRemoved(self) -> bool:
        return self.removed or self.camera.IsCameraDeviceRemoved()

    def read(self, *names: str) -> dict[str, Any]:
        return {name: self.camera.GetNodeMap().GetNode(name).GetValue() for name in names}

    def Close(self) -> None:
        if self.camera.IsOpen():
            self.at_close = self.read(*EMULATED)
        self.camera.Close()


def with_lens(pylon: Any, genicam: Any, lens: Lens) -> Any:
    """The real module pypylon.pylon whose cameras have a lens; `opened` has the latest.

    Only emulated cameras are found: looking for others would broadcast on the network.
    """
    emulator = pylon.TlFactory.GetInstance().CreateTl("BaslerCamEmu")
    opened: list[CameraWithLens] = []

    def make(device: Any) -> CameraWithLens:
        opened[:] = [CameraWithLens(genicam, pylon.InstantCamera(device), lens)]
        return opened[-1]

    shown = ModuleType("pypylon.pylon")
    shown.__dict__.update({n: getattr(pylon, n) for n in dir(pylon) if not n.startswith("__")})
    shown.InstantCamera, shown.opened = make, opened
    shown.TlFactory = SimpleNamespace(GetInstance=lambda: emulator)
    return shown
