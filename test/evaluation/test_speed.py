# SPDX-License-Identifier: Apache-2.0
"""Speed is measured of work that is really done: fresh images each run, nothing known from the one before."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from synthetic_stacks import captured

from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.errors import EngineError
from dualfocus_ros.evaluation.speed import (
    Candidate,
    Speed,
    as_json,
    candidates,
    measure_speed,
    peak_memory_mb,
    speed_table,
)
from dualfocus_ros.types import FocalStack

pytest.importorskip("onnxruntime")
tiny_models = pytest.importorskip("tiny_models")

SHAPE = (48, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_stages(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def stack() -> FocalStack:
    rng = np.random.default_rng(0)
    focus_m = (0.4, 0.6, 1.0, 2.5)
    return captured([rng.integers(1, 256, (*SHAPE, 3), dtype=np.uint8) for _ in focus_m], focus_m)


def test_the_shipped_model_is_measured_in_all_its_forms() -> None:
    found = candidates(["auto", "onnx", "classical"], None)
    assert [c.name for c in found] == ["onnx", "onnx, one graph", "onnx, half", "classical"]
    assert [c.name for c in candidates(["classical"], None)] == ["classical"]
    with pytest.raises(EngineError, match="no model 'none'"):
        candidates(["onnx"], "none")


def test_every_run_does_all_the_work(model: Path, stack: FocalStack) -> None:
    encoded: list[int] = []
    heads: list[int] = []

    class Counting(OnnxEngine):
        def __enter__(self) -> Counting:
            super().__enter__()
            stages = self._stages
            assert stages is not None
            encode, head = stages._encode, stages._head.run

            def count(image: np.ndarray, row: int) -> None:
                encoded.append(row)
                encode(image, row)

            stages._encode = count  # type: ignore[method-assign]
            stages._head = type("Head", (), {"run": lambda _, *given: (heads.append(1), head(*given))[1]})()
            return self

    (speed,) = measure_speed([Candidate("counting", partial(Counting, model))], stack, 3, memory=False)
    slices, runs = len(stack.slices), 6  # every other of which is not counted
    assert len(encoded) == (2 * runs + 1) * slices and len(heads) == 2 * runs + 1  # and one for the depth
    assert len(speed.whole_ms) == len(speed.last_ms) == 3 and len(speed.prepare_ms) == 3 * (slices - 1)
    assert min(speed.whole_ms + speed.last_ms + speed.prepare_ms) > 0.0


def test_depth_is_compared_with_the_first(model: Path, stack: FocalStack) -> None:
    found = [
        Candidate("staged", partial(OnnxEngine, model)),
        Candidate("again", partial(OnnxEngine, model)),
        Candidate("classical", ClassicalEngine),
    ]
    first, second, other = measure_speed(found, stack, 1, memory=False)
    assert first.differs == second.differs == (0.0, 0.0)
    assert 0.0 < other.differs[0] <= other.differs[1]
    assert other.last_ms == [] and other.summary()["frames_per_s"] is None


def test_memory_is_that_of_a_process_of_its_own(stack: FocalStack) -> None:
    ballast = np.ones(300 << 20, np.uint8)  # of this process, not of that
    assert 20.0 < peak_memory_mb(Candidate("classical", ClassicalEngine), stack) < 300.0
    assert ballast.any()


def test_table_and_json_tell_what_was_measured() -> None:
    speed = Speed("onnx", "cpu, 2 threads", [10.0, 30.0, 20.0], [8.0, 9.0, 10.0], [1.0], 123.0, (0.001, 0.02))
    numbers = speed.summary()
    assert numbers["whole_ms"] == 20.0 and numbers["last_ms"] == 9.0
    assert numbers["frames_per_s"] == pytest.approx(111.1, abs=0.1) and numbers["last_share"] == pytest.approx(
        0.45
    )
    text = speed_table([speed, Speed("classical", "cpu", [5.0])])
    assert "cpu, 2 threads" in text and "0.1 / 2" in text and "111.1" in text
    (found, _) = json.loads(json.dumps(as_json([speed, Speed("classical", "cpu", [5.0])])))
    assert found["runs"]["whole_ms"] == [10.0, 30.0, 20.0]
