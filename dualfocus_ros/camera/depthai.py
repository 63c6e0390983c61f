# SPDX-License-Identifier: Apache-2.0
"""OAK cameras of Luxonis with a motorised lens. Needs PyPI depthai, 2 or 3, imported when the device is opened."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.depthai_links import Link, open_link
from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig, DeviceFrame
from dualfocus_ros.camera.driver import AS_ASKED, Driver
from dualfocus_ros.camera.reported_lens import ReportedLens
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError

SOCKET_CHOICES = ("CAM_A", "CAM_B", "CAM_C", "CAM_D", "CAM_E", "CAM_F", "CAM_G", "CAM_H")
# Positions of CameraControl.setManualFocus; larger is nearer.
POSITIONS = ActuatorRange(0.0, 255.0, 1.0, "lens position")
# Least and greatest sensitivity of CameraControl.setManualExposure.
ISO = (100.0, 1600.0)
# About where these lenses are focused far away; where the lens starts.
START_POSITION = 120.0
# After the start, sensor and automatics take their time.
FIRST_FRAME_S = 10.0
# Frames that a camera may expose with the settings from before, after they were changed.
FRAMES_TO_APPLY = 6
# No way to wait for a frame is common to both versions of depthai and can be interrupted.
POLL_S = 0.002
# Chips warm up slowly, and to ask costs a round trip.
TEMPERATURE_EVERY_S = 2.0


@dataclass(frozen=True)
class DepthaiConfig(DeviceConfig):
    """An OAK camera; `gain` is the sensitivity as ISO value, 100 to 1600."""

    device_id: str = setting("", "Id (MxId), IP address or USB port name of the camera; empty: the first found.")
    socket: str = setting("CAM_A", "Board socket of the sensor with the motorised lens.", choices=SOCKET_CHOICES)
    readout_s: float = setting(
        0.0,
        "Time from reading the first row of the sensor to the last; 0: not known, a frame period is taken.",
        unit="s",
        min=0.0,
        max=1.0,
    )
    chip_temperature: bool = setting(True, "Read the temperature of the camera's chip, every 2 s.")

    def __post_init__(self) -> None:
        """Check ranges and choices; raise ParameterError."""
        super().__post_init__()
        if self.socket not in SOCKET_CHOICES:
            raise ParameterError(f"expected socket to be one of {list(SOCKET_CHOICES)}, got {self.socket!r}")
        if self.width % 2 or self.height % 2:
            raise ParameterError(f"expected an even width and height, got {self.width} x {self.height}")


class DepthaiDevice(Driver):
    """Implements `FocusDevice`. Positions are those of CameraControl.setManualFocus, 0 to 255.

    `DeviceFrame.position` is ImgFrame.getLensPosition, where the camera told the motor to be: these lenses have no
    sensor of their position. When it was introduced it could come one frame early (depthai-core pull request 191,
    "should be fixed"), so that the first frame with a new position always counts as `moving`. How long the motor
    takes after that is for the settle time of the lens file. `temperature_c` is the mean of the chip's sensors.

    Stamps are of std::chrono::steady_clock (Linux: CLOCK_MONOTONIC), synchronised by depthai, and taken when the
    exposure of the first row ends and its readout begins (Luxonis in depthai issue 795). Only `readout_s`
    tells when the last row ends.

    Closing the device stops its pipeline with all its settings: there is nothing to put back.

    Attributes:
        config: the settings.
    """

    config: DepthaiConfig

    def __init__(self, config: DepthaiConfig) -> None:
        """Take the settings; the device is opened on entering."""
        super().__init__(config)
        self._range = POSITIONS  # the same for all these cameras

    def _reset(self) -> None:
        self._dai: Any = None
        self._device: Any = None
        self._link: Link | None = None
        self._lens = ReportedLens(START_POSITION, tolerance=0.5, lag_frames=0.0)
        self._latest: Any = None
        self._temperature_c: float | None = None
        self._temperature_at_s = 0.0

    def move_to(self, position: float) -> None:
        """Command a lens position; returns at once.

        Raises:
            LensError: if the position is not within the range.
            DeviceError: if the device is lost.
        """
        if self._link is None:
            raise self._not_open()
        self._check_position(position)
        step = round(POSITIONS.nearest(position))
        self._send("setManualFocus", step)
        self._lens.target = float(step)

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the newest frame, waiting for one where none is ready.

        Raises:
            DeviceError: if none came within the time, the device is lost, or `interrupt` was called.
        """
        link = self._link
        if link is None:
            raise self._not_open()
        until = time.monotonic() + timeout_s
        while True:
            if self._interrupted.is_set():
                raise DeviceError("the OAK camera was interrupted")
            with _telling("read a frame"):
                frames, running = link.frames(), link.running()
            if frames:
                self._latest = frames[-1]
                return self._frame(self._latest)
            if not running:
                raise DeviceError("the OAK camera is lost: is it unplugged, or without power?")
            if time.monotonic() >= until:
                raise DeviceError(f"the OAK camera gave no frame within {timeout_s:g} s")
            self._interrupted.wait(POLL_S)

    def meter(self) -> bool:
        """Let the camera find what the settings leave to it of exposure, gain and white balance, and hold it.

        Raises:
            DeviceError: if the device is lost, no frame comes, or `interrupt` was called.
        """
        if self._link is None:
            raise self._not_open()
        c = self.config
        if not c.hold_exposure:
            return False
        if not self._manual:
            self._send("setAutoExposureLock", False)
            self._send("setAutoExposureEnable")
        self._send("setAutoWhiteBalanceLock", False)
        self._skip(FRAMES_TO_APPLY)
        self._hold()
        return True

    @property
    def _is_open(self) -> bool:
        return self._device is not None

    def _open(self) -> None:
        """Boot the camera, which nothing interrupts, start it, wait for a frame, hold exposure, white balance."""
        c = self.config
        self._dai = dai = _library()
        self._boot(dai)
        socket = self._find_socket(dai)
        with _telling("start the camera"):
            self._link = open_link(dai, self._device, socket, (c.width, c.height), c.rate_hz)
        self._send("setAutoFocusMode", dai.CameraControl.AutoFocusMode.OFF)
        self.move_to(START_POSITION)
        if self._manual:
            self._expose(c.exposure_s, c.gain)
        self.read(max(FIRST_FRAME_S, c.patience_s))
        if c.hold_exposure or (not self._manual and (c.exposure_s > 0.0 or c.gain > 0.0)):
            self._hold()
        else:
            self._skip(FRAMES_TO_APPLY)
        self._check_exposure()

    @property
    def _manual(self) -> bool:
        """Whether the settings give all of the exposure."""
        return self.config.exposure_s > 0.0 and self.config.gain > 0.0

    def _boot(self, dai: Any) -> None:
        wanted = self.config.device_id
        with _telling(f"open the camera {wanted or '(the first found)'}; is another program using it?"):
            # To look for a camera that is not there takes `Device` 12 s, which nobody can interrupt.
            if not wanted and not dai.Device.getAllAvailableDevices():
                raise DeviceError(
                    "found no OAK camera that is free: check cable and power, and for USB the udev rule of "
                    "https://docs.luxonis.com"
                )
            self._device = dai.Device(dai.DeviceInfo(wanted)) if wanted else dai.Device()

    def _find_socket(self, dai: Any) -> Any:
        """Return the board socket, of a sensor with a motorised lens."""
        c = self.config
        with _telling("list the sensors"):
            features = {f.socket: f for f in self._device.getConnectedCameraFeatures()}
        socket = getattr(dai.CameraBoardSocket, c.socket)
        if socket not in features:
            raise CameraError(
                f"expected a sensor at {c.socket}, this camera has {[s.name for s in features]}: set socket"
            )
        found = features[socket]
        if not found.hasAutofocus:
            movable = [s.name for s, f in features.items() if f.hasAutofocus]
            raise CameraError(
                f"the {found.sensorName} at {c.socket} has a fixed focus (FF), sensors with a lens that moves: "
                f"{movable or 'none'}; set socket, or take an OAK camera with autofocus (AF)"
            )
        return socket

    def _send(self, command: str, *values: Any) -> None:
        """Send one command; several in one message would leave their order to the camera."""
        if self._link is None:
            raise self._not_open()
        with _telling(f"send {command}{values}"):
            control = self._dai.CameraControl()
            getattr(control, command)(*values)
            self._link.send(control)

    def _expose(self, exposure_s: float, gain: float) -> None:
        self._send("setManualExposure", round(exposure_s * 1e6), round(gain))

    def _hold(self) -> None:
        c = self.config
        self._let_settle()
        if not self._manual and (c.exposure_s > 0.0 or c.gain > 0.0):
            # The camera takes both or none: what was not given is what makes the picture as bright as it was.
            found_s, found_iso = self._latest.getExposureTime().total_seconds(), self._latest.getSensitivity()
            exposure_s = c.exposure_s or min(found_s * found_iso / c.gain, 1.0 / c.rate_hz)
            iso = c.gain or min(max(found_iso * found_s / c.exposure_s, ISO[0]), ISO[1])
            self._expose(exposure_s, iso)
            if not c.hold_exposure:
                self._notes.append("an OAK camera takes both exposure and gain or none: both are held")
        elif not self._manual:
            self._send("setAutoExposureLock", True)
        if c.hold_exposure:
            self._send("setAutoWhiteBalanceLock", True)
        self._skip(FRAMES_TO_APPLY)

    def _check_exposure(self) -> None:
        exposure_us = self._latest.getExposureTime().total_seconds() * 1e6
        for name, asked, is_now in (
            ("an exposure of {:g} us", self.config.exposure_s * 1e6, exposure_us),
            ("ISO {:g}", self.config.gain, self._latest.getSensitivity()),
        ):
            if asked > 0.0 and is_now > 0.0 and abs(is_now / asked - 1.0) > AS_ASKED:
                self._notes.append(f"the camera takes {name.format(is_now)}, not the {asked:g} asked for")

    def _frame(self, frame: Any) -> DeviceFrame:
        with _telling("read a frame"):
            image, told = frame.getCvFrame(), int(frame.getLensPosition())
            read_s = frame.getTimestamp().total_seconds()
            exposure_s = frame.getExposureTime().total_seconds()
        period_s = 1.0 / self.config.rate_hz
        start_s = read_s - (exposure_s if exposure_s > 0.0 else period_s)
        # -1: not known.
        moving = self._lens.moves(float(told), start_s, read_s, period_s) if told >= 0 else None
        return DeviceFrame(
            image,
            "mono8" if image.ndim == 2 else "bgr8",
            (start_s, read_s + (self.config.readout_s or period_s)),
            position=float(told) if told >= 0 else None,
            moving=moving,
            temperature_c=self._temperature(),
        )

    def _temperature(self) -> float | None:
        now_s = time.monotonic()
        if self.config.chip_temperature and now_s >= self._temperature_at_s:
            self._temperature_at_s = now_s + TEMPERATURE_EVERY_S
            try:
                self._temperature_c = float(self._device.getChipTemperature().average)
            except Exception as error:  # a camera that has no such sensor still takes pictures
                self._temperature_c, self._temperature_at_s = None, float("inf")
                self._notes.append(f"the camera does not tell its temperature: {error}")
        return self._temperature_c

    def _close(self) -> None:
        device, link = self._device, self._link
        self._reset()
        try:
            if link is not None:
                link.close()
            elif device is not None:
                device.close()
        except Exception as error:  # as much as can be closed of a device that may be lost
            self._notes.append(f"depthai could not close the camera: {error}")


def _library() -> Any:
    """Return the module depthai."""
    try:
        return importlib.import_module("depthai")
    except ImportError as error:
        raise CameraError(f"cannot import depthai ({error}): `pip install depthai`") from error


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Raise what depthai raises, mostly RuntimeError (X_LINK_ERROR), as DeviceError that says what failed."""
    try:
        yield
    except CameraError:
        raise
    except Exception as error:
        raise DeviceError(f"depthai could not {what}: {error}") from error
