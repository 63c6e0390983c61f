# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from dualfocus_ros.errors import ParameterError
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.evaluation.settings import ENGINE_NAMES, WITHOUT_EFFECT, read_settings
from dualfocus_ros.stack import BufferConfig

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


def test_without_anything_the_defaults() -> None:
    settings = read_settings()
    assert (settings.buffer, settings.estimator) == (BufferConfig(), EstimatorConfig())
    assert (settings.engine, settings.model, settings.given) == (None, None, {})


def test_the_file_of_the_depth_node_is_its_defaults() -> None:
    settings = read_settings(ROOT / "config" / "depth.yaml")
    assert (settings.buffer, settings.estimator) == (BufferConfig(), EstimatorConfig())
    assert (settings.engine, settings.model) == ("auto", "dualfocus_small")
    assert not set(settings.given) & set(WITHOUT_EFFECT)
    assert settings.given["max_motion_px"] == 4.0


def test_its_names_are_the_parameters_of_the_depth_node() -> None:
    pytest.importorskip("rclpy")
    import rclpy

    from dualfocus_ros.nodes.depth_node import DepthNode

    context = rclpy.Context()
    rclpy.init(context=context)
    node = DepthNode(context=context)
    try:
        declared = set(node._parameters)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    known = {f.name for kind in (BufferConfig, EstimatorConfig) for f in dataclasses.fields(kind)}
    ours = {*known, *ENGINE_NAMES, *WITHOUT_EFFECT}
    # rclpy's own of every node.
    assert ours == {name for name in declared if name not in ("start_type_description_service",)}
    assert len(ours) == len(known) + len(ENGINE_NAMES) + len(WITHOUT_EFFECT)


def test_assignments_go_before_the_file_and_the_node_before_all_nodes(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "/**:\n  ros__parameters: {max_slices: 10, max_motion_px: 1.5, denoise: false, depth_encoding: 16UC1}\n"
        "/left/dualfocus:\n  ros__parameters: {max_slices: 20, engine: classical}\n"
        "camera:\n  ros__parameters: {nonsense: 1}\n",
    )
    settings = read_settings(file, ["max_motion_px:=3", "mode:=sliding", "model:=other"])
    assert settings.buffer == BufferConfig(mode="sliding", max_slices=20)
    assert settings.estimator == EstimatorConfig(max_motion_px=3.0, denoise=False)
    assert (settings.engine, settings.model) == ("classical", "other")
    assert settings.given["max_motion_px"] == 3 and "depth_encoding" not in settings.given


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000.0), ("5", 5.0), ("5.5", 5.5), (".inf", math.inf), ("inf", math.inf), ("1.5e-2", 0.015)],
)
def test_numbers_are_read_as_ros_reads_them(text: str, value: float) -> None:
    assert read_settings(None, [f"max_motion_px:={text}"]).estimator.max_motion_px == value


def test_what_overrides_qos_is_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path, "/**:\n  ros__parameters:\n    qos_overrides: {/x: {publisher: {depth: 1}}}\n")
    assert read_settings(file).estimator == EstimatorConfig()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("max_slice:=8", "no parameter 'max_slice': did you mean 'max_slices'?"),
        ("zzz:=8", "no parameter 'zzz': it has mode, max_slices"),
        ("max_slices=8", "expected a parameter as NAME:=VALUE, got 'max_slices=8'"),
        (":=8", "expected a parameter as NAME:=VALUE"),
        ("max_slices:={", "max_slices: expected a value in YAML"),
        ("max_slices:=eight", "parameter max_slices: expected int, got 'eight'"),
        ("max_slices:=8.0", "parameter max_slices: expected int, got 8.0"),
        ("max_slices:=true", "parameter max_slices: expected int, got True"),
        ("max_slices:=2", "parameter max_slices: expected 3 to 256, got 2"),
        ("max_motion_px:=-1", "parameter max_motion_px: expected 0.0 to inf, got -1"),
        ("max_motion_px:=.nan", "parameter max_motion_px: expected 0.0 to inf, got nan"),
        ("max_motion_px:=far", "parameter max_motion_px: expected float, got 'far'"),
        ("denoise:=1", "parameter denoise: expected bool, got 1"),
        ("mode:=slide", "parameter mode: expected one of ['sweep', 'sliding'], got 'slide'"),
        ("engine:=1", "parameter engine: expected str, got 1"),
        ("min_depth_m:=.inf", "expected 0 <= min_depth_m < max_depth_m"),
    ],
)
def test_a_wrong_assignment_is_named(assignment: str, words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_settings(None, [assignment])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("camera:\n  ros__parameters: {a: 1}\n", "expected parameters of node dualfocus or /**, got camera"),
        ("dualfocus:\n  mode: sweep\n", "expected ros__parameters with names and values below dualfocus"),
        ("/**: 3\n", "expected ros__parameters with names and values below /**"),
        ("/**:\n  ros__parameters: {mdoe: sweep}\n", "no parameter 'mdoe': did you mean 'mode'?"),
        ("{", "expected YAML in the parameter file"),
        ("", "expected parameters of node dualfocus or /**"),
    ],
)
def test_a_wrong_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        read_settings(write(tmp_path, text))
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot read the parameter file .*none.yaml: No such file"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ParameterError, match="expected YAML"):
        read_settings(tmp_path / "binary")
