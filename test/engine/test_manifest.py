# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dualfocus_ros import share
from dualfocus_ros.engine.manifest import (
    DEFAULT_MODEL,
    find_model,
    list_models,
    load_manifest,
    models_folder,
    write_manifest,
)
from dualfocus_ros.errors import EngineError

FACTS: dict[str, Any] = {
    "precision": "fp16",
    "opset": 17,
    "parameters": 1_234_567,
    "trained_max_slices": 15,
    "blur_step_px": (0.5, 6.0),
    "training": {"run": "a", "steps": 100},
}
CONTENT = b"not a network, but that is not for the manifest to say"
# The contract, spelt out once more: whoever exports a network relies on it.
CONTRACT = {
    "format": "dualfocus-model",
    "version": 1,
    "name": "net",
    "file": "net.onnx",
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "precision": "fp16",
    "opset": 17,
    "focus": {"unit": "dioptre", "order": "nearest first"},
    "slices": {"min": 3, "trained_max": 15},
    "blur_step_px": {"min": 0.5, "max": 6.0},
    "training": {"run": "a", "steps": 100},
    "parameters": 1_234_567,
}
SHAPES = {
    "inputs": {"images": ["slices", 3, "height", "width"], "focus_dpt": ["slices"], "blur_gain": [1]},
    "outputs": {
        "inverse_depth": ["height", "width"],
        "confidence": ["height", "width"],
        "all_in_focus": [3, "height", "width"],
    },
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the manifest of a model in a folder of its own."""
    (tmp_path / "net.onnx").write_bytes(CONTENT)
    return write_manifest(tmp_path / "net.onnx", **FACTS)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_the_contract(model: Path) -> None:
    data = json.loads(model.read_text())
    tensors = {kind: data.pop(kind) for kind in ("inputs", "outputs")}
    assert data == CONTRACT
    assert {k: {n: t["shape"] for n, t in tensors[k].items()} for k in tensors} == SHAPES
    assert {t["dtype"] for k in tensors for t in tensors[k].values()} == {"float32"}
    assert all(len(t["meaning"]) > 5 for k in tensors for t in tensors[k].values())


def test_what_is_written_is_read(model: Path) -> None:
    manifest = load_manifest(model)
    assert (manifest.name, manifest.onnx_path) == ("net", model.with_name("net.onnx"))
    assert (manifest.precision, manifest.opset, manifest.parameters) == ("fp16", 17, 1_234_567)
    assert (manifest.min_slices, manifest.trained_max_slices) == (3, 15)
    assert manifest.blur_step_px == (0.5, 6.0)
    assert manifest.training == {"run": "a", "steps": 100}
    assert manifest.sha256 == CONTRACT["sha256"]
    assert manifest.summary() == "1.23 M parameters, fp16, trained on 3 to 15 slices"


def test_more_keys_do_no_harm(model: Path) -> None:
    edit(model, note="from a later release of the same version")
    assert load_manifest(model).name == "net"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "expected format 'dualfocus-model', got 'other'"),
        ({"version": 2}, "expected manifest version 1, got 2: update this package"),
        ({"file": "../net.onnx"}, "expected file to be the name of a file beside the manifest"),
        ({"file": "/etc/passwd"}, "expected file to be the name of a file beside the manifest"),
        ({"file": "gone.onnx"}, "gone.onnx beside it, found none"),
        ({"sha256": "0" * 64}, "damaged or of another version"),
        ({"sha256": "xyz"}, "expected sha256 to be 64 hexadecimal digits"),
        ({"precision": "int8"}, "expected precision to be one of"),
        ({"opset": "17"}, "expected opset to be a whole number above 0, got '17'"),
        ({"parameters": -1}, "expected parameters"),
        ({"focus": {"unit": "metre", "order": "nearest first"}}, "expected focus to be"),
        ({"slices": {"min": 2, "trained_max": 15}}, "expected slices to be"),
        ({"slices": {"min": 5, "trained_max": 4}}, "expected slices to be"),
        ({"slices": [3, 15]}, "expected slices to be"),
        ({"blur_step_px": {"min": 0.5}}, "expected blur_step_px to be"),
        ({"blur_step_px": {"min": 2.0, "max": 1.0}}, "expected blur_step_px to be"),
        ({"training": "yes"}, "expected training to be an object"),
        ({"inputs": {}}, "expected the tensors ['blur_gain', 'focus_dpt', 'images'], got []"),
        ({"outputs": [1]}, "expected the tensors"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(model: Path, changes: dict[str, Any], words: str) -> None:
    edit(model, **changes)
    with pytest.raises(EngineError) as caught:
        load_manifest(model)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"dtype": "float16", "shape": ["slices"]}, "float32 ['slices'], got float16"),
        ({"dtype": "float32", "shape": [1]}, "expected focus_dpt to be float32 ['slices'], got float32 [1]"),
        ("focus", "expected focus_dpt to be float32 ['slices'], got None None"),
    ],
)
def test_tensors_of_another_type_or_shape_are_refused(model: Path, tensor: Any, words: str) -> None:
    inputs = json.loads(model.read_text())["inputs"]
    edit(model, inputs={**inputs, "focus_dpt": tensor})
    with pytest.raises(EngineError) as caught:
        load_manifest(model)
    assert words in str(caught.value)


def test_missing_keys_are_named(model: Path) -> None:
    data = json.loads(model.read_text())
    del data["opset"], data["focus"]
    model.write_text(json.dumps(data))
    with pytest.raises(EngineError, match="opset, focus missing in the manifest"):
        load_manifest(model)


def test_a_damaged_network_is_refused(model: Path) -> None:
    model.with_name("net.onnx").write_bytes(CONTENT[:-1])
    with pytest.raises(EngineError, match="its SHA-256 is .* copy all files of the model again"):
        load_manifest(model)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "in JSON"), ("[]", "hold a JSON object, got list"), ("{}", "expected format")]
)
def test_no_manifest_at_all(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EngineError, match=words):
        load_manifest(tmp_path / "a.json")
    with pytest.raises(EngineError, match="cannot read the manifest"):
        load_manifest(tmp_path / "b.json")


def test_models_are_found_by_name_and_by_either_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model.parent
    (folder / "README.md").write_text("")
    assert list_models(folder) == (model,)
    assert list_models(folder / "nowhere") == ()
    assert find_model("net", folder) == model
    assert find_model(model) == find_model(str(model.with_name("net.onnx"))) == model
    monkeypatch.chdir(folder)
    assert find_model("net.onnx").resolve() == model
    monkeypatch.setenv("HOME", str(folder))
    assert find_model("~/net.onnx") == model


def test_names_are_looked_up_in_the_models_of_the_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_folder() == share.share_directory() / "models"
    model.parent.joinpath("models").mkdir()
    for suffix in (".json", ".onnx"):
        model.with_suffix(suffix).rename(model.parent / "models" / f"net{suffix}")
    monkeypatch.setattr("dualfocus_ros.engine.manifest.share_directory", lambda: model.parent)
    assert find_model("net") == model.parent / "models" / "net.json"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nett", "did you mean 'net'?"),
        ("xyzzy", "there are ['net']"),
        ("", "there are ['net']"),
        ("gone.onnx", "expected the manifest of the model at gone.json"),
        ("some/folder", "expected model to be a name, or the path of an .onnx or .json file"),
    ],
)
def test_models_that_are_not_there(model: Path, name: str, words: str) -> None:
    with pytest.raises(EngineError) as caught:
        find_model(name, model.parent)
    assert words in str(caught.value)


def test_no_models_at_all_tells_what_works_without(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there are none.*engine:=classical or --engine classical works without"):
        find_model(DEFAULT_MODEL, tmp_path)


def test_writing_refuses_what_reading_would(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="export it first"):
        write_manifest(tmp_path / "net.onnx", **FACTS)
    (tmp_path / "net.onnx").write_bytes(CONTENT)
    with pytest.raises(EngineError, match="expected precision"):
        write_manifest(tmp_path / "net.onnx", **{**FACTS, "precision": "half"})
    assert not (tmp_path / "net.json").exists()
