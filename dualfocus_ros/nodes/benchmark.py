# SPDX-License-Identifier: Apache-2.0
"""Measures the engines, and the depth node as it runs: real messages from and to other processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from tabulate import tabulate

from dualfocus_ros import dds
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.evaluation.alignment_speed import alignment_table, measure_alignment
from dualfocus_ros.evaluation.roofline import measure_ceilings, measure_graphs, roofline_table
from dualfocus_ros.evaluation.speed import as_json, candidates, measure_speed, speed_table
from dualfocus_ros.nodes.benchmark_peers import (
    FRAME_ID,
    START_UP_S,
    BenchmarkConfig,
    intrinsics_of,
    peer_process,
    spin,
    textured_stack,
)
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.types import DepthEstimate

REPEATS = 100
COMPILE_S = 900.0  # longest time until the first depth comes: an engine may be compiled first


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
    stack = textured_stack(config)
    result: dict[str, Any] = {"width": config.width, "height": config.height, "rate_hz": config.rate_hz}
    found = candidates(config.engines, config.model)
    speeds = measure_speed(found, stack, config.runs)
    result["slices"], result["engines"] = config.slices, as_json(speeds)
    result["engines_table"] = speed_table(speeds)
    aligned = measure_alignment(stack, config.runs)
    result["alignment"], result["alignment_table"] = [a.summary() for a in aligned], alignment_table(aligned)
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
    ros += f"\n{frames}\n\nAlignment on one core, {size}\n{result['alignment_table']}"
    text = f"{ros}\n\nEngines, {result['slices']} slices of {size}\n{result['engines_table']}"
    if "roofline_table" in result:
        text += f"\n\nGraphs of the network on the CPU\n{result['roofline_table']}"
    sweep, sliding = (result["path"][mode] for mode in ("sweep", "sliding"))
    return (
        f"{text}\n\nThrough the node, with {sweep['engine']}, frames at {result['rate_hz']:g} Hz\n"
        f"from the last image message of a sweep to its depth message: median {sweep['latency_ms']:.1f} ms, p99 "
        f"{sweep['latency_p99_ms']:.1f} ms, over {len(sweep['run_ms'])} sweeps\n"
        f"sliding: {sliding['maps_per_s']:.1f} depth maps/s"
    )


def _measure_input(node: TimedDepthNode, config: BenchmarkConfig) -> dict[str, Any]:
    """Spin the node on frames from another process; CPU time of the spinning thread is what ROS costs."""
    spent = node.spent_s
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with peer_process("send", config):
        spin(executor, START_UP_S, until=lambda: len(spent["_on_image"]) >= 30)
        for times in spent.values():
            times.clear()
        cpu_s = time.thread_time()
        spin(executor, config.seconds)
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
        intrinsics_of(config, 1200.0),
        frame_id=FRAME_ID,
    )
    each: dict[str, list[float]] = {}
    both, total = [], []
    with peer_process("receive", config):
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
    with peer_process(mode, config, stdout=subprocess.PIPE) as peer:
        spin(executor, COMPILE_S, until=lambda: peer.poll() is not None or node.failure is not None)
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
