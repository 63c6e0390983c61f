# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.manifest import SELF_CHECK_CELLS, ModelManifest, SelfCheck, load_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.engine.selfcheck import check_stack, self_check, summary_of, true_inverse_depth
from dualfocus_ros.errors import EngineError
from dualfocus_ros.types import AlignedStack

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("dualfocus_small", "dualfocus_small_fp16")


class Answer:
    """An engine that knows the true depth, times a factor in some part of the picture."""

    name = "answer"
    device = "paper"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def infer(self, stack: AlignedStack) -> EngineOutput:
        depth_m = (1.0 / true_inverse_depth()).astype(np.float32)
        depth_m[8:16, 40:48] *= self.factor
        return EngineOutput(depth_m, np.ones_like(depth_m), None)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def manifest(tolerance: float = 0.01) -> ModelManifest:
    """Return a manifest whose reference is the true depth."""
    rows = tuple(tuple(row) for row in summary_of(Answer().infer(check_stack())))
    shipped = load_manifest(ROOT / "models" / "dualfocus_small.json")
    return replace(shipped, name="paper", self_check=SelfCheck(rows, tolerance))


def test_the_stack_is_one_that_depth_can_be_told_from() -> None:
    with ClassicalEngine() as engine:
        found = engine.infer(check_stack()).depth_m
    truth = true_inverse_depth()
    assert truth.shape == found.shape == tuple(8 * cells for cells in SELF_CHECK_CELLS)
    assert np.median(np.abs(1.0 / found - truth)) < 0.2 * 0.25  # dioptres between slices


def test_the_right_answer_passes_and_a_wrong_one_is_told() -> None:
    assert self_check(Answer(), manifest()) == pytest.approx(0.0, abs=1e-6)
    assert self_check(Answer(1.005), manifest()) == pytest.approx(0.005, rel=0.02)
    with pytest.raises(EngineError, match=r"paper on paper gives depth that is up to 2 % off .* allowed are 1 %"):
        self_check(Answer(1.0 / 1.02), manifest())
    with pytest.raises(EngineError, match="up to nan %"):
        self_check(Answer(np.nan), manifest())


def test_no_reference_no_check() -> None:
    assert self_check(Answer(3.0), replace(manifest(), self_check=None)) is None


@pytest.mark.parametrize("name", MODELS)
def test_shipped_models_pass_and_know_the_depth(name: str) -> None:
    pytest.importorskip("onnxruntime")
    shipped = load_manifest(ROOT / "models" / f"{name}.json")
    with OnnxEngine(ROOT / "models" / f"{name}.onnx") as engine:
        assert self_check(engine, shipped) is not None
        found = engine.infer(check_stack()).depth_m
    assert np.median(np.abs(1.0 / found - true_inverse_depth())) < 0.2 * 0.25


@pytest.mark.parametrize(
    "damage",
    [
        {"tolerance": 0.0},
        {"tolerance": "much"},
        {"inverse_depth_dpt": [[1.0] * 12] * 7},
        {"inverse_depth_dpt": [[1.0] * 11 + [-1.0]] * 8},
        {"inverse_depth_dpt": None},
    ],
)
def test_a_damaged_reference_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    data = json.loads((ROOT / "models" / "dualfocus_small.json").read_text())
    data["self_check"] = {"inverse_depth_dpt": [[1.0] * 12] * 8, "tolerance": 0.01, **damage}
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data))
    with pytest.raises(
        EngineError, match=r"expected self_check to be 8 rows of 12 inverse_depth_dpt and a tolerance"
    ):
        load_manifest(path)
