# SPDX-License-Identifier: Apache-2.0
"""Which V4L2 devices there are, and whether their lens can be moved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dualfocus_ros.camera.v4l2_node import Control, Node
from dualfocus_ros.errors import CameraError

DEV = Path("/dev")
SYS_CLASS = Path("/sys/class/video4linux")


@dataclass(frozen=True)
class FoundDevice:
    """A V4L2 node that captures images or has a focus control.

    Attributes:
        path: of the device node.
        card: name of the camera; of a sub-device, what /sys calls it.
        captures: whether it gives images.
        focus: range and step of its focus control; None: its lens cannot be moved by this node.
        problem: why it could not be opened; empty: it could.
    """

    path: str
    card: str
    captures: bool
    focus: tuple[int, int, int] | None
    problem: str = ""


def find_devices() -> list[FoundDevice]:
    """Return the cameras (/dev/video*) and the lenses (/dev/v4l-subdev*) of this computer.

    Raises:
        CameraError: if linuxpy is not installed.
    """
    paths = [*sorted(DEV.glob("video*"), key=_number), *sorted(DEV.glob("v4l-subdev*"), key=_number)]
    found = [_look_at(str(path)) for path in paths]
    return [f for f in found if f.captures or f.focus is not None or f.problem]


def other_nodes(path: str) -> str:
    """Return what to say of the nodes of the same card that capture images, ready to end a sentence with."""
    name = Path(os.path.realpath(path)).name
    nodes = sorted((SYS_CLASS / name / "device" / "video4linux").glob("video*"), key=_number)
    others = [str(DEV / node.name) for node in nodes if node.name != name]
    capturing = [other for other in others if _look_at(other).captures]
    if capturing or others:
        return f": try device {' or '.join(capturing or others)}"
    return ": `v4l2-ctl --list-devices` shows the others"


def _look_at(path: str) -> FoundDevice:
    name = Path(path).name
    card = _sys_name(name)
    try:
        node = Node(path)
    except CameraError as error:
        return FoundDevice(path, card, False, None, str(error))
    try:
        captures = False
        if not name.startswith("v4l-subdev"):
            told = node.capability()
            card = told.card.decode(errors="replace")
            captures = bool(told.device_caps & node.raw.Capability.VIDEO_CAPTURE)
        focus = node.control("FOCUS_ABSOLUTE")
        return FoundDevice(path, card, captures, _range(focus))
    except OSError as error:
        return FoundDevice(path, card, False, None, str(error))
    finally:
        node.close()


def _range(focus: Control | None) -> tuple[int, int, int] | None:
    return None if focus is None else (focus.minimum, focus.maximum, focus.step)


def _sys_name(name: str) -> str:
    try:
        return (SYS_CLASS / name / "name").read_text().strip()
    except OSError:
        return name


def _number(path: Path) -> int:
    digits = "".join(c for c in path.name if c.isdigit())
    return int(digits) if digits else -1
