# SPDX-License-Identifier: Apache-2.0
"""What the ioctls of `v4l2_stand_in` do: each method fills in the real struct, or fails as the kernel does."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import linuxpy.video.raw as raw
from v4l2_stand_in_camera import FakeCamera, FakeControl, encode, row_bytes_of

NAME = "fake-v4l2"
_IDS = {int(c): c.name for c in raw.ControlID}


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


class Handle:
    """An open file descriptor; alive until its device is unplugged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino
        self.alive, self.streaming = True, False
        self.length, self.stride = 0, 0
        self.states: list[str] = []  # of the buffers: out, queued, done
        self.queue: list[int] = []
        self.done: list[tuple[int, int, int, float, int]] = []  # index, used, sequence, stamp, flags
        self.started_s, self.next, self.frames = 0.0, 0, 0

    def is_open(self) -> bool:
        try:
            return os.fstat(self.fd).st_ino == self.inode
        except OSError:
            return False


class Ioctls:
    """The calls of one camera; `FakeV4l2` finds them by name and holds the lock."""

    camera: FakeCamera
    path: str
    meta_path: str
    lens_path: str
    padding: int
    buffers: int
    busy: dict[str, int]
    calls: list[str]
    stalled_at_s: float
    handles: dict[int, Handle]

    def mappings(self) -> int:
        """Return how many mappings of buffers there are."""
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return sum(NAME in line for line in maps)

    # What there is

    def _querycap(self, handle: Handle, c: Any) -> None:
        caps = raw.Capability
        meta = handle.path == self.meta_path
        c.driver, c.card, c.bus_info = self.camera.driver.encode(), self.camera.card.encode(), b"usb-fake"
        c.device_caps = caps.STREAMING | (caps.META_CAPTURE if meta else caps.VIDEO_CAPTURE)
        # Those of the whole card: a metadata node is told by device_caps only.
        c.capabilities = caps.STREAMING | caps.META_CAPTURE | caps.VIDEO_CAPTURE | caps.DEVICE_CAPS

    def _enum_fmt(self, handle: Handle, f: Any) -> None:
        f.pixelformat = _code(_nth(list(self.camera.formats), f.index))

    def _enum_framesizes(self, handle: Handle, s: Any) -> None:
        s.type = raw.Frmsizetypes.DISCRETE
        sizes = self.camera.formats.get(_name(s.pixel_format), {})
        s.discrete.width, s.discrete.height = _nth(list(sizes), s.index)

    def _enum_frameintervals(self, handle: Handle, i: Any) -> None:
        rates = self.camera.formats.get(_name(i.pixel_format), {}).get((i.width, i.height), ())
        i.type = raw.Frmivaltypes.DISCRETE
        i.discrete.numerator, i.discrete.denominator = 1000, round(1000 * _nth(list(rates), i.index))

    def _s_fmt(self, handle: Handle, f: Any) -> None:
        self._only_capture(f.type)
        if handle.states or self._other_streams(handle):
            fail(errno.EBUSY)
        pix, camera = f.fmt.pix, self.camera
        name = _name(pix.pixelformat)
        if name not in camera.formats:
            name = next(iter(camera.formats))
        sizes = list(camera.formats[name])
        size = (pix.width, pix.height)
        camera.pixel_format, camera.size = name, size if size in sizes else sizes[0]
        pix.width, pix.height = camera.size
        pix.pixelformat, pix.field = _code(name), int(raw.Field.NONE)
        tight = row_bytes_of(name, pix.width)
        pix.bytesperline = tight + self.padding if tight else 0
        pix.sizeimage = max(pix.bytesperline, 4 * pix.width) * pix.height * 2
        handle.length = pix.sizeimage

    def _s_parm(self, handle: Handle, p: Any) -> None:
        if handle.states:
            fail(errno.EBUSY)
        every, camera = p.parm.capture.timeperframe, self.camera
        rates = camera.formats[camera.pixel_format][camera.size]
        asked = every.denominator / every.numerator
        camera.rate_hz = min(rates, key=lambda hz: abs(hz - asked))
        every.numerator, every.denominator = 1000, round(1000 * camera.rate_hz)

    # Controls

    def _controls(self, handle: Handle) -> dict[str, FakeControl]:
        return (self.camera.lens_controls or {}) if handle.path == self.lens_path else self.camera.controls

    def _control(self, handle: Handle, number: int) -> FakeControl:
        control = self._controls(handle).get(_IDS.get(number, ""))
        if control is None:
            fail(errno.EINVAL)
        return control

    def _queryctrl(self, handle: Handle, q: Any) -> None:
        c = self._control(handle, q.id)
        q.type, q.name, q.default_value = int(raw.CtrlType[c.kind]), c.name.encode(), c.default
        q.minimum, q.maximum, q.step = c.minimum, c.maximum, c.step
        q.flags = 0 if self.camera.is_active(c) else raw.ControlFlag.INACTIVE

    _query_ext_ctrl = _queryctrl

    def _querymenu(self, handle: Handle, m: Any) -> None:
        c = self._control(handle, m.id)
        if m.index not in c.menu:
            fail(errno.EINVAL)
        m.name = f"{c.name} {m.index}".encode()

    def _g_ctrl(self, handle: Handle, g: Any) -> None:
        g.value = self._control(handle, g.id).value

    def _s_ctrl(self, handle: Handle, s: Any) -> None:
        c = self._control(handle, s.id)
        self.calls[-1] = f"S_CTRL {c.key}={s.value}"
        if self.busy.get(c.key, 0) > 0:
            self.busy[c.key] -= 1
            fail(errno.EBUSY)
        if not self.camera.is_active(c):
            if self.camera.inactive == "ignored":
                return
            fail(getattr(errno, self.camera.inactive))
        if c.kind == "MENU" and s.value not in c.menu:
            fail(errno.EINVAL)
        if c.kind == "BOOLEAN" and s.value not in (0, 1):
            fail(errno.ERANGE)
        # As uvcvideo: into the range, and onto a step.
        s.value = min(max(s.value, c.minimum), c.maximum)
        s.value = c.minimum + (s.value - c.minimum) // c.step * c.step
        self.camera.write(c, s.value, handle.frames > 0, handle.path == self.lens_path)

    def _g_ext_ctrls(self, handle: Handle, many: Any) -> None:
        for i in range(many.count):
            many.controls[i].value = self._control(handle, many.controls[i].id).value

    def _s_ext_ctrls(self, handle: Handle, many: Any) -> None:
        for i in range(many.count):
            many.error_idx = i
            self._s_ctrl(handle, many.controls[i])

    # Buffers

    def _reqbufs(self, handle: Handle, r: Any) -> None:
        self._only_capture(r.type)
        if r.memory != raw.Memory.MMAP:
            fail(errno.EINVAL)
        # Kernels before 4.20 do not free buffers that are mapped.
        if handle.streaming or self._other_streams(handle) or (handle.states and self.mappings()):
            fail(errno.EBUSY)
        r.count = min(r.count, self.buffers)
        handle.states, handle.queue, handle.done = ["out"] * r.count, [], []
        if r.count and not handle.length:
            fail(errno.EINVAL)
        handle.stride = -(-handle.length // 4096) * 4096
        os.ftruncate(handle.fd, handle.stride * r.count)

    def _buffer_of(self, handle: Handle, b: Any) -> int:
        if b.type != raw.BufType.VIDEO_CAPTURE or b.memory != raw.Memory.MMAP or b.index >= len(handle.states):
            fail(errno.EINVAL)
        return int(b.index)

    def _querybuf(self, handle: Handle, b: Any) -> None:
        b.m.offset, b.length = self._buffer_of(handle, b) * handle.stride, handle.length

    def _qbuf(self, handle: Handle, b: Any) -> None:
        index = self._buffer_of(handle, b)
        if handle.states[index] != "out":
            fail(errno.EINVAL)
        handle.states[index] = "queued"
        handle.queue.append(index)

    def _dqbuf(self, handle: Handle, b: Any) -> None:
        self._only_capture(b.type)
        if not handle.streaming:
            fail(errno.EINVAL)
        if not handle.done:
            fail(errno.EAGAIN)
        b.index, b.bytesused, b.sequence, stamp, b.flags = handle.done.pop(0)
        handle.states[b.index] = "out"
        b.timestamp.secs, b.timestamp.usecs = int(stamp), int(stamp % 1.0 * 1e6)

    def _streamon(self, handle: Handle, kind: Any) -> None:
        self._only_capture(kind.value)
        if not handle.states:
            fail(errno.EINVAL)
        if self._other_streams(handle):
            fail(errno.EBUSY)
        handle.streaming, handle.started_s, handle.next, handle.frames = True, time.monotonic(), 0, 0

    def _streamoff(self, handle: Handle, kind: Any) -> None:
        self._only_capture(kind.value)
        handle.streaming, handle.queue, handle.done = False, [], []
        handle.states = ["out"] * len(handle.states)

    def _only_capture(self, kind: int) -> None:
        if kind != raw.BufType.VIDEO_CAPTURE:
            fail(errno.EINVAL)

    def _other_streams(self, handle: Handle) -> bool:
        # A file descriptor that was closed gives up its stream.
        return any(h.streaming and h is not handle and h.is_open() for h in self.handles.values())

    def advance(self, handle: Handle) -> None:
        """Deliver the frames that are done by now: a frame is exposed, read out and sent in two periods."""
        camera, now = self.camera, min(time.monotonic(), self.stalled_at_s)
        while handle.streaming:
            period = 1.0 / camera.rate_hz
            shot = camera.shoot(handle.next, handle.started_s + handle.next * period)
            if shot.end_s + 0.3 * period + camera.delay_s(handle.next) > now:
                return
            fate = camera.fate(handle.next)
            handle.next += 1
            camera.run_automatics()
            if fate == "lost" or not handle.queue:
                continue
            index = handle.queue.pop(0)
            image = camera.render(shot)
            data = _harmed(encode(image, camera.pixel_format, self._row_bytes()), fate)
            os.pwrite(handle.fd, data, index * handle.stride)
            flags = 0 if camera.stamps == "unknown" else int(raw.BufferFlag.TIMESTAMP_MONOTONIC)
            flags |= 0 if camera.stamps == "eof" else int(raw.BufferFlag.TSTAMP_SRC_SOE)
            flags |= int(raw.BufferFlag.ERROR) if fate == "error" else 0
            handle.done.append((index, len(data), shot.sequence, camera.stamp_s(shot), flags))
            handle.states[index] = "done"
            handle.frames += 1
            camera.shots[shot.sequence] = shot

    def _row_bytes(self) -> int:
        tight = row_bytes_of(self.camera.pixel_format, self.camera.size[0])
        return tight + self.padding if tight else 0


def _harmed(data: bytes, fate: str) -> bytes:
    return {
        "truncated": data[: len(data) // 2],
        "short": data[:-1],
        "garbage": bytes(reversed(data)),
    }.get(fate, data)


def _nth(values: list[Any], index: int) -> Any:
    if index >= len(values):
        fail(errno.EINVAL)
    return values[index]


def _code(name: str) -> int:
    return int(raw.v4l2_fourcc(*name.ljust(4)))


def _name(code: int) -> str:
    return code.to_bytes(4, "little").decode("ascii").rstrip()
