# SPDX-License-Identifier: Apache-2.0
"""Parameters of the real nodes: described, bounded, read-only unless live, and equal to the shipped files."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter
from ros_helpers import ENGINE, ROOT, TINY, chain, wait_until
from sensor_msgs.msg import JointState

from dualfocus_ros.camera.pick import CAMERA_CHOICES, DEVICE_CHOICES
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.nodes.camera_node import CameraNode
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.evaluation_node import EvaluationNode
from dualfocus_ros.nodes.replay_node import ReplayNode
from dualfocus_ros.sweep import SweepConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

# Said by ROS itself, not by this package.
FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")
LIVE = {"breathing", "max_motion_px", "normalise_exposure", "min_depth_m", "max_depth_m", "min_confidence"}
TOPICS = ("image_topic", "camera_info_topic", "lens_topic", "truth_topic")
LIVE_OF_DEVICES = ("exposure_s", "gain", "hold_exposure", "meter_again", "auto_time_s", "frame_timeout_s")
LIVE_OF_CAMERA = {
    "focus_m",
    *(f"sweep.{f.name}" for f in dataclasses.fields(SweepConfig)),
    *(f"{device}.{name}" for device in DEVICE_CHOICES for name in LIVE_OF_DEVICES),
} - {
    # Without effect there.
    *(f"optotune.{name}" for name in ("gain", "hold_exposure", "meter_again", "auto_time_s")),
    "simulated_lens.meter_again",
}
LIVE_OF: dict[type[Any], set[str]] = {CameraNode: LIVE_OF_CAMERA, ReplayNode: {"rate", "loop"}}
NAMES_OF_DEVICES = (
    *(f"{device}.lens" for device in DEVICE_CHOICES),
    *("v4l2.device", "v4l2.focus_device", "depthai.device_id", "genicam.serial_number", "genicam.focus_node"),
    *("optotune.port", "optotune.image_topic", "optotune.camera_info_topic", "simulated_lens.target"),
)
ENUMERATED = {
    "driver": CAMERA_CHOICES,
    "simulated.scene": ("still_life", "far", "near", "two_clusters", "wall"),
    "simulated_lens.motion": ("slew", "ring"),
    "v4l2.pixel_format": ("auto", "YUYV", "MJPG"),
    "genicam.pixel_format": ("auto", "BayerRG8", "Mono8"),
    "depthai.socket": ("CAM_A", "CAM_B"),
    "optotune.stamp_is": ("start", "middle", "end"),
    "sweep.spacing": ("dioptres", "metres"),
    "sweep.pattern": ("sawtooth", "back_and_forth"),
    "engine": ("auto", "tensorrt", "onnx", "torch", "classical"),
    "depth_encoding": ("32FC1", "16UC1"),
    "mode": ("sweep", "sliding"),
    "breathing": ("auto", "camera_info", "thin_lens", "none"),
    "residual": ("auto", "classical", "network", "none"),
}
Maker = Callable[..., Any]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_parameters", ROOT / "scripts" / "write_parameters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make() -> Iterator[Maker]:
    """Make a node with parameters given; all are destroyed at the end."""
    made = []
    rclpy.init(args=[])

    def make_node(kind: type[Any], **given: Any) -> Any:
        overrides = [
            v if isinstance(v, Parameter) else Parameter(k.replace("__", "."), value=v) for k, v in given.items()
        ]
        made.append(kind(parameter_overrides=overrides))
        return made[-1]

    yield make_node
    for node in made:
        node.close()
        node.destroy_node()
    rclpy.try_shutdown()


def own_names(node: Any) -> list[str]:
    return [name for name in node._parameters if not name.startswith(FOREIGN)]


def test_files_are_those_that_the_script_would_write(script: ModuleType) -> None:
    files = script.files()
    names = {"camera.yaml", "depth.yaml", "replay.yaml", "evaluation.yaml", "parameters.md"}
    assert {p.name for p in files} == names
    for path, text in files.items():
        assert path.read_text() == text, f"run scripts/write_parameters.py: {path.name} differs from the code"


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (CameraNode, "camera.yaml"),
        (DepthNode, "depth.yaml"),
        (ReplayNode, "replay.yaml"),
        (EvaluationNode, "evaluation.yaml"),
    ],
)
def test_yaml_holds_exactly_the_declared_parameters_and_defaults(make: Maker, kind: type[Any], file: str) -> None:
    (section,) = yaml.safe_load((ROOT / "config" / file).read_text()).values()
    flat = {}
    for name, value in section["ros__parameters"].items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    node = make(kind)
    declared = {name: node.get_parameter(name).value for name in own_names(node)}
    assert {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in declared.items()} == flat


@pytest.mark.parametrize(
    ("kind", "least"), [(CameraNode, 11), (DepthNode, 11), (ReplayNode, 11), (EvaluationNode, 6)]
)
def test_every_parameter_is_described_and_bounded(make: Maker, kind: type[Any], least: int) -> None:
    node = make(kind)
    names = own_names(node)
    assert len(names) >= least
    for name, descriptor in zip(names, node.describe_parameters(names), strict=True):
        assert len(descriptor.description) > 10, name
        assert descriptor.read_only == (name not in LIVE_OF.get(kind, LIVE)), name
        value = node.get_parameter(name).value
        if descriptor.type == ParameterType.PARAMETER_INTEGER:
            (limits,) = descriptor.integer_range
            assert limits.from_value <= value <= limits.to_value, name
        elif descriptor.type == ParameterType.PARAMETER_DOUBLE:
            (limits,) = descriptor.floating_point_range
            assert limits.from_value <= value <= limits.to_value, name
        elif descriptor.type == ParameterType.PARAMETER_STRING and name not in (
            "frame_id",
            "folder.path",
            "model",
            "engine_cache",
            "alignment_file",
            "bag",
            "json",
            *TOPICS,
            *NAMES_OF_DEVICES,
        ):
            for choice in ENUMERATED[name]:
                assert choice in descriptor.additional_constraints, name
        # A unit in the name is a unit in the description.
        for suffix, unit in (("_m", "[m]"), ("_s", "[s]"), ("_hz", "[Hz]"), ("_px", "[px]")):
            if name.endswith(suffix) and not name.endswith("_per_s"):
                assert unit in descriptor.description, name


def test_read_only_parameters_refuse_to_be_set(make: Maker) -> None:
    for kind, name, value in (
        (DepthNode, "max_slices", 20),
        (DepthNode, "mode", "sliding"),
        (DepthNode, "depth_encoding", "16UC1"),
        (CameraNode, "driver", "folder"),
        (CameraNode, "retry_max_s", 2.0),
        (CameraNode, "simulated.width", 320),
        (CameraNode, "v4l2.device", "/dev/video7"),
    ):
        node = make(kind)
        before = node.get_parameter(name).value
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful
        assert "read-only" in result.reason
        assert node.get_parameter(name).value == before


def test_live_parameters_apply_at_once(make: Maker) -> None:
    node = make(DepthNode, **ENGINE)
    assert node.trigger_configure().name == "SUCCESS"
    changes = {
        "breathing": "none",
        "max_motion_px": 9.0,
        "normalise_exposure": False,
        "min_depth_m": 0.5,
        "max_depth_m": 3.0,
        "min_confidence": 0.25,
    }
    assert set(changes) == LIVE
    for name, value in changes.items():
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, result.reason
        assert getattr(node._estimator.config, name) == value
    # Each keeps what was set before.
    assert {name: getattr(node._estimator.config, name) for name in changes} == changes
    result = node.set_parameters_atomically(
        [Parameter("min_depth_m", value=4.0), Parameter("max_depth_m", value=6.0)]
    )
    assert result.successful
    assert (node._estimator.config.min_depth_m, node._estimator.config.max_depth_m) == (4.0, 6.0)


def test_live_parameters_of_the_replay(make: Maker) -> None:
    node = make(ReplayNode)
    for name, value in (("rate", 2.5), ("loop", True)):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, result.reason
        assert getattr(node._config, name) == value
    (result,) = node.set_parameters([Parameter("rate", value=0.0)])
    assert not result.successful


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("breathing", "nonne", "expected breathing to be one of"),
        ("min_depth_m", 7.0, "expected 0 <= min_depth_m < max_depth_m, got 7.0 and 5.0"),
        ("max_depth_m", 0.0, "got 0.0 and 0.0"),
        ("max_motion_px", -1.0, "max_motion_px"),
        ("max_motion_px", float("nan"), "max_motion_px"),
        ("min_depth_m", -1.0, "min_depth_m"),
        ("min_confidence", 1.01, "min_confidence"),
        ("min_confidence", "high", "Wrong parameter type"),
        ("max_depth_m", float("nan"), "max_depth_m"),
    ],
)
def test_wrong_live_values_are_refused_with_a_reason(make: Maker, name: str, value: Any, reason: str) -> None:
    node = make(DepthNode, max_depth_m=5.0, **ENGINE)
    assert node.trigger_configure().name == "SUCCESS"
    config, before = node._estimator.config, node.get_parameter(name).value
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert reason in result.reason
    assert node.get_parameter(name).value == before
    assert node._estimator.config == config


def test_a_refused_value_does_not_come_back_with_the_next(make: Maker) -> None:
    """What one parameter's callback took must not stay where the set fails as a whole."""
    node = make(DepthNode, max_depth_m=5.0, **ENGINE)
    assert node.trigger_configure().name == "SUCCESS"
    result = node.set_parameters_atomically(
        [Parameter("min_depth_m", value=1.0), Parameter("max_slices", value=20)]
    )
    assert not result.successful
    assert node._estimator.config.min_depth_m == node.get_parameter("min_depth_m").value == 0.0


def test_an_integer_is_good_for_a_float(make: Maker) -> None:
    node = make(CameraNode, simulated__rate_hz=30, sweep__distances_m=[1, 2, 3])
    assert node.get_parameter("simulated.rate_hz").value == 30.0
    assert isinstance(node.get_parameter("simulated.rate_hz").value, float)
    assert node._driver_configs["simulated"].rate_hz == 30.0
    assert node._sweep_config.distances_m == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("empty", [Parameter("sweep.distances_m"), Parameter("sweep.distances_m", value=[])])
def test_an_empty_list_says_that_nothing_is_given(make: Maker, empty: Parameter[Any]) -> None:
    assert make(CameraNode, empty=empty)._sweep_config.distances_m == ()


def test_distances_are_taken_as_given(make: Maker) -> None:
    node = make(CameraNode, sweep__distances_m=[0.5, 1.0, 2.0])
    assert node._sweep_config.distances_m == (0.5, 1.0, 2.0)
    (descriptor,) = node.describe_parameters(["sweep.distances_m"])
    assert descriptor.type == ParameterType.PARAMETER_DOUBLE_ARRAY


def test_unknown_parameters_are_refused(make: Maker) -> None:
    with pytest.raises(ParameterError, match="no parameter 'sweep.slics': did you mean 'sweep.slices'"):
        make(CameraNode, sweep__slics=5)
    with pytest.raises(ParameterError, match="no parameter 'sweep.slics'"):
        make(CameraNode, other=Parameter("sweep.slics"))


def test_shipped_files_start_the_nodes_and_distances_reach_the_lens(tmp_path: Path) -> None:
    """The files as they are, but for the size of the camera's images."""
    distances = [0.5, 0.9, 2.0, 4.0]
    with chain(tmp_path) as (processes, peer):
        lens = peer.collect(JointState, "/camera/lens")
        small = [word for k, v in TINY.items() if k != "sweep.slices" for word in ("-p", f"{k}:={v}")]
        starter = "from dualfocus_ros.nodes.executables import {} as f; raise SystemExit(f())"
        config = ROOT / "config"
        camera = processes.run(
            starter.format("camera_node"),
            ["--ros-args", "--params-file", str(config / "camera.yaml"), *small],
        )
        depth = processes.run(
            starter.format("depth_node"), ["--ros-args", "--params-file", str(config / "depth.yaml")]
        )
        camera.wait_for_output("sweeping 10 focus positions, 0.4 to 5 m")
        depth.wait_for_output("engine onnx on ")
        camera.signal()
        assert camera.wait(3.0) == 0
        own = tmp_path / "own.yaml"
        own.write_text(f"/**:\n  ros__parameters:\n    sweep:\n      distances_m: {distances}\n")
        lens.clear()
        again = processes.run(
            starter.format("camera_node"),
            ["--ros-args", "--params-file", str(config / "camera.yaml"), "--params-file", str(own), *small],
        )
        again.wait_for_output("sweeping 4 focus positions, 0.5 to 4 m")

        def still() -> set[float]:
            return {m.position[0] for m in list(lens) if m.velocity[0] == 0.0}

        wait_until(lambda: len(still()) >= 4, 20, lambda: str(still()))
        assert sorted(still()) == pytest.approx(distances)
