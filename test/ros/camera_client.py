# SPDX-License-Identifier: Apache-2.0
"""The camera node as its users have it: services, live parameters, lens states."""

from __future__ import annotations

import time
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_helpers import START_S, Peer, wait_until
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

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
