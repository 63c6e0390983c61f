# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the kernel's V4L2, at the ioctls, with the real structs: no camera is needed.

    camera = FakeCamera(render=lambda shot: ...)      # v4l2_stand_in_camera tells what can be set
    config = V4l2Config(width=64, height=48, rate_hz=200.0, auto_time_s=0.0)
    with FakeV4l2(camera) as v4l2:
        with V4l2Device(config) as device:            # or a whole node, in this process
            v4l2.unplug()    # every file descriptor is dead from now on, new ones cannot be had
            v4l2.plug()      # the camera is back, powered up anew
        assert v4l2.open_fds() == 0 and v4l2.mappings() == 0

While installed it answers os.open, fcntl.ioctl and select.poll for its own nodes and hands everything else on;
mmap and close are the real ones, since a node is a memfd. It works across threads of this process. Wrong orders of
calls get the errno of the kernel (vb2, uvcvideo), as far as a driver can run into them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any
from unittest import mock

import linuxpy.video.raw as raw
from v4l2_stand_in_camera import FakeCamera
from v4l2_stand_in_ioctls import NAME, Handle, Ioctls, fail

_NAMES = {int(r): r.name for r in raw.IOC if not r.name.startswith("SUBDEV")}


class FakeV4l2(Ioctls):
    """One camera and its nodes.

    Attributes:
        camera: what is behind the nodes.
        calls: all calls in order: OPEN path, and ioctls by name; control ioctls with key and value.
        errors: errno that an ioctl (or OPEN) fails with, by name.
        busy: how many times writing a control fails with EBUSY, by key.
        padding: bytes after each row.
        buffers: the most that REQBUFS gives.
    """

    def __init__(
        self, camera: FakeCamera, path: str = "/dev/video0", meta_path: str = "", lens_path: str = ""
    ) -> None:
        self.camera = camera
        self.path, self.meta_path, self.lens_path = path, meta_path, lens_path
        self.calls: list[str] = []
        self.errors: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.padding, self.buffers = 0, 8
        self.plugged, self.stalled_at_s = True, float("inf")
        self._lock = threading.RLock()
        self.handles: dict[int, Handle] = {}
        self._counts: Counter[str] = Counter()
        self._unplug_at: tuple[str, int] = ("", 0)
        self._real = (os.open, fcntl.ioctl, select.poll)
        self._patches = [
            mock.patch.object(os, "open", self._open),
            mock.patch.object(fcntl, "ioctl", self._ioctl),
            mock.patch.object(select, "poll", lambda: _Poll(self, self._real[2]())),
        ]

    def __enter__(self) -> FakeV4l2:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for patch in reversed(self._patches):
            patch.stop()

    def unplug(self) -> None:
        """Pull the camera out: all calls on open file descriptors fail with ENODEV, polling tells an error."""
        with self._lock:
            self.plugged = False
            for handle in self.handles.values():
                handle.alive = handle.streaming = False

    def plug(self) -> None:
        """Plug it in again, powered up anew."""
        with self._lock:
            self._unplug_at = ("", 0)
            self.camera.power_up()
            self.plugged, self.stalled_at_s = True, float("inf")

    def unplug_at(self, call: str, nth: int = 1) -> None:
        """Pull it out just before the nth call from now of that name (an ioctl without VIDIOC_, or OPEN)."""
        self._counts.clear()
        self._unplug_at = (call, nth)

    def stall(self) -> None:
        """Let no more frames come."""
        self.stalled_at_s = time.monotonic()

    def open_fds(self) -> int:
        """Return how many file descriptors of nodes are open, those that mappings hold included."""
        return sum(NAME in link for link in map(_link, os.listdir("/proc/self/fd")))

    def owns(self, fd: int) -> bool:
        handle = self.handles.get(fd)
        return handle is not None and handle.is_open()

    def poll_events(self, fd: int) -> int:
        """Return what poll tells of a node now."""
        with self._lock:
            handle = self.handles[fd]
            if not handle.alive:
                return select.POLLERR | select.POLLHUP
            self.advance(handle)
            if not handle.streaming:
                return select.POLLERR
            return select.POLLIN if handle.done else 0

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        own = [p for p in (self.path, self.meta_path, self.lens_path) if p]
        if not isinstance(path, str) or path not in own:
            return self._real[0](path, flags, *rest, **named)
        with self._lock:
            self._count("OPEN", f"OPEN {path}")
            if not self.plugged:
                fail(errno.ENOENT)
            handle = Handle(path)
            self.handles[handle.fd] = handle
            return handle.fd

    def _ioctl(self, fd: Any, request: int, argument: Any = 0, *rest: Any) -> int:
        number = fd if isinstance(fd, int) else fd.fileno()
        if not self.owns(number):
            return self._real[1](fd, request, argument, *rest)
        name = _NAMES[int(request)]
        size = (int(request) >> 16) & 0x3FFF
        if ctypes.sizeof(argument) != size:
            raise AssertionError(f"{name}: expected a struct of {size} bytes, got {ctypes.sizeof(argument)}")
        with self._lock:
            handle = self.handles[number]
            self.advance(handle)
            self._count(name, name)
            if not handle.alive:
                fail(errno.ENODEV)
            answer = getattr(self, f"_{name.lower()}", None)
            of_lens = handle.path == self.lens_path
            if answer is None or (of_lens and "CTRL" not in name and "MENU" not in name):
                fail(errno.ENOTTY)
            answer(handle, argument)
        return 0

    def _count(self, name: str, logged: str) -> None:
        self.calls.append(logged)
        self._counts[name] += 1
        if self._unplug_at == (name, self._counts[name]):
            self.unplug()
        if name in self.errors:
            fail(self.errors[name])


class _Poll:
    """select.poll that knows the nodes of the stand-in too."""

    def __init__(self, fake: FakeV4l2, real: Any) -> None:
        self._fake, self._real, self._own = fake, real, set()

    def register(self, fd: Any, mask: int = select.POLLIN) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        if self._fake.owns(number):
            self._own.add(number)
        else:
            self._real.register(fd, mask)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        until = float("inf") if timeout is None or timeout < 0 else time.monotonic() + timeout * 1e-3
        while True:
            events = [(fd, what) for fd in self._own if (what := self._fake.poll_events(fd))]
            left_ms = (until - time.monotonic()) * 1e3
            # Sleeps, too, unless something is ready.
            events += self._real.poll(0 if events or left_ms <= 0 else 1)
            if events or left_ms <= 0:
                return events


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
