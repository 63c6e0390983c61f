# SPDX-License-Identifier: Apache-2.0
"""The checks that the launch files share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dualfocus_ros import launching
from dualfocus_ros.errors import DualFocusError, ParameterError

NAMES = ["camera", "stack", "namespace"]
FILE = "/share/dualfocus_ros/launch/depth.launch.py"


@pytest.mark.parametrize("file", ["depth.launch.py", FILE, "./launch/depth.launch.py"])
def test_unknown_argument_is_refused(file: str) -> None:
    with pytest.raises(ParameterError, match=r"no argument 'namspace': did you mean 'namespace'\?"):
        launching.refuse_unknown_arguments(NAMES, FILE, ["ros2", "launch", file, "camera:=folder", "namspace:=a"])
    with pytest.raises(ParameterError, match="it has camera, stack, namespace"):
        launching.refuse_unknown_arguments(NAMES, FILE, ["ros2", "launch", file, "zzzz:=1"])


@pytest.mark.parametrize(
    "argv",
    [
        [
            "ros2",
            "launch",
            "dualfocus_ros",
            "depth.launch.py",
            "camera:=folder",
            "stack:=a:=b",
            "--noninteractive",
        ],
        ["ros2", "launch", "dualfocus_ros", "depth.launch.py", "launch-prefix:=gdb"],
        ["ros2", "launch", "robot", "bringup.launch.py", "arm:=left"],
        ["pytest", "-q"],
    ],
)
def test_known_and_foreign_arguments_pass(argv: list[str]) -> None:
    launching.refuse_unknown_arguments(NAMES, FILE, argv)


def test_stack_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meta.json").write_text("{}")
    monkeypatch.chdir(tmp_path.parent)
    assert launching.stack_folder("folder", tmp_path.name) == str(tmp_path)
    assert launching.stack_folder("simulated", "") is None
    with pytest.raises(ParameterError, match="expected stack:=FOLDER, got none"):
        launching.stack_folder("folder", "")
    with pytest.raises(ParameterError, match="only with camera:=folder"):
        launching.stack_folder("simulated", str(tmp_path))
    with pytest.raises(ParameterError, match=r"meta\.json.*no_such"):
        launching.stack_folder("folder", str(tmp_path / "no_such"))


@pytest.mark.parametrize(
    ("argument", "camera", "in_file", "expected"),
    [
        ("params", "simulated", "auto", "camera_info"),
        ("params", "folder", None, "camera_info"),
        ("params", "folder", "thin_lens", None),
        ("params", "external", "auto", None),
        ("auto", "folder", "thin_lens", "camera_info"),
        ("auto", "external", "thin_lens", "auto"),
        ("none", "folder", "auto", "none"),
    ],
)
def test_breathing(tmp_path: Path, argument: str, camera: str, in_file: str | None, expected: str | None) -> None:
    path = tmp_path / "depth.yaml"
    line = "" if in_file is None else f"\n    breathing: {in_file}"
    path.write_text(f"/**:\n  ros__parameters:\n    engine: classical{line}\n")
    assert launching.chosen_breathing(argument, camera, str(path)) == expected


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n"])
def test_bad_parameter_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ParameterError, match=r"bad\.yaml"):
        launching.file_value(str(path), "breathing", "auto")
    with pytest.raises(ParameterError, match="expected depth_params:= to be a YAML file"):
        launching.parameter_file("depth_params", str(tmp_path / "none.yaml"))


def test_node_that_fails_ends_the_launch_with_its_code() -> None:
    on_exit = launching.end_launch_with("dualfocus")
    with pytest.raises(DualFocusError, match="node 'dualfocus' ended with exit code 3"):
        on_exit(SimpleNamespace(returncode=3), SimpleNamespace(is_shutdown=False))
    assert on_exit(SimpleNamespace(returncode=-2), SimpleNamespace(is_shutdown=True)) is None
