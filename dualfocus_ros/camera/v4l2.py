# SPDX-License-Identifier: Apache-2.0
"""Cameras with a lens that Linux moves: USB (UVC) cameras with a focus control, and lens drivers beside a sensor.

Needs PyPI linuxpy, imported when the device is opened.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig, DeviceFrame
from dualfocus_ros.camera.driver import Driver
from dualfocus_ros.camera.v4l2_controls import ControlKeeper
from dualfocus_ros.camera.v4l2_find import other_nodes
from dualfocus_ros.camera.v4l2_formats import PIXEL_FORMAT_CHOICES, SAME_RATE, Mode, image_of, negotiate
from dualfocus_ros.camera.v4l2_node import Control, Node, failure, telling
from dualfocus_ros.camera.v4l2_stream import Filled, LossCounter, Stream, capture_capability, exposure_of
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError

# USB cameras take up to two seconds from STREAMON to the first frame.
FIRST_FRAME_S = 5.0
# Frames that a camera may expose with the settings from before, after they were changed.
FRAMES_TO_APPLY = 3
# A frame period, where nothing tells it, is bounded by this.
MAX_PERIOD_S = 1.0
ARRIVAL_NOTE = "the driver's stamps are not of CLOCK_MONOTONIC: the arrival of frames is taken"


@dataclass(frozen=True)
class V4l2Config(DeviceConfig):
    """A camera of the Linux kernel."""

    device: str = setting(
        "/dev/video0", "Device of the camera; its link in /dev/v4l/by-id stays the same after replugging."
    )
    focus_device: str = setting(
        "", "Device of the lens where it has its own (VCM: /dev/v4l-subdev0); empty: the camera moves it."
    )
    pixel_format: str = setting(
        "auto",
        "Pixel format to capture; auto: the best uncompressed one that reaches size and rate, else MJPG.",
        choices=PIXEL_FORMAT_CHOICES,
    )

    def __post_init__(self) -> None:
        """Check ranges and choices; raise ParameterError."""
        super().__post_init__()
        if not self.device:
            raise ParameterError("expected device to name the camera, such as /dev/video0, got none")
        if self.pixel_format not in PIXEL_FORMAT_CHOICES:
            raise ParameterError(
                f"expected pixel_format to be one of {list(PIXEL_FORMAT_CHOICES)}, got {self.pixel_format!r}"
            )


class V4l2Device(Driver):
    """Implements `FocusDevice`. Positions are values of the control focus_absolute.

    V4L2 tells neither where the lens is nor whether it moves: `DeviceFrame.position` and `moving` are None.
    `DeviceFrame.exposure` is the widest that the stamp allows (see `v4l2_stream`): the exposure time is the
    control's, and where that is not known or not held, a frame period.

    Attributes:
        config: the settings.
        frames_damaged: frames since opening that came damaged and were dropped.
    """

    config: V4l2Config

    def __init__(self, config: V4l2Config) -> None:
        """Take the settings; the device is opened on entering."""
        self._lock = threading.Lock()  # of the file descriptor that wakes up
        self._wake_fd = -1
        super().__init__(config)

    def _reset(self) -> None:
        self._losses, self.frames_damaged = LossCounter(), 0
        self._node: Node | None = None
        self._lens_node: Node | None = None
        self._keeper: ControlKeeper | None = None
        self._stream: Stream | None = None
        self._mode: Mode | None = None
        self._focus: Control | None = None
        self._focus_before: int | None = None
        self._exposure_s: float | None = None
        self._period_s = self._measured_s = 0.0
        self._last: Filled | None = None

    @property
    def frames_lost(self) -> int:
        """Frames since opening that the camera or the bus lost, by gaps in their sequence."""
        return self._losses.lost

    @property
    def notes(self) -> tuple[str, ...]:
        """What the camera could not do, sentences for people; complete once the device is open."""
        return tuple(self._notes + (self._keeper.notes if self._keeper else []))

    def move_to(self, position: float) -> None:
        """Command a position of the focus control; returns when the camera has taken it, the lens then moves.

        Raises:
            LensError: if the position is not within the range.
            DeviceError: if the device is lost or refuses.
        """
        if self._focus is None or self._lens_node is None:
            raise self._not_open()
        self._check_position(position)
        value = self._focus.nearest(position)
        try:
            self._lens_node.set(self._focus, value)
        except OSError as error:
            raise failure(self._lens_node.path, f"set {self._focus.name} to {value}", error) from error

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the newest frame, waiting for one where none is ready; damaged ones are dropped.

        Raises:
            DeviceError: if none came within the time, the device is lost, or `interrupt` was called.
        """
        if self._stream is None or self._mode is None:
            raise self._not_open()
        until = time.monotonic() + timeout_s
        damaged = self.frames_damaged
        while self._wait(until):
            frame = self._newest(self._stream, self._mode)
            if frame is not None:
                return frame
            if time.monotonic() >= until:
                break
        damaged = self.frames_damaged - damaged
        came = (
            f"only {damaged} damaged ones; is the cable good?"
            if damaged
            else "is the camera stalled or unplugged?"
        )
        raise DeviceError(f"{self.config.device}: no frame within {timeout_s:g} s, {came}")

    def meter(self) -> bool:
        """Let the automatics find what the settings leave to them of exposure, gain and white balance; hold it.

        Raises:
            CameraError: if a given exposure or gain is out of the camera's range.
            DeviceError: if the device is lost, or `interrupt` was called.
        """
        keeper = self._keeper
        if keeper is None or self._stream is None:
            raise self._not_open()
        running = keeper.prepare()
        if running:
            self._let_settle()
        keeper.hold()
        self._exposure_s = keeper.exposure_s()
        self._skip(FRAMES_TO_APPLY)
        return running

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon."""
        super().interrupt()
        with self._lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    @property
    def _is_open(self) -> bool:
        return self._node is not None

    def _open(self) -> None:
        """Open the devices, start the stream, wait for a frame, take over the focus and hold the exposure."""
        try:
            self._start()
        except OSError as error:
            raise failure(self.config.device, "open the camera", error) from error

    def _start(self) -> None:
        c = self.config
        with self._lock:
            self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._node = node = Node(c.device)
        told = capture_capability(node, other_nodes)
        self._keeper = keeper = ControlKeeper(node, c.exposure_s, c.gain, c.hold_exposure)
        keeper.look()
        self._open_lens(node)
        self._mode = negotiate(node, c.pixel_format, c.width, c.height, c.rate_hz)
        self._take_rate(self._mode.rate_hz)
        self._stream = Stream(node, told.driver.decode(errors="replace"))
        # Cameras such as the Logitech C920 ignore focus commands before the stream runs.
        self.read(max(FIRST_FRAME_S, c.patience_s))
        self._take_focus(keeper)
        self.meter()
        if self._exposure_s is None:
            self._notes.append("the exposure time is not known: a frame period is taken as its bound")

    def _open_lens(self, camera: Node) -> None:
        path = self.config.focus_device
        self._lens_node = lens = Node(path) if path else camera
        with telling(lens.path, "read the focus control"):
            focus = lens.control("FOCUS_ABSOLUTE")
        if focus is None:
            raise CameraError(
                f"{lens.path}: no control focus_absolute, so V4L2 cannot move its lens; a lens motor (VCM) with a "
                "device of its own is named by focus_device (`ls /dev/v4l-subdev*`), else take another camera"
            )
        if not focus.writable or focus.maximum <= focus.minimum:
            raise CameraError(
                f"{lens.path}: expected a focus control that can be moved, {focus.name} is read-only or in use, "
                f"or has no range ({focus.minimum} .. {focus.maximum})"
            )
        step = min(focus.step, focus.maximum - focus.minimum)
        self._focus = focus
        self._range = ActuatorRange(float(focus.minimum), float(focus.maximum), float(step), focus.name)

    def _take_rate(self, rate_hz: float) -> None:
        asked_hz = self.config.rate_hz
        self._period_s = 1.0 / (rate_hz or asked_hz)
        if rate_hz and not SAME_RATE <= rate_hz / asked_hz <= 1.0 / SAME_RATE:
            self._notes.append(
                f"the camera takes {rate_hz:.4g} Hz at this size, not the {asked_hz:g} Hz asked for"
            )

    def _take_focus(self, keeper: ControlKeeper) -> None:
        if self._focus is None or self._lens_node is None:
            raise self._not_open()
        with telling(self._lens_node.path, "read the focus"):
            before = self._lens_node.get(self._focus)
        keeper.focus_manual()
        if not keeper.autofocus_was_on:
            self._focus_before = before

    def _wait(self, until: float) -> bool:
        """Wait until a buffer is ready; say whether one is."""
        if self._node is None:
            raise self._not_open()
        path, poller = self.config.device, select.poll()
        poller.register(self._node.fd, select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        left_s = max(0.0, until - time.monotonic())
        events = dict(poller.poll(math.ceil(left_s * 1e3)))
        if self._interrupted.is_set():
            raise DeviceError(f"{path}: interrupted")
        if events.get(self._node.fd, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise DeviceError(f"{path}: the stream broke off; is the camera unplugged?")
        return bool(events)

    def _newest(self, stream: Stream, mode: Mode) -> DeviceFrame | None:
        """Return the newest good frame of those that are ready; all buffers go back to the camera.

        None too where all buffers are full: the camera had none left for newer frames, and these may be old.
        """
        taken = stream.filled()
        for filled in taken:
            self._losses.saw(filled.sequence)
            self.frames_damaged += filled.damaged
            self._measure_period(filled)
        candidates = taken[::-1] if len(taken) < stream.buffers else []
        try:
            for filled in candidates:
                if filled.damaged:
                    continue
                image = image_of(stream.data(filled), filled.used, mode)
                if image is not None:
                    return DeviceFrame(image, mode.encoding, self._exposure(filled))
                self.frames_damaged += 1
            return None
        finally:
            for filled in taken:
                stream.give_back(filled)

    def _measure_period(self, filled: Filled) -> None:
        last, self._last = self._last, filled
        if last is not None and filled.sequence == last.sequence + 1 and filled.source == last.source:
            self._measured_s = min(max(0.0, filled.stamp_s - last.stamp_s), MAX_PERIOD_S)

    def _exposure(self, filled: Filled) -> tuple[float, float]:
        if filled.source == "arrival":
            self._note(ARRIVAL_NOTE)
        # In the dark, automatic exposure may make periods longer than the nominal one.
        period_s = self._period_s if self._exposure_s is not None else max(self._period_s, self._measured_s)
        return exposure_of(filled, self._exposure_s or period_s, period_s)

    def _close(self) -> None:
        with ExitStack() as last:
            last.callback(self._close_wake_up)
            for opened in (self._node, self._lens_node, self._stream):
                if opened is not None:
                    last.callback(opened.close)
            # While the stream runs: see above.
            self._put_back()
        self._node = self._lens_node = self._stream = self._focus = None

    def _put_back(self) -> None:
        if self._focus_before is not None and self._lens_node is not None and self._focus is not None:
            with suppress(OSError):
                self._lens_node.set(self._focus, self._focus_before)
        self._focus_before = None
        if self._keeper is not None:
            self._keeper.restore()

    def _close_wake_up(self) -> None:
        with self._lock:
            fd, self._wake_fd = self._wake_fd, -1
            if fd >= 0:
                os.close(fd)
