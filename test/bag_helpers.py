# SPDX-License-Identifier: Apache-2.0
"""Recordings of the simulated camera, made without a clock: the frames as the camera node publishes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message

from dualfocus_ros import messages
from dualfocus_ros.bags.writer import BagWriter
from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.focus_sweep import FocusSweep
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import CameraFrame

START_NS = 1_700_000_000_000_000_000
IMAGE, INFO, LENS, TRUTH = (
    "/camera/image_raw",
    "/camera/camera_info",
    "/camera/lens",
    "/camera/ground_truth/depth",
)
TYPES = {
    IMAGE: "sensor_msgs/msg/Image",
    INFO: "sensor_msgs/msg/CameraInfo",
    LENS: "sensor_msgs/msg/JointState",
    TRUTH: "sensor_msgs/msg/Image",
}


@dataclass
class Recorded:
    """One message to be recorded; its fields can be spoilt before."""

    topic: str
    stamp_ns: int
    message: Any
    message_type: str = ""

    @property
    def data(self) -> bytes:
        return bytes(serialize_message(self.message))


def frames(count: int, width: int = 64, slices: int = 4, **config: Any) -> list[CameraFrame]:
    """Return the first frames of the simulated camera, which sweeps from 0.4 to 3 m, in simulated time."""
    settings = {
        "rate_hz": 0.0,
        "width": width,
        "height": width * 3 // 4,
        "pixel_pitch_m": 13.75e-6 * 640 / width,
        "views": 32,
        **config,
    }
    with SimulatedCamera(SimulatedConfig(**settings)) as camera:
        sweep = FocusSweep(camera, SweepConfig(slices=slices, near_m=0.4, far_m=3.0))
        return list(islice(sweep.frames(), count))


def recorded(camera_frames: Iterable[CameraFrame], truth: bool = True) -> list[Recorded]:
    """Return the messages of frames, in the order in which the camera node publishes them."""
    found = []
    for frame in camera_frames:
        at = (frame.stamp_ns, "optical")
        info = messages.camera_info_message(frame.intrinsics, *at)
        found.append(Recorded(LENS, frame.stamp_ns, messages.lens_message(frame.lens_state, "optical")))
        found.append(Recorded(INFO, frame.stamp_ns + 1, info))
        found.append(Recorded(IMAGE, frame.stamp_ns + 2, messages.camera_image_message(frame, "optical")))
        if truth:
            assert frame.ground_truth_m is not None
            found.append(Recorded(TRUTH, frame.stamp_ns + 3, messages.depth_message(frame.ground_truth_m, *at)))
    return found


def write(
    path: Path,
    recording: Iterable[Recorded],
    storage: str = "mcap",
    *,
    compress: bool = False,
    rename: Callable[[str], str] = lambda topic: topic,
) -> Path:
    """Write a recording; return its path."""
    with BagWriter(path, storage, compress=compress) as bag:
        for m in recording:
            bag.write(rename(m.topic), m.message_type or TYPES[m.topic], m.stamp_ns, m.data)
    return path
