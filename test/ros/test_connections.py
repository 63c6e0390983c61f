# SPDX-License-Identifier: Apache-2.0
"""Diagnostics tell with whom a node is connected, and why nothing comes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from ros_helpers import LISTEN, START_S, Peer, chain, wait_until
from sensor_msgs.msg import CameraInfo, Image, JointState

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]

IMAGE = "/camera/image_raw"
QUICK = {"input_timeout_s": 0.3, "diagnostics_period_s": 0.2}


def wait_for_words(peer: Peer, *words: str) -> None:
    """Wait until the depth node says all of these words at once."""

    def said() -> bool:
        text = str(peer.diagnostic("/dualfocus"))
        return all(word in text for word in words)

    wait_until(said, START_S, lambda: f"{words} in {peer.diagnostic('/dualfocus')}")


def test_the_depth_node_says_why_no_images_come(tmp_path: Path) -> None:
    reliable = {f"qos_overrides.{IMAGE}.subscription.reliability": "reliable"}
    with chain(tmp_path) as (processes, peer):
        processes.start("depth_node", {**QUICK, **reliable})
        wait_for_words(peer, "no message for 0.3 s", f"nobody publishes {IMAGE}", "nobody publishes /camera/lens")
        assert peer.connected("/dualfocus", IMAGE) == 0
        others = [
            peer.node.create_publisher(kind, f"/camera/{name}", 10)
            for kind, name in ((CameraInfo, "camera_info"), (JointState, "lens"))
        ]
        unreliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        publisher = peer.node.create_publisher(Image, IMAGE, unreliable)
        if hasattr(Subscription, "get_publisher_count"):
            wait_for_words(peer, f"QoS or type of the publisher of {IMAGE} do not fit")
            assert peer.connected("/dualfocus", IMAGE) == 0
        peer.node.destroy_publisher(publisher)
        others.append(peer.node.create_publisher(Image, IMAGE, 10))
        wait_for_words(peer, f"{IMAGE} has a publisher, but nothing arrives", "/camera/lens has a publisher")
        assert peer.connected("/dualfocus", IMAGE) == 1


def test_subscribers_of_outputs_are_counted(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        processes.start("depth_node", QUICK)
        wait_until(lambda: peer.diagnostic("/dualfocus", "subscribers of /dualfocus/depth") == "0", START_S, "0")
        for count in (1, 2):
            peer.collect(Image, "/dualfocus/depth", LISTEN)
            wait_until(lambda n=count: peer.connected("/dualfocus", "/dualfocus/depth") == n, START_S, f"{count}")
        assert peer.connected("/dualfocus", "/dualfocus/points") == 0
