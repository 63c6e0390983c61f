# SPDX-License-Identifier: Apache-2.0
"""A USB camera at the stand-in of the kernel's V4L2, and a lens file for it: for nodes in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.parameter import Parameter
from ros_helpers import plane_texture, textured_plane

sys.path.insert(0, str(Path(__file__).parents[1] / "camera"))

from v4l2_stand_in import FakeV4l2
from v4l2_stand_in_camera import FakeCamera, Shot

from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.types import LensModel

__all__ = ["DEPTH_M", "LENS", "PARAMS", "FakeCamera", "FakeV4l2", "Shot", "camera", "overrides", "render"]

WIDTH, HEIGHT = 64, 48
DEPTH_M = 0.8
LENS = LensCalibration(
    name="stand_in",
    lens=LensModel(0.016, 1.4, 110e-6),
    image_size=(WIDTH, HEIGHT),
    curve=FocusCurve((0.0, 250.0), (0.0, 5.0)),
    unit="focus_absolute",
    calibrated=True,
    settle=((5.0, 0.05), (250.0, 0.1)),
    focus_dpt=(0.0, 5.0),
    intrinsics=((145.0, 145.0, 31.5, 23.5), (145.0, 145.0, 31.5, 23.5)),
)
PARAMS: dict[str, Any] = {
    "driver": "v4l2",
    "v4l2.width": WIDTH,
    "v4l2.height": HEIGHT,
    "v4l2.pixel_format": "YUYV",
    "sweep.near_m": 0.4,
    "sweep.far_m": 4.0,
    "sweep.slices": 6,
    "diagnostics_period_s": 0.2,
}


def render(texture: np.ndarray) -> Any:
    """Return what the camera sees: a plane at DEPTH_M, through the lens where it really is."""

    def picture(shot: Shot) -> np.ndarray:
        focus_dpt = LENS.curve.dioptres_at(shot.position)
        rgb = textured_plane(texture, LENS.lens, focus_dpt, 1.0 / DEPTH_M)
        return np.ascontiguousarray(rgb[..., ::-1])

    return picture


def camera() -> FakeCamera:
    made = FakeCamera(render=render(plane_texture(WIDTH, HEIGHT)))
    made.formats = {"YUYV": {(WIDTH, HEIGHT): (30.0,)}}
    made.rate_hz = 30.0
    made.power_up()
    return made


def overrides(values: dict[str, Any]) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]
