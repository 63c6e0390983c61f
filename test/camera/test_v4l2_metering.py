# SPDX-License-Identifier: Apache-2.0
"""Automatic exposure that takes its time, in a light that changes: what the V4L2 camera then holds."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import config  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import Bgr, FakeCamera, Shot, uvc_controls  # noqa: E402

from dualfocus_ros.camera.v4l2 import V4l2Device  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError  # noqa: E402

LEVEL, EXPOSURE = 110.0, 40  # what the automatic aims at, and what it takes for that in the light of 1


class LitCamera(FakeCamera):
    """Automatic exposure goes by the pictures: a share of the way a frame, some frames after it is turned on."""

    light, rate, latency = 1.0, 0.3, 0
    waited = 0

    def __init__(self, pixel_format: str = "YUYV", rate_hz: float = 50.0, **automatic: Any) -> None:
        controls = uvc_controls(EXPOSURE_ABSOLUTE=EXPOSURE, GAIN=64, WHITE_BALANCE_TEMPERATURE=5200)
        super().__init__(controls, self.picture)
        for name, value in automatic.items():
            setattr(self, name, value)
        self.formats, self.rate_hz = {pixel_format: {(64, 48): (rate_hz,)}}, rate_hz
        self.power_up()

    @property
    def level(self) -> float:
        return min(LEVEL * self.light * self.controls["EXPOSURE_ABSOLUTE"].value / EXPOSURE, 255.0)

    def picture(self, shot: Shot) -> Bgr:
        bright = LEVEL * self.light * shot.exposure_s * 1e4 / EXPOSURE
        return np.full((48, 64, 3), round(min(bright, 255.0)), np.uint8)

    def run_automatics(self) -> None:
        exposure = self.controls["EXPOSURE_ABSOLUTE"]
        if self.controls["EXPOSURE_AUTO"].value == 1:
            self.waited = 0
            return
        self.waited += 1
        if self.waited > self.latency:
            wanted = exposure.value * (LEVEL / max(self.level, 1.0)) ** self.rate
            if abs(self.level / LEVEL - 1.0) > 0.08:
                step = round(wanted) - exposure.value or (1 if wanted > exposure.value else -1)
                exposure.value = max(3, exposure.value + step)


@pytest.mark.parametrize("pixel_format", ["YUYV", "GREY", "NV12"])
@pytest.mark.parametrize("latency", [0, 10])
@pytest.mark.parametrize("light", [0.25, 3.5])
def test_metering_ends_with_a_picture_as_bright_as_it_should_be(
    light: float, latency: int, pixel_format: str
) -> None:
    camera = LitCamera(pixel_format, latency=latency)
    with FakeV4l2(camera), V4l2Device(config(rate_hz=50.0, auto_time_s=10.0)) as device:
        assert camera.level == pytest.approx(LEVEL, rel=0.2)
        camera.light = light
        assert camera.level != pytest.approx(LEVEL, rel=0.2)
        assert device.meter()
        assert camera.level == pytest.approx(LEVEL, rel=0.2)
        assert camera.controls["EXPOSURE_AUTO"].value == 1 and device.notes == ()


def test_an_automatic_that_is_too_slow_is_told() -> None:
    camera = LitCamera(rate=0.01, light=0.1)
    camera.controls["EXPOSURE_ABSOLUTE"].maximum = 100_000
    with FakeV4l2(camera), V4l2Device(config(rate_hz=50.0, auto_time_s=0.5)) as device:
        assert any("did not come to rest within auto_time_s, 0.5 s" in note for note in device.notes)
        assert len(device.notes) == 1
        device.meter()
        assert len(device.notes) == 1


@pytest.mark.parametrize("trouble", ["interrupted", "unplugged"])
def test_metering_that_is_cut_off_leaves_nothing_changed(trouble: str) -> None:
    camera = LitCamera(light=1.0)
    with FakeV4l2(camera) as v4l2:
        before = {key: c.value for key, c in camera.controls.items()}
        device = V4l2Device(config(rate_hz=50.0, auto_time_s=30.0))
        with device:
            camera.rate, camera.light = 0.001, 0.2

            def act() -> None:
                time.sleep(0.3)
                (device.interrupt if trouble == "interrupted" else v4l2.unplug)()

            thread = threading.Thread(target=act)
            thread.start()
            with pytest.raises(DeviceError, match=r"interrupted|unplugged|lost|gone"):
                device.meter()
            thread.join()
        if trouble == "interrupted":
            after = {key: c.value for key, c in camera.controls.items()}
            # The automatic that was on before moves on, and autofocus has the lens again.
            moves = {"EXPOSURE_ABSOLUTE", "GAIN", "WHITE_BALANCE_TEMPERATURE", "FOCUS_ABSOLUTE"}
            assert {key for key in after if after[key] != before[key]} <= moves
        assert v4l2.open_fds() == v4l2.mappings() == 0
        with pytest.raises(CameraError, match="expected an open camera"):
            device.meter()


def test_nothing_to_find_is_said() -> None:
    camera = LitCamera()
    for key in ("AUTO_WHITE_BALANCE", "WHITE_BALANCE_TEMPERATURE"):
        del camera.controls[key]
    with FakeV4l2(camera):
        with V4l2Device(config(rate_hz=50.0, exposure_s=0.002, gain=20.0)) as device:
            assert not device.meter()
        with V4l2Device(config(rate_hz=50.0, hold_exposure=False)) as device:
            assert not device.meter()


def test_a_slow_camera_is_waited_for() -> None:
    camera = LitCamera(rate_hz=4.0)
    settings = config(rate_hz=4.0, auto_time_s=0.0, frame_timeout_s=0.1)
    with FakeV4l2(camera), V4l2Device(settings) as device:
        device.read(settings.patience_s)
