# SPDX-License-Identifier: Apache-2.0
"""Measures the engines, and the depth node as it runs: real messages from and to other processes."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.evaluation.roofline import measure_ceilings, measure_graphs, roofline_table
from dualfocus_ros.evaluation.speed import as_json, candidates, measure_speed, speed_table
from dualfocus_ros.nodes.base import OUTPUT_QOS
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.sweep import SweepConfig, focus_positions_m
from dualfocus_ros.types import DepthEstimate, FocalSlice, FocalStack, Intrinsics, LensModel, LensState

LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=13.75e-6)
FRAME_ID = "camera_optical_frame"
REPEATS = 100
START_UP_S = 15.0
COMPILE_S = 900.0  # longest time until the first depth comes: an engine may be compiled first
SWEEPS, WARM_UP = 12, 2  # the first ones make room for what follows: they do not count


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
    runs: int = 20

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        enough = min(self.width, self.height) >= 16 and self.slices >= 3 and self.runs >= 1
        if not (enough and self.rate_hz > 0 and self.seconds > 0):
            raise ParameterError(
                f"expected at least 16x16 pixels, 3 slices, a run, a rate and seconds above 0, got {self}"
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
    found = candidates(config.engines, config.model)
    speeds = measure_speed(found, stack, config.runs)
    result["slices"], result["engines"] = config.slices, as_json(speeds)
    result["engines_table"] = speed_table(speeds)
    if any(candidate.name == "onnx" for candidate in found):
        ceilings = measure_ceilings()
        shape = (config.slices, config.height, config.width)
        graphs = measure_graphs(config.model or DEFAULT_MODEL, *shape, config.runs, ceilings)
        result["roofline"] = {
            "ceilings": asdict(ceilings),
            "graphs": [{**graph.summary(), "run_ms": graph.run_ms} for graph in graphs],
        }
        result["roofline_table"] = roofline_table(graphs, ceilings)
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
        result["path"] = {mode: _measure_path(config, mode) for mode in ("sweep", "sliding")}
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
    frames = f"input measured over {inp['frames']} frames"
    text = f"{ros}\n{frames}\n\nEngines, {result['slices']} slices of {size}\n{result['engines_table']}"
    if "roofline_table" in result:
        text += f"\n\nGraphs of the network on the CPU\n{result['roofline_table']}"
    sweep, sliding = (result["path"][mode] for mode in ("sweep", "sliding"))
    return (
        f"{text}\n\nThrough the node, with {sweep['engine']}, frames at {result['rate_hz']:g} Hz\n"
        f"from the last image message of a sweep to its depth message: median {sweep['latency_ms']:.1f} ms, p99 "
        f"{sweep['latency_p99_ms']:.1f} ms, over {len(sweep['run_ms'])} sweeps\n"
        f"sliding: {sliding['maps_per_s']:.1f} depth maps/s"
    )


def _textured_stack(config: BenchmarkConfig) -> FocalStack:
    """Return a stack of noise, the worst case for warps and focus measures alike."""
    rng = np.random.default_rng(0)
    distances = focus_positions_m(SweepConfig(slices=config.slices))
    slices = []
    for i, s in enumerate(distances):
        image = rng.integers(0, 256, (config.height, config.width, 3), dtype=np.uint8)
        slices.append(FocalSlice(image, i, s, _focused(config, s)))
    return FocalStack.from_slices(slices, LENS, frame_id=FRAME_ID)


def _focused(config: BenchmarkConfig, focus_m: float) -> Intrinsics:
    """Return the intrinsics of LENS, focused there."""
    image_m = LENS.focal_length_m * focus_m / (focus_m - LENS.focal_length_m)
    return _intrinsics(config, image_m / LENS.pixel_pitch_m)


def _intrinsics(config: BenchmarkConfig, fx_px: float) -> Intrinsics:
    return Intrinsics(config.width, config.height, fx_px, fx_px, (config.width - 1) / 2, (config.height - 1) / 2)


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


def _measure_path(config: BenchmarkConfig, mode: str) -> dict[str, Any]:
    """Run a node with the first engine on sweeps from another process, which takes the time until depth comes."""
    given = {"engine": config.engines[0], "mode": mode, "max_stack_age_s": 0.0}
    if config.model is not None:
        given["model"] = config.model
    node = DepthNode(parameter_overrides=[Parameter(n, value=v) for n, v in given.items()])
    node.start()
    if node.failure is not None:
        raise node.failure
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with _peer(mode, config, stdout=subprocess.PIPE) as peer:
        _spin(executor, COMPILE_S, until=lambda: peer.poll() is not None or node.failure is not None)
        assert peer.stdout is not None
        told = peer.stdout.read() if peer.poll() == 0 else b""
    failure = node.failure
    (engine,) = (value for key, value in node.diagnose().values.items() if key == "engine")
    executor.remove_node(node)
    node.close()
    node.destroy_node()
    if failure is not None:
        raise failure
    if not told:
        raise ParameterError(f"no depth came through the node within {COMPILE_S:g} s: see its log above")
    return {"engine": engine, **json.loads(told)}


@contextmanager
def _peer(role: str, config: BenchmarkConfig, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of ROLES in a process of its own."""
    command = [sys.executable, "-m", __name__, role, json.dumps(asdict(config))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the peer ends when its input does, also if this process is killed
        process.wait(timeout=10)


class _Camera:
    """Publishes frames as a camera node does."""

    def __init__(self, node: Node, config: BenchmarkConfig) -> None:
        self._config = config
        self._image = node.create_publisher(Image, "camera/image_raw", OUTPUT_QOS)
        self._info = node.create_publisher(CameraInfo, "camera/camera_info", OUTPUT_QOS)
        self._lens = node.create_publisher(JointState, "camera/lens", OUTPUT_QOS)
        self._pixels = [np.asarray(s.image, np.uint8) for s in _textured_stack(config).slices]

    def publish(self, number: int, focus_m: float) -> int:
        """Publish one of the images, focused there; return the stamp."""
        stamp_ns = time.time_ns()
        self._lens.publish(messages.lens_message(LensState(stamp_ns, focus_m, LENS), FRAME_ID))
        intrinsics = _focused(self._config, focus_m)
        self._info.publish(messages.camera_info_message(intrinsics, stamp_ns, FRAME_ID))
        self._image.publish(messages.rgb_message(self._pixels[number], stamp_ns, FRAME_ID))
        return stamp_ns


def _send(node: Node, config: BenchmarkConfig, stop: threading.Event) -> None:
    """Publish frames of a lens that stands still: all the work of the input, and no stack."""
    camera = _Camera(node, config)
    while not stop.wait(1.0 / config.rate_hz):
        camera.publish(0, 1.0)


class _Depths:
    """When depth came, and of which stamp."""

    def __init__(self, node: Node) -> None:
        self.came: dict[int, float] = {}
        node.create_subscription(Image, "dualfocus/depth", self._take, qos_profile_sensor_data)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)

    def _take(self, message: Image) -> None:
        self.came[messages.stamp_to_ns(message.header.stamp)] = time.perf_counter()

    def wait(self, seconds: float) -> None:
        """Take messages for that long."""
        _spin(self._executor, seconds)

    def wait_for(self, stamps: set[int], seconds: float) -> float | None:
        """Take messages until one has any of the stamps; return when it came, None if not within the time."""
        _spin(self._executor, seconds, until=lambda: not stamps.isdisjoint(self.came))
        return next((self.came[stamp] for stamp in stamps if stamp in self.came), None)


def _sweep(node: Node, config: BenchmarkConfig, stop: threading.Event) -> None:
    """Send sweep after sweep; print how long after the last frame of each its depth came."""
    camera, depths = _Camera(node, config), _Depths(node)
    distances = focus_positions_m(SweepConfig(slices=config.slices))
    run_ms: list[float] = []
    while len(run_ms) < SWEEPS and not stop.is_set():
        stamps = set()
        for number, focus_m in enumerate(distances):
            depths.wait(1.0 / config.rate_hz)
            last = time.perf_counter()
            stamps.add(camera.publish(number, focus_m))
        # The first sweeps have no depth: the node is yet to learn where they end, or compiles.
        came_s = depths.wait_for(stamps, START_UP_S if depths.came else 0.5)
        if came_s is not None:
            run_ms.append(1e3 * (came_s - last))
    if len(run_ms) == SWEEPS:
        run_ms = run_ms[WARM_UP:]
        latency = {"latency_ms": statistics.median(run_ms), "latency_p99_ms": float(np.quantile(run_ms, 0.99))}
        print(json.dumps({**latency, "run_ms": run_ms}))


def _sliding(node: Node, config: BenchmarkConfig, stop: threading.Event) -> None:
    """Send frames whose focus goes back and forth; print how often depth came."""
    camera, depths = _Camera(node, config), _Depths(node)
    distances = focus_positions_m(SweepConfig(slices=config.slices))
    there = list(range(config.slices))
    turn = itertools.cycle([*there, *there[-2:0:-1]])
    start = None
    while not stop.is_set() and (start is None or time.perf_counter() < start + config.seconds):
        depths.wait(1.0 / config.rate_hz)
        number = next(turn)
        camera.publish(number, distances[number])
        if start is None and len(depths.came) > config.slices:
            start = time.perf_counter()
    if start is not None:
        seconds = time.perf_counter() - start
        print(json.dumps({"maps_per_s": sum(t > start for t in depths.came.values()) / seconds}))


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


ROLES = {"send": _send, "receive": _receive, "sweep": _sweep, "sliding": _sliding}


def _peer_main(role: str, given: str) -> None:
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"benchmark_{role}")
    ROLES[role](node, BenchmarkConfig(**json.loads(given)), stop)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    _peer_main(*sys.argv[1:])
