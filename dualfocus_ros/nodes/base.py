# SPDX-License-Identifier: Apache-2.0
"""What the managed nodes share: autostart, errors in transitions, diagnostics, publishers."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions

from dualfocus_ros import messages, parameters
from dualfocus_ros.errors import DualFocusError, ParameterError

# Publishers are reliable: that serves reliable and best-effort subscribers alike (RViz asks for reliable by
# default). Subscriptions are best effort: they take from either kind of publisher, and never ask twice.
OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
INPUT_QOS = qos_profile_sensor_data


@dataclass(frozen=True)
class NodeConfig:
    """Parameters that every node of the package has."""

    autostart: bool = field(
        default=True, metadata={"doc": "Configure and activate at start; false leaves that to a manager."}
    )
    diagnostics_period_s: float = field(
        default=1.0, metadata={"doc": "Time between two messages on /diagnostics.", "unit": "s", "min": 0.1}
    )


class ManagedNode(LifecycleNode):  # type: ignore[misc]
    """A lifecycle node whose transitions report their errors, and which can start itself.

    Subclasses implement `configure`, `activate`, `deactivate` and `diagnose`. `failure` holds the error that
    ended the node's work; the runner raises it. `done` says that all work is done; the runner then ends. `refusal`
    holds why the last transition was refused: that leaves the node in the state it was in, to be tried again by a
    manager.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        """Declare the common parameters."""
        super().__init__(name, **kwargs)
        self.failure: BaseException | None = None
        self.done = False
        self.refusal: BaseException | None = None
        self._made: list[Any] = []
        self._heard: list[Any] = []
        self._base = parameters.declare(self, NodeConfig)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # By the steady clock: under use_sim_time without /clock, too, somebody has to say what is wrong.
        self._timer = self.create_timer(
            self._base.diagnostics_period_s,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self.active = False

    @property
    def autostart(self) -> bool:
        """Whether the node starts itself."""
        return self._base.autostart

    def start(self) -> None:
        """Configure and activate; raise what went wrong."""
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise (
                    self.failure
                    or self.refusal
                    or DualFocusError(f"node {self.get_name()!r} could not be started")
                )

    def configure(self) -> None:
        """Load what is needed and create publishers."""

    def activate(self) -> None:
        """Start to work."""

    def deactivate(self) -> None:
        """Stop to work; must be harmless when not active."""

    def clean_up(self) -> None:
        """Free what `configure` made; must be harmless when there is nothing."""

    def diagnose(self) -> messages.Diagnostic:
        """Return the state of the node in words and numbers."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Note the error that ends the node; the runner, or a manager's error handling, acts on it."""
        self.failure = error

    def close(self) -> None:
        """Stop all work; the node can then be destroyed."""
        self.active = False
        self.deactivate()
        self.clean_up()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See lifecycle."""
        return self._transit(self.configure, undo=self.clean_up)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See lifecycle."""
        result = super().on_activate(state)
        if result == TransitionCallbackReturn.SUCCESS:
            result = self._transit(self.activate, undo=self.deactivate)
        self.active = result == TransitionCallbackReturn.SUCCESS
        if not self.active:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See lifecycle."""
        self.active = False
        result = self._transit(self.deactivate)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See lifecycle."""
        return self._transit(self.clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See lifecycle."""
        return self._transit(self.close)

    def output(self, message_type: Any, topic: str) -> Any:
        """Create a lifecycle publisher for an output; its QoS can be set by `qos_overrides` parameters."""
        with _qos_errors_of(topic):
            publisher = self.create_lifecycle_publisher(
                message_type,
                topic,
                copy.copy(OUTPUT_QOS),  # rclpy writes the overrides into it
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self._made.append(publisher)
        return publisher

    def destroy_outputs(self) -> None:
        """Destroy what `output` made."""
        while self._made:
            publisher = self._made.pop()
            # rclpy would keep it, and activate it again with the next ones.
            getattr(self, "_managed_entities", set()).discard(publisher)
            self.destroy_publisher(publisher)

    def input(
        self, message_type: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile = INPUT_QOS
    ) -> Any:
        """Create a subscription for sensor data; its QoS can be set by `qos_overrides` parameters."""
        with _qos_errors_of(topic):
            subscription = self.create_subscription(
                message_type,
                topic,
                callback,
                copy.copy(qos),  # rclpy writes the overrides into it
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self._heard.append(subscription)
        return subscription

    def destroy_input(self, subscription: Any) -> None:
        """Destroy what `input` made."""
        self._heard.remove(subscription)
        self.destroy_subscription(subscription)

    def why_silent(self, topic: str) -> str:
        """Return in words why nothing comes on an input, as far as the middleware knows."""
        name = self.resolve_topic_name(topic)
        known = self.count_publishers(name)
        if not known:
            return f"nobody publishes {name}: does its node run, is the topic remapped, is ROS_DOMAIN_ID the same?"
        if not any(self._matched(s) for s in self._heard if s.topic_name == name):
            return f"QoS or type of the publisher of {name} do not fit this node's: ros2 topic info -v {name}"
        return f"{name} has a publisher, but nothing arrives: does it send, with a QoS that fits (ros2 topic hz)?"

    def _transit(
        self, step: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """Run one step of the lifecycle, and `undo` where it fails; rclpy itself would swallow its exception."""
        self.refusal = None
        try:
            step()
            return TransitionCallbackReturn.SUCCESS
        except DualFocusError as error:
            self.get_logger().error(str(error))
            self.refusal = error
            result = TransitionCallbackReturn.FAILURE
        except Exception as error:  # noqa: BLE001 - rclpy would hide the traceback of a defect
            self.get_logger().fatal(traceback.format_exc())
            self.fail(error)
            result = TransitionCallbackReturn.ERROR
        if undo is not None:
            undo()
        return result

    def _matched(self, subscription: Any) -> int:
        """Return with how many publishers it is connected: those that are there and whose QoS fits."""
        try:
            return int(subscription.get_publisher_count())
        except AttributeError:  # Humble does not tell: all that are there
            return int(self.count_publishers(subscription.topic_name))

    def _connections(self) -> dict[str, object]:
        """Return how many publishers every input and how many subscribers every output is connected with."""
        publishers = {f"publishers of {s.topic_name}": self._matched(s) for s in self._heard}
        return publishers | {f"subscribers of {p.topic_name}": p.get_subscription_count() for p in self._made}

    def _publish_diagnostics(self) -> None:
        diagnosis = self.diagnose()
        diagnosis = replace(diagnosis, values={**diagnosis.values, **self._connections()})
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(messages.diagnostic_array_message([diagnosis], now_ns))


@contextmanager
def _qos_errors_of(topic: str) -> Iterator[None]:
    """Turn what rclpy raises on a bad name or a bad `qos_overrides` parameter into a ParameterError."""
    try:
        yield
    except NameValidationException as error:
        raise ParameterError(f"expected the name of a topic, got {topic!r}: {error}") from error
    except (RuntimeError, ParameterException) as error:
        raise ParameterError(f"topic {topic}: expected usable qos_overrides parameters: {error}") from error
