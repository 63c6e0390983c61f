# SPDX-License-Identifier: Apache-2.0
"""Settings and cameras that the tests of the V4L2 camera share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from v4l2_stand_in_camera import Bgr, FakeCamera, Shot

from dualfocus_ros.camera.v4l2 import V4l2Config

PERIOD_S = 1 / 200.0
GREY = {"GREY": {(64, 48): (200.0,)}}


def config(**settings: object) -> V4l2Config:
    fast = {"width": 64, "height": 48, "rate_hz": 200.0, "auto_time_s": 0.02, "frame_timeout_s": 10.0}
    return V4l2Config(**{**fast, **settings})  # type: ignore[arg-type]


def numbered(shot: Shot) -> Bgr:
    """Return a picture as bright as the frame's sequence number, modulo 256."""
    return np.full((48, 64, 3), shot.sequence % 256, np.uint8)


def grey_camera(render: Callable[[Shot], Bgr] = numbered) -> FakeCamera:
    camera = FakeCamera()
    camera.formats, camera.render = dict(GREY), render
    camera.power_up()
    return camera
