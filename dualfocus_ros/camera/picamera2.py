# SPDX-License-Identifier: Apache-2.0
"""Raspberry Pi cameras with a motorised lens (Camera Module 3 and others that libcamera can focus).

Needs picamera2 of Raspberry Pi OS, imported when the device is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig, DeviceFrame
from dualfocus_ros.camera.driver import AS_ASKED, Driver
from dualfocus_ros.camera.picamera2_controls import (
    Available,
    automatic_controls,
    exposure_of,
    frame_period_s,
    held_controls,
    monotonic_s,
    start_controls,
)
from dualfocus_ros.camera.picamera2_requests import Requests, libraries, telling
from dualfocus_ros.camera.reported_lens import ReportedLens
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError
from dualfocus_ros.types import Image

# From the start to the first frame: sensor, tuning and the frames that libcamera hides take well below a second.
FIRST_FRAME_S = 5.0
# Frames, besides those for which buffers are queued, that a sensor still exposes with the settings from before.
FRAMES_TO_APPLY = 3
# libcamera calculates lens positions in double and reports them in single precision.
SAME_POSITION_DPT = 1e-3
# The position that comes with a frame is sent to the lens while the frame is processed, when it has been read out:
# libcamera, src/ipa/rpi/common/ipa_base.cpp (fillDeviceStatus after applyControls).
LAG_FRAMES = 1.0


@dataclass(frozen=True)
class Picamera2Config(DeviceConfig):
    """A camera of libcamera through picamera2; `gain` is its analogue gain, 1 and above."""

    camera_num: int = setting(0, "Number of the camera, as `rpicam-hello --list-cameras` counts.", min=0, max=99)
    sensor_width: int = setting(
        0,
        "Width of the sensor mode; 0: picamera2 chooses one by the image size, which may see only a part of the "
        "field of view. Camera Module 3 sees all of it with 2304 x 1296, at up to 56 Hz.",
        unit="px",
        min=0,
    )
    sensor_height: int = setting(0, "Height of the sensor mode; 0: picamera2 chooses.", unit="px", min=0)
    buffers: int = setting(
        4,
        "Frame buffers. A focus command takes about as many frames until it reaches the lens; with fewer, frames "
        "may be lost.",
        min=2,
        max=32,
    )
    # Tuning files of libcamera (src/ipa/rpi), rpi.af.speeds.normal.max_slew: 1.5 for imx708, 3.0 for imx708_wide,
    # 2.0 for ov64a40.
    slew_dpt_per_frame: float = setting(
        1.5,
        "How far libcamera moves the lens from frame to frame; needed only where frames do not tell the position.",
        unit="dpt",
        min=0.01,
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        super().__post_init__()
        if self.width % 2 or self.height % 2:
            raise ParameterError(f"expected an even width and height, got {self.width} x {self.height}")
        if (self.sensor_width == 0) != (self.sensor_height == 0):
            raise ParameterError(
                f"expected both sensor_width and sensor_height or none, got {self.sensor_width} and "
                f"{self.sensor_height}"
            )


class Picamera2Device(Driver):
    """Implements `FocusDevice`. Positions are values of LensPosition: nominal dioptres, 0 is infinity.

    `DeviceFrame.position` is the LensPosition of the frame's metadata: where libcamera had told the lens to be, at
    a limited speed, when it processed the frame. Nothing in these cameras measures where the lens is. `moving` is
    False only where the exposure of the frame began after the lens had been told its target; how long the motor
    then takes is for the settle time of the lens file. `temperature_c` is the sensor's.

    A program that opens the camera starts with libcamera's defaults, so there is nothing to put back.

    Attributes:
        config: the settings.
    """

    config: Picamera2Config

    def __init__(self, config: Picamera2Config) -> None:
        """Take the settings; the camera is opened on entering."""
        super().__init__(config)

    def _reset(self) -> None:
        self._camera: Any = None
        self._requests: Requests | None = None
        self._lens = ReportedLens(0.0, SAME_POSITION_DPT, LAG_FRAMES)
        self._metadata: Mapping[str, Any] = {}
        self._period_s = self._shortest_period_s = 1.0 / self.config.rate_hz
        self._frames_to_go = 0  # until the lens is there, where frames do not tell

    def move_to(self, position: float) -> None:
        """Command a lens position; returns at once, libcamera then moves the lens from frame to frame.

        Raises:
            LensError: if the position is not within the range.
            DeviceError: if picamera2 refuses.
        """
        if self._camera is None:
            raise self._not_open()
        self._check_position(position)
        with telling(f"set LensPosition to {position:g}"):
            self._camera.set_controls({"LensPosition": float(position)})
        self._expect(abs(position - self._lens.target))
        self._lens.target = float(position)

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the newest frame, waiting for one where none is ready.

        Raises:
            DeviceError: if none came within the time, picamera2 fails, or `interrupt` was called.
        """
        if self._requests is None:
            raise self._not_open()
        request = self._requests.take(timeout_s)
        with telling("read a frame"):
            try:
                metadata, image = request.get_metadata(), request.make_array("main")
            finally:
                request.release()
        self._metadata = metadata
        return self._frame(metadata, image)

    def meter(self) -> bool:
        """Let libcamera find what the settings leave to it of exposure, gain and white balance, and hold it.

        Raises:
            DeviceError: if picamera2 fails, no frame comes, or `interrupt` was called.
        """
        camera, c = self._camera, self.config
        if camera is None:
            raise self._not_open()
        if not c.hold_exposure:
            return False
        with telling("turn on automatic exposure and white balance"):
            camera.set_controls(automatic_controls(c, camera.camera_controls))
        self._skip(c.buffers + FRAMES_TO_APPLY)
        self._hold(camera)
        return True

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon."""
        super().interrupt()
        requests = self._requests
        if requests is not None:
            requests.interrupt()

    @property
    def _is_open(self) -> bool:
        return self._camera is not None

    def _open(self) -> None:
        """Open and start the camera with manual focus, wait for a frame, and hold exposure and white balance."""
        picamera2, libcamera = libraries()
        c, number = self.config, self.config.camera_num
        with telling("list the cameras"):
            found = [str(info.get("Model", "?")) for info in picamera2.Picamera2.global_camera_info()]
        if number >= len(found):
            raise DeviceError(
                f"expected a camera number {number}, libcamera finds {found or 'no camera'}: check the cable and "
                "`rpicam-hello --list-cameras`"
            )
        with telling(f"open camera {number} ({found[number]}); is another program using it?"):
            self._camera = camera = picamera2.Picamera2(number)
        self._take_range(camera.camera_controls, found[number])
        self._configure(camera)
        self._take_period(camera.camera_controls)
        manual = libcamera.controls.AfModeEnum.Manual
        with telling("start the camera"):
            camera.set_controls(start_controls(c, camera.camera_controls, manual, self._lens.target))
            camera.start()
        self._requests = Requests(camera, self._interrupted)
        self._expect(self.focus_range.high - self.focus_range.low)
        self.read(max(FIRST_FRAME_S, c.patience_s))
        if c.hold_exposure:
            self._hold(camera)
        self._check_exposure()

    def _take_range(self, available: Available, model: str) -> None:
        low, high, default = available.get("LensPosition", (None, None, None))
        if low is None or high is None or not low < high:
            raise CameraError(
                f"camera {self.config.camera_num} ({model}) has no LensPosition control: its lens has no motor, "
                "or libcamera does not drive it (dtoverlay, tuning file); take one such as Camera Module 3"
            )
        self._range = r = ActuatorRange(float(low), float(high), unit="dpt")
        start = float(default) if default is not None and r.low <= default <= r.high else r.low
        self._lens = ReportedLens(start, SAME_POSITION_DPT, LAG_FRAMES)

    def _configure(self, camera: Any) -> None:
        c = self.config
        sensor = {"sensor": {"output_size": (c.sensor_width, c.sensor_height)}} if c.sensor_width else {}
        with telling("configure the camera"):
            # libcamera's RGB888 has blue in the first byte (picamera2 manual, "Image formats").
            camera.configure(
                camera.create_video_configuration(
                    main={"format": "RGB888", "size": (c.width, c.height)},
                    raw=None,
                    buffer_count=c.buffers,
                    **sensor,
                )
            )
            taken = camera.camera_configuration()
        main, mode = taken["main"], (taken.get("sensor") or {}).get("output_size")
        if tuple(main["size"]) != (c.width, c.height) or main["format"] != "RGB888":
            raise CameraError(
                f"expected images of {c.width} x {c.height} in RGB888, the camera gives {main['size'][0]} x "
                f"{main['size'][1]} in {main['format']}: set width and height to that"
            )
        if c.sensor_width and mode is not None and tuple(mode) != (c.sensor_width, c.sensor_height):
            raise CameraError(
                f"expected a sensor mode of {c.sensor_width} x {c.sensor_height}, the nearest is {mode[0]} x "
                f"{mode[1]}: set sensor_width and sensor_height to that, or to 0"
            )

    def _take_period(self, available: Available) -> None:
        c = self.config
        self._period_s = frame_period_s(c, available)
        shortest_us = available.get("FrameDurationLimits", (0, 0, 0))[0]
        self._shortest_period_s = shortest_us * 1e-6 or self._period_s
        if self._period_s * c.rate_hz > 1.001:
            self._notes.append(
                f"the camera takes {1.0 / self._period_s:.4g} Hz in this mode and with this exposure, not the "
                f"{c.rate_hz:g} Hz asked for"
            )

    def _hold(self, camera: Any) -> None:
        c = self.config
        self._let_settle()
        with telling("hold exposure and white balance"):
            camera.set_controls(held_controls(c, camera.camera_controls, self._metadata))
        self._skip(c.buffers + FRAMES_TO_APPLY)

    def _expect(self, way_dpt: float) -> None:
        """Note how many frames it takes until the lens has gone a way, and what was left of the last."""
        self._frames_to_go += math.ceil(way_dpt / self.config.slew_dpt_per_frame)
        self._frames_to_go += self.config.buffers + FRAMES_TO_APPLY

    def _check_exposure(self) -> None:
        c = self.config
        for name, asked, unit in (("ExposureTime", c.exposure_s * 1e6, " us"), ("AnalogueGain", c.gain, "")):
            is_now = self._metadata.get(name)
            if asked > 0.0 and is_now is not None and abs(is_now / asked - 1.0) > AS_ASKED:
                self._notes.append(f"the camera takes {name} {is_now:g}{unit}, not the {asked:g}{unit} asked for")

    def _frame(self, metadata: Mapping[str, Any], image: Image) -> DeviceFrame:
        if "SensorTimestamp" not in metadata:
            raise CameraError(
                "expected SensorTimestamp with every frame, this camera gives none: update libcamera"
            )
        stamp_s = monotonic_s(int(metadata["SensorTimestamp"]))
        period_s = metadata.get("FrameDuration", self._period_s * 1e6) * 1e-6
        exposure = exposure_of(metadata, stamp_s, period_s, self._shortest_period_s)
        self._frames_to_go = max(0, self._frames_to_go - 1)
        position = metadata.get("LensPosition")
        if position is None:
            moving = self._frames_to_go > 0
        else:
            moving = self._lens.moves(position, exposure[0], stamp_s, period_s)
        return DeviceFrame(
            image,
            "bgr8",
            exposure,
            position=position,
            moving=moving,
            temperature_c=metadata.get("SensorTemperature"),
        )

    def _close(self) -> None:
        camera, requests = self._camera, self._requests
        with ExitStack() as last:
            last.callback(self._reset)
            if camera is not None:
                last.callback(self._try, "close", camera.close)
            if requests is not None:
                last.callback(self._try, "stop", requests.close)

    def _try(self, what: str, call: Any) -> None:
        """Leave as much as can be left of a camera that may be lost."""
        try:
            call()
        except Exception as error:
            self._notes.append(f"picamera2 could not {what} the camera: {error}")
