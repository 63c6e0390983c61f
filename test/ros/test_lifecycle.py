# SPDX-License-Identifier: Apache-2.0
"""Camera and depth node as managed nodes: what a lifecycle manager sees and can do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import cv2
import numpy as np
from lifecycle_msgs.msg import Transition
from ros_helpers import START_S, TINY, Peer, Process, Processes, chain, plane, stamp_ns, wait_until
from sensor_msgs.msg import CameraInfo, Image, JointState

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

NODES = ("/camera", "/dualfocus")
MANAGED = {"autostart": False}


class Managed:
    """Both nodes as processes, started by nobody but the test."""

    def __init__(self, processes: Processes, peer: Peer) -> None:
        self.processes, self.peer = processes, peer
        self.camera = processes.start("camera_node", {**TINY, **MANAGED})
        self.depth = processes.start("depth_node", MANAGED)
        self.got: dict[str, list[Any]] = {
            topic: peer.collect(kind, topic)
            for kind, topic in (
                (Image, "/camera/image_raw"),
                (JointState, "/camera/lens"),
                (Image, "/dualfocus/depth"),
                (CameraInfo, "/dualfocus/camera_info"),
            )
        }

    def change(self, transition: int, *nodes: str) -> None:
        for node in nodes or NODES:
            assert self.peer.change_state(node, transition), node

    def states(self) -> set[str]:
        return {self.peer.state(node) for node in NODES}

    def assert_flows(self) -> None:
        """Both nodes send: frames and depths whose stamps lie after now."""
        before = {topic: len(kept) for topic, kept in self.got.items()}
        now_ns = time.time_ns()

        def flows() -> bool:
            self.processes.alive()
            return all(len(kept) >= before[topic] + 3 for topic, kept in self.got.items())

        wait_until(flows, START_S, lambda: f"3 more on each topic: {[(t, len(k)) for t, k in self.got.items()]}")
        wait_until(lambda: all(stamp_ns(k[-1]) > now_ns for k in self.got.values()), START_S, "fresh stamps")
        assert 0.3 < np.nanmedian(plane(self.got["/dualfocus/depth"][-1])) < 5.5

    def assert_silent(self) -> None:
        """No node sends; what was under way may still come first."""
        time.sleep(0.3)
        before = {topic: len(kept) for topic, kept in self.got.items()}
        time.sleep(0.4)
        assert {topic: len(kept) for topic, kept in self.got.items()} == before


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with chain(tmp_path) as (processes, peer):
        yield Managed(processes, peer)


def test_outputs_flow_only_while_active(managed: Managed) -> None:
    assert managed.states() == {"unconfigured"}
    managed.change(Transition.TRANSITION_CONFIGURE)
    assert managed.states() == {"inactive"}
    managed.assert_silent()
    assert not any(managed.got.values())
    assert managed.peer.diagnostic("/dualfocus") in (None, "not active")

    for _ in range(2):
        managed.change(Transition.TRANSITION_ACTIVATE)
        assert managed.states() == {"active"}
        managed.assert_flows()
        managed.change(Transition.TRANSITION_DEACTIVATE)
        assert managed.states() == {"inactive"}
        managed.assert_silent()

    managed.change(Transition.TRANSITION_CLEANUP)
    assert managed.states() == {"unconfigured"}
    # From the very beginning once more: nothing that the first time made is in the way.
    managed.change(Transition.TRANSITION_CONFIGURE)
    managed.change(Transition.TRANSITION_ACTIVATE)
    managed.assert_flows()

    managed.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert managed.states() == {"finalized"}
    managed.assert_silent()
    for process in (managed.camera, managed.depth):
        process.signal()
        assert process.wait(3.0) == 0
        assert "Traceback" not in process.output


def test_depth_alone_can_be_paused(managed: Managed) -> None:
    """Each node on its own: the camera goes on, and the depth node finds it again."""
    managed.change(Transition.TRANSITION_CONFIGURE)
    managed.change(Transition.TRANSITION_ACTIVATE)
    managed.assert_flows()
    managed.change(Transition.TRANSITION_DEACTIVATE, "/dualfocus")
    time.sleep(0.3)
    depths, frames = len(managed.got["/dualfocus/depth"]), len(managed.got["/camera/image_raw"])
    wait_until(lambda: len(managed.got["/camera/image_raw"]) >= frames + 10, START_S, "ten more frames")
    assert len(managed.got["/dualfocus/depth"]) == depths
    managed.change(Transition.TRANSITION_ACTIVATE, "/dualfocus")
    managed.assert_flows()


def test_a_refused_configure_leaves_the_node_unconfigured_and_alive(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        process = processes.start(
            "camera_node",
            {**MANAGED, "driver": "folder", "folder.path": tmp_path / "none", "diagnostics_period_s": 0.2},
        )
        for attempt in (1, 2):
            assert not peer.change_state("/camera", Transition.TRANSITION_CONFIGURE)
            assert peer.state("/camera") == "unconfigured"
            errors = process.lines("[ERROR]", "cannot play the folder as a camera", str(tmp_path / "none"))
            assert len(errors) >= attempt
        wait_until(
            lambda: "cannot play the folder" in str(peer.diagnostic("/camera")), 10, "the error in diagnostics"
        )
        # What had been missing is there: the same node can be configured.
        _write_stack(tmp_path / "none")
        assert peer.change_state("/camera", Transition.TRANSITION_CONFIGURE)
        assert peer.state("/camera") == "inactive"
        wait_until(lambda: peer.diagnostic("/camera") == "not active", 10, "the error to be gone")
        _assert_ends_cleanly(process)


def test_a_refused_activate_leaves_the_node_inactive(tmp_path: Path) -> None:
    name = "qos_overrides./camera/lens.subscription.reliability"
    with chain(tmp_path) as (processes, peer):
        process = processes.start("depth_node", {**MANAGED, name: "bogus"})
        assert peer.change_state("/dualfocus", Transition.TRANSITION_CONFIGURE)
        assert not peer.change_state("/dualfocus", Transition.TRANSITION_ACTIVATE)
        assert peer.state("/dualfocus") == "inactive"
        assert process.lines("[ERROR]", "camera/lens", "reliability", "bogus")
        # Nothing of the attempt is left: no subscription that was made before the one that failed.
        wait_until(lambda: not peer.node.get_subscriptions_info_by_topic("/camera/image_raw"), 10, "unsubscribing")
        assert peer.change_state("/dualfocus", Transition.TRANSITION_CLEANUP)
        assert peer.state("/dualfocus") == "unconfigured"
        _assert_ends_cleanly(process)


def _write_stack(folder: Path) -> None:
    folder.mkdir()
    distances = [0.4, 0.8, 1.6]
    for i in range(len(distances)):
        cv2.imwrite(str(folder / f"slice_{i:02d}.png"), np.full((24, 32, 3), 40 * i, np.uint8))
    meta = {
        "width": 32,
        "height": 24,
        "focal_length_m": 0.016,
        "f_number": 1.4,
        "pixel_pitch_m": 1e-4,
        "focus_distance_m": distances,
        "focal_breathing": False,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _assert_ends_cleanly(process: Process) -> None:
    process.signal()
    assert process.wait(3.0) == 0
    assert "Traceback" not in process.output
