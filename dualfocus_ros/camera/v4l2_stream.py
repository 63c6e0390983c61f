# SPDX-License-Identifier: Apache-2.0
"""The buffers of a V4L2 capture stream, and what their stamps say about the exposure.

What a stamp means (kernel documentation, "Buffers": timestamp sources; uvcvideo: uvc_video.c):

- SOE, start of exposure: the first row began to be exposed then.
- EOF, end of frame: the last row had been read out then, and so its exposure was over.
- uvcvideo marks its stamps SOE, but without its option hwtimestamps (off by default) they are the arrival of the
  first packet. The first row was exposed before that; whether the camera sends while it reads out rows, or only
  after all of them, cannot be told: both are covered.
- Clocks other than CLOCK_MONOTONIC, and stamps that cannot be, are replaced by the arrival: the frame took up to a
  period to be sent, and waited up to another to be taken.

A rolling shutter takes at most a frame period from the first row to the last; less is not known.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualfocus_ros.camera.v4l2_node import Node, telling
from dualfocus_ros.errors import CameraError, DeviceError

StampSource = Literal["start of exposure", "end of frame", "first packet", "arrival"]

BUFFERS = 4
MIN_BUFFERS = 2
# A stamp older than this is of another clock, whatever its flags say.
MAX_AGE_S = 10.0
HW_TIMESTAMPS = Path("/sys/module/uvcvideo/parameters/hwtimestamps")


@dataclass(frozen=True)
class Filled:
    """A buffer that the camera has filled; `stamp_s` is CLOCK_MONOTONIC."""

    index: int
    used: int
    sequence: int
    damaged: bool
    stamp_s: float
    source: StampSource


def exposure_of(filled: Filled, exposure_s: float, period_s: float) -> tuple[float, float]:
    """Return when the first row began and the last row ended to be exposed, at the widest, seconds.

    Args:
        filled: the buffer.
        exposure_s: exposure time of a row.
        period_s: frame period, the bound of the readout.
    """
    stamp = filled.stamp_s
    if filled.source == "start of exposure":
        return stamp, stamp + exposure_s + period_s
    if filled.source == "first packet":
        return stamp - period_s - exposure_s, stamp + period_s
    sent_s = 2.0 * period_s if filled.source == "arrival" else 0.0
    return stamp - sent_s - period_s - exposure_s, stamp


class Stream:
    """Buffers that are mapped and queued, and a camera that fills them. Closing stops and frees all."""

    def __init__(self, node: Node, driver: str) -> None:
        """Allocate the buffers and start the camera.

        Args:
            node: of a capture device with its format set.
            driver: name of the kernel driver, as v4l2_capability tells.

        Raises:
            CameraError: if the driver cannot stream into mapped memory.
            DeviceError: if the camera is used by another program, or lost.
        """
        self._node = node
        self._raw = node.raw
        self._maps: list[mmap.mmap] = []
        self._on = False
        self._allocated = False
        self._soe: StampSource = "start of exposure"
        if driver == "uvcvideo" and not _hardware_stamps():
            self._soe = "first packet"
        try:
            with telling(node.path, "allocate buffers"):
                self._allocate()
            with telling(node.path, "start the stream"):
                node.call("STREAMON", self._type())
            self._on = True
        except BaseException:
            self.close()
            raise

    @property
    def buffers(self) -> int:
        """How many buffers there are."""
        return len(self._maps)

    def data(self, filled: Filled) -> mmap.mmap:
        """Return the memory of a buffer: the camera writes into it again once it was given back."""
        return self._maps[filled.index]

    def filled(self) -> list[Filled]:
        """Take all buffers that are ready, oldest first, without waiting.

        Raises:
            DeviceError: if the device is lost.
        """
        taken: list[Filled] = []
        with telling(self._node.path, "take a frame"):
            while len(taken) < len(self._maps):
                try:
                    b = self._node.call("DQBUF", self._buffer(0))
                except BlockingIOError:
                    break
                taken.append(self._told(b))
        return taken

    def give_back(self, filled: Filled) -> None:
        """Queue a buffer anew.

        Raises:
            DeviceError: if the device is lost.
        """
        with telling(self._node.path, "give a buffer back"):
            self._node.call("QBUF", self._buffer(filled.index))

    def close(self) -> None:
        """Stop the camera and free the buffers, as far as the device is still there."""
        if self._on:
            self._on = False
            with suppress(OSError):
                self._node.call("STREAMOFF", self._type())
        # Before the buffers are freed: kernels before 4.20 refuse to free mapped ones.
        while self._maps:
            self._maps.pop().close()
        if self._allocated:
            self._allocated = False
            with suppress(OSError):
                self._request(0)

    def _allocate(self) -> None:
        got = self._request(BUFFERS)
        self._allocated = True
        if got < MIN_BUFFERS:
            raise DeviceError(f"{self._node.path}: expected {BUFFERS} buffers, got {got}: memory is short")
        for index in range(got):
            b = self._node.call("QUERYBUF", self._buffer(index))
            self._maps.append(mmap.mmap(self._node.fd, b.length, offset=b.m.offset))
            self._node.call("QBUF", self._buffer(index))

    def _request(self, count: int) -> int:
        raw = self._raw
        asked = raw.v4l2_requestbuffers(
            count=count, type=int(raw.BufType.VIDEO_CAPTURE), memory=int(raw.Memory.MMAP)
        )
        return int(self._node.call("REQBUFS", asked).count)

    def _type(self) -> Any:
        return ctypes.c_int(int(self._raw.BufType.VIDEO_CAPTURE))

    def _buffer(self, index: int) -> Any:
        raw = self._raw
        return raw.v4l2_buffer(index=index, type=int(raw.BufType.VIDEO_CAPTURE), memory=int(raw.Memory.MMAP))

    def _told(self, b: Any) -> Filled:
        flags, now = self._raw.BufferFlag, time.monotonic()
        stamp = b.timestamp.secs + b.timestamp.usecs * 1e-6
        source: StampSource = "end of frame"
        if b.flags & flags.TSTAMP_SRC_MASK == flags.TSTAMP_SRC_SOE:
            source = self._soe
        monotonic = b.flags & flags.TIMESTAMP_MASK == flags.TIMESTAMP_MONOTONIC
        if not monotonic or not now - MAX_AGE_S < stamp <= now:
            stamp, source = now, "arrival"
        damaged = bool(b.flags & flags.ERROR)
        return Filled(int(b.index), int(b.bytesused), int(b.sequence), damaged, stamp, source)


class LossCounter:
    """Counts the frames that a camera or its bus lost, by the gaps in their sequence numbers."""

    def __init__(self) -> None:
        """Start with none lost."""
        self.lost = 0
        self._last: int | None = None

    def saw(self, sequence: int) -> None:
        """Count the gap before this frame; drivers that do not number frames have none."""
        if self._last is not None:
            # Unsigned 32 bits, and it may start anew.
            gap = (sequence - self._last) % (1 << 32)
            if 1 < gap < 1 << 31:
                self.lost += gap - 1
        self._last = sequence


def capture_capability(node: Node, find_other: Callable[[str], str]) -> Any:
    """Return the v4l2_capability of a node after checking that it gives images.

    Args:
        node: the node.
        find_other: returns what to say of other nodes of the same card.

    Raises:
        CameraError: if it does not; the message names a node that may.
        DeviceError: if it is lost.
    """
    caps = node.raw.Capability
    with telling(node.path, "ask what the device is"):
        told = node.capability()
    if told.device_caps & caps.VIDEO_CAPTURE and told.device_caps & caps.STREAMING:
        return told
    card = told.card.decode(errors="replace")
    if told.device_caps & (caps.VIDEO_CAPTURE_MPLANE | caps.VIDEO_M2M_MPLANE):
        raise CameraError(
            f"{node.path} ({card}): expected a camera with the single-planar interface, it has only the "
            "multi-planar one: use libcamera for it"
        )
    raise CameraError(
        f"{node.path} ({card}): expected a device that captures images, this one does not{find_other(node.path)}"
    )


def _hardware_stamps() -> bool:
    try:
        return HW_TIMESTAMPS.read_text().strip() not in ("0", "N")
    except OSError:
        return False
