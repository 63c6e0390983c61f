# SPDX-License-Identifier: Apache-2.0
"""Alignment through the nodes: a lens with errors is learned, a moving camera is told."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_helpers import ENGINE, SMALL, SyntheticCamera, by_stamp, chain, plane, wait_until
from sensor_msgs.msg import Image

from dualfocus_ros.evaluation.metrics import score

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


def test_a_lens_with_errors_is_learned_kept_and_gives_depth(tmp_path: Path) -> None:
    wrong = {"simulated.scale_error": 0.006, "simulated.shift_error_px": 1.0}
    file = tmp_path / "lens.json"
    with chain(tmp_path) as (processes, peer):
        depths = peer.collect(Image, "/dualfocus/depth")
        truths = peer.collect(Image, "/camera/ground_truth/depth")
        processes.start("depth_node", {**ENGINE, "alignment_file": str(file)})
        processes.start("camera_node", {**SMALL, **wrong, "sweep.slices": 6})

        def told(key: str) -> str:
            processes.alive()
            return str(peer.diagnostic("/dualfocus", key))

        wait_until(lambda: told("alignment of the lens") == "converged", 60, lambda: told("alignment of the lens"))
        assert file.is_file()
        wait_until(
            lambda: float(told("alignment residual [px]")) > 0.3, 10, lambda: told("alignment residual [px]")
        )
        assert float(told("motion in the sweep [px]")) < 0.5
        before = len(depths)
        wait_until(
            lambda: len(depths) > before and set(by_stamp(depths[before:])) & set(by_stamp(truths)), 30, "depth"
        )
        known = by_stamp(truths)
        stamp = max(set(by_stamp(depths[before:])) & set(known))
        depth_m, truth_m = plane(by_stamp(depths)[stamp]), plane(known[stamp])
        # What the chain reaches in test_chain.py with a lens that has no errors.
        assert score(depth_m, truth_m, (0.4, 5.0), np.ones_like(depth_m)).abs_rel < 0.16


def shifted(by_px: int) -> Any:
    """Return what moves the picture in a message to the right."""

    def spoil(message: Image) -> None:
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1)
        message.data = array("B", np.roll(image, by_px, axis=1).tobytes())

    return spoil


def test_a_moving_camera_is_told_and_comes_back(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        depths = peer.collect(Image, "/dualfocus/depth")
        process = processes.start("depth_node", {**ENGINE, "breathing": "none"})
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()
        camera.sweep_until(depths)
        at = 0
        for _ in range(3):  # three sweeps of a pan, two pixels a frame
            for position in camera.POSITIONS_DPT:
                at += 2
                camera.frame(position, spoil_image=shifted(at))

        def dropped() -> int:
            return int(peer.diagnostic("/dualfocus", "dropped: stack: camera moved") or 0)

        wait_until(lambda: dropped() >= 1, 15, lambda: str(peer.diagnostic("/dualfocus")))
        assert "the image moved by" in str(peer.diagnostic("/dualfocus"))
        assert "max_motion_px is 4" in process.output
        camera.sweep_until(depths)  # it stands still again
        wait_until(
            lambda: peer.diagnostic("/dualfocus") == "running", 10, lambda: str(peer.diagnostic("/dualfocus"))
        )
