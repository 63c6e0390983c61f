# SPDX-License-Identifier: Apache-2.0
"""Services and live parameters of the camera node, over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from camera_client import Camera, resting
from ros_helpers import START_S, TINY, chain, wait_until
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


def start(camera: Camera, processes: Any, **params: Any) -> Any:
    return processes.start("camera_node", {**TINY, "diagnostics_period_s": 0.2, **params})


@pytest.fixture
def sweeping(tmp_path: Path) -> Iterator[Camera]:
    with chain(tmp_path) as (processes, peer):
        camera = Camera(peer)
        start(camera, processes)
        camera.wait_for(4)
        yield camera


def test_the_focus_is_held_where_it_was_set_and_the_sweep_goes_on_after(sweeping: Camera) -> None:
    answer = sweeping.set_bool("set_focus", True)
    assert answer.success and "1 m" in answer.message
    wait_until(lambda: set(resting(sweeping.newest(5))) == {1.0}, START_S, "the focus at 1 m")
    assert sweeping.set_parameter("focus_m", 0.75).successful
    wait_until(lambda: set(resting(sweeping.newest(5))) == {0.75}, START_S, "the focus at 0.75 m")
    refused = sweeping.set_parameter("focus_m", 0.1)
    assert not refused.successful and "0.4 .. 5.0 m" in refused.reason
    assert set(resting(sweeping.newest(5))) == {0.75}
    assert sweeping.peer.diagnostic("/camera") == "holding the focus"
    assert sweeping.set_bool("set_focus", False).success
    wait_until(lambda: len(set(resting(sweeping.newest(8)))) == 4, START_S, "all four positions")


def test_a_pause_is_silent_and_a_sweep_on_demand_whole(sweeping: Camera) -> None:
    assert sweeping.set_bool("pause", True).success
    before = sweeping.quiet()
    assert sweeping.peer.diagnostic("/camera") == "paused"
    answer = sweeping.trigger()
    if answer is not None:  # a first answer may get lost
        assert answer.success and "one sweep" in answer.message
    wait_until(lambda: len(sweeping.lens) >= before + 4, START_S, "a sweep")
    after = sweeping.quiet()
    got = sweeping.lens[before:after]
    np.testing.assert_allclose(resting(got), 1.0 / np.linspace(2.5, 0.2, 4), rtol=1e-6)
    assert {m.position[m.name.index("sweep_slices")] for m in got} == {4.0}
    assert sweeping.set_bool("pause", False).success
    sweeping.wait_for(8)


def test_a_sweep_takes_new_settings_while_it_runs(sweeping: Camera) -> None:
    assert sweeping.set_parameter("sweep.distances_m", [0.5, 1.0, 2.0]).successful
    wait_until(lambda: set(resting(sweeping.newest(9))) == {0.5, 1.0, 2.0}, START_S, "the three positions")
    refused = sweeping.set_parameter("sweep.distances_m", [0.1, 1.0, 2.0])
    assert not refused.successful and "0.4 to 5 m" in refused.reason
    refused = sweeping.set_parameter("sweep.slices", 2)
    assert not refused.successful
    refused = sweeping.set_parameter("sweep.distances_m", 1.0)  # no list
    assert not refused.successful
    assert set(resting(sweeping.newest(9))) == {0.5, 1.0, 2.0}


def test_started_paused_it_waits_for_a_request(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        camera = Camera(peer)
        images = peer.collect(Image, "/camera/image_raw")
        start(camera, processes, start_paused=True)
        wait_until(lambda: peer.diagnostic("/camera") == "paused", START_S, "the camera to be open")
        assert camera.quiet() == 0
        assert camera.set_bool("set_focus", True).success
        camera.wait_for(3)
        assert images


def test_services_say_why_not_where_the_node_is_not_active(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        camera = Camera(peer)
        start(camera, processes, autostart=False)
        answer = camera.set_bool("pause", True)
        assert not answer.success and "not active" in answer.message
