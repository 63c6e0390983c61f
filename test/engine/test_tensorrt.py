# SPDX-License-Identifier: Apache-2.0
"""The TensorRT engine on stand-ins for CUDA and TensorRT that answer only if all is called as it must be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

tiny_models = pytest.importorskip("tiny_models")
pytest.importorskip("onnxruntime")
import gpu_stand_in  # noqa: E402
from gpu_stand_in import CudaStandIn, TensorRtStandIn  # noqa: E402
from synthetic_stacks import FOCUS_M, aligned, quantised, texture  # noqa: E402

from dualfocus_ros.engine.base import CompilerOptions  # noqa: E402
from dualfocus_ros.engine.manifest import load_manifest, write_manifest  # noqa: E402
from dualfocus_ros.engine.onnx import OnnxEngine  # noqa: E402
from dualfocus_ros.engine.plan import Profile  # noqa: E402
from dualfocus_ros.engine.selfcheck import check_stack, summary_of  # noqa: E402
from dualfocus_ros.engine.tensorrt import TensorRtEngine  # noqa: E402
from dualfocus_ros.errors import EngineError, EngineNotReady  # noqa: E402
from dualfocus_ros.types import AlignedStack  # noqa: E402

Parts = tuple[CudaStandIn, TensorRtStandIn]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parts:
    return gpu_stand_in.install(monkeypatch, tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a self-check."""
    return with_self_check(tiny_models.tiny_model(tmp_path))


def with_self_check(path: Path, scale: float = 1.0) -> Path:
    from dualfocus_ros.engine.manifest import SelfCheck

    with OnnxEngine(path) as engine:
        rows = summary_of(engine.infer(check_stack()))
    check = SelfCheck(tuple(tuple(scale * v for v in row) for row in rows), 1e-3)
    write_manifest(path, **tiny_models.FACTS, self_check=check)
    return path


def stack(slices: int = 5, shape: tuple[int, int] = (24, 32), seed: int = 0) -> AlignedStack:
    images = quantised([texture(shape, seed + i) for i in range(slices)])
    return aligned(images, FOCUS_M[:slices])


def same(engine: TensorRtEngine, model: Path, given: AlignedStack) -> None:
    with OnnxEngine(model) as other:
        expected = other.infer(given)
    found = engine.infer(given)
    np.testing.assert_allclose(found.depth_m, expected.depth_m, rtol=1e-6)
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-6)
    np.testing.assert_array_equal(found.all_in_focus, expected.all_in_focus)


def test_the_answers_are_those_of_the_network(parts: Parts, model: Path) -> None:
    cuda, library = parts
    with TensorRtEngine(model) as engine:
        assert engine.device == "Stand-in, tensorrt 10.3.0, tiny"
        for seed in range(4):
            same(engine, model, stack(seed=seed))
        assert cuda.graphs_launched == 3  # from the second on
        for slices in (4, 6, 3, 5):  # single stacks may have more or less
            same(engine, model, stack(slices))
        assert library.builds == 1
        same(engine, model, stack(5, (16, 48)))
        same(engine, model, stack(5))
        assert library.builds == 2
    assert engine.device == "not loaded"
    assert not cuda.device and not cuda.host and not cuda.recorded and not cuda.queues


def test_nothing_is_allocated_from_stack_to_stack(parts: Parts, model: Path) -> None:
    with TensorRtEngine(model) as engine:
        engine.infer(stack())
        before = parts[0].allocations
        for _ in range(5):
            engine.infer(stack())
        assert parts[0].allocations == before


def test_results_are_not_written_to_again(parts: Parts, model: Path) -> None:
    with TensorRtEngine(model) as engine:
        first = engine.infer(stack(seed=0))
        kept = [array.copy() for array in (first.depth_m, first.confidence, first.all_in_focus)]
        engine.infer(stack(seed=9))
        for array, copy in zip((first.depth_m, first.confidence, first.all_in_focus), kept, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_a_plan_is_kept_for_the_next_time_and_found_again(parts: Parts, model: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with TensorRtEngine(model) as engine:
            same(engine, model, stack())
    assert parts[1].builds == 1
    (plan,) = (tmp_path / "cache").glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-7])
    told: list[str] = []
    with TensorRtEngine(model, CompilerOptions(report=told.append)) as engine:
        same(engine, model, stack())
    assert parts[1].builds == 2 and "truncated" in told[0]


def test_a_wrong_answer_is_refused_with_numbers(parts: Parts, tmp_path: Path) -> None:
    model = with_self_check(tiny_models.tiny_model(tmp_path), 1.05)
    with TensorRtEngine(model) as engine:
        for _ in range(2):
            with pytest.raises(EngineError, match=r"4\.\d % off its own reference"):
                engine.infer(stack())


@pytest.mark.parametrize("step", ["deserialise", "self-check"])
def test_a_plan_from_disk_that_is_of_no_use_is_built_anew_once(
    parts: Parts, model: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = parts[1]
    with TensorRtEngine(model) as engine:
        engine.infer(stack())
    (plan,) = (tmp_path / "cache").glob("*.plan")
    if step == "deserialise":
        monkeypatch.setattr(library, "refuse_plans", {plan.read_bytes().split(b"\n", 2)[2]})
    else:
        monkeypatch.setattr("dualfocus_ros.engine.tensorrt.self_check", failing_once())
    told: list[str] = []
    with TensorRtEngine(model, CompilerOptions(report=told.append)) as engine:
        same(engine, model, stack())
    assert library.builds == 2
    assert any("is of no use" in text and "built anew" in text for text in told)


def failing_once() -> Callable[..., float]:
    """Return a self-check that refuses the first engine."""
    calls: list[int] = []

    def check(engine: object, manifest: object) -> float:
        calls.append(1)
        if len(calls) == 1:
            raise EngineError("off")
        return 0.0

    return check


def test_extra_files_that_cannot_be_written_stop_nothing(parts: Parts, model: Path, tmp_path: Path) -> None:
    timing = tmp_path / "cache" / f"tensorrt-{parts[1].__version__}-8.7.timing"
    timing.mkdir(parents=True)  # neither to be read nor written as a file
    told: list[str] = []
    with TensorRtEngine(model, CompilerOptions(report=told.append)) as engine:
        same(engine, model, stack())
    assert [text.split(":")[0].rpartition("/")[2] for text in told if "goes without" in text] == [timing.name] * 2


def test_an_engine_for_another_shape_may_fail_alone(
    parts: Parts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    build = gpu_stand_in._Builder.build_serialized_network

    def held(self: object, network: object, config: object) -> bytes | None:
        assert go_on.wait(20.0)
        return build(self, network, config)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_stand_in._Builder, "build_serialized_network", held)
    told: list[str] = []

    def begin(given: AlignedStack, refuse: str) -> None:
        """Have an engine built that is not ready, and let that come to its end."""
        go_on.clear()
        parts[1].refuse = refuse
        with pytest.raises(EngineNotReady):
            engine.infer(given)
        assert engine._builder is not None
        go_on.set()
        engine._builder._thread.join(20.0)

    with TensorRtEngine(model, CompilerOptions(wait=False, report=told.append)) as engine:
        begin(stack(5, (16, 48)), "build")
        begin(stack(), "")
        assert any("no engine for 3 to 7 slices of 48 x 16" in text for text in told)
        same(engine, model, stack())


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("parse", "does not take .*a layer that it does not know"),
        ("build", "could not compile tiny for 3 to 7 slices of 32 x 24.*not enough memory"),
        ("deserialise", "does not take the compiled engine"),
        ("context", "execution context"),
        ("execute", "failed on 5 slices"),
    ],
)
def test_each_step_that_fails_says_so(parts: Parts, model: Path, step: str, text: str) -> None:
    parts[1].refuse = step
    with TensorRtEngine(model) as engine, pytest.raises(EngineError, match=text):
        engine.infer(stack())


def test_it_compiles_in_the_background_and_says_how_far_it_is(
    parts: Parts, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, go_on = threading.Event(), threading.Event()
    build = gpu_stand_in._Builder.build_serialized_network

    def slow(self: object, network: object, config: object) -> bytes | None:
        going.set()
        assert go_on.wait(20.0)
        return build(self, network, config)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_stand_in._Builder, "build_serialized_network", slow)
    with TensorRtEngine(model, CompilerOptions(wait=False)) as engine:
        for _ in range(3):
            with pytest.raises(EngineNotReady, match="compiling for 3 to 7 slices of 32 x 24"):
                engine.infer(stack())
            assert going.wait(20.0)
        go_on.set()
        assert engine._builder is not None
        engine._builder._thread.join(20.0)
        same(engine, model, stack())


def test_leaving_stops_a_compilation(parts: Parts, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, results = gpu_stand_in._Builder.build_serialized_network, []

    def slow(self: object, network: object, config: object) -> bytes | None:
        while not config.progress_monitor.stopped:  # type: ignore[attr-defined]
            config.progress_monitor.phase_start("Building", None, 9)  # type: ignore[attr-defined]
        results.append(build(self, network, config))  # type: ignore[arg-type]
        return results[-1]

    monkeypatch.setattr(gpu_stand_in._Builder, "build_serialized_network", slow)
    with TensorRtEngine(model, CompilerOptions(wait=False)) as engine, pytest.raises(EngineNotReady):
        engine.infer(stack())
    assert results == [None]


def test_a_stack_without_entering(model: Path) -> None:
    with pytest.raises(EngineError, match="entered first"):
        TensorRtEngine(model).infer(stack())


def test_what_is_missing_is_named(parts: Parts, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts[0].gpus = 0
    with pytest.raises(EngineError, match="expected an NVIDIA GPU, found none"), TensorRtEngine(model):
        pass
    parts[1].__version__ = "8.6.1"
    with pytest.raises(EngineError, match=r"expected tensorrt 10.0 or newer, found 8.6.1"):
        TensorRtEngine(model, library="tensorrt").__enter__()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be imported.*JetPack"):
        TensorRtEngine(model, library="tensorrt").__enter__()
    with pytest.raises(EngineError, match="expected precision"):
        TensorRtEngine(model, precision="int8")


@pytest.mark.parametrize(
    "values", [(0, 8, 3, 3, 3), (8, 0, 3, 3, 3), (8, 8, 2, 3, 3), (8, 8, 3, 5, 4), (8, 8, 5, 4, 6)]
)
def test_profiles_that_make_no_sense(values: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(EngineError, match="expected"):
        Profile(*values)


def test_the_name_of_a_model_stands_for_its_precision(parts: Parts) -> None:
    for precision, name in (("fp16", "dualfocus_small_fp16"), ("fp32", "dualfocus_small")):
        with TensorRtEngine(precision=precision) as engine:
            assert engine.device.endswith(name)
    manifest = load_manifest(Path(__file__).resolve().parents[2] / "models" / "dualfocus_small_fp16.json")
    with TensorRtEngine(manifest.onnx_path, precision="fp32") as engine:
        assert engine.device.endswith("dualfocus_small_fp16")
