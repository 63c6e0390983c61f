# SPDX-License-Identifier: Apache-2.0
"""A lens at a serial port before a camera that another node drives: sweeps, lens states, and calibration."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("serial")

sys.path.insert(0, str(Path(__file__).parents[1] / "camera"))
from optotune_stand_in import OptotuneStandIn
from ros_helpers import START_S, Peer, chain, stamp_ns, wait_until
from sensor_msgs.msg import CameraInfo, Image, JointState

from dualfocus_ros import messages
from dualfocus_ros.camera.pick import device_config
from dualfocus_ros.commands.calibrate_device import opened
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.lens_file import save_lens
from dualfocus_ros.types import LensModel

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

WIDTH, HEIGHT, RATE_HZ = 64, 48, 30.0
LENS = LensCalibration(
    name="liquid",
    lens=LensModel(0.016, 2.8, 1e-4),
    image_size=(WIDTH, HEIGHT),
    curve=FocusCurve((-1.0, 3.0), (0.1, 4.1)),
    unit="dpt",
    calibrated=True,
    settle=((0.0, 0.02), (5.0, 0.02)),
)


class OtherCamera:
    """Publishes numbered pictures under names of its own, as the node of any camera does."""

    def __init__(self, peer: Peer) -> None:
        self.stamps: list[int] = []
        self._image = peer.node.create_publisher(Image, "/cam/picture", 10)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def __enter__(self) -> OtherCamera:
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def _publish(self) -> None:
        while not self._done.wait(1.0 / RATE_HZ):
            now_ns = time.time_ns()
            self.stamps.append(now_ns)
            picture = np.full((HEIGHT, WIDTH, 3), len(self.stamps) % 250, np.uint8)
            self._image.publish(messages.image_message(picture, "rgb8", now_ns, "other"))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OptotuneStandIn]:
    made = OptotuneStandIn(tmp_path)
    yield made
    made.unplug()


def settings(driver: OptotuneStandIn) -> dict[str, Any]:
    size = {"width": WIDTH, "height": HEIGHT, "rate_hz": RATE_HZ, "exposure_s": 0.005}
    return {"port": driver.path, "image_topic": "/cam/picture", "frame_timeout_s": 3.0, **size}


def test_the_lens_sweeps_and_its_states_carry_the_stamps_of_the_images(
    driver: OptotuneStandIn, tmp_path: Path
) -> None:
    save_lens(LENS, tmp_path / "liquid.yaml")
    given = {f"optotune.{name}": value for name, value in settings(driver).items()}
    sweep = {"sweep.near_m": 0.3, "sweep.far_m": 3.0, "sweep.slices": 5}
    with chain(tmp_path) as (processes, peer), OtherCamera(peer) as camera:
        lens, info = peer.collect(JointState, "/camera/lens"), peer.collect(CameraInfo, "/camera/camera_info")
        processes.start(
            "camera_node", {"driver": "optotune", "optotune.lens": tmp_path / "liquid.yaml", **given, **sweep}
        )

        def resting() -> list[float]:
            return [1.0 / m.position[0] for m in list(lens) if m.velocity[0] == 0.0]

        wait_until(lambda: processes.alive() and len(resting()) >= 12, START_S, "two sweeps")
        states, infos = list(lens), list(info)
    assert {round(d, 2) for d in resting()} == {round(d, 2) for d in np.linspace(1 / 0.3, 1 / 3.0, 5)}
    assert {stamp_ns(m) for m in states} <= set(camera.stamps)
    # K follows the focus, which the other node knows nothing of.
    fx = {stamp_ns(m): m.k[0] for m in infos}
    near, far = (
        np.mean([fx[stamp_ns(m)] for m in states if m.velocity[0] == 0.0 and stamp_ns(m) in fx and test(m)])
        for test in (lambda m: m.position[0] < 0.35, lambda m: m.position[0] > 2.5)
    )
    assert near / far == pytest.approx((1 - 0.016 / 3.0) / (1 - 0.016 / 0.3), rel=2e-3)


def test_calibration_gets_the_images_of_the_other_node(driver: OptotuneStandIn) -> None:
    config = device_config("optotune")(**settings(driver))
    with Peer() as peer, OtherCamera(peer) as camera:
        wait_until(lambda: len(camera.stamps) > 5, START_S, "pictures")
        with opened("optotune", config) as device:
            device.move_to(1.0)
            frame = device.read(START_S)
            assert frame.image.shape == (HEIGHT, WIDTH, 3) and frame.encoding == "rgb8"
            assert frame.stamp_ns in camera.stamps
            assert camera.stamps.index(frame.stamp_ns) % 250 + 1 == frame.image[0, 0, 0]
            assert driver.power_dpt == pytest.approx(1.0, abs=0.01)
