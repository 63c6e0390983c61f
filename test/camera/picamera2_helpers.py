# SPDX-License-Identifier: Apache-2.0
"""What the tests of the driver for Raspberry Pi cameras share."""

from __future__ import annotations

import dataclasses
from typing import Any

from dualfocus_ros.camera.device import DeviceFrame
from dualfocus_ros.camera.picamera2 import Picamera2Config, Picamera2Device

CONFIG = Picamera2Config(width=64, height=48, rate_hz=250.0, auto_time_s=0.02, frame_timeout_s=5.0)


def device_of(**changes: Any) -> Picamera2Device:
    return Picamera2Device(dataclasses.replace(CONFIG, **changes))


def settled(device: Picamera2Device, position: float, frames: int = 100) -> DeviceFrame:
    device.move_to(position)
    for _ in range(frames):
        frame = device.read(5.0)
        if not frame.moving:
            return frame
    raise AssertionError("the lens does not settle")


def seen(device: Picamera2Device, frames: int = 12) -> list[tuple[int, float, tuple[float, float]]]:
    found = []
    for _ in range(frames):
        device.read(5.0)
        metadata = device._metadata
        found.append((metadata["ExposureTime"], metadata["AnalogueGain"], metadata["ColourGains"]))
    return found
