# SPDX-License-Identifier: Apache-2.0
"""A network in two stages: the same answer whatever was done ahead, and nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stack_helpers import assert_arrays_equal
from synthetic_stacks import LENS, aligned, intrinsics

from dualfocus_ros.engine.base import DepthEngine, EngineOutput, StreamingEngine
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.errors import EngineError
from dualfocus_ros.types import AlignedStack

onnxruntime = pytest.importorskip("onnxruntime")
tiny_models = pytest.importorskip("tiny_models")

FOCUS_M = (0.4, 0.6, 1.0, 2.5, 5.0, 9.0)
SHAPE = (40, 56)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_stages(tmp_path_factory.mktemp("model"))


class Counted:
    """Counts the slices that go through the encoder of an engine."""

    def __init__(self, engine: OnnxEngine) -> None:
        self.rows: list[int] = []
        stages: Any = engine._stages
        encode = stages._encode

        def counting(image: np.ndarray, row: int) -> None:
            self.rows.append(row)
            encode(image, row)

        stages._encode = counting

    def taken(self) -> list[int]:
        rows, self.rows = self.rows, []
        return rows


@pytest.fixture
def engine(model: Path) -> Iterator[OnnxEngine]:
    with OnnxEngine(model) as engine:
        yield engine


def make_stack(seed: int = 0, shape: tuple[int, ...] = (*SHAPE, 3), dtype: type = np.uint8) -> AlignedStack:
    rng = np.random.default_rng(seed)
    images = [rng.integers(1, 256, shape, dtype=np.uint8).astype(dtype) for _ in FOCUS_M]
    return replace(aligned(images, FOCUS_M), numbers=tuple(range(100 * seed, 100 * seed + len(FOCUS_M))))


def with_slice(stack: AlignedStack, row: int, other: AlignedStack) -> AlignedStack:
    """Return the stack with one slice of another."""
    images, numbers = list(stack.images), list(stack.numbers)
    images[row], numbers[row] = other.images[row], other.numbers[row]
    return replace(stack, images=tuple(images), numbers=tuple(numbers))


def check(output: EngineOutput, images: Sequence[np.ndarray], white: float = 255.0) -> None:
    colour = [np.stack([i, i, i], axis=-1) if i.ndim == 2 else i for i in images]
    slices = np.stack(colour).transpose(0, 3, 1, 2) / white
    gain = LENS.aperture_m * intrinsics(slices.shape[2:]).fx_px
    inverse, confidence = tiny_models.expected_of_stages(slices, 1.0 / np.array(FOCUS_M), gain)
    np.testing.assert_allclose(output.depth_m, 1.0 / inverse, rtol=1e-5)
    np.testing.assert_allclose(output.confidence, confidence, rtol=1e-5)


@pytest.mark.parametrize("shape", [(*SHAPE, 3), SHAPE, (32, 64, 3), (33, 95, 3)])
def test_the_stages_are_run_on_any_size(engine: OnnxEngine, shape: tuple[int, ...]) -> None:
    stack = make_stack(shape=shape)
    check(engine.infer(stack), stack.images)


def test_16_bit(engine: OnnxEngine) -> None:
    stack = make_stack(dtype=np.uint16)
    bright = replace(stack, images=tuple(image * 16 for image in stack.images), numbers=tuple(range(50, 56)))
    check(engine.infer(bright), bright.images, 4095.0)
    check(engine.infer(stack), stack.images)  # of 8 bits: what was found in 12 does not hold


def test_slices_that_were_there_before_are_not_worked_on_again(engine: OnnxEngine) -> None:
    counted, first, second = Counted(engine), make_stack(1), make_stack(2)
    engine.infer(first)
    assert counted.taken() == [0, 1, 2, 3, 4, 5]
    mixed = with_slice(with_slice(first, 2, second), 5, second)
    check(engine.infer(mixed), mixed.images)
    assert counted.taken() == [2, 5]
    check(engine.infer(first), first.images)
    assert counted.taken() == [2, 5]


def test_without_numbers_all_is_new(engine: OnnxEngine) -> None:
    counted, stack = Counted(engine), replace(make_stack(), numbers=())
    for _ in range(2):
        check(engine.infer(stack), stack.images)
        assert counted.taken() == [0, 1, 2, 3, 4, 5]


def test_what_is_prepared_is_done_and_the_answer_is_the_same(engine: OnnxEngine, model: Path) -> None:
    counted, first, second = Counted(engine), make_stack(1), make_stack(2)
    engine.infer(first)
    counted.taken()
    for row in (0, 3, 3):
        engine.prepare(second.images[row], second.numbers[row], row, len(FOCUS_M))
    assert counted.taken() == [0, 3]
    found = engine.infer(second)
    assert counted.taken() == [1, 2, 4, 5]
    with OnnxEngine(model) as fresh:
        assert_arrays_equal(found, fresh.infer(second))


def test_preparing_for_another_kind_of_stack_does_nothing(engine: OnnxEngine) -> None:
    counted, first = Counted(engine), make_stack(1)
    engine.prepare(first.images[0], 0, 0, len(FOCUS_M))  # there was no stack yet
    engine.infer(first)
    counted.taken()
    engine.prepare(first.images[0], 7, 0, len(FOCUS_M) + 1)
    engine.prepare(first.images[0][:-1], 7, 0, len(FOCUS_M))
    engine.prepare(np.full((*SHAPE, 3), 4095, np.uint16), 7, 0, len(FOCUS_M))
    assert counted.taken() == []
    check(engine.infer(first), first.images)


def test_slices_with_unseen_pixels_are_filled_and_never_kept(engine: OnnxEngine) -> None:
    counted, stack = Counted(engine), make_stack()
    valid = np.ones((len(FOCUS_M), *SHAPE), bool)
    valid[1, :, :9] = False
    hidden = replace(stack, valid=valid)
    filled = [image.copy() for image in stack.images]
    filled[1][:, :9] = filled[0][:, :9]  # the nearer of two equally near slices
    for expected in ([0, 1, 2, 3, 4, 5], [1]):
        check(engine.infer(hidden), filled)
        assert counted.taken() == expected
    check(engine.infer(stack), stack.images)
    assert counted.taken() == [1]


def test_outputs_are_fresh(engine: OnnxEngine) -> None:
    first = engine.infer(make_stack(1))
    before = [a.copy() for a in (first.depth_m, first.confidence, first.all_in_focus)]
    engine.infer(make_stack(2))
    for array, kept in zip((first.depth_m, first.confidence, first.all_in_focus), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_the_one_graph_can_be_asked_for(model: Path) -> None:
    stack = make_stack()
    with OnnxEngine(model, staged=False) as engine:
        assert not engine.streams
        found = engine.infer(stack)
        engine.prepare(stack.images[0], 1, 0, len(FOCUS_M))  # a matter of time alone: nothing to do
    slices = np.stack(stack.images).transpose(0, 3, 1, 2) / 255.0
    gain = LENS.aperture_m * intrinsics(SHAPE).fx_px
    inverse = tiny_models.expected(slices, 1.0 / np.array(FOCUS_M), gain)[0]
    np.testing.assert_allclose(found.depth_m, 1.0 / inverse, rtol=1e-5)


def test_stages_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tiny_models.tiny_stages(tmp_path, drop="own_8")
    with (
        pytest.raises(EngineError, match=r"staged_encoder.onnx: expected outputs .*own_8.*export"),
        OnnxEngine(path),
    ):
        pass


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_a_stage_that_is_missing_or_another_is_refused(tmp_path: Path, part: str) -> None:
    path = tiny_models.tiny_stages(tmp_path)
    stage = tmp_path / f"staged_{part}.onnx"
    stage.write_bytes(stage.read_bytes() + b"x")
    with pytest.raises(EngineError, match=rf"staged_{part}.onnx: its SHA-256 is"), OnnxEngine(path):
        pass
    stage.unlink()
    with (
        pytest.raises(EngineError, match=rf"expected the network .*staged_{part}.onnx beside it"),
        OnnxEngine(path),
    ):
        pass


def test_who_can_stream(engine: OnnxEngine) -> None:
    engines: list[DepthEngine] = [engine, ClassicalEngine()]
    assert [isinstance(e, StreamingEngine) for e in engines] == [True, False]
    assert engine.streams


def test_an_encoder_that_fails_leaves_nothing_half_done(model: Path) -> None:
    stack = make_stack(1)
    with OnnxEngine(model) as engine:
        engine.infer(make_stack(2))
        stages: Any = engine._stages
        encode, calls = stages._encode, []

        def failing(row: int, count: int) -> None:
            calls.append(row)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            encode(row, count)

        stages._encode = failing
        with pytest.raises(EngineError, match="6 slices of 56 x 40 failed: out of memory"):
            engine.infer(stack)
        assert len(calls) == 2  # a part was done
        check(engine.infer(stack), stack.images)
        check(engine.infer(make_stack(2)), make_stack(2).images)


def test_the_composite_has_no_pixels_that_a_slice_does_not_see(engine: OnnxEngine, model: Path) -> None:
    stack = make_stack()
    valid = np.ones((len(FOCUS_M), *SHAPE), bool)
    valid[:2, :, :9] = False
    images = tuple(np.where(v[..., None], i, 0).astype(np.uint8) for i, v in zip(stack.images, valid, strict=True))
    found = engine.infer(replace(stack, images=images, valid=valid))
    filled = [image.copy() for image in images]
    for row in (0, 1):
        filled[row][:, :9] = images[2][:, :9]
    with OnnxEngine(model) as fresh:
        expected = fresh.infer(replace(stack, images=tuple(filled), numbers=()))
    np.testing.assert_array_equal(found.all_in_focus, expected.all_in_focus)
