# SPDX-License-Identifier: Apache-2.0
"""The depth node runs a network, over DDS, and ends with one line where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnxruntime")

from ros_helpers import START_S, SyntheticCamera, chain, plane, wait_until
from sensor_msgs.msg import Image

from dualfocus_ros.commands import DEFAULT_ENGINE
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.engine.pick import AUTO
from dualfocus_ros.nodes.benchmark_peers import BenchmarkConfig
from dualfocus_ros.nodes.depth_node import DepthNodeConfig

tiny_models = pytest.importorskip("tiny_models")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


def test_one_default() -> None:
    assert DepthNodeConfig().engine == BenchmarkConfig().engines[0] == DEFAULT_ENGINE == AUTO
    assert DepthNodeConfig().model == DEFAULT_MODEL


def test_auto_runs_the_network_that_the_parameter_names(tmp_path: Path) -> None:
    path = tiny_models.tiny_model(tmp_path)
    with chain(tmp_path) as (processes, peer):
        depths = peer.collect(Image, "/dualfocus/depth")
        alone = {"breathing": "none", "denoise": False, "normalise_exposure": False}
        node = processes.start("depth_node", {"engine": "auto", "model": path, **alone})
        node.wait_for_output("engine onnx on cpu, ")
        (line,) = node.lines("engine onnx on cpu, ")
        assert ", tiny (auto: " in line and "[INFO]" in line
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()
        depth_m = plane(camera.sweep_until(depths))
        wait_until(lambda: peer.diagnostic("/dualfocus", "engine") == "onnx", 10, "diagnostics")
        assert str(peer.diagnostic("/dualfocus", "device")).startswith("cpu, ")
    # Computed from the pictures that were sent, in single precision.
    grey = np.stack([camera.picture(f) for f in camera.POSITIONS_DPT]).astype(np.float64).mean(axis=3)
    inverse = np.einsum("nhw,n->hw", grey, np.array(camera.POSITIONS_DPT)) / grey.sum(axis=0)
    np.testing.assert_allclose(depth_m, 1.0 / inverse, rtol=1e-4)


@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_a_model_that_is_not_there_ends_the_node(tmp_path: Path, engine: str) -> None:
    with chain(tmp_path) as (processes, _):
        process = processes.start("depth_node", {"engine": engine, "model": "xyzzy"})
        assert process.wait(START_S) == 1
    (line,) = [line for line in process.output.splitlines() if line.startswith("error: ")]
    assert "no model 'xyzzy'" in line and "engine:=classical or --engine classical works without" in line
    assert "Traceback" not in process.output
