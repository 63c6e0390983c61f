# SPDX-License-Identifier: Apache-2.0
"""Measures the depth node as it runs: real messages from another process, real subscribers in a third."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2
from tabulate import tabulate

from dualfocus_ros import dds, messages
from dualfocus_ros.engine.pick import make_engine, takes_model
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.estimator import DepthEstimator
from dualfocus_ros.nodes.base import OUTPUT_QOS
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.sweep import SweepConfig, focus_positions_m
from dualfocus_ros.types import DepthEstimate, FocalSlice, FocalStack, Intrinsics, LensModel, LensState

LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=13.75e-6)
FRAME_ID = "camera_optical_frame"
REPEATS = 100
ENGINE_REPEATS = 7
START_UP_S = 15.0


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured."""

    width: int = 640
    height: int = 480
    slices: int = 10
    rate_hz: float = 30.0
    seconds: float = 10.0
    engines: tuple[str, ...] = ("auto",)
    model: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        if min(self.width, self.height) < 16 or self.slices < 3 or not (self.rate_hz > 0 and self.seconds > 0):
            raise ParameterError(
                f"expected at least 16x16 pixels, 3 slices, a rate and seconds above 0, got {self}"
            )


class TimedDepthNode(DepthNode):
    """A depth node that notes how long each of its callbacks takes."""

    def __init__(self, **kwargs: Any) -> None:
        """Start with nothing noted."""
        self.spent_s: dict[str, list[float]] = {}
        for name in ("_on_image", "_on_camera_info", "_on_lens"):
            self.spent_s[name] = []
            setattr(self, name, partial(self._timed, getattr(self, name), self.spent_s[name]))
        super().__init__(**kwargs)

    @staticmethod
    def _timed(callback: Callable[[Any], None], spent_s: list[float], message: Any) -> None:
        start = time.perf_counter()
        callback(message)
        spent_s.append(time.perf_counter() - start)


def measure(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure input, output and engines; return medians in milliseconds and shares of a core."""
    dds.use_profile()
    stack = _textured_stack(config)
    result: dict[str, Any] = {"width": config.width, "height": config.height, "rate_hz": config.rate_hz}
    result["engines"] = dict(_measure_engine(name, config.model, stack) for name in config.engines)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        # The engine is measured above; of the node, only the ROS side is.
        given = {"autostart": False, "engine": "classical"}
        node = TimedDepthNode(parameter_overrides=[Parameter(n, value=v) for n, v in given.items()])
        node.start()
        result["input"] = _measure_input(node, config)
        result["output"] = _measure_output(node, config)
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    return result


def report(result: dict[str, Any]) -> str:
    """Return the numbers as text tables."""
    size = f"{result['width']}x{result['height']}"
    inp, out = result["input"], result["output"]
    rows = [
        ["message in -> slot, callbacks, per frame", inp["callback_ms"], ""],
        [
            "message in -> slot, CPU of the executor, per frame (mean)",
            inp["cpu_ms"],
            f"{inp['core_percent']:.1f} %",
        ],
        *([f"publish {name}, per stack", ms, ""] for name, ms in out["each_ms"].items()),
        ["publish depth + points, per stack", out["depth_points_ms"], ""],
        ["publish all of it, per stack", out["all_ms"], f"{out['core_percent']:.1f} %"],
    ]
    ros = tabulate(
        rows, headers=[f"ROS side, {size}", "median ms", f"core at {result['rate_hz']:g} Hz"], floatfmt=".3f"
    )
    engines = [
        [name, e["device"], e["align_ms"], e["engine_ms"], e["slices"]] for name, e in result["engines"].items()
    ]
    head = ["engine", "device", "align ms", "engine ms", "slices"]
    frames = f"input measured over {inp['frames']} frames"
    return f"{ros}\n{frames}\n\n{tabulate(engines, headers=head, floatfmt='.1f')}"


def _textured_stack(config: BenchmarkConfig) -> FocalStack:
    """Return a stack of noise, the worst case for warps and focus measures alike."""
    rng = np.random.default_rng(0)
    distances = focus_positions_m(SweepConfig(slices=config.slices))
    slices = []
    for i, s in enumerate(distances):
        fx = LENS.focal_length_m * s / (s - LENS.focal_length_m) / LENS.pixel_pitch_m
        image = rng.integers(0, 256, (config.height, config.width, 3), dtype=np.uint8)
        slices.append(FocalSlice(image, i, s, _intrinsics(config, fx)))
    return FocalStack.from_slices(slices, LENS, frame_id=FRAME_ID)


def _intrinsics(config: BenchmarkConfig, fx_px: float) -> Intrinsics:
    return Intrinsics(config.width, config.height, fx_px, fx_px, (config.width - 1) / 2, (config.height - 1) / 2)


def _measure_engine(name: str, model: str | None, stack: FocalStack) -> tuple[str, dict[str, Any]]:
    """Return the engine's own name (never auto), and what it takes."""
    with make_engine(name, model if takes_model(name) else None) as engine:
        estimator = DepthEstimator(engine)
        times = []
        for _ in range(ENGINE_REPEATS + 1):
            estimator.estimate(stack)
            times.append((estimator.timing.align_s * 1e3, estimator.timing.engine_s * 1e3))
        align_ms, engine_ms = (statistics.median(column) for column in zip(*times[1:], strict=True))
        numbers = {"align_ms": align_ms, "engine_ms": engine_ms, "slices": len(stack.slices)}
        return engine.name, {"device": engine.device, **numbers}


def _measure_input(node: TimedDepthNode, config: BenchmarkConfig) -> dict[str, Any]:
    """Spin the node on frames from another process; CPU time of the spinning thread is what ROS costs."""
    spent = node.spent_s
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with _peer("send", config):
        _spin(executor, START_UP_S, until=lambda: len(spent["_on_image"]) >= 30)
        for times in spent.values():
            times.clear()
        cpu_s = time.thread_time()
        _spin(executor, config.seconds)
        cpu_s = time.thread_time() - cpu_s
    executor.remove_node(node)
    frames = len(spent["_on_image"])
    if not frames:
        raise ParameterError("no frame arrived from the sending process: see `python -m dualfocus_ros doctor`")
    return {
        "frames": frames,
        "callback_ms": sum(statistics.median(times) for times in spent.values()) * 1e3,
        "cpu_ms": cpu_s / frames * 1e3,
        "core_percent": 100.0 * cpu_s / frames * config.rate_hz,
    }


def _measure_output(node: DepthNode, config: BenchmarkConfig) -> dict[str, Any]:
    """Publish estimates to a subscribing process, each output timed by itself and all together."""
    rng = np.random.default_rng(0)
    shape = (config.height, config.width)
    estimate = DepthEstimate(
        rng.uniform(0.4, 5.0, shape).astype(np.float32),
        rng.random(shape, dtype=np.float32),
        rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        _intrinsics(config, 1200.0),
        frame_id=FRAME_ID,
    )
    each: dict[str, list[float]] = {}
    both, total = [], []
    with _peer("receive", config):
        deadline = time.monotonic() + START_UP_S
        while not all(p.get_subscription_count() for p in node.outputs):
            if time.monotonic() > deadline:
                raise ParameterError("no subscriber came up: see `python -m dualfocus_ros doctor`")
            time.sleep(0.05)
        for _ in range(REPEATS):
            start = time.perf_counter()
            for name, publish in node.publishing(estimate):
                before = time.perf_counter()
                publish()
                each.setdefault(name, []).append((time.perf_counter() - before) * 1e3)
            total.append((time.perf_counter() - start) * 1e3)
            both.append(each["depth"][-1] + each["points"][-1])
            time.sleep(1.0 / config.rate_hz)
    return {
        "each_ms": {name: statistics.median(values) for name, values in each.items()},
        "depth_points_ms": statistics.median(both),
        "all_ms": statistics.median(total),
        "core_percent": statistics.median(total) * config.rate_hz / 10.0,
    }


def _spin(executor: SingleThreadedExecutor, seconds: float, until: Callable[[], bool] | None = None) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (until is not None and until()):
        executor.spin_once(timeout_sec=0.1)


@contextmanager
def _peer(role: str, config: BenchmarkConfig) -> Iterator[None]:
    """Run the sending or receiving side in a process of its own."""
    command = [sys.executable, "-m", __name__, role, str(config.width), str(config.height), str(config.rate_hz)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the peer ends when its input does, also if this process is killed
        process.wait(timeout=10)


def _send(node: Node, config: BenchmarkConfig, stop: threading.Event) -> None:
    """Publish frames of a lens that stands still: all the work of the input, and no stack."""
    image = node.create_publisher(Image, "camera/image_raw", OUTPUT_QOS)
    info = node.create_publisher(CameraInfo, "camera/camera_info", OUTPUT_QOS)
    lens = node.create_publisher(JointState, "camera/lens", OUTPUT_QOS)
    pixels = np.random.default_rng(0).integers(0, 256, (config.height, config.width, 3), dtype=np.uint8)
    while not stop.wait(1.0 / config.rate_hz):
        stamp_ns = time.time_ns()
        lens.publish(messages.lens_message(LensState(stamp_ns, 1.0, LENS), FRAME_ID))
        info.publish(messages.camera_info_message(_intrinsics(config, 1200.0), stamp_ns, FRAME_ID))
        image.publish(messages.rgb_message(pixels, stamp_ns, FRAME_ID))


def _receive(node: Node, config: BenchmarkConfig, stop: threading.Event) -> None:
    """Subscribe to everything."""
    for kind, topic in (
        (Image, "dualfocus/depth"),
        (CameraInfo, "dualfocus/camera_info"),
        (PointCloud2, "dualfocus/points"),
        (Image, "dualfocus/confidence"),
        (Image, "dualfocus/all_in_focus"),
    ):
        node.create_subscription(kind, topic, lambda message: None, qos_profile_sensor_data)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)


def _peer_main(role: str, width: str, height: str, rate_hz: str) -> None:
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"benchmark_{role}")
    config = BenchmarkConfig(int(width), int(height), rate_hz=float(rate_hz))
    {"send": _send, "receive": _receive}[role](node, config, stop)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    _peer_main(*sys.argv[1:])
