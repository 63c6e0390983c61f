# SPDX-License-Identifier: Apache-2.0
"""Services and live parameters of the camera node, over DDS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_helpers import START_S, TINY, Peer, chain, wait_until
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

# Longer than anything that is under way takes to arrive.
QUIET_S = 0.5


class Camera:
    """The camera node, and what is heard of it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.lens: list[Any] = peer.collect(JointState, "/camera/lens")

    def wait_for(self, count: int) -> None:
        before = len(self.lens)
        wait_until(lambda: len(self.lens) >= before + count, START_S, f"{count} more lens states")

    def newest(self, count: int) -> list[Any]:
        self.wait_for(count)
        return self.lens[-count:]

    def quiet(self) -> int:
        """Wait until nothing comes any more; return how many have come."""
        wait_until(lambda: not self._more_within(QUIET_S), START_S, "silence")
        return len(self.lens)

    def _more_within(self, time_s: float) -> bool:
        before = len(self.lens)
        time.sleep(time_s)
        return len(self.lens) > before

    def trigger(self) -> Any:
        return self.peer.call(Trigger, "/camera/sweep", Trigger.Request(), attempts=1)

    def set_bool(self, service: str, data: bool) -> Any:
        return self.peer.call(SetBool, f"/camera/{service}", SetBool.Request(data=data))

    def set_parameter(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE_ARRAY, double_array_value=value)
        elif isinstance(value, int):
            typed = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        else:
            typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
        return self.peer.call(SetParameters, "/camera/set_parameters", request).results[0]


def focus(message: Any) -> float:
    return float(message.position[message.name.index("focus_distance")])


def resting(messages: list[Any]) -> list[float]:
    return [focus(m) for m in messages if m.velocity[0] == 0.0]


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
