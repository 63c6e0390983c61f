# SPDX-License-Identifier: Apache-2.0
"""What the tests of the driver for OAK cameras share."""

from __future__ import annotations

import dataclasses
from typing import Any

from dualfocus_ros.camera.depthai import DepthaiConfig, DepthaiDevice
from dualfocus_ros.camera.device import DeviceFrame

CONFIG = DepthaiConfig(width=64, height=48, rate_hz=250.0, auto_time_s=0.02, frame_timeout_s=5.0)


def device_of(**changes: Any) -> DepthaiDevice:
    return DepthaiDevice(dataclasses.replace(CONFIG, **changes))


def settled(device: DepthaiDevice, position: float, frames: int = 100) -> DeviceFrame:
    device.move_to(position)
    for _ in range(frames):
        frame = device.read(5.0)
        if frame.moving is False:
            return frame
    raise AssertionError("the lens does not settle")


def seen(device: DepthaiDevice, frames: int = 12) -> list[tuple[int, int, int]]:
    found = []
    for _ in range(frames):
        device.read(5.0)
        found.append((device._latest.exposure_us, device._latest.iso, device._latest.white_balance))
    return found
