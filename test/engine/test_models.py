# SPDX-License-Identifier: Apache-2.0
"""The networks that ship in models/: one file for all lenses, stacks and sizes, and worth shipping."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from synthetic_stacks import quantised, render, texture

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.manifest import load_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.evaluation.stacks import evaluate_stacks
from dualfocus_ros.stackio import find_stacks
from dualfocus_ros.types import AlignedStack, Intrinsics, LensModel

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
MODELS = ("dualfocus_small", "dualfocus_small_fp16")
SHARED = ROOT.parent / "shared" / "focal_stacks"
MOST_MIB = 60
# Focal length m, f-number, pixel pitch m, nearest and farthest focus in dioptres, as in the validation stacks;
# their fourth family, breathing, has the lens of room.
LENSES = {
    "fod": (0.0029, 1.0, 1.2109375e-05, 10.0, 0.6666666),
    "room": (0.016, 1.4, 2.25e-05, 2.5, 0.2),
    "macro": (0.00474, 1.8, 2.015625e-05, 12.5, 1.6666666),
}
SIZES = ((240, 320), (480, 640), (481, 641), (720, 1280))
BASE = (96, 128)  # height and width of what is rendered


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> Iterator[OnnxEngine]:
    with OnnxEngine(ROOT / "models" / f"{request.param}.onnx") as engine:
        yield engine


@cache
def strips(lens: str, slices: int) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Return images of four upright strips at different depths, the focus distances and the true depth."""
    focal_length_m, f_number, pitch_m, near, far = LENSES[lens]
    model = LensModel(focal_length_m, f_number, pitch_m)
    focus_m = 1.0 / np.linspace(near, far, slices)
    depths_m = 1.0 / (far + (near - far) * np.array([0.8, 0.6, 0.4, 0.2]))
    images, truth = render(texture(BASE), depths_m, focus_m, model)
    return tuple(quantised(images)), focus_m, truth


def stack(lens: str, slices: int, size: tuple[int, int] = BASE) -> AlignedStack:
    """Return the strips, continued by their mirror images up to a size."""
    images, focus_m, _ = strips(lens, slices)
    missing = [(0, max(0, side - len_)) for side, len_ in zip(size, BASE, strict=True)]
    grown = tuple(np.pad(image, [*missing, (0, 0)], mode="symmetric") for image in images)
    model = LensModel(*LENSES[lens][:3])
    f_px = model.focal_length_m / model.pixel_pitch_m
    centre = ((size[1] - 1) / 2, (size[0] - 1) / 2)
    return AlignedStack(grown, None, focus_m, Intrinsics(size[1], size[0], f_px, f_px, *centre), model)


@pytest.mark.parametrize("lens", LENSES)
def test_depth_is_right_through_every_lens(engine: OnnxEngine, lens: str) -> None:
    found = engine.infer(stack(lens, 10)).depth_m
    truth = strips(lens, 10)[2]
    near, far = LENSES[lens][3:]
    error_steps = np.abs(1.0 / found - 1.0 / truth) / ((near - far) / 9)
    # Not at the borders of picture and strips: there is nothing behind these strips that the lens could see.
    inner = np.zeros(BASE, bool)
    for left in range(0, 128, 32):
        inner[12:-12, left + 10 : left + 22] = True
    assert np.median(error_steps[inner]) < 0.5


@pytest.mark.parametrize("slices", [3, 5, 10, 15])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_number_of_slices_and_any_size(engine: OnnxEngine, slices: int, size: tuple[int, int]) -> None:
    found = engine.infer(stack("room", slices, size))
    assert found.depth_m.shape == found.confidence.shape == size
    assert found.all_in_focus is not None and found.all_in_focus.shape == (*size, 3)
    near, far = LENSES["room"][3:]
    assert np.isfinite(found.depth_m).all()
    assert found.depth_m.min() > 0.99 / near and found.depth_m.max() < 1.01 / far
    assert found.confidence.min() >= 0.0 and found.confidence.max() <= 1.0
    # The same part of the scene has the same depth, however much of it there is around.
    alone = small(engine, slices)
    inner = (slice(16, 80), slice(16, 112))
    step_dpt = (near - far) / (slices - 1)
    moved_steps = np.abs(1.0 / found.depth_m[inner] - 1.0 / alone.depth_m[inner]) / step_dpt
    moved = float(np.median(moved_steps))
    assert moved < 0.1


@cache
def small(engine: OnnxEngine, slices: int) -> EngineOutput:
    return engine.infer(stack("room", slices))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the validation stacks beside the checkout")
def test_depth_beats_the_classical_engine_where_it_matters() -> None:
    paths = find_stacks(SHARED)
    with OnnxEngine(ROOT / "models" / "dualfocus_small.onnx") as network, ClassicalEngine() as classical:
        found = {group.name: group.metrics for group in evaluate_stacks(network, paths).families()}
        before = {group.name: group.metrics for group in evaluate_stacks(classical, paths).families()}
    better = [
        name
        for name in found
        if found[name].abs_rel < before[name].abs_rel and found[name].rmse_m < before[name].rmse_m
    ]
    assert len(better) >= 3, better
    assert all(metrics.coverage == 1.0 for metrics in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_manifests_tell_where_the_weights_come_from(name: str) -> None:
    manifest = load_manifest(ROOT / "models" / f"{name}.json")
    assert manifest.min_slices == 3 and manifest.trained_max_slices >= 10
    assert {"step", "stacks", "seconds", "hardware", "exported"} <= set(manifest.training)


def test_the_folder_stays_small() -> None:
    total = sum(path.stat().st_size for path in (ROOT / "models").iterdir())
    assert total < MOST_MIB * 2**20
