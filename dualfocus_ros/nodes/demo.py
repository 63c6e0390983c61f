# SPDX-License-Identifier: Apache-2.0
"""The demo: camera node, depth node and a subscriber that scores the depth, over real DDS."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from dualfocus_ros import dds, messages
from dualfocus_ros.errors import EvaluationError, ParameterError
from dualfocus_ros.evaluation.metrics import DepthMetrics, score
from dualfocus_ros.nodes.camera_node import CameraNode
from dualfocus_ros.nodes.depth_node import LATENCY_KEY, DepthNode
from dualfocus_ros.nodes.runner import FINISH_S, NodeSet
from dualfocus_ros.nodes.signals import hold_stop_signals, wait_for_stop
from dualfocus_ros.outputs import write_estimate
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import DepthEstimate, FloatImage

REPORT_EVERY_S = 5.0
# Time for the scene to be rendered and the first sweep to be learned, before something must have come.
START_UP_S = 60.0


class Scorer(Node):  # type: ignore[misc]
    """Subscribes to the depth node's outputs and compares each depth with the truth of its stamp."""

    # Of each topic; truth of more is needed only where depth takes seconds.
    KEPT = 200

    def __init__(self, focus_range_m: tuple[float, float]) -> None:
        """Subscribe."""
        super().__init__("demo")
        self._focus_range_m = focus_range_m
        self._kept: dict[str, dict[int, Any]] = {}
        for topic, kind in (
            ("camera/ground_truth/depth", Image),
            ("dualfocus/depth", Image),
            ("dualfocus/confidence", Image),
            ("dualfocus/all_in_focus", Image),
            ("dualfocus/camera_info", CameraInfo),
        ):
            self._kept[topic] = {}
            self.create_subscription(kind, topic, self._keeper(topic), qos_profile_sensor_data)
        self.create_subscription(PointCloud2, "dualfocus/points", self._on_points, qos_profile_sensor_data)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.depth_times_s: list[float] = []
        self.latencies_ms: list[float] = []
        self.metrics: list[DepthMetrics] = []
        self.clouds = 0
        self.latest: tuple[DepthEstimate, FloatImage] | None = None

    def _keeper(self, topic: str) -> Any:
        """Return a callback that keeps the messages of a topic by stamp."""

        def keep(message: Any) -> None:
            kept = self._kept[topic]
            kept[messages.stamp_to_ns(message.header.stamp)] = message
            while len(kept) > self.KEPT:
                del kept[next(iter(kept))]
            if topic == "dualfocus/depth":
                self.depth_times_s.append(time.monotonic())
            if topic != "camera/ground_truth/depth":
                self._score_complete()

        return keep

    def _score_complete(self) -> None:
        """Score the stamps for which every message has come."""
        for stamp in sorted(set.intersection(*(set(kept) for kept in self._kept.values()))):
            truth, depth, confidence, sharp, info = (kept.pop(stamp) for kept in self._kept.values())
            truth_m = messages.depth_from_message(truth)
            estimate = DepthEstimate(
                messages.depth_from_message(depth),
                messages.depth_from_message(confidence),
                np.asarray(messages.image_from_message(sharp), np.uint8),
                messages.intrinsics_from_message(info),
                stamp,
                depth.header.frame_id,
            )
            self.metrics.append(score(estimate.depth_m, truth_m, self._focus_range_m, estimate.confidence))
            self.latest = (estimate, truth_m)
            for kept in self._kept.values():
                for old in [s for s in kept if s < stamp]:
                    del kept[old]

    def _on_points(self, message: PointCloud2) -> None:
        self.clouds += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for item in status.values:
                if item.key == LATENCY_KEY and float(item.value) > 0.0:
                    self.latencies_ms.append(float(item.value))

    def rate_hz(self) -> float:
        """Return the rate of the depth over all the time since its first message."""
        times = self.depth_times_s
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def summary(self) -> str:
        """Return rate, latency and error in one line.

        Raises:
            EvaluationError: if nothing was scored yet.
        """
        mean = DepthMetrics.mean(self.metrics)
        latency = f"{statistics.median(self.latencies_ms):.0f} ms" if self.latencies_ms else "not known yet"
        return (
            f"depth {self.rate_hz():.2f} Hz | latency {latency} from last frame to depth | "
            f"error against truth: AbsRel {mean.abs_rel:.3f}, RMSE {mean.rmse_m:.3f} m, "
            f"delta1 {mean.delta1:.3f}, coverage {mean.coverage:.3f}"
        )


def run_demo(duration_s: float, output: str, engine: str, model: str | None, mode: str) -> int:
    """Run camera and depth node live for a time; print what comes out and write pictures.

    Returns:
        The exit code, 0.

    Raises:
        DualFocusError: if no depth came, or a node failed.
    """
    if not duration_s > 0.0:
        raise ParameterError(f"expected a duration above 0 s, got {duration_s}")
    hold_stop_signals()
    dds.use_profile()
    sweep = SweepConfig()
    scorer: list[Scorer] = []

    def make_scorer() -> Scorer:
        scorer.append(Scorer((sweep.near_m, sweep.far_m)))
        return scorer[0]

    # Rendering the scene may take longer than a driver should stay silent.
    overrides = [
        Parameter("engine", value=engine),
        *([] if model is None else [Parameter("model", value=model)]),
        Parameter("mode", value=mode),
        Parameter("input_timeout_s", value=START_UP_S),
    ]
    print(f"rendering the scene of the simulated camera, then {duration_s:g} s live ...", flush=True)
    makers = [make_scorer, lambda: DepthNode(parameter_overrides=overrides), CameraNode]
    with NodeSet(makers, finish_s=FINISH_S) as nodes:
        if not _run_live(nodes, scorer[0], duration_s):
            print("stopped")
            return 0
        latest = scorer[0].latest
        if latest is None:
            came = len(scorer[0].depth_times_s)
            if came:
                raise EvaluationError(
                    f"expected depth soon enough to compare it with the truth, got {came} too late: this machine "
                    "is too busy; try again, or --engine classical"
                )
            raise EvaluationError(f"expected depth within {START_UP_S:g} s, got none: see the log above")
        print(f"\n{len(scorer[0].metrics)} depth images, {scorer[0].clouds} point clouds")
        print(scorer[0].summary(), flush=True)
    estimate, truth_m = latest
    folder = Path(output)
    write_estimate(folder, estimate, truth_m=truth_m, focus_range_m=(sweep.near_m, sweep.far_m))
    print(f"wrote {folder / 'preview.png'} (all in focus | depth | error), and depth and cloud beside it")
    return 0


def _run_live(nodes: NodeSet, scorer: Scorer, duration_s: float) -> bool:
    """Run until the duration since the first depth is over; say False where the user stopped it."""
    start = time.monotonic()
    deadline = start + START_UP_S
    reported = start
    while time.monotonic() < deadline:
        if wait_for_stop(0.1):
            return False
        nodes.check()
        if scorer.depth_times_s and deadline == start + START_UP_S:
            deadline = time.monotonic() + duration_s
        if len(scorer.metrics) > 2 and time.monotonic() - reported >= REPORT_EVERY_S:
            reported = time.monotonic()
            print(scorer.summary(), flush=True)
    return True
