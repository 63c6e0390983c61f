# SPDX-License-Identifier: Apache-2.0
"""What to tell libcamera, and what its metadata tell: manual focus, held exposure, times of exposures.

Names and meanings: libcamera, src/libcamera/control_ids_core.yaml. A 0 as ExposureTime or AnalogueGain makes it
automatic: older libcamera reads it so, for that of 0.4 and later picamera2 sets ExposureTimeMode and
AnalogueGainMode by it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dualfocus_ros.camera.device import DeviceConfig

# Sensors cannot expose during all of a frame period; the longest of them leave out less than this.
EXPOSURE_MARGIN_S = 0.002
# name -> (least, greatest, default)
Available = Mapping[str, tuple[Any, Any, Any]]


def frame_period_s(config: DeviceConfig, available: Available) -> float:
    """Return the frame period to ask for: that of the rate, longer where the exposure needs it or the sensor."""
    period_s = 1.0 / config.rate_hz
    if config.exposure_s > 0.0:
        period_s = max(period_s, config.exposure_s + EXPOSURE_MARGIN_S)
    if "FrameDurationLimits" in available:
        low_us, high_us, _ = available["FrameDurationLimits"]
        period_s = min(max(period_s, low_us * 1e-6), high_us * 1e-6)
    return period_s


def start_controls(
    config: DeviceConfig, available: Available, manual_focus: Any, focus_dpt: float
) -> dict[str, Any]:
    """Return the controls to start with, those of them that the camera has.

    Automatics are switched on where they are wanted: within a process, what they were set to before stays.

    Args:
        config: says exposure, gain and rate.
        available: the camera's controls.
        manual_focus: libcamera's AfModeEnum.Manual.
        focus_dpt: where the lens starts.
    """
    period_us = round(frame_period_s(config, available) * 1e6)
    wanted = {
        "AfMode": manual_focus,
        "LensPosition": focus_dpt,
        "FrameDurationLimits": (period_us, period_us),
    }
    return {name: v for name, v in wanted.items() if name in available} | automatic_controls(config, available)


def automatic_controls(config: DeviceConfig, available: Available) -> dict[str, Any]:
    """Return the controls that leave exposure, gain and white balance to libcamera, but for what is given."""
    wanted = {
        "AeEnable": not (config.exposure_s > 0.0 and config.gain > 0.0),
        "ExposureTime": round(config.exposure_s * 1e6),
        "AnalogueGain": float(config.gain),
        "AwbEnable": True,
    }
    return {name: value for name, value in wanted.items() if name in available}


def held_controls(config: DeviceConfig, available: Available, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls that hold exposure, gain and white balance: as told, else as they are in `metadata`."""
    held: dict[str, Any] = {"AeEnable": False}
    if config.exposure_s > 0.0:
        held["ExposureTime"] = round(config.exposure_s * 1e6)
    elif "ExposureTime" in metadata:
        held["ExposureTime"] = max(1, int(metadata["ExposureTime"]))
    if config.gain > 0.0:
        held["AnalogueGain"] = float(config.gain)
    elif "AnalogueGain" in metadata:
        held["AnalogueGain"] = float(metadata["AnalogueGain"])
    if "ColourGains" in metadata:
        red, blue = metadata["ColourGains"]
        held |= {"AwbEnable": False, "ColourGains": (float(red), float(blue))}
    return {name: value for name, value in held.items() if name in available}


def monotonic_s(stamp_ns: int) -> float:
    """Return a SensorTimestamp as seconds of CLOCK_MONOTONIC.

    It should be of CLOCK_BOOTTIME, which also counts the time that the machine slept. On the Raspberry Pi it is
    the V4L2 buffer's, of CLOCK_MONOTONIC (src/libcamera/pipeline/rpi/pisp/pisp.cpp). A stamp that lies in the
    future of that clock is not of it.
    """
    now_ns = time.monotonic_ns()
    if stamp_ns > now_ns:
        stamp_ns -= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns
    return stamp_ns * 1e-9


def exposure_of(
    metadata: Mapping[str, Any], stamp_s: float, period_s: float, shortest_period_s: float
) -> tuple[float, float]:
    """Return when the first row began and the last row ended to be exposed, seconds.

    SensorTimestamp is taken when the first pixels arrive, just after the exposure of the first row has ended: so
    say the maintainers (picamera2 issue 821), and `Picamera2.capture_request(flush=...)` computes it so, though
    control_ids_core.yaml only says "when the first row is exposed". The time to read all rows is not told; it
    is no longer than the shortest frame period of the sensor's mode.

    Args:
        metadata: of the frame; without ExposureTime, it was exposed for a frame period at most.
        stamp_s: its SensorTimestamp.
        period_s: its frame period.
        shortest_period_s: of the sensor's mode.
    """
    exposure_s = metadata["ExposureTime"] * 1e-6 if "ExposureTime" in metadata else period_s
    return stamp_s - exposure_s, stamp_s + min(period_s, shortest_period_s)
