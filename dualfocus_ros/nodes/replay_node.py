# SPDX-License-Identifier: Apache-2.0
"""Node `replay`: plays a recording of a focus-sweeping camera into the topics of a live one."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool

from dualfocus_ros import messages, parameters
from dualfocus_ros.bags.reader import Bag
from dualfocus_ros.bags.topics import RecordedTopics, TopicNames, find_topics
from dualfocus_ros.errors import BagError, ParameterError
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.playback import Playhead
from dualfocus_ros.nodes.rates import Rate
from dualfocus_ros.nodes.runner import run_until_stopped

# Between two messages, /clock is published so often, in real time.
CLOCK_STEP_S = 0.01
POLL_S = 0.05
# A subscriber that was just found may not have found us yet, and others of its node may follow.
MATCH_S = 0.5
CLOCK_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# Where the topics of a recording go, by their role.
OUTPUTS: dict[str, tuple[Any, str]] = {
    "lens": (JointState, "camera/lens"),
    "camera_info": (CameraInfo, "camera/camera_info"),
    "image": (Image, "camera/image_raw"),
    "truth": (Image, "camera/ground_truth/depth"),
}


@dataclass(frozen=True)
class ReplayConfig:
    """Parameters of the replay node itself."""

    bag: str = field(default="", metadata={"doc": "Recording to play: a rosbag2 folder, or an mcap or db3 file."})
    rate: float = field(
        default=1.0,
        metadata={"doc": "Speed of the replay; 2 is twice as fast.", "min": 0.001, "max": 1000.0, "live": True},
    )
    loop: bool = field(default=False, metadata={"doc": "Start again at the end.", "live": True})
    start_s: float = field(
        default=0.0, metadata={"doc": "Where in the recording to start.", "unit": "s", "min": 0.0}
    )
    end_s: float = field(
        default=0.0, metadata={"doc": "Where in the recording to end; 0: at its end.", "unit": "s", "min": 0.0}
    )
    paused: bool = field(default=False, metadata={"doc": "Start paused; the service ~/pause with false goes on."})
    clock: bool = field(
        default=True,
        metadata={"doc": "Publish the time of the recording on /clock, for nodes with use_sim_time."},
    )
    wait_s: float = field(
        default=5.0,
        metadata={
            "doc": "Longest wait at the start for subscribers of image, camera info and lens.",
            "unit": "s",
            "min": 0.0,
        },
    )
    wait_for_truth: bool = field(
        default=False, metadata={"doc": "Wait for a subscriber of the true depth, too, where it was recorded."}
    )
    end_delay_s: float = field(
        default=1.0,
        metadata={"doc": "Time from the last message to the end of the node.", "unit": "s", "min": 0.0},
    )


# Prefix and dataclass of all parameters besides those of every node.
PARAMETERS: tuple[tuple[str, Any], ...] = (("", ReplayConfig), ("", TopicNames))


class ReplayNode(ManagedNode):
    """Publishes recorded messages as they are, with their own timing; ends when the recording does."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare all parameters."""
        super().__init__("replay", **kwargs)
        self._config, self._names = (parameters.declare(self, kind, prefix) for prefix, kind in PARAMETERS)
        parameters.LiveParameters(self).add(self._config, self._set_config)
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))
        self._resources = ExitStack()
        self._bag: Bag | None = None
        self._topics: RecordedTopics | None = None
        self._playhead = Playhead(self._config.rate)
        self._outputs: dict[str, Any] = {}
        self._clock_publisher: Any = None
        self._thread: threading.Thread | None = None
        self._rate = Rate()
        self._sent = self._rounds = 0
        self._state = "not active"
        if self._config.paused:
            self._playhead.pause(True)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def configure(self) -> None:
        """Open the recording and create the publishers."""
        config = self._config
        if self.get_parameter("use_sim_time").value:
            raise ParameterError("the replay makes the time of /clock: start it without use_sim_time")
        if not config.bag:
            raise ParameterError("expected the path of a recording, got none: set bag")
        self._bag = self._resources.enter_context(Bag(config.bag))
        end_s = config.end_s or self._bag.duration_s
        if not config.start_s <= end_s:
            length = f"the recording is {self._bag.duration_s:.3f} s long"
            raise ParameterError(f"expected start_s before end_s, got {config.start_s} and {end_s}; {length}")
        self._topics = find_topics(self._bag.topics, self._names)
        for role, (kind, topic) in OUTPUTS.items():
            if getattr(self._topics, role):
                self._outputs[getattr(self._topics, role)] = self.output(kind, topic)
        if config.clock:
            self._clock_publisher = self.create_publisher(Clock, "/clock", CLOCK_QOS)
        parameters.refuse_unknown(self)
        for line in self._bag.damage:
            self.get_logger().warning(line)
        played = ", ".join(f"{name} ({self._bag.topics[name].count})" for name in self._topics.names())
        self.get_logger().info(f"recording of {self._bag.duration_s:.1f} s: {played}")

    def activate(self) -> None:
        """Start to play, from the start."""
        self._check_idle()
        self._playhead.go()
        self._rate.restart()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop playing."""
        self._playhead.stop()
        if self._thread is not None:
            self._thread.join(2.0)
        self._state = "not active"

    def _check_idle(self) -> None:
        """Raise BagError while what was deactivated still reads; only one may."""
        if self._thread is not None and self._thread.is_alive():
            raise BagError("the recording is still being read as when the replay was deactivated: try again")
        self._thread = None

    def clean_up(self) -> None:
        """Close the recording."""
        self._check_idle()
        self._resources.close()
        self.destroy_outputs()
        self._outputs = {}
        if self._clock_publisher is not None:
            self.destroy_publisher(self._clock_publisher)
        self._bag = self._clock_publisher = None

    def _run(self) -> None:
        """Play until the end or until stopped; runs on the replay thread."""
        try:
            self._wait_for_subscribers()
            while self._play():
                self._rounds += 1
                if not self._config.loop:
                    self._state = "at the end"
                    self.done = self._playhead.sleep(self._config.end_delay_s)
                    return
        except BaseException as error:  # noqa: BLE001 - whatever ends the replay must end the node
            self.fail(error)

    def _wait_for_subscribers(self) -> None:
        """Wait until somebody listens and nobody has come of late, so that the first sweep is not lost."""
        assert self._topics is not None
        self._state = "waiting for subscribers"
        roles = ["image", "camera_info", "lens", *(["truth"] if self._waits_for_truth() else [])]
        wanted = [self._outputs[getattr(self._topics, role)] for role in roles]
        left_s, still_s, before = self._config.wait_s, 0.0, self._subscribers()
        while left_s > 0.0 and not (still_s >= MATCH_S and all(p.get_subscription_count() for p in wanted)):
            if not self._playhead.sleep(POLL_S):
                return
            left_s -= POLL_S
            now = self._subscribers()
            still_s, before = (still_s + POLL_S if now == before else 0.0), now
        topics = (OUTPUTS[role][1] for role in roles)
        deaf = [t for t, p in zip(topics, wanted, strict=True) if not p.get_subscription_count()]
        if deaf:
            names = ", ".join(map(self.resolve_topic_name, deaf))
            self.get_logger().warning(f"nobody subscribes to {names}: is the depth node running?")

    def _subscribers(self) -> list[int]:
        return [p.get_subscription_count() for p in self._outputs.values()]

    def _waits_for_truth(self) -> bool:
        return self._config.wait_for_truth and bool(self._topics and self._topics.truth)

    def _play(self) -> bool:
        """Play the recording once; return False where it was stopped."""
        assert self._bag is not None and self._topics is not None
        start_ns = self._bag.start_ns + round(self._config.start_s * 1e9)
        stop_ns = self._bag.start_ns + round(self._config.end_s * 1e9) if self._config.end_s > 0.0 else None
        self._state = "playing"
        told, sent = len(self._bag.damage), self._sent
        self._playhead.start(start_ns)
        for message in self._bag.messages(self._topics.names(), start_ns, stop_ns):
            while not self._playhead.reached(message.stamp_ns):
                self._publish_clock(min(self._playhead.position_ns(), message.stamp_ns))
                if not self._playhead.wait_for(message.stamp_ns, CLOCK_STEP_S):
                    return False
            self._publish_clock(message.stamp_ns)
            self._outputs[message.topic].publish(message.data)
            self._sent += 1
            self._rate.tick()
        for line in self._bag.damage[told:]:
            self.get_logger().warning(line)
        if self._sent == sent:
            part = f"from {self._config.start_s} s on"
            raise BagError(f"no message of {self._config.bag} to play {part}: check start_s and end_s")
        return True

    def _publish_clock(self, stamp_ns: int) -> None:
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=messages.ns_to_stamp(stamp_ns)))

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._playhead.pause(request.data)
        response.success = True
        response.message = "paused" if request.data else "playing"
        return response

    def _set_config(self, config: ReplayConfig) -> None:
        self._config = config
        self._playhead.set_rate(config.rate)

    def diagnose(self) -> messages.Diagnostic:
        """Return state, rate and what is wrong with the recording."""
        trouble = self.failure or self.refusal
        damage = self._bag.damage if self._bag is not None else []
        level, text = (2, str(trouble)) if trouble is not None else (int(bool(damage)), "; ".join(damage))
        state = f"{self._state}, paused" if self._playhead.paused and self.active else self._state
        values: dict[str, object] = {
            "recording": self._config.bag,
            "position [s]": f"{self._playhead.seconds():.2f}",
            "length [s]": f"{self._bag.duration_s:.2f}" if self._bag is not None else "not known",
            "messages sent": self._sent,
            "message rate [Hz]": f"{self._rate.hz():.2f}",
            "times played": self._rounds,
        }
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: replay", level, text or state, values)


def main() -> int:
    """Run the node until the recording ends or it is stopped; return the exit code."""
    return run_until_stopped([ReplayNode])
