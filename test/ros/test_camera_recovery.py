# SPDX-License-Identifier: Apache-2.0
"""What users do while a USB camera is lost, and what becomes of it once it is back; and light that changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("linuxpy.video.raw")

from camera_client import Camera, resting
from ros_helpers import START_S, Peer, plane, plane_texture, wait_until
from sensor_msgs.msg import Image
from v4l2_bench import DEPTH_M, LENS, PARAMS, FakeV4l2, Shot, camera, overrides, render

from dualfocus_ros.lens_file import save_lens
from dualfocus_ros.nodes.camera_node import CameraNode
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.runner import NodeSet

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]


class Bench:
    """Camera and depth node at the stand-in."""

    def __init__(self, v4l2: FakeV4l2, peer: Peer, nodes: NodeSet) -> None:
        self.v4l2, self.peer, self.nodes = v4l2, peer, nodes
        self.camera = Camera(peer)

    def said(self, *words: str) -> bool:
        self.nodes.check()
        text = str(self.peer.diagnostic("/camera"))
        return all(word in text for word in words)

    def wait_for_words(self, *words: str) -> None:
        self.peer.diagnostics.clear()
        wait_until(lambda: self.said(*words), START_S, lambda: f"{words} in {self.peer.diagnostic('/camera')}")

    def sweep(self) -> None:
        """Wait for more than a sweep: from then on nothing about the camera ends the node."""
        self.camera.lens.clear()
        wait_until(lambda: len(resting(self.camera.lens)) > 8, START_S, "a sweep")

    def lose(self) -> None:
        self.v4l2.unplug()
        self.wait_for_words("camera lost", "trying again")

    def find(self) -> None:
        self.v4l2.plug()
        wait_until(lambda: not self.said("trying again"), START_S, lambda: str(self.peer.diagnostic("/camera")))


@contextmanager
def bench_of(folder: Path, **params: Any) -> Iterator[Bench]:
    save_lens(LENS, folder / "stand_in.yaml")
    of_camera = overrides(
        {**PARAMS, "v4l2.lens": str(folder / "stand_in.yaml"), "v4l2.auto_time_s": 0.1, **params}
    )
    with (
        FakeV4l2(camera()) as v4l2,
        Peer() as peer,
        NodeSet(
            [
                lambda: DepthNode(parameter_overrides=overrides({"engine": "classical"})),
                lambda: CameraNode(parameter_overrides=of_camera),
            ]
        ) as nodes,
    ):
        bench = Bench(v4l2, peer, nodes)
        yield bench
    assert v4l2.open_fds() == 0


def exposures_us(bench: Bench) -> set[int]:
    """Return the exposure times of frames to come."""
    first = max(bench.v4l2.camera.shots)
    wait_until(lambda: max(bench.v4l2.camera.shots) > first + 3, START_S, "frames")
    return {round(s.exposure_s * 1e6) for q, s in list(bench.v4l2.camera.shots.items()) if q > first}


def test_settings_that_change_while_it_is_lost_hold_when_it_is_back(tmp_path: Path) -> None:
    with bench_of(tmp_path) as bench:
        bench.sweep()
        bench.lose()
        assert bench.camera.set_parameter("v4l2.exposure_s", 0.004).successful
        assert bench.camera.set_parameter("sweep.slices", 4).successful
        refused = bench.camera.set_parameter("sweep.near_m", -1.0)
        assert not refused.successful and "near_m" in refused.reason
        bench.find()
        wait_until(lambda: exposures_us(bench) == {4000}, START_S, "the exposure that was set")
        rested = resting(bench.camera.newest(60))
        assert len({round(m, 3) for m in rested}) == 4


def test_settings_that_the_camera_refuses_are_told_and_can_be_mended(tmp_path: Path) -> None:
    with bench_of(tmp_path) as bench:
        bench.sweep()
        # Above what the control takes; the camera is opened anew for it.
        assert bench.camera.set_parameter("v4l2.exposure_s", 0.9).successful
        bench.wait_for_words("trying again", "expected the exposure within", "got 0.9")
        assert bench.camera.set_parameter("v4l2.exposure_s", 0.002).successful
        bench.camera.wait_for(12)
        assert exposures_us(bench) == {2000}


def test_a_lens_file_that_goes_bad_ends_nothing(tmp_path: Path) -> None:
    with bench_of(tmp_path) as bench:
        bench.sweep()
        bench.lose()
        good = (tmp_path / "stand_in.yaml").read_text()
        (tmp_path / "stand_in.yaml").write_text("curve: nonsense\n")
        assert bench.camera.set_parameter("v4l2.gain", 12.0).successful
        bench.v4l2.plug()
        bench.wait_for_words("trying again", "stand_in.yaml")
        (tmp_path / "stand_in.yaml").write_text(good)
        bench.camera.wait_for(12)


def test_paused_before_it_is_lost_it_stays_paused(tmp_path: Path) -> None:
    with bench_of(tmp_path) as bench:
        bench.sweep()
        assert bench.camera.set_bool("pause", True).success
        count = bench.camera.quiet()
        bench.lose()
        answer = bench.camera.set_bool("pause", False)
        assert not answer.success and "not open" in answer.message and "/dev/video0" in answer.message
        bench.find()
        bench.wait_for_words("paused")
        assert bench.camera.quiet() == count
        assert bench.camera.set_bool("pause", False).success
        bench.camera.wait_for(6)


def test_a_sweep_that_was_asked_for_is_made_when_it_is_back(tmp_path: Path) -> None:
    with bench_of(tmp_path, start_paused=True) as bench:
        bench.wait_for_words("paused")
        # It is lost within the sweep that was asked for: the whole of it follows.
        bench.v4l2.unplug_at("DQBUF", 6)
        assert bench.camera.trigger() is not None
        bench.wait_for_words("trying again")
        bench.camera.quiet()
        bench.camera.lens.clear()
        bench.find()
        wait_until(lambda: len(resting(bench.camera.lens)) >= 6, START_S, "a whole sweep")
        bench.camera.quiet()
        assert len(resting(bench.camera.lens)) == 6
        assert bench.said("paused")


def test_attempts_to_open_it_keep_their_distance(tmp_path: Path) -> None:
    with bench_of(tmp_path, retry_max_s=0.4) as bench:
        bench.sweep()
        bench.lose()
        time.sleep(1.0)
        before = bench.v4l2.calls.count("OPEN /dev/video0")
        time.sleep(2.0)
        # Every 0.4 s, and the time that an attempt takes.
        assert 2 <= bench.v4l2.calls.count("OPEN /dev/video0") - before <= 6
        assert int(bench.peer.diagnostic("/camera", "attempts to open it since it was lost") or 0) > 2
        bench.find()
        assert bench.peer.diagnostic("/camera", "camera lost and found again") == "1"


class Lit:
    """A scene in a light that changes, and an automatic exposure that finds what it needs."""

    def __init__(self, bench: Bench) -> None:
        self.camera = bench.v4l2.camera
        self._picture = render(plane_texture(64, 48))
        self.camera.render = self.render
        self.light = 1.0
        self.set_light(1.0)

    def set_light(self, light: float) -> None:
        self.light = light
        self.camera.controls["EXPOSURE_ABSOLUTE"].target = round(100.0 / light)

    def render(self, shot: Shot) -> np.ndarray:
        level = self.light * shot.exposure_s / 0.01  # the picture as it is drawn, with 10 ms in the light of 1
        return np.clip(np.rint(0.5 * level * self._picture(shot)), 0, 255).astype(np.uint8)


def test_after_a_change_of_light_the_pictures_are_as_bright_as_before(tmp_path: Path) -> None:
    with bench_of(tmp_path, **{"v4l2.auto_time_s": 2.0}) as bench:
        lit = Lit(bench)
        images = bench.peer.collect(Image, "/camera/image_raw")
        # The exposure was found in the pictures before the light came on.
        assert bench.camera.set_parameter("v4l2.gain", 10.0).successful
        bench.camera.wait_for(20)

        def level() -> float:
            images.clear()
            wait_until(lambda: images, START_S, "an image")
            return float(np.frombuffer(images[-1].data, np.uint8).mean())

        bright = level()
        for times, light in enumerate((0.3, 2.5), start=1):
            lit.set_light(light)
            wait_until(
                lambda n=times: bench.peer.diagnostic("/camera", "exposure found anew") == str(n),
                START_S,
                lambda: f"another exposure, {level():.0f} of {bright:.0f}",
            )
            wait_until(
                lambda: abs(level() / bright - 1.0) < 0.1, START_S, lambda: f"{level():.0f} of {bright:.0f}"
            )
        assert lit.camera.controls["EXPOSURE_AUTO"].value == 1, "it is held"
        depths = bench.peer.collect(Image, "/dualfocus/depth")
        wait_until(lambda: depths, START_S, "depth")
        assert np.median(np.abs(plane(depths[-1]) - DEPTH_M)) < 0.1 * DEPTH_M
