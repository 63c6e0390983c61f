# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dualfocus_ros.engine import pick
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.engine.pick import ENGINE_CHOICES, choose_engine, describe, make_engine, takes_model
from dualfocus_ros.engine.tensorrt import TensorRtEngine
from dualfocus_ros.engine.torch import TorchEngine
from dualfocus_ros.errors import EngineError


def test_names_and_what_they_stand_for() -> None:
    assert ENGINE_CHOICES == ("auto", "tensorrt", "onnx", "torch", "classical")
    engines = [type(make_engine(name)) for name in ENGINE_CHOICES[1:]]
    assert engines == [TensorRtEngine, OnnxEngine, TorchEngine, ClassicalEngine]
    assert [takes_model(name) for name in ENGINE_CHOICES] == [True, True, True, True, False]
    assert all(choose_engine(name).reason == "" for name in ENGINE_CHOICES[1:])


@pytest.mark.parametrize(
    ("obstacle", "name", "reason"),
    [("", "tensorrt", "fastest on this GPU"), ("there is no NVIDIA GPU", "onnx", "there is no NVIDIA GPU")],
)
def test_auto_takes_the_gpu_where_there_is_one(
    obstacle: str, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pick, "tensorrt_obstacle", lambda: obstacle)
    found = choose_engine("auto")
    assert found.name == name and reason in found.reason


def test_auto_says_what_it_took_and_why(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tiny_models = pytest.importorskip("tiny_models")
    path = str(tiny_models.tiny_model(tmp_path))
    with make_engine("auto", path) as engine:
        text = describe(engine, "auto")
        assert text.startswith("engine onnx on cpu, ") and ", tiny (auto: " in text
        assert describe(engine, "onnx") == f"engine onnx on {engine.device}"
    with make_engine("classical") as engine:
        assert describe(engine, "classical") == "engine classical on cpu"


@pytest.mark.parametrize("name", ["auto", "onnx"])
def test_nothing_falls_back_to_classical(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("model", "runtime"):
        if missing == "runtime":
            monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(EngineError) as caught, make_engine(name, "no_such_model"):
            pass
        assert "engine:=classical or --engine classical works without" in str(caught.value)
    assert "pip install onnxruntime" in str(caught.value)


def test_unknown_names_get_the_nearest() -> None:
    for name, near in (("clasical", "classical"), ("autto", "auto"), ("onxx", "onnx")):
        with pytest.raises(EngineError, match=f"one of .*{name}.*did you mean '{near}'"):
            make_engine(name)
    with pytest.raises(EngineError, match=r"got 'xyzzy'$"):
        make_engine("xyzzy")


def test_a_model_for_an_engine_that_has_none() -> None:
    with pytest.raises(EngineError, match="the classical engine takes no model, got 'net'"):
        make_engine("classical", "net")


def test_choosing_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert make_engine("onnx").device == "not loaded"
    assert set(pick.ENGINES) == set(ENGINE_CHOICES) - {"auto"}
