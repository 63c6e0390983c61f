# SPDX-License-Identifier: Apache-2.0
"""The features of a GenICam camera by name: read, changed, and put back as they were.

Names and meanings are those of the GenICam Standard Features Naming Convention (SFNC 2.7.1); where cameras from
before it differ, several names are tried. What a camera lacks is None here: pypylon up to 4 raises for it, later
ones return a placeholder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.camera.device import ActuatorRange
from dualfocus_ros.errors import CameraError, DeviceError

Value = float | int | str | bool
# Values that limit each other (offset and width) need more than one pass to be put back.
RESTORE_PASSES = 3
# A camera that answers slowly, or not any more, must not keep the program from ending.
RESTORE_S = 5.0
# GenApi's EAccessMode.
_NOT_IMPLEMENTED, _READABLE, _WRITABLE = 0, (3, 4), (2, 4)


@dataclass(frozen=True)
class _Saved:
    """What a feature was, for one entry of its selector where it has one."""

    name: str
    value: Value
    selector: tuple[str, str] | None


class Nodes:
    """The features of one open camera. One thread uses it.

    Attributes:
        notes: what the camera refused, sentences for people.
    """

    def __init__(self, node_map: Any, genicam: Any, camera: str, removed: Callable[[], bool]) -> None:
        """Take the node map of a camera.

        Args:
            node_map: of pypylon.
            genicam: the module pypylon.genicam.
            camera: what to call the camera in errors.
            removed: says whether the camera was unplugged.
        """
        self.notes: list[str] = []
        self._map, self._genicam, self._camera, self._removed = node_map, genicam, camera, removed
        self._saved: list[_Saved] = []
        refusals = ("Access", "OutOfRange", "InvalidArgument", "LogicalError", "Property", "DynamicCast")
        self._refusals = tuple(getattr(genicam, f"{name}Exception") for name in refusals)

    def failure(self, doing: str, error: BaseException) -> DeviceError:
        """Return the error that tells what went wrong, and with which camera."""
        # What follows names files of the library.
        text = str(error).split(" : ")[0]
        what = "it was unplugged" if self._removed() else text
        return DeviceError(f"{self._camera}: cannot {doing}: {what}")

    def has(self, name: str) -> bool:
        """Say whether the camera has this feature, usable or not at the moment."""
        return self._access(self._find(name)) != _NOT_IMPLEMENTED

    def writable(self, name: str) -> bool:
        """Say whether the feature can be written now."""
        return self._access(self._find(name)) in _WRITABLE

    def first(self, *names: str) -> str | None:
        """Return the first of these features that can be read; None: none of them."""
        return next((name for name in names if self.read(name) is not None), None)

    def read(self, name: str) -> Any:
        """Return the value of a feature, None where there is none that can be read.

        Raises:
            DeviceError: if the camera is lost.
        """
        node = self._find(name)
        if self._access(node) not in _READABLE:
            return None
        return self._try(f"read {name}", node.GetValue)

    def unit(self, name: str) -> str:
        """Return the unit of a feature, empty where it has none."""
        get = getattr(self._find(name), "GetUnit", None)
        return str((get and self._try(f"read the unit of {name}", get)) or "")

    def limits(self, name: str) -> ActuatorRange | None:
        """Return range and increment of a number; None where there is none, or it can take one value only."""
        node = self._find(name)
        if self._access(node) not in _READABLE or not hasattr(node, "GetMin"):
            return None
        low, high = (self._try(f"read the range of {name}", get) for get in (node.GetMin, node.GetMax))
        if low is None or high is None or not low < high:
            return None
        step = 0.0
        if not hasattr(node, "HasInc") or self._try(f"read the increment of {name}", node.HasInc):
            step = self._try(f"read the increment of {name}", node.GetInc) or 0.0
        return ActuatorRange(float(low), float(high), min(float(step), float(high - low)))

    def entries(self, name: str) -> tuple[str, ...]:
        """Return the entries of an enumeration that can be chosen now; empty where there is no such feature."""
        node = self._find(name)
        if self._access(node) not in _READABLE:
            return ()
        names = self._try(f"read the entries of {name}", node.GetSymbolics) or ()
        return tuple(n for n in names if self._access(node.GetEntryByName(n)) in _READABLE)

    def remember(self, name: str, selector: tuple[str, str] | None = None) -> None:
        """Have `restore` bring back what this feature is now."""
        if any((s.name, s.selector) == (name, selector) for s in self._saved):
            return
        value = self.read(name)
        if value is not None:
            self._saved.append(_Saved(name, value, selector))

    def set(self, name: str, value: Value, selector: tuple[str, str] | None = None) -> bool:
        """Set a feature, and say whether the camera took it; what it was is remembered.

        Raises:
            DeviceError: if the camera is lost.
        """
        if self.read(name) == value:
            return True
        if not self.writable(name):
            return False
        self.remember(name, selector)
        return self.write(name, value)

    def set_nearest(self, name: str, value: float, selector: tuple[str, str] | None = None) -> bool:
        """Set a number as near as the feature allows, and say whether the camera took it."""
        limits = self.limits(name)
        if limits is None:
            return False
        nearest = limits.nearest(value)
        whole = isinstance(self.read(name), int)
        return self.set(name, round(nearest) if whole else nearest, selector)

    def write(self, name: str, value: Value) -> bool:
        """Set a feature without remembering what it was; say whether the camera took it.

        Raises:
            DeviceError: if the camera is lost.
        """
        node = self._find(name)
        if node is None:
            return False
        refused: list[str] = []
        self._try(f"set {name} to {value}", lambda: node.SetValue(value), refused)
        return not refused

    def execute(self, name: str) -> bool:
        """Execute a command, and say whether the camera took it.

        Raises:
            DeviceError: if the camera is lost.
        """
        node = self._find(name)
        if self._access(node) not in _WRITABLE:
            return False
        refused: list[str] = []
        self._try(f"execute {name}", node.Execute, refused)
        return not refused

    @contextmanager
    def selected(self, selector: str, entry: str) -> Iterator[None]:
        """Select an entry for the time of a block."""
        before = self.read(selector)
        self.write(selector, entry)
        try:
            yield
        finally:
            if before is not None and before != entry:
                self.write(selector, before)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def restore(self) -> None:
        """Put everything back that was changed, as far as the camera is there. Raises nothing."""
        saved, self._saved = self._saved, []
        until = time.monotonic() + RESTORE_S
        for _ in range(RESTORE_PASSES):
            left: list[_Saved] = []
            for s in saved:
                if self._removed() or time.monotonic() > until:
                    return
                done = False
                with suppress(CameraError):
                    done = self._put_back(s)
                left += [] if done else [s]
            if not left:
                return

    def _put_back(self, saved: _Saved) -> bool:
        if saved.selector is None:
            return self.read(saved.name) == saved.value or self.write(saved.name, saved.value)
        with self.selected(*saved.selector):
            return self.read(saved.name) == saved.value or self.write(saved.name, saved.value)

    def _find(self, name: str) -> Any:
        return self._try(f"find {name}", lambda: self._map.GetNode(name))

    def _access(self, node: Any) -> int:
        mode = None if node is None else self._try("ask what can be done", node.GetAccessMode)
        return _NOT_IMPLEMENTED if mode is None else int(mode)

    def _try(self, doing: str, call: Callable[[], Any], refused: list[str] | None = None) -> Any:
        """Return what the call returns, None where the camera refuses it; raise DeviceError where it fails."""
        try:
            return call()
        except self._refusals as error:
            if self._removed():
                raise self.failure(doing, error) from error
            if refused is not None:
                refused.append(str(error))
            return None
        except self._genicam.GenericException as error:
            raise self.failure(doing, error) from error
