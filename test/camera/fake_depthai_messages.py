# SPDX-License-Identifier: Apache-2.0
"""What goes to and comes from the OAK cameras of `fake_depthai`."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from typing import Any

from fake_motor import Bgr, Misuse


class CameraBoardSocket(enum.Enum):
    CAM_A = 0
    CAM_B = 1
    CAM_C = 2
    CAM_D = 3
    CAM_E = 4
    CAM_F = 5
    CAM_G = 6
    CAM_H = 7


class AutoFocusMode(enum.Enum):
    OFF = 0
    AUTO = 1
    MACRO = 2
    CONTINUOUS_VIDEO = 3
    CONTINUOUS_PICTURE = 4
    EDOF = 5


class FrameType(enum.Enum):
    NV12 = 22
    BGR888i = 10


class ImgResizeMode(enum.Enum):
    CROP = 0
    STRETCH = 1
    LETTERBOX = 2


class ColorOrder(enum.Enum):
    BGR = 0
    RGB = 1


class QueueException(Exception):
    """depthai.MessageQueue.QueueException, which is no RuntimeError."""


@dataclass
class CameraFeatures:
    socket: CameraBoardSocket
    sensorName: str
    hasAutofocus: bool


class DeviceInfo:
    def __init__(self, deviceIdOrName: str, /) -> None:
        self.name = deviceIdOrName


class CameraControl:
    """One message; commands are sent in the order of this dict."""

    AutoFocusMode = AutoFocusMode

    def __init__(self) -> None:
        self.commands: dict[str, Any] = {}

    def setManualFocus(self, lensPosition: int) -> CameraControl:
        return self._set("focus", _integer(lensPosition, 0, 255))

    def setAutoFocusMode(self, mode: AutoFocusMode) -> CameraControl:
        if not isinstance(mode, AutoFocusMode):
            raise TypeError("setAutoFocusMode(): incompatible function arguments")
        return self._set("autofocus", mode)

    def setManualExposure(self, exposureTimeUs: int, sensitivityIso: int) -> CameraControl:
        return self._set("exposure", (_integer(exposureTimeUs, 1, 10**6), _integer(sensitivityIso, 1, 10**5)))

    def setAutoExposureEnable(self) -> CameraControl:
        return self._set("automatic exposure", True)

    def setAutoExposureLock(self, lock: bool) -> CameraControl:
        return self._set("exposure lock", lock)

    def setAutoWhiteBalanceLock(self, lock: bool) -> CameraControl:
        return self._set("white balance lock", lock)

    def _set(self, command: str, value: Any) -> CameraControl:
        self.commands[command] = value
        return self


@dataclass
class ImgFrame:
    """A frame; `Type` as the real one has it."""

    image: Bgr
    stamp_s: float
    exposure_us: int
    iso: int
    lens_position: int
    number: int
    white_balance: int
    fail: dict[str, Exception] = field(default_factory=dict)
    Type = FrameType

    def getCvFrame(self) -> Bgr:
        if "getCvFrame" in self.fail:
            raise self.fail["getCvFrame"]
        return self.image.copy()

    def getTimestamp(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self.stamp_s)

    def getExposureTime(self) -> datetime.timedelta:
        return datetime.timedelta(microseconds=self.exposure_us)

    def getSensitivity(self) -> int:
        return self.iso

    def getLensPosition(self) -> int:
        return self.lens_position


def _integer(value: Any, low: int, high: int) -> int:
    """Return it as pybind11 takes it: a float is no integer, and what is out of range would be cut off."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("incompatible function arguments")
    if not low <= value <= high:
        raise Misuse(f"expected {low} .. {high}, got {value}")
    return value
