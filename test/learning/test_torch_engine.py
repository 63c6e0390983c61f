# SPDX-License-Identifier: Apache-2.0
"""The engine that runs an exported program of PyTorch: the answers, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stack_helpers import assert_arrays_equal
from synthetic_stacks import LENS, aligned, intrinsics
from torch import Tensor, nn

from dualfocus_ros.engine.manifest import SelfCheck, write_manifest
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.engine.selfcheck import CHECK_SHAPE, check_stack, summary_of
from dualfocus_ros.engine.torch import TorchEngine
from dualfocus_ros.errors import EngineError, StackError
from dualfocus_ros.learning.graphs import export_program
from dualfocus_ros.learning.network import Prediction
from dualfocus_ros.types import AlignedStack

tiny_models = pytest.importorskip("tiny_models")
FOCUS_M = (0.4, 0.6, 1.0, 2.5, 5.0)


class Weighted(nn.Module):
    """Stands for the network: depth and confidence of `tiny_models.expected`."""

    def forward(self, images: Tensor, focus_dpt: Tensor, blur_gain: Tensor) -> Prediction:
        grey = images.mean(dim=2)
        depth = (grey * focus_dpt[:, :, None, None]).sum(dim=1) / grey.sum(dim=1)
        confidence = (grey.mean(dim=1) * blur_gain / 20.0).clamp(max=1.0)
        return Prediction(depth, confidence, grey, None, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    path = tiny_models.tiny_model(folder)
    export_program(Weighted(), path.with_suffix(".pt2"))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[TorchEngine]:
    with TorchEngine(model) as engine:
        yield engine


def make_stack(shape: tuple[int, ...], focus_m: tuple[float, ...] = FOCUS_M) -> AlignedStack:
    rng = np.random.default_rng(0)
    return aligned([rng.integers(1, 256, shape, dtype=np.uint8) for _ in focus_m], focus_m)


@pytest.mark.parametrize("size", [(32, 64), (45, 33), (96, 160)])
@pytest.mark.parametrize("focus_m", [FOCUS_M[:3], FOCUS_M])
def test_the_answers_are_those_of_the_network(
    engine: TorchEngine, size: tuple[int, int], focus_m: tuple[float, ...]
) -> None:
    stack = make_stack((*size, 3), focus_m)
    found = engine.infer(stack)
    images = np.stack(stack.images).transpose(0, 3, 1, 2) / 255.0
    gain = LENS.aperture_m * intrinsics(size).fx_px
    inverse, confidence, _ = tiny_models.expected(images, 1.0 / np.array(focus_m), gain)
    np.testing.assert_allclose(found.depth_m, 1.0 / inverse, rtol=1e-5)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-4)
    # The sharp composite is between the two slices around the depth.
    behind = np.searchsorted(focus_m, found.depth_m).clip(1, len(focus_m) - 1)
    ends = [np.take_along_axis(np.stack(stack.images), (behind - k)[None, ..., None], 0)[0] for k in (0, 1)]
    least, most = np.minimum(*ends).astype(int), np.maximum(*ends).astype(int)
    assert np.all(found.all_in_focus >= least - 1) and np.all(found.all_in_focus <= most + 1)


def test_grey_images_and_unseen_pixels_are_taken(engine: TorchEngine) -> None:
    grey = make_stack((40, 56))
    colour = replace(grey, images=tuple(np.repeat(i[..., None], 3, axis=2) for i in grey.images))
    assert_arrays_equal(engine.infer(grey), engine.infer(colour))
    valid = np.ones((len(FOCUS_M), 40, 56), bool)
    valid[:3, :, :9] = False
    found = engine.infer(replace(grey, valid=valid))
    assert np.isnan(found.depth_m[:, :9]).all() and np.isfinite(found.depth_m[:, 9:]).all()


def test_outputs_are_fresh(engine: TorchEngine) -> None:
    first = engine.infer(make_stack((32, 32, 3)))
    before = [a.copy() for a in (first.depth_m, first.confidence, first.all_in_focus)]
    engine.infer(replace(make_stack((32, 32, 3)), images=tuple(np.zeros((32, 32, 3), np.uint8) for _ in FOCUS_M)))
    for array, kept in zip((first.depth_m, first.confidence, first.all_in_focus), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_it_is_chosen_by_name_and_says_where_it_runs(model: Path, engine: TorchEngine) -> None:
    made = make_engine("torch", str(model))
    assert made.name == "torch" and made.device == "not loaded"
    assert f"PyTorch {torch.__version__}, tiny" in engine.device


def test_without_the_program_the_command_that_makes_it_is_told(tmp_path: Path) -> None:
    path = tiny_models.tiny_model(tmp_path)
    with (
        pytest.raises(
            EngineError, match=r"tiny\.pt2, which is made by: python .*tiny\.pt .*--name tiny --program"
        ),
        TorchEngine(path),
    ):
        pass


def test_a_program_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tiny_models.tiny_model(tmp_path)
    path.with_suffix(".pt2").write_bytes(b"no program")
    with pytest.raises(EngineError, match=r"cannot load .*tiny\.pt2: .*export it again"), TorchEngine(path):
        pass


def test_a_program_of_another_network_is_refused_with_numbers(model: Path, tmp_path: Path) -> None:
    with TorchEngine(model) as engine:
        answer = np.array(summary_of(engine.infer(check_stack())))
    path = tiny_models.tiny_model(tmp_path, manifest=False)
    path.with_suffix(".pt2").write_bytes(model.with_suffix(".pt2").read_bytes())
    for factor in (1.0, 1.05):
        cells = tuple(tuple(row) for row in (factor * answer).tolist())
        write_manifest(path, **{**tiny_models.FACTS, "self_check": SelfCheck(cells, 1e-3)})
        engine = TorchEngine(path)
        if factor == 1.0:
            with engine:
                assert engine.infer(check_stack()).depth_m.shape == CHECK_SHAPE[1:]
            continue
        with pytest.raises(EngineError, match=r"up to 4\.8 % off its own reference"), engine:
            pass
        assert engine.device == "not loaded"


def test_bad_use_is_named(model: Path, engine: TorchEngine) -> None:
    with pytest.raises(EngineError, match="entered first"):
        TorchEngine(model).infer(make_stack((32, 32, 3)))
    with pytest.raises(EngineError, match="at least 3 slices, got 2"):
        engine.infer(make_stack((32, 32, 3), FOCUS_M[:2]))
    stack = make_stack((32, 32, 3))
    with pytest.raises(StackError, match="focus positions that fall"):
        engine.infer(replace(stack, focus_distance_m=stack.focus_distance_m[::-1].copy()))


def test_without_pytorch_the_package_to_install_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"needs PyTorch .*pip install torch"), TorchEngine(model):
        pass
