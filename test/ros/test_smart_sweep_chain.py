# SPDX-License-Identifier: Apache-2.0
"""Smart sweeps live: the camera node hears of the depth that it made possible, and puts its slices there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from ros_helpers import SMALL, START_S, chain, stamp_ns, wait_until, wait_until_connected
from sensor_msgs.msg import Image, JointState

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

FULL = np.linspace(2.5, 0.2, 8)
# All of the scene `far` is between these, dioptres.
FAR_SCENE = (0.28, 0.52)


def sweeps(states: list[Any]) -> list[tuple[int, np.ndarray]]:
    """Return stamp of the last frame and focus positions (dioptres) of every whole sweep."""
    found, current = [], []
    for state in states:
        if state.velocity[0] != 0.0:
            continue
        focus_dpt = 1.0 / state.position[state.name.index("focus_distance")]
        if current and focus_dpt > current[-1]:
            current = []
        current.append(focus_dpt)
        if len(current) == state.position[state.name.index("sweep_slices")]:
            found.append((stamp_ns(state), np.array(current)))
    return found


def test_slices_go_where_the_scene_is_and_depth_comes_of_every_sweep(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        states, depths = peer.collect(JointState, "/camera/lens"), peer.collect(Image, "/dualfocus/depth")
        processes.start("depth_node")
        smart = {"sweep.smart": True, "sweep.smart_full_every": 3, "sweep.slices": 8, "simulated.scene": "far"}
        processes.start("camera_node", {**SMALL, **smart, "autostart": False})
        assert peer.change_state("/camera", Transition.TRANSITION_CONFIGURE)
        heard = {"/camera/lens": 2, "/camera/image_raw": 1, "/camera/camera_info": 1}
        wanted = {("/camera", topic): n for topic, n in heard.items()} | {
            ("/dualfocus", topic): 1 for topic in heard
        }
        wait_until_connected(processes, peer, wanted)
        assert peer.change_state("/camera", Transition.TRANSITION_ACTIVATE)

        def planned() -> list[np.ndarray]:
            return [dpt for _, dpt in sweeps(list(states)) if np.abs(dpt - FULL).max() > 0.05]

        wait_until(
            lambda: processes.alive() and len(planned()) >= 4,
            2 * START_S,
            "planned sweeps",
        )
        got, before = sweeps(list(states)), len(depths)
        wait_until(lambda: len(depths) > before + 1, START_S, "depth of smart sweeps")
    for dpt in planned()[1:]:
        inside = (dpt > FAR_SCENE[0] - 0.05) & (dpt < FAR_SCENE[1] + 0.05)
        assert inside.sum() >= 3  # of an even sweep it is one
        assert dpt[0] == pytest.approx(2.5) and dpt[-1] == pytest.approx(0.2)  # the ends are looked at, too
    full = [np.abs(dpt - FULL).max() < 1e-6 for _, dpt in got]
    assert full[0] and any(full[1:])  # the first one, and every third
    # Depth is made of planned sweeps: its stamp is that of the nearest slice, which lies within the sweep.
    spans = [(a, b, dpt) for (a, _), (b, dpt) in zip(got, got[1:], strict=False)]
    made = [dpt for a, b, dpt in spans if any(a < stamp_ns(d) <= b for d in depths)]
    assert sum(bool(np.abs(dpt - FULL).max() > 0.05) for dpt in made) >= 2
