# SPDX-License-Identifier: Apache-2.0
"""The example driver of the documentation, as a user runs it, and topics whose QoS is set one by one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.qos import ReliabilityPolicy
from ros_helpers import Peer, Processes, wait_until
from sensor_msgs.msg import Image
from synthetic_stacks import captured, quantised, render, texture

from dualfocus_ros import messages
from dualfocus_ros.stackio import save_stack

ROOT = Path(__file__).resolve().parents[2]
DEPTH_M = 0.8


def test_the_driver_of_the_documentation_gives_depth(tmp_path: Path) -> None:
    slices, truth_m = render(texture(), [DEPTH_M])
    save_stack(tmp_path / "stack", captured(quantised(slices)))
    driver = f"import runpy, sys; sys.argv = ['x', {str(tmp_path / 'stack')!r}]; " + (
        f"runpy.run_path({str(ROOT / 'docs' / 'external_camera.py')!r}, run_name='__main__')"
    )
    with Processes(tmp_path) as processes, Peer() as peer:
        depths = peer.collect(Image, "/dualfocus/depth")
        # The rendered slices all have one field of view, so what the driver says of a thin lens is not true here.
        node = processes.start("depth_node", {"breathing": "none"})
        processes.run(driver)
        wait_until(lambda: len(depths) >= 2 and processes.alive(), 30, lambda: node.output)
    depth_m = messages.depth_from_message(depths[-1])
    assert depth_m.shape == truth_m.shape and depths[-1].header.frame_id == "camera_optical_frame"
    assert np.median(np.abs(depth_m - DEPTH_M)) < 0.05 * DEPTH_M


def test_qos_of_one_topic_leaves_the_others_alone(tmp_path: Path) -> None:
    params = {
        "qos_overrides./dualfocus/depth.publisher.reliability": "best_effort",
        "qos_overrides./camera/image_raw.subscription.reliability": "reliable",
    }
    with Processes(tmp_path) as processes, Peer() as peer:
        node = processes.start("depth_node", params)

        def publisher(topic: str) -> ReliabilityPolicy:
            return peer.node.get_publishers_info_by_topic(topic)[0].qos_profile.reliability

        def subscription(topic: str) -> ReliabilityPolicy:
            return peer.node.get_subscriptions_info_by_topic(topic)[0].qos_profile.reliability

        for topic in ("/camera/lens", "/camera/image_raw"):
            wait_until(partial(peer.node.get_subscriptions_info_by_topic, topic), 20, lambda: node.output)
        for topic in ("/dualfocus/depth", "/dualfocus/points"):
            wait_until(partial(peer.node.get_publishers_info_by_topic, topic), 20, lambda: node.output)
        assert publisher("/dualfocus/depth") == ReliabilityPolicy.BEST_EFFORT
        assert publisher("/dualfocus/points") == ReliabilityPolicy.RELIABLE
        assert subscription("/camera/image_raw") == ReliabilityPolicy.RELIABLE
        assert subscription("/camera/lens") == ReliabilityPolicy.BEST_EFFORT
