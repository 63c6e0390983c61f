# SPDX-License-Identifier: Apache-2.0
"""However a node is stopped, and whenever: soon, with exit code 0, and in silence."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from ros_helpers import ENGINE, SMALL, TINY, Process, SyntheticCamera, chain, ros_args, wait_until
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

LIMIT_S = 3.0
REPETITIONS = 10


def _twice(process: Process) -> None:
    """A terminal's Ctrl-C under `ros2 launch`: once from the terminal, once from launch."""
    process.signal()
    time.sleep(0.02)
    if process.popen.poll() is None:
        process.signal()


WAYS: dict[str, Callable[[Process], None]] = {
    "SIGINT": lambda p: p.signal(signal.SIGINT),
    "SIGTERM": lambda p: p.signal(signal.SIGTERM),
    "twice": _twice,
}


def _assert_clean(processes: list[Process], start_s: float) -> None:
    """All end in time with exit code 0, and write nothing of it."""
    for process in processes:
        assert process.wait(LIMIT_S - (time.monotonic() - start_s)) == 0, process.output
        for word in ("Traceback", "Error", "error", "terminate", "Aborted", "KeyboardInterrupt"):
            assert word not in process.output, process.output


@pytest.mark.parametrize("way", WAYS)
def test_both_processes_end_under_load(way: str, tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        depths = peer.collect(Image, "/dualfocus/depth")
        # One depth a frame: the worker is at work when the signal comes.
        depth = processes.start("depth_node", {"mode": "sliding"})
        camera = processes.start("camera_node", {**SMALL, "sweep.slices": 5, "simulated.views": 16})
        wait_until(lambda: processes.alive() and len(depths) > 2, 30, "depth")
        start = time.monotonic()
        for process in (camera, depth):
            WAYS[way](process)
        _assert_clean([camera, depth], start)


@pytest.mark.parametrize("after_s", [0.3, 1.0])
def test_nodes_end_during_start_up(after_s: float, tmp_path: Path) -> None:
    """While rclpy loads, or while the camera at its full size renders its scene."""
    with chain(tmp_path) as (processes, _):
        both = [processes.start("camera_node"), processes.start("depth_node")]
        for process in both:
            process.wait_for_output("up")
        time.sleep(after_s)
        start = time.monotonic()
        for process in both:
            process.signal()
        _assert_clean(both, start)


TOGETHER = """
from dualfocus_ros.nodes.signals import hold_stop_signals
hold_stop_signals()
from rclpy.node import Node
from sensor_msgs.msg import Image
from dualfocus_ros.nodes.camera_node import CameraNode
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.runner import run_until_stopped

class Listener(Node):
    def __init__(self):
        super().__init__("listener")
        self.create_subscription(Image, "dualfocus/depth", lambda _: print("depth", flush=True), 10)

raise SystemExit(run_until_stopped([Listener, DepthNode, CameraNode]))
"""


def test_camera_and_depth_in_one_process_end_ten_times_out_of_ten(tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    settings = {**TINY, "sweep.slices": 3}
    lines = ["camera:", "  ros__parameters:", *(f"    {k}: {v}" for k, v in settings.items())]
    file.write_text(
        "\n".join([*lines, "dualfocus:", "  ros__parameters:", *(f"    {k}: {v}" for k, v in ENGINE.items())])
    )
    with chain(tmp_path) as (processes, _):
        for _ in range(REPETITIONS):
            process = processes.run(TOGETHER, ["--ros-args", "--params-file", str(file)])
            process.wait_for_output("\ndepth\n")
            start = time.monotonic()
            process.signal()
            _assert_clean([process], start)


BROKEN_ENGINE = """
import sys, types
from dualfocus_ros.nodes.signals import hold_stop_signals
hold_stop_signals()
from dualfocus_ros.engine import pick
from dualfocus_ros.errors import EngineError

class Broken:
    name, device = "broken", "nowhere"
    def __enter__(self):
        return self
    def __exit__(self, *_):
        print("engine closed", flush=True)
    def infer(self, stack):
        raise {error}

module = types.ModuleType("broken_engine")
module.Broken = Broken
sys.modules["broken_engine"] = module
pick.ENGINES["classical"] = "broken_engine:Broken"
from dualfocus_ros.nodes.depth_node import main
raise SystemExit(main())
"""


def test_an_estimate_under_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    slow = """
        print("estimating", flush=True)
        import time
        time.sleep(30)
"""
    with chain(tmp_path) as (processes, peer):
        process = processes.run(BROKEN_ENGINE.replace("        raise {error}", slow), ros_args(ENGINE))
        peer.collect(Image, "/dualfocus/depth")
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()

        def estimating() -> bool:
            camera.sweep()
            return "estimating" in process.output

        wait_until(estimating, 20, lambda: process.output)
        start = time.monotonic()
        process.signal()
        assert process.wait(LIMIT_S - (time.monotonic() - start)) == 0, process.output
        assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("error", "line", "traceback"),
    [
        ('EngineError("the device has gone")', "error: the device has gone", False),
        ('ZeroDivisionError("a defect")', "ZeroDivisionError: a defect", True),
    ],
)
def test_a_dead_worker_takes_the_node_down_with_its_error(
    error: str, line: str, traceback: bool, tmp_path: Path
) -> None:
    with chain(tmp_path) as (processes, peer):
        process = processes.run(BROKEN_ENGINE.replace("{error}", error), ros_args(ENGINE))
        peer.collect(Image, "/dualfocus/depth")
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()

        def ended() -> bool:
            if process.popen.poll() is None:
                camera.sweep()
            return process.popen.poll() is not None

        wait_until(ended, 20, lambda: process.output)
        assert process.popen.returncode == 1
        assert line in process.output.splitlines()
        # A known error is one line; a defect shows where it is.
        assert ("Traceback" in process.output) == traceback
        assert "engine closed" in process.output
