# SPDX-License-Identifier: Apache-2.0
"""An open V4L2 device node: its ioctls, its controls, and what their errors mean to somebody with a camera.

The structs and request numbers are those of PyPI linuxpy (`linuxpy.video.raw`), imported when a device is opened.
Facts are of the kernel's "Video for Linux API" (userspace-api/media/v4l) unless another source is named.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.errors import CameraError, DeviceError

# A device that was pulled out, or a bus that gave up on it: nothing more will come of this file descriptor.
LOST = frozenset(
    {errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.EPROTO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EBADF}
)
# uvcvideo says EBUSY while the camera still works on the control before; that takes milliseconds.
BUSY_TIME_S = 0.2
# udev gives a new node to the group video a moment after the kernel made it.
NEW_NODE_S = 3.0


def load_raw() -> Any:
    """Return linuxpy's module of structs.

    Raises:
        CameraError: if linuxpy is not installed.
    """
    try:
        return importlib.import_module("linuxpy.video.raw")
    except ImportError as error:
        raise CameraError("the v4l2 camera needs the Python package linuxpy: pip install linuxpy") from error


def failure(path: str, doing: str, error: OSError) -> CameraError:
    """Return the error that tells what an errno of a V4L2 call means, and what to do."""
    if error.errno == errno.EBUSY:
        return DeviceError(
            f"{path}: cannot {doing}: used by another program (`fuser -v {path}` names it); close that one"
        )
    if error.errno in LOST or error.errno == errno.EIO:
        return DeviceError(f"{path}: cannot {doing}: {error.strerror}; is the camera unplugged?")
    if error.errno == errno.ENOSPC:
        return DeviceError(
            f"{path}: cannot {doing}: not enough USB bandwidth; lower width, height or rate_hz, take pixel_format "
            "MJPG, or give the camera a USB port without another camera"
        )
    if error.errno == errno.ENOTTY:
        return CameraError(f"{path}: cannot {doing}: not a V4L2 device, or its driver cannot do that")
    return DeviceError(f"{path}: cannot {doing}: {error.strerror or error}")


@contextmanager
def telling(path: str, doing: str) -> Iterator[None]:
    """Turn an OSError inside into the CameraError or DeviceError that says what it means."""
    try:
        yield
    except OSError as error:
        raise failure(path, doing, error) from error


@dataclass(frozen=True)
class Control:
    """A control as the driver describes it: `name` is the one that the kernel in use has for `key`."""

    key: str
    id: int
    name: str
    minimum: int
    maximum: int
    step: int
    is_menu: bool
    writable: bool

    def nearest(self, value: float) -> int:
        """Return the value within range and on a step that is nearest."""
        inside = min(max(value, self.minimum), self.maximum)
        last = (self.maximum - self.minimum) // self.step
        return self.minimum + min(round((inside - self.minimum) / self.step), last) * self.step


class Node:
    """An open device node. Methods raise OSError as the ioctl does, unless they say otherwise."""

    def __init__(self, path: str) -> None:
        """Open the node.

        Raises:
            CameraError: if linuxpy is missing, or the user may not use the device.
            DeviceError: if the device is not there, or in use.
        """
        self.path = path
        self.raw = load_raw()
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _failure_to_open(path, error) from error

    def close(self) -> None:
        """Close it; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def call(self, request: str, argument: Any) -> Any:
        """Do the ioctl VIDIOC_`request`; return the argument, which it has filled in."""
        while True:
            try:
                fcntl.ioctl(self.fd, self.raw.IOC[request], argument)
                return argument
            except InterruptedError:
                continue

    def capability(self) -> Any:
        """Return a v4l2_capability whose `device_caps` are those of this very node."""
        told = self.call("QUERYCAP", self.raw.v4l2_capability())
        if not told.capabilities & self.raw.Capability.DEVICE_CAPS:
            told.device_caps = told.capabilities
        return told

    def control(self, key: str) -> Control | None:
        """Return the control that `linuxpy.video.raw.ControlID` calls `key`; None where there is none.

        By VIDIOC_QUERYCTRL, which every driver has: uvcvideo knows VIDIOC_QUERY_EXT_CTRL only in new kernels.
        """
        asked = self.raw.v4l2_queryctrl(id=int(self.raw.ControlID[key]))
        try:
            told = self.call("QUERYCTRL", asked)
        except OSError as error:
            if error.errno in LOST:
                raise
            # EINVAL: not there. EIO: cameras that list a control and then fail to describe it.
            return None
        flags = self.raw.ControlFlag
        if told.flags & flags.DISABLED:
            return None
        kinds = self.raw.CtrlType
        return Control(
            key,
            int(told.id),
            # As v4l2-ctl spells it: "Focus, Absolute" is focus_absolute.
            "_".join(
                "".join(c if c.isalnum() else " " for c in told.name.decode(errors="replace").lower()).split()
            ),
            int(told.minimum),
            int(told.maximum),
            max(1, int(told.step)),
            told.type in (kinds.MENU, kinds.INTEGER_MENU),
            not told.flags & (flags.READ_ONLY | flags.GRABBED),
        )

    def get(self, control: Control) -> int:
        """Return the value of a control."""
        return int(self.call("G_CTRL", self.raw.v4l2_control(id=control.id)).value)

    def set(self, control: Control, value: int) -> None:
        """Set a control; tries again while the camera is busy with the one before."""
        until = time.monotonic() + BUSY_TIME_S
        while True:
            try:
                self.call("S_CTRL", self.raw.v4l2_control(id=control.id, value=value))
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= until:
                    raise
            time.sleep(0.005)

    def choices(self, control: Control) -> tuple[int, ...]:
        """Return the values that a control takes: a menu has gaps."""
        if not control.is_menu:
            return tuple(range(control.minimum, control.maximum + 1, control.step))
        found = []
        for index in range(control.minimum, control.maximum + 1):
            try:
                self.call("QUERYMENU", self.raw.v4l2_querymenu(id=control.id, index=index))
            except OSError as error:
                if error.errno in LOST:
                    raise
                continue
            found.append(index)
        return tuple(found)


def node_age_s(path: str) -> float:
    """Return how long ago the node was made or changed owner, seconds; inf where it cannot be told."""
    try:
        return time.time() - os.stat(path).st_ctime
    except OSError:
        return float("inf")


def _failure_to_open(path: str, error: OSError) -> CameraError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DeviceError(f"{path}: no such device; is the camera plugged in? `ls /dev/video*` lists cameras")
    if error.errno in (errno.EACCES, errno.EPERM):
        if node_age_s(path) < NEW_NODE_S:
            return DeviceError(f"{path}: no permission yet: the device has just been plugged in")
        return CameraError(
            f"{path}: no permission: add the user to the group video (`sudo usermod -aG video $USER`), log in anew"
        )
    if error.errno == errno.EISDIR:
        return CameraError(f"{path}: expected a device such as /dev/video0, got a folder")
    return failure(path, "open the device", error)
