# SPDX-License-Identifier: Apache-2.0
"""The sensor, the lens and libcamera's algorithms of the camera of `fake_picamera2`."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from fake_motor import Bgr, Motor, plain

if TYPE_CHECKING:
    from fake_picamera2 import FakeRaspberryPi

# Frames from when the sensor is told an exposure to when it exposes so.
SENSOR_DELAY = 2


class AfModeEnum(enum.Enum):
    """libcamera.controls.AfModeEnum."""

    Manual = 0
    Auto = 1
    Continuous = 2


class Sensor:
    """Sensor, lens and libcamera's algorithms."""

    def __init__(self, pi: FakeRaspberryPi, size: tuple[int, int]) -> None:
        self.pi = pi
        self._picture = pi.picture or plain(*size)
        self.period_s = 1.0 / 30.0
        self._af_mode = AfModeEnum.Continuous  # so that a driver has to ask for Manual
        default = pi.lens[2] if pi.lens else 0.0
        self._target = self._smooth = default
        self.motor = Motor(default, pi.motor_dpt_per_s)
        self._exposure_us = self._gain = 0.0  # automatic
        self._ae = self._awb = True
        self._colour_gains = (2.0, 1.5)
        self._told: deque[tuple[float, float]] = deque([(3000.0, 2.0)] * SENSOR_DELAY)

    @property
    def readout_s(self) -> float:
        return 0.9 * self.pi.limits_us[0] * 1e-6

    def apply(self, controls: dict[str, Any], time_s: float) -> None:
        self._af_mode = controls.get("AfMode", self._af_mode)
        if "FrameDurationLimits" in controls:
            low_us, high_us = self.pi.limits_us
            self.period_s = min(max(controls["FrameDurationLimits"][0], low_us), high_us) * 1e-6
        self._exposure_us = controls.get("ExposureTime", self._exposure_us)
        self._gain = controls.get("AnalogueGain", self._gain)
        self._ae = controls.get("AeEnable", self._ae)
        self._awb = controls.get("AwbEnable", self._awb)
        self._colour_gains = controls.get("ColourGains", self._colour_gains)
        if "LensPosition" in controls and self._af_mode is AfModeEnum.Manual and self.pi.lens:
            low, high, _ = self.pi.lens
            self._target = min(max(controls["LensPosition"], low), high)
            self._step(time_s)

    def expose(self, number: int, stamp_s: float, controls: dict[str, Any]) -> tuple[dict[str, Any], Bgr]:
        """Return metadata and image of a frame whose readout began at a time."""
        exposure_us, gain = self._told.popleft()
        start_s, end_s = stamp_s - exposure_us * 1e-6, stamp_s + self.readout_s
        truth = self.motor.truth(start_s, end_s)
        self.pi.truths.add(truth)
        # Only now libcamera processes it.
        self.apply(controls, end_s)
        told_dpt = self._smooth
        self._step(end_s)
        self._told.append(self._auto(number))
        metadata: dict[str, Any] = {
            "SensorTimestamp": round((stamp_s + self.pi.clock_offset_s) * 1e9),
            "ExposureTime": round(exposure_us),
            "AnalogueGain": gain,
            "FrameDuration": round(self.period_s * 1e6),
            "ColourGains": (2.0 + 0.01 * (number % 9), 1.5) if self._awb else self._colour_gains,
            "SensorTemperature": 41.0,
        }
        if self.pi.tells_position:
            metadata["LensPosition"] = float(np.float32(told_dpt))
        return metadata | self.pi.metadata, self._picture(truth.positions[0])

    def _step(self, time_s: float) -> None:
        wobble = 0.0 if self.pi.settles else 0.2 * (1.0 if time_s * 500 % 2 < 1 else -1.0)
        way = self._target + wobble - self._smooth
        self._smooth += min(max(way, -self.pi.slew_dpt), self.pi.slew_dpt)
        self.motor.write(time_s, self._smooth)

    def _auto(self, number: int) -> tuple[float, float]:
        """Return exposure and gain for the sensor: automatics never come to rest here."""
        longest_us = self.period_s * 1e6 - 500.0
        auto_us, auto_gain = (1000.0 + 50.0 * (number % 7)) / self.pi.light, 2.0 + 0.1 * (number % 5)
        exposure_us = self._exposure_us or (auto_us if self._ae else 20000.0)
        return min(exposure_us, longest_us), self._gain or (auto_gain if self._ae else 1.0)
