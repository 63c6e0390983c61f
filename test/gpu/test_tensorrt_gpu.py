# SPDX-License-Identifier: Apache-2.0
"""TensorRT on a GPU: `python -m pytest test/gpu -m gpu` on a machine that has one; skipped elsewhere."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dualfocus_ros.engine.base import CompilerOptions
from dualfocus_ros.engine.manifest import load_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.engine.pick import choose_engine
from dualfocus_ros.engine.selfcheck import check_stack, self_check
from dualfocus_ros.engine.tensorrt import TensorRtEngine, obstacle
from dualfocus_ros.errors import EngineNotReady
from dualfocus_ros.types import AlignedStack

MODELS = Path(__file__).resolve().parents[2] / "models"
LIBRARIES = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),  # compiling for TensorRT takes minutes
    pytest.mark.skipif(bool(obstacle()), reason=f"TensorRT cannot run here: {obstacle()}"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def reference() -> Iterator[OnnxEngine]:
    with OnnxEngine(MODELS / "dualfocus_small.onnx", staged=False) as engine:
        yield engine


def make_engine(library: str, cache: Path, precision: str = "fp32", *, wait: bool = True) -> TensorRtEngine:
    options = CompilerOptions(str(cache), wait=wait)
    suffix = "" if precision == "fp32" else "_fp16"
    return TensorRtEngine(MODELS / f"dualfocus_small{suffix}.onnx", options, library=library, precision=precision)


def noisy(stack: AlignedStack, seed: int) -> AlignedStack:
    rng = np.random.default_rng(seed)
    images = (np.clip(i + rng.normal(0, 2, i.shape), 0, 255).astype(np.uint8) for i in stack.images)
    return replace(stack, images=tuple(images), numbers=())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 2e-2)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_depth_is_that_of_onnx_runtime(
    library: str, precision: str, tolerance: float, cache: Path, reference: OnnxEngine
) -> None:
    with make_engine(library, cache, precision) as engine:
        # More often than it takes until a CUDA graph is recorded and replayed, with other images each time.
        for seed in range(4):
            stack = noisy(check_stack(), seed)
            found, expected = engine.infer(stack), reference.infer(stack)
            differs = np.abs(found.depth_m / expected.depth_m - 1.0)
            assert np.median(differs) < tolerance and np.mean(differs < 5 * tolerance) > 0.99
            assert np.abs(found.confidence - expected.confidence).max() < 10 * tolerance


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_plan_is_kept_and_taken_again(library: str, cache: Path) -> None:
    with make_engine(library, cache) as engine:
        before = engine.infer(check_stack())
    plans = {path: path.stat().st_mtime_ns for path in cache.glob("*.plan")}
    assert plans
    said: list[str] = []
    options = CompilerOptions(str(cache), report=said.append)
    with TensorRtEngine(MODELS / "dualfocus_small.onnx", options, library=library, precision="fp32") as engine:
        after = engine.infer(check_stack())
    assert not any("compiling" in text for text in said)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.plan")} == plans
    np.testing.assert_allclose(after.depth_m, before.depth_m, rtol=1e-3)


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_passes_the_self_check(library: str, cache: Path) -> None:
    for precision in ("fp32", "fp16"):
        suffix = "" if precision == "fp32" else "_fp16"
        with make_engine(library, cache, precision) as engine:
            off = self_check(engine, load_manifest(MODELS / f"dualfocus_small{suffix}.json"))
        assert off is not None


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_compiles_in_the_background(library: str, tmp_path: Path) -> None:
    with make_engine(library, tmp_path, wait=False) as engine:
        with pytest.raises(EngineNotReady, match="compiling"):
            engine.infer(check_stack())
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            try:
                found = engine.infer(check_stack())
                break
            except EngineNotReady:
                time.sleep(0.2)
        assert np.isfinite(found.depth_m).all()


def test_auto_takes_it() -> None:
    assert choose_engine("auto").name == "tensorrt"
