# SPDX-License-Identifier: Apache-2.0
"""The other ends of the benchmark of the depth node: processes that send frames, and take what it publishes."""

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
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2

from dualfocus_ros import messages
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.nodes.base import OUTPUT_QOS
from dualfocus_ros.sweep import SweepConfig, focus_positions_m
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel, LensState

LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=13.75e-6)
FRAME_ID = "camera_optical_frame"
START_UP_S = 15.0
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


def textured_stack(config: BenchmarkConfig) -> FocalStack:
    """Return a stack of texture of all sizes, in focus in the middle slice."""
    rng = np.random.default_rng(0)
    distances = focus_positions_m(SweepConfig(slices=config.slices))
    size = (config.width, config.height)
    scene = np.zeros((config.height, config.width, 3), np.float32)
    for coarser in (1, 4, 16):
        cells = rng.uniform(0.0, 85.0, (config.height // coarser + 1, config.width // coarser + 1, 3))
        scene += cv2.resize(cells.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    slices = []
    for i, s in enumerate(distances):
        blurred = cv2.GaussianBlur(scene, (0, 0), 0.5 + abs(i - config.slices // 2))
        slices.append(FocalSlice(np.rint(blurred).astype(np.uint8), i, s, _focused(config, s)))
    return FocalStack.from_slices(slices, LENS, frame_id=FRAME_ID)


def _focused(config: BenchmarkConfig, focus_m: float) -> Intrinsics:
    """Return the intrinsics of LENS, focused there."""
    image_m = LENS.focal_length_m * focus_m / (focus_m - LENS.focal_length_m)
    return intrinsics_of(config, image_m / LENS.pixel_pitch_m)


def intrinsics_of(config: BenchmarkConfig, fx_px: float) -> Intrinsics:
    """Return intrinsics of that focal length, centred."""
    return Intrinsics(config.width, config.height, fx_px, fx_px, (config.width - 1) / 2, (config.height - 1) / 2)


def spin(executor: SingleThreadedExecutor, seconds: float, until: Callable[[], bool] | None = None) -> None:
    """Spin for so long, or until something holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (until is not None and until()):
        executor.spin_once(timeout_sec=0.1)


@contextmanager
def peer_process(role: str, config: BenchmarkConfig, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
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
        self._pixels = [np.asarray(s.image, np.uint8) for s in textured_stack(config).slices]

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
        spin(self._executor, seconds)

    def wait_for(self, stamps: set[int], seconds: float) -> float | None:
        """Take messages until one has any of the stamps; return when it came, None if not within the time."""
        spin(self._executor, seconds, until=lambda: not stamps.isdisjoint(self.came))
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
