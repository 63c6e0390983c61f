# SPDX-License-Identifier: Apache-2.0
"""Bad input gets one clear error, and the node that gets it goes on; bad settings end a node with one line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import numpy as np
from ros_helpers import (
    ENGINE,
    START_S,
    Peer,
    Process,
    Processes,
    SyntheticCamera,
    chain,
    plane,
    ros_args,
    wait_until,
)
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

DEPTH_M = 0.8


def _set(**fields: Any) -> Callable[[Any], None]:
    """Return what sets these fields of a message."""

    def spoil(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return spoil


def _focus(value: float) -> Callable[[Any], None]:
    def spoil(message: Any) -> None:
        message.position[0] = value

    return spoil


def _cut(message: Any) -> None:
    message.data = message.data[:-100]


# Name of the namespace: what is spoilt, and words of the error.
SPOILT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "encoding": ({"spoil_image": _set(encoding="rgb9")}, ("expected an image encoding of rgb8", "got 'rgb9'")),
    "step": ({"spoil_image": _set(step=50)}, ("expected a step of at least 192 bytes", "got 50")),
    "length": ({"spoil_image": _cut}, ("expected 9216 bytes of image data", "got 9116")),
    "size": ({"spoil_info": _set(width=60)}, ("camera_info says another image size", "resize the camera info")),
    "nan": ({"spoil_lens": _focus(float("nan"))}, ("expected focus_distance in metres above 0", "got nan")),
    "negative": ({"spoil_lens": _focus(-2.0)}, ("expected focus_distance in metres above 0", "got -2.0")),
    "names": ({"spoil_lens": _set(name=["a", "b", "c", "d"])}, ("expected the names focus_distance",)),
    "uncalibrated": ({"spoil_info": _set(k=[0.0] * 9)}, ("expected a calibrated camera", "camera_calibration")),
}
TOPICS = {"image": "image_raw", "info": "camera_info", "lens": "lens"}
SILENT = ("no_lens", "still", "two")
NODES = """
import sys
from functools import partial
from dualfocus_ros.nodes.signals import hold_stop_signals
hold_stop_signals()
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.runner import run_until_stopped
names, ros_args = sys.argv[1].split(","), sys.argv[1:]
raise SystemExit(run_until_stopped([partial(DepthNode, namespace=n) for n in names], ros_args))
"""


class Nodes:
    """Depth nodes in one process, each in a namespace of its own with a camera of its own."""

    def __init__(self, process: Process, peer: Peer, names: tuple[str, ...]) -> None:
        self.process = process
        self.peer = peer
        self.depths = {n: peer.collect(Image, f"/{n}/dualfocus/depth") for n in names}
        self.cameras = {n: SyntheticCamera(peer, f"/{n}", DEPTH_M) for n in names}
        for camera in self.cameras.values():
            camera.wait_for_subscribers()

    def logged(self, name: str, *words: str) -> list[str]:
        return self.process.lines(f"[{name}.dualfocus]", *words)

    def value(self, name: str, key: str = "") -> str:
        return str(self.peer.diagnostic(f"/{name}/dualfocus", key))


def _nodes(folder: Path, names: tuple[str, ...]) -> Iterator[Nodes]:
    with chain(folder) as (processes, peer):
        process = processes.run(NODES, [",".join(names), *ros_args({"breathing": "none", **ENGINE})])
        nodes = Nodes(process, peer, names)
        yield nodes
        assert process.popen.poll() is None, process.output
        assert "Traceback" not in process.output


@pytest.fixture(scope="class")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    yield from _nodes(tmp_path_factory.mktemp("spoilt"), tuple(SPOILT))


class TestSpoiltMessages:
    """Messages that cannot be used, then good ones."""

    @pytest.mark.parametrize("name", SPOILT)
    def test_error_is_logged_and_counted_and_depth_flows_again(self, spoilt: Nodes, name: str) -> None:
        spoil, words = SPOILT[name]
        camera, depths = spoilt.cameras[name], spoilt.depths[name]
        start = time.monotonic()
        sent = [s for _ in range(3) for s in camera.sweep(**spoil)]

        def logged() -> list[str]:
            return spoilt.logged(name, *words)

        def told() -> bool:
            # The first ones may come before the node listens, and a size that does not fit is an error of no
            # message: it is told by what the node says of its state.
            if not logged():
                sent.extend(camera.sweep(**spoil))
            return bool(logged())

        wait_until(told, 10, lambda: spoilt.process.output)
        assert logged()[0].startswith("[WARN]" if name == "size" else "[ERROR]")
        # Throttled: at most one line of it every 2 s.
        assert len(logged()) <= 1 + (time.monotonic() - start) / 2.0
        (topic,) = (t for t in ("image", "info", "lens") if f"spoil_{t}" in spoil)
        reason = "camera_info_of_another_size" if name == "size" else f"unusable camera/{TOPICS[topic]}"

        def count() -> int:
            return int(spoilt.peer.diagnostic(f"/{name}/dualfocus", f"dropped: {reason}") or 0)

        # Every one that came: best effort may lose some on a busy machine.
        wait_until(lambda: count() >= len(sent) // 2, 10, lambda: f"{count()} of {len(sent)}")
        assert count() <= len(sent)
        assert not depths
        depth = plane(camera.sweep_until(depths, 20))
        assert np.nanmedian(depth) == pytest.approx(DEPTH_M, rel=0.05)


@pytest.fixture(scope="class")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    for nodes in _nodes(tmp_path_factory.mktemp("silent"), SILENT):
        # A first sweep may take a while, so that is told after twice the time of silence.
        end = time.monotonic() + 7.5
        while time.monotonic() < end:
            nodes.cameras["no_lens"].sweep(lens=False)
            for _ in range(3):
                nodes.cameras["still"].frame(1.0)
                nodes.cameras["two"].frame(1.0)
                nodes.cameras["two"].frame(2.0)
        yield nodes


class TestSilentInput:
    """Inputs that come and never make a stack, or do not come."""

    def test_missing_lens_topic_is_named_within_5_s(self, silent: Nodes) -> None:
        wait_until(lambda: silent.logged("no_lens", "[WARN]"), 5, lambda: silent.process.output)
        warning = silent.logged("no_lens", "[WARN]")[0]
        assert "/no_lens/camera/lens" in warning
        assert "image_raw" not in warning
        for advice in ("has a publisher, but nothing arrives", "QoS", "ros2 topic hz"):
            assert advice in warning
        wait_until(lambda: "/no_lens/camera/lens" in silent.value("no_lens"), 5, lambda: silent.value("no_lens"))
        started = silent.logged("no_lens", "engine classical")[0]
        assert _log_time_s(warning) - _log_time_s(started) <= 5.0

    @pytest.mark.parametrize("name", ["still", "two"])
    def test_focus_that_makes_no_sweep_is_told(self, silent: Nodes, name: str) -> None:
        told = "does the focus move over 3 positions or more, and again?"
        wait_until(lambda: told in silent.value(name), 5, lambda: silent.value(name))
        wait_until(lambda: silent.logged(name, "[WARN]", told), 5, lambda: silent.process.output)
        assert silent.value(name, "focus positions") == "0"
        assert not silent.depths[name]
        # It is no dead end: the same camera, sweeping, gives depth, once two whole sweeps were alike.
        for _ in range(6):
            silent.cameras[name].sweep()
        depth = plane(silent.cameras[name].sweep_until(silent.depths[name], 20))
        assert np.nanmedian(depth) == pytest.approx(DEPTH_M, rel=0.05)


def _log_time_s(line: str) -> float:
    found = re.search(r"\[(\d+\.\d+)\]", line)
    assert found, line
    return float(found[1])


# What is given to a node, and words of the one line with which it ends.
REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "folder": (
        "camera_node",
        {"driver": "folder", "folder.path": "/nowhere/stack"},
        ("cannot play the folder as a camera", "/nowhere/stack"),
    ),
    "no_folder": ("camera_node", {"driver": "folder"}, ("expected the folder of a focal stack",)),
    "meta": ("camera_node", {"driver": "folder", "folder.path": "{bad_meta}"}, ("meta.json",)),
    "driver": (
        "camera_node",
        {"driver": "simulatd"},
        ("parameter driver", "'simulated', 'folder'", "did you mean 'simulated'?"),
    ),
    "engine": ("depth_node", {"engine": "clasical"}, ("parameter engine", "did you mean 'classical'?")),
    "misspelt": ("depth_node", {"max_slice": 10}, ("no parameter 'max_slice'", "did you mean 'max_slices'?")),
    "misspelt_camera": ("camera_node", {"sweep.slice": 10}, ("did you mean 'sweep.slices'?",)),
    "type": (
        "camera_node",
        {"sweep.slices": "many"},
        ("parameter sweep.slices", "expected int", "sweep.slices:=10"),
    ),
    "unit": ("depth_node", {"min_depth_m": "40cm"}, ("parameter min_depth_m", "expected float in m")),
    "range": ("depth_node", {"min_confidence": 1.5}, ("parameter min_confidence", "1.5")),
    "few": ("camera_node", {"sweep.slices": 2}, ("parameter sweep.slices", "2")),
    "distances": ("camera_node", {"sweep.distances_m": "[0.5,1.0]"}, ("expected 3 or more distinct",)),
    "list": (
        "camera_node",
        {"sweep.distances_m": "[a,b,c]"},
        ("sweep.distances_m", "expected list of float in m"),
    ),
    "order": ("camera_node", {"sweep.near_m": 6.0}, ("0 < sweep.near_m < sweep.far_m", "6.0 and 5.0")),
    "reach": (
        "camera_node",
        {"sweep.near_m": 0.2, "simulated.views": 16},
        ("focus range of the lens", "set sweep.near_m"),
    ),
    "qos": (
        "camera_node",
        {"qos_overrides./camera/lens.publisher.reliability": "bogus"},
        ("reliability", "bogus"),
    ),
    "qos_input": (
        "depth_node",
        {"qos_overrides./camera/lens.subscription.reliability": "bogus"},
        ("camera/lens", "reliability", "bogus"),
    ),
    "qos_misspelt": (
        "depth_node",
        {"qos_overrides./camera/lens.subscription.reliabilty": "reliable"},
        ("did you mean 'qos_overrides./camera/lens.subscription.reliability'?",),
    ),
    "syntax": ("depth_node", {"min_depth_m": "[1, two"}, ("ROS arguments", "min_depth_m:=[1, two")),
}


@pytest.fixture(scope="class")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    folder = tmp_path_factory.mktemp("refused")
    bad_meta = folder / "stack"
    bad_meta.mkdir()
    (bad_meta / "meta.json").write_text('{"width": 64,')
    with Processes(folder) as processes:
        started = {}
        for name, (executable, params, _) in REFUSED.items():
            given = {k: str(v).format(bad_meta=bad_meta) for k, v in params.items()}
            started[name] = processes.start(executable, given)
            # Two at a time: all at once would only wait for each other.
            if len(started) % 2 == 0:
                for process in started.values():
                    process.wait(START_S)
        yield started


class TestRefusedSettings:
    """Settings that cannot be used end the node at once: exit code 1, one line, no traceback."""

    @pytest.mark.parametrize("name", REFUSED)
    def test_one_line_and_exit_code_1(self, ended: dict[str, Process], name: str) -> None:
        process, (_, _, words) = ended[name], REFUSED[name]
        assert process.wait(START_S) == 1
        assert "Traceback" not in process.output
        lines = [line for line in process.output.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, process.output
        for word in words:
            assert word in lines[0]
