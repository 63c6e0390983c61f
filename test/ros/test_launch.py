# SPDX-License-Identifier: Apache-2.0
"""Every launch file is executed: arguments, choices, parameters, remaps, and depth that really arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import launch_double
import numpy as np
import pytest
import yaml

from dualfocus_ros import dds, launching
from dualfocus_ros.align import BREATHING_CHOICES
from dualfocus_ros.camera.pick import CAMERA_CHOICES
from dualfocus_ros.engine.pick import ENGINE_CHOICES
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.stack import MODE_CHOICES

pytestmark = pytest.mark.ros

LAUNCH = launch_double.ROOT / "launch"
DEPTH, CAMERA = LAUNCH / "depth.launch.py", LAUNCH / "camera.launch.py"
REPLAY = LAUNCH / "replay.launch.py"
FILES = sorted(LAUNCH.glob("*.launch.py"))
CAMERA_FILES = [CAMERA, DEPTH]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "meta.json").write_text("{}")
    return folder


def _node(context: launch_double.LaunchContext, executable: str) -> launch_double.Node:
    (node,) = [n for n in context.nodes if n.executable == executable]
    return node


def needed(file: Path, folder: Path) -> dict[str, str]:
    """Return the arguments without which a launch file does nothing."""
    return {"bag": str(folder)} if file == REPLAY else {}


def test_these_are_all_launch_files() -> None:
    assert set(FILES) == {*CAMERA_FILES, REPLAY}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_launch_file_runs_and_describes_its_arguments(file: Path, tmp_path: Path) -> None:
    context = launch_double.evaluate(file, **needed(file, tmp_path))
    assert context.nodes
    for argument in context.declared:
        assert len(argument.description) > 10, argument.name
        assert argument.default_value is not None, argument.name
        if argument.default_value in ("true", "false"):
            assert argument.choices == ["true", "false"], argument.name


def test_defaults_start_camera_and_depth() -> None:
    context = launch_double.evaluate(DEPTH)
    assert [n.executable for n in context.nodes] == ["camera_node", "depth_node"]
    camera, depth = context.nodes
    assert (camera.name, depth.name) == ("camera", "dualfocus")
    assert camera.given() == {"driver": "simulated", "use_sim_time": False}
    # The simulated camera's intrinsics follow its focus: no thin-lens guess on top.
    assert depth.given() == {"breathing": "camera_info", "use_sim_time": False}
    assert [Path(f).name for f in (*camera.files(), *depth.files())] == ["camera.yaml", "depth.yaml"]


def test_arguments_reach_the_nodes(stack: Path) -> None:
    context = launch_double.evaluate(
        DEPTH,
        camera="folder",
        stack=str(stack),
        camera_name="left",
        namespace="robot",
        engine="onnx",
        model="/models/mine.onnx",
        mode="sliding",
        breathing="none",
        use_sim_time="true",
        log_level="debug",
    )
    camera, depth = context.nodes
    assert camera.given() == {"driver": "folder", "folder.path": str(stack), "use_sim_time": True}
    assert depth.given() == {
        "engine": "onnx",
        "model": "/models/mine.onnx",
        "mode": "sliding",
        "breathing": "none",
        "use_sim_time": True,
    }
    assert (camera.name, camera.namespace, depth.namespace) == ("left", "robot", "robot")
    assert ("camera/image_raw", "left/image_raw") in depth.remappings
    assert {new for _, new in depth.remappings} == {"left/image_raw", "left/camera_info", "left/lens"}
    assert camera.arguments[-2:] == depth.arguments[-2:] == ["--log-level", "debug"]


def test_an_external_camera_leaves_breathing_to_the_parameters() -> None:
    context = launch_double.evaluate(DEPTH, camera="external")
    assert [n.executable for n in context.nodes] == ["depth_node"]
    assert context.nodes[0].given() == {"use_sim_time": False}


@pytest.mark.parametrize(("camera", "parameter", "value"), [
    ("v4l2", "device", "/dev/video2"), ("picamera2", "camera_num", "1"), ("depthai", "device_id", "14442C10"),
    ("genicam", "serial_number", "21435687"), ("optotune", "port", "/dev/ttyACM1"),
])  # fmt: skip
def test_devices_and_lens_files_reach_their_drivers(camera: str, parameter: str, value: str) -> None:
    # A number stays text where the parameter is one: serial numbers have leading zeros.
    expected = 1 if camera == "picamera2" else value
    for file in CAMERA_FILES:
        given = launch_double.evaluate(file, camera=camera, device=value, lens="my_lens").nodes[0].given()
        assert given[f"{camera}.{parameter}"] == expected and given[f"{camera}.lens"] == "my_lens"
        assert type(given[f"{camera}.{parameter}"]) is type(expected)


def test_images_of_another_node_go_to_both_nodes() -> None:
    topics = {"image_topic": "/cam/image", "camera_info_topic": "/cam/info"}
    camera, depth = launch_double.evaluate(DEPTH, camera="optotune", **topics).nodes
    assert {f"optotune.{k}": v for k, v in topics.items()}.items() <= camera.given().items()
    # K follows the focus in what the camera node says, so that camera_info is taken from there.
    assert depth.remappings == [("camera/image_raw", "/cam/image")]


def test_topics_of_an_external_camera() -> None:
    topics = {"image_topic": "/a/image", "camera_info_topic": "/a/info", "lens_topic": "/b/lens"}
    (depth,) = launch_double.evaluate(DEPTH, camera="external", **topics).nodes
    assert dict(depth.remappings) == {
        "camera/image_raw": "/a/image", "camera/camera_info": "/a/info", "camera/lens": "/b/lens"
    }  # fmt: skip
    (depth,) = launch_double.evaluate(DEPTH, camera="external", camera_name="left", lens_topic="/b/lens").nodes
    assert dict(depth.remappings) == {
        "camera/image_raw": "left/image_raw", "camera/camera_info": "left/camera_info", "camera/lens": "/b/lens"
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [
    {"camera": "simulated", "device": "/dev/video0"}, {"camera": "simulated", "lens": "x"},
    {"camera": "v4l2", "image_topic": "/a"}, {"camera": "v4l2", "stack": "/a"},
    {"camera": "external", "device": "/dev/video0"}, {"camera": "v4l2", "lens_topic": "/a"},
])  # fmt: skip
def test_arguments_that_a_camera_has_no_use_for_are_errors(arguments: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match="only with camera:="):
        launch_double.evaluate(DEPTH, **arguments)


def test_rviz_shows_what_the_depth_node_publishes() -> None:
    context = launch_double.evaluate(DEPTH, rviz="true", namespace="/robot/")
    rviz = _node(context, "rviz2")
    assert context.nodes[0] is rviz  # where it is not installed, nothing must have been started before
    remaps = dict(rviz.remappings)
    config = yaml.safe_load(Path(rviz.arguments[1]).read_text())
    manager = config["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "camera_optical_frame"
    topics = {d["Name"]: d["Topic"] for d in manager["Displays"] if "Topic" in d}
    assert {"Points", "Depth", "All in focus"} <= topics.keys()
    for topic in topics.values():
        assert topic["Reliability Policy"] == "Best Effort"
        assert remaps[topic["Value"]] == "/robot" + topic["Value"]


def test_choices_are_those_of_the_code() -> None:
    choices = {a.name: a.choices for a in launch_double.evaluate(DEPTH).declared}
    assert choices["engine"] == ["params", *ENGINE_CHOICES]
    assert choices["breathing"] == ["params", *BREATHING_CHOICES]
    assert choices["mode"] == ["params", *MODE_CHOICES]
    assert launching.CAMERAS == CAMERA_CHOICES
    own = next(a for a in launch_double.evaluate(DEPTH).declared if a.name == "camera")
    assert own.choices == [*CAMERA_CHOICES, "external"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_unknown_values_and_names_are_errors(file: Path, tmp_path: Path) -> None:
    context = launch_double.evaluate(file, **needed(file, tmp_path))
    for argument in context.declared:
        # A file that includes another one declares the arguments of that, too, and hands on what it wants.
        if argument.choices is not None and argument.name in launch_double.arguments(file):
            with pytest.raises(RuntimeError, match=f'Argument "{argument.name}" provided value "bogus"'):
                launch_double.evaluate(file, **{**needed(file, tmp_path), argument.name: "bogus"})
    with pytest.raises(ParameterError, match="no argument 'log_levl': did you mean 'log_level'"):
        launch_double.evaluate(file, log_levl="info")


@pytest.mark.parametrize("file", CAMERA_FILES, ids=lambda f: f.name)
def test_unknown_camera_arguments_are_errors(file: Path) -> None:
    with pytest.raises(ParameterError, match="no argument 'camera_parms': did you mean 'camera_params'"):
        launch_double.evaluate(file, camera_parms="x.yaml")


@pytest.mark.parametrize("file", CAMERA_FILES, ids=lambda f: f.name)
def test_files_that_do_not_exist_are_errors(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected stack:=FOLDER, got none"):
        launch_double.evaluate(file, camera="folder")
    with pytest.raises(ParameterError, match=r"meta\.json"):
        launch_double.evaluate(file, camera="folder", stack=str(tmp_path))
    with pytest.raises(ParameterError, match="expected camera_params:="):
        launch_double.evaluate(file, camera_params=str(tmp_path / "none.yaml"))


def test_replay_starts_depth_and_evaluation_in_the_time_of_the_recording(tmp_path: Path) -> None:
    context = launch_double.evaluate(
        REPLAY,
        bag=str(tmp_path),
        rate="2.5",
        start="1",
        loop="true",
        lens_topic="/robot/lens",
        engine="classical",
        namespace="robot",
        json="out.json",
    )
    assert [n.executable for n in context.nodes] == ["depth_node", "evaluation_node", "replay_node"]
    assert {n.namespace for n in context.nodes} == {"robot"}
    depth, evaluation, replay = (n.given() for n in context.nodes)
    assert depth == {"use_sim_time": True, "engine": "classical"}
    assert evaluation == {"use_sim_time": True, "json": "out.json"}
    expected = {"bag": str(tmp_path), "rate": 2.5, "start_s": 1.0, "end_s": 0.0, "loop": True, "paused": False}
    assert expected.items() <= replay.items()
    assert replay["lens_topic"] == "/robot/lens"
    assert "use_sim_time" not in replay
    without = launch_double.evaluate(REPLAY, bag=str(tmp_path), evaluate="false")
    assert [n.executable for n in without.nodes] == ["depth_node", "replay_node"]


def test_replay_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected bag:=PATH"):
        launch_double.evaluate(REPLAY)
    with pytest.raises(ParameterError, match="no such file or folder"):
        launch_double.evaluate(REPLAY, bag=str(tmp_path / "none"))
    with pytest.raises(ParameterError, match="expected rate:= to be a number, got 'fast'"):
        launch_double.evaluate(REPLAY, bag=str(tmp_path), rate="fast")


def test_dds_profile_is_set_unless_the_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dds.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert dds.check_profile({**os.environ, **launch_double.evaluate(DEPTH).environment}).ok
    monkeypatch.setenv(dds.PROFILE_VARIABLES[0], "/mine.xml")
    assert launch_double.evaluate(DEPTH).environment == {}


def test_end_of_a_node_ends_the_launch() -> None:
    context = launch_double.evaluate(DEPTH)
    for node in context.nodes:
        assert node.on_exit is not None
        with launch_double.installed():
            action = node.on_exit(_Exited(0), context)
            assert isinstance(action, launch_double.Shutdown)
            assert node.name in action.reason
            with pytest.raises(Exception, match=f"node '{node.name}' ended with exit code 1"):
                node.on_exit(_Exited(1), context)


class _Exited:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode


SMALL = {"simulated.width": 160, "simulated.height": 120, "sweep.slices": 5}


@pytest.fixture
def small_camera(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": SMALL}}))
    return str(path)


def _receive_depth_and_truth(topic: str, truth_topic: str, alive: Any, timeout_s: float = 40.0) -> tuple[Any, Any]:
    """Return the first depth message that has a ground truth, and that; fails where a process ends before."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    context = rclpy.context.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("test_launch_listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    depths: list[Any] = []
    truths: list[Any] = []
    try:
        node.create_subscription(Image, topic, depths.append, qos_profile_sensor_data)
        node.create_subscription(Image, truth_topic, truths.append, qos_profile_sensor_data)
        end = time.monotonic() + timeout_s
        while not (depths and truths) and time.monotonic() < end and alive():
            executor.spin_once(timeout_sec=0.1)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert depths, f"no message on {topic}"
    assert truths, f"no message on {truth_topic}"
    return depths[0], truths[0]


def _check_depth(depth: Any, truth: Any) -> None:
    """The depth is metres of the simulated scene: most pixels within 15 % of the truth."""
    assert (depth.encoding, depth.width, depth.height) == ("32FC1", 160, 120)
    assert depth.header.frame_id == "camera_optical_frame"
    found = np.frombuffer(depth.data, np.float32).reshape(120, 160)
    true = np.frombuffer(truth.data, np.float32).reshape(120, 160)
    both = np.isfinite(found) & np.isfinite(true)
    assert both.mean() > 0.5
    assert np.median(np.abs(found[both] / true[both] - 1.0)) < 0.15


@pytest.mark.timeout(120)
def test_depth_arrives_from_the_launched_nodes(tmp_path: Path, small_camera: str) -> None:
    pytest.importorskip("rclpy")
    context = launch_double.evaluate(DEPTH, namespace="one", engine="classical", camera_params=small_camera)
    with launch_double.started(context, tmp_path) as processes:
        try:
            depth, truth = _receive_depth_and_truth(
                "/one/dualfocus/depth",
                "/one/camera/ground_truth/depth",
                lambda: all(p.poll() is None for p in processes),
            )
        except AssertionError as error:
            logs = "\n".join(p.read_text() for p in tmp_path.glob("*.log"))
            raise AssertionError(f"{error}\n{logs}") from error
    _check_depth(depth, truth)
    assert [p.returncode for p in processes] == [0, 0]
    for log in tmp_path.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.mark.timeout(120)
def test_a_recording_is_replayed_and_evaluated_by_the_launched_nodes(tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    from bag_helpers import frames, recorded, write

    bag = write(tmp_path / "bag", recorded(frames(60, width=160, slices=5)))
    file = tmp_path / "scores.json"
    logs = tmp_path / "logs"
    logs.mkdir()
    context = launch_double.evaluate(REPLAY, bag=str(bag), engine="classical", json=str(file))
    with launch_double.started(context, logs) as processes:
        code = processes[-1].wait(60)
    text = "\n".join(p.read_text() for p in logs.glob("*.log"))
    assert code == 0, text
    assert [p.returncode for p in processes] == [0, 0, 0], text
    assert "Traceback" not in text
    assert "against true depth" in (logs / "evaluation.log").read_text()
    (found,) = json.loads(file.read_text())["evaluations"]
    assert len(found["stacks"]) >= 5
    assert found["total"]["abs_rel"] < 0.15


def _real_launch() -> bool:
    # The folder launch/ here can pass for a module, so look at what is in it.
    code = "from launch import LaunchService; from launch_ros.actions import Node"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, check=False)
    return done.returncode == 0


RUN_REAL = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [word.split(":=") for word in sys.argv[2:]]
service = LaunchService(argv=sys.argv[2:], noninteractive=True)
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif(not _real_launch(), reason="ROS 2's own launch and launch_ros are not installed (not on PyPI)")
def test_under_real_launch(tmp_path: Path, small_camera: str) -> None:
    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RUN_REAL, str(DEPTH), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": launch_double.python_path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    for arguments, words in (
        (["engine:=bogus"], 'Argument "engine" provided value "bogus"'),
        (["camera:=folder"], "expected stack:=FOLDER, got none"),
        (["nmespace:=a"], "did you mean 'namespace'?"),
    ):
        output, _ = run(*arguments).communicate(timeout=60)
        assert words in output
    process = run("namespace:=two", "engine:=classical", f"camera_params:={small_camera}")
    try:
        depth, truth = _receive_depth_and_truth(
            "/two/dualfocus/depth", "/two/camera/ground_truth/depth", lambda: process.poll() is None
        )
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    _check_depth(depth, truth)
    assert process.returncode == 0, output
    assert "Traceback" not in output
