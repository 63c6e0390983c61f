# SPDX-License-Identifier: Apache-2.0
"""Node `evaluation`: compares the depth that is published with the true depth that is published, by stamp."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState

from dualfocus_ros import messages, parameters
from dualfocus_ros.errors import DualFocusError
from dualfocus_ros.evaluation.matching import StampMatcher
from dualfocus_ros.evaluation.report import check_writable, text_table, write_json
from dualfocus_ros.evaluation.results import Evaluation, StackResult, StampNames
from dualfocus_ros.evaluation.stacks import score_estimate
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.rates import Rate
from dualfocus_ros.nodes.runner import run_until_stopped
from dualfocus_ros.pairing import TIME_JUMP_NS
from dualfocus_ros.types import FloatImage

DEPTH, CONFIDENCE, TRUTH, LENS = (
    "dualfocus/depth",
    "dualfocus/confidence",
    "camera/ground_truth/depth",
    "camera/lens",
)
# Stamp, depth, and confidence where it came.
Scored = tuple[int, FloatImage, FloatImage | None]
# Scoring one depth takes longer than a frame; what comes meanwhile waits here.
INPUT_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
# A confidence that comes so many depths later does not come.
MOST_WAITING = 8


@dataclass(frozen=True)
class EvaluationNodeConfig:
    """Parameters of the evaluation node itself."""

    tolerance_s: float = field(
        default=0.0,
        metadata={
            "doc": "Largest difference between the stamps of depth and true depth.",
            "unit": "s",
            "min": 0.0,
        },
    )
    history_s: float = field(
        default=12.0,
        metadata={
            "doc": "How long true depth is kept for the depth of its stamp to come: at 640 x 480 and 30 Hz, 37 MB "
            "a second.",
            "unit": "s",
            "min": 0.0,
        },
    )
    max_focus_speed_dpt_per_s: float = field(
        default=0.05,
        metadata={
            "doc": "Lens states of a faster focus do not count for the focus range, outside of which nothing is "
            "scored.",
            "unit": "1/(m s)",
            "min": 0.0,
        },
    )
    json: str = field(
        default="",
        metadata={"doc": "File that gets every number when the node ends or is deactivated; empty: none."},
    )


# Prefix and dataclass of all parameters besides those of every node.
PARAMETERS: tuple[tuple[str, Any], ...] = (("", EvaluationNodeConfig),)


class EvaluationNode(ManagedNode):
    """Scores every depth with a true depth of its stamp; tells on /diagnostics how it goes, and all at the end."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare all parameters."""
        super().__init__("evaluation", **kwargs)
        (self._config,) = (parameters.declare(self, kind, prefix) for prefix, kind in PARAMETERS)
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))
        self._inputs: list[Any] = []
        self._rates = {topic: Rate() for topic in (DEPTH, CONFIDENCE, TRUTH, LENS)}
        self._start_anew()
        self._told = True  # there is nothing to tell before it was active

    def _start_anew(self) -> None:
        config = self._config
        self._matcher: StampMatcher[Scored, Any] = StampMatcher(config.tolerance_s, config.history_s)
        self._depths: dict[int, Any] = {}
        self._confidences: dict[int, Any] = {}
        self._focus: deque[tuple[int, float]] = deque()
        self._results: list[StackResult] = []
        self._sums = dict.fromkeys(RUNNING.values(), 0.0)
        self._names = StampNames()
        self._unscored: list[Path] = []
        self._failures: list[tuple[Path, str]] = []
        self._told = False

    def configure(self) -> None:
        """Check that the file can be written: at the end it would be too late."""
        if self._config.json:
            check_writable(Path(self._config.json).expanduser())

    def activate(self) -> None:
        """Subscribe, and start with nothing scored."""
        self._start_anew()
        for kind, topic, callback in (
            (Image, DEPTH, self._on_depth),
            (Image, CONFIDENCE, self._on_confidence),
            (Image, TRUTH, self._on_truth),
            (JointState, LENS, self._on_lens),
        ):
            self._inputs.append(self.input(kind, topic, callback, INPUT_QOS))
            self._rates[topic].restart()
        parameters.refuse_unknown(self)

    def deactivate(self) -> None:
        """Unsubscribe and tell the result."""
        while self._inputs:
            self.destroy_input(self._inputs.pop())
        self._join(final=True)
        self._score(self._matcher.finish())
        self._tell()

    def counts(self) -> dict[str, int]:
        """Return what came and what of it was scored, by name."""
        return {
            "depth images scored": len(self._results),
            "depth images without true depth of their stamp": self._matcher.unmatched,
            "true depth images of no depth": self._matcher.truths_seen - self._matcher.truths_used,
        }

    def evaluation(self) -> Evaluation:
        """Return all that was scored so far."""
        scored, unscored, failures = tuple(self._results), tuple(self._unscored), tuple(self._failures)
        return Evaluation("live", "", scored, unscored, failures=failures, counts=self.counts())

    def _on_depth(self, message: Image) -> None:
        self._rates[DEPTH].tick()
        self._depths[messages.stamp_to_ns(message.header.stamp)] = message
        self._join()

    def _on_confidence(self, message: Image) -> None:
        self._rates[CONFIDENCE].tick()
        self._confidences[messages.stamp_to_ns(message.header.stamp)] = message
        self._join()

    def _join(self, *, final: bool = False) -> None:
        """Hand on the depths whose confidence has come, and those whose does not come: all, at the end."""
        for stamp_ns in list(self._depths):
            waits = not final and len(self._depths) <= MOST_WAITING
            if stamp_ns not in self._confidences and waits:
                continue
            depth = self._decoded(DEPTH, self._depths.pop(stamp_ns))
            confidence = self._decoded(CONFIDENCE, self._confidences.pop(stamp_ns, None))
            if depth is not None:
                self._score(self._matcher.add_estimate(stamp_ns, (stamp_ns, depth, confidence)))
        while len(self._confidences) > MOST_WAITING:
            del self._confidences[next(iter(self._confidences))]

    def _on_truth(self, message: Image) -> None:
        self._rates[TRUTH].tick()
        self._score(self._matcher.add_truth(messages.stamp_to_ns(message.header.stamp), message))

    def _on_lens(self, message: JointState) -> None:
        self._rates[LENS].tick()
        try:
            state = messages.lens_state_from_message(message)
        except DualFocusError as error:
            self.get_logger().error(f"unusable {LENS}: {error}", throttle_duration_sec=2.0)
            return
        if state.focus_speed_dpt_per_s > self._config.max_focus_speed_dpt_per_s:
            return
        if self._focus and state.stamp_ns < self._focus[-1][0] - TIME_JUMP_NS:
            self._focus.clear()
        self._focus.append((state.stamp_ns, state.focus_distance_m))
        while self._focus[0][0] < state.stamp_ns - self._config.history_s * 1e9:
            self._focus.popleft()

    def _score(self, pairs: list[tuple[Scored, Any]]) -> None:
        for (stamp_ns, depth_m, confidence), truth in pairs:
            name = Path("live") / self._names.name(stamp_ns)
            truth_m = self._decoded(TRUTH, truth)
            if truth_m is None:
                self._unscored.append(name)
                continue
            try:
                metrics, bands = score_estimate(depth_m, confidence, truth_m, self._focus_range_m(truth_m), name)
            except DualFocusError as error:
                self._failures.append((name, str(error)))
                self.get_logger().error(f"not scored: {error}", throttle_duration_sec=2.0)
                continue
            self._results.append(StackResult(name, "live", metrics, math.nan, bands))
            for key in RUNNING.values():
                self._sums[key] += getattr(metrics, key)

    def _focus_range_m(self, truth_m: FloatImage) -> tuple[float, float]:
        """Return nearest and farthest focus distance of late; those of the truth where no lens state came."""
        distances = [distance for _, distance in self._focus]
        if not distances:
            distances = truth_m[np.isfinite(truth_m) & (truth_m > 0.0)].tolist() or [1.0]
        return min(distances), max(distances)

    def _decoded(self, topic: str, message: Any) -> FloatImage | None:
        if message is None:
            return None
        try:
            return messages.depth_from_message(message)
        except DualFocusError as error:
            self.get_logger().error(f"unusable {topic}: {error}", throttle_duration_sec=2.0)
            return None

    def _tell(self) -> None:
        """Log the table and write the file, once."""
        if self._told:
            return
        evaluation = self.evaluation()
        counts = ", ".join(f"{name}: {n}" for name, n in evaluation.counts.items())
        if not evaluation.stacks:
            self.get_logger().warning(f"nothing was scored ({counts}): {self._why_nothing()}")
            self._told = True
            return
        self.get_logger().info(f"against true depth\n{text_table([evaluation])}\n{counts}")
        if self._config.json:
            write_json(Path(self._config.json).expanduser(), [evaluation])
        self._told = True

    def _why_nothing(self) -> str:
        silent = [self.resolve_topic_name(t) for t in (DEPTH, TRUTH) if self._rates[t].hz() == 0.0]
        if silent:
            return f"no messages, or only one, on {', '.join(silent)}"
        if self._failures:
            return self._failures[-1][1]
        return "the stamps of depth and true depth differ; tolerance_s allows for a difference"

    def diagnose(self) -> messages.Diagnostic:
        """Return the mean scores so far, and how many depths have no truth."""
        values: dict[str, object] = {f"rate of {n} [Hz]": f"{r.hz():.2f}" for n, r in self._rates.items()}
        values |= self.counts()
        if self._results:
            for key, name in RUNNING.items():
                values[f"{key}, mean"] = f"{self._sums[name] / len(self._results):.4f}"
                values[f"{key}, last"] = f"{getattr(self._results[-1].metrics, name):.4f}"
        trouble = self.failure or self.refusal
        if trouble is not None:
            return self._diagnostic(2, str(trouble), values)
        if not self.active:
            return self._diagnostic(0, "not active", values)
        if self._results:
            return self._diagnostic(0, "scoring", values)
        return self._diagnostic(0, f"nothing scored yet: {self._why_nothing()}", values)

    def _diagnostic(self, level: int, text: str, values: dict[str, object]) -> messages.Diagnostic:
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: evaluation", level, text, values)


# What diagnostics tell, with units, and the fields of the metrics.
RUNNING = {
    "AbsRel": "abs_rel",
    "RMSE [m]": "rmse_m",
    "delta1": "delta1",
    "Bump": "bump",
    "coverage": "coverage",
    "sparsification": "sparsification",
}


def main() -> int:
    """Run the node until it is stopped; return the exit code."""
    return run_until_stopped([EvaluationNode])
