# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros import share
from dualfocus_ros.alignment import network as module
from dualfocus_ros.alignment.base import Grid
from dualfocus_ros.alignment.network import NetworkResidual, find_align_model, models_folder
from dualfocus_ros.errors import EngineError

pytest.importorskip("onnxruntime")
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "alignment"
WIDTH, HEIGHT = 160, 120
CENTRE = (76.0, 63.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the manifest of a copy of the shipped network."""
    for suffix in (".json", ".onnx"):
        shutil.copy(SHIPPED / f"align_small{suffix}", tmp_path)
    return tmp_path / "align_small.json"


def scene(margin_px: int = 20, seed: int = 0) -> np.ndarray:
    """Return light of texture on all scales, larger than the images by a margin on every side."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT + 2 * margin_px, WIDTH + 2 * margin_px)
    image = np.zeros(shape, np.float32)
    for grain_px in (1.2, 2.5, 5.0, 10.0):
        noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), grain_px)
        image += noise / noise.std()
    return np.exp(0.3 * image)


def seen(light: np.ndarray, p: tuple[float, float, float], blur_px: float, grid: Grid) -> np.ndarray:
    """Return what a slice that is displaced by p and blurred sees of the scene, of mean 1."""
    radius = 1.0 / float(grid.x[0, 1] - grid.x[0, 0])
    scale, margin = 1.0 + p[0] / radius, (light.shape[1] - WIDTH) // 2
    back = np.zeros((2, 3))  # from the slice to the scene
    for axis, (c, shift) in enumerate(zip(CENTRE, p[1:], strict=True)):
        back[axis] = (*np.eye(2)[axis] / scale, c - (c + shift) / scale + margin)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(cv2.GaussianBlur(light, (0, 0), blur_px), back, (WIDTH, HEIGHT), flags=flags)
    return np.asarray(image / image.mean())


def solve(equations: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.solve(e[:, :3], e[:, 3]) for e in equations])


@pytest.mark.parametrize(
    ("p", "tolerance"), [((0.4, -0.3, 0.2), 0.1), ((-0.8, 0.6, 0.5), 0.2), ((0.0, 0.0, 0.0), 0.05)]
)
def test_scale_and_shift_are_found_across_a_difference_in_blur(
    p: tuple[float, float, float], tolerance: float
) -> None:
    grid, light = Grid.of(WIDTH, HEIGHT, *CENTRE), scene()
    images = [seen(light, (0.0, 0.0, 0.0), 0.8, grid), seen(light, p, 1.6, grid)]
    with NetworkResidual(threads=1) as estimator:
        there, back = estimator.relate(images, [(0, 1), (1, 0)], grid)
    assert there.dtype == np.float64
    np.testing.assert_allclose(solve(there[None])[0], p, atol=tolerance)
    np.testing.assert_allclose(solve(back[None])[0], np.negative(p), atol=tolerance)
    assert np.linalg.eigvalsh(there[:, :3]).min() > 0.0


def test_any_size_is_taken_and_pairs_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(0)
    images = [1.0 + 0.3 * rng.standard_normal((31, 45)).astype(np.float32) for _ in range(3)]
    grid = Grid.of(45, 31, 22.0, 15.0)
    pairs = [(0, 1), (1, 2), (0, 2)]
    with NetworkResidual(threads=1) as estimator:
        together = estimator.relate(images, pairs, grid)
        alone = [estimator.relate(images, [pair], grid)[0] for pair in pairs]
        with pytest.raises(EngineError, match=r"at least 16 pixels a side, got 45 x 15: use residual classical"):
            estimator.relate([i[:15] for i in images], pairs, grid)
    assert together.shape == (3, 3, 4)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3 * np.abs(together).max())


def test_it_must_be_entered_first() -> None:
    estimator = NetworkResidual()
    grid = Grid.of(32, 32, 15.5, 15.5)
    images = 2 * [np.ones((32, 32), np.float32)]
    with pytest.raises(EngineError, match="entered first"):
        estimator.relate(images, [(0, 1)], grid)
    with estimator:
        estimator.relate(images, [(0, 1)], grid)
    with pytest.raises(EngineError, match="entered first"):
        estimator.relate(images, [(0, 1)], grid)


def test_a_flat_image_says_nothing() -> None:
    with NetworkResidual(threads=1) as estimator:
        found = estimator.relate(2 * [np.ones((32, 32), np.float32)], [(0, 1)], Grid.of(32, 32, 15.5, 15.5))
    assert np.isfinite(found).all() and not found[:, :, 3].any()


def test_threads_are_checked() -> None:
    with pytest.raises(EngineError, match="at least 1 thread, got 0"):
        NetworkResidual(threads=0)


def test_models_are_found_by_name_and_by_either_path(model: Path) -> None:
    for name in (model, model.with_suffix(".onnx")):
        assert find_align_model(name) == model
    assert find_align_model("align_small", model.parent) == model
    assert models_folder() == share.share_directory() / "models" / "alignment"
    with pytest.raises(EngineError, match=r"alignment network at .*other\.json, found none"):
        NetworkResidual("other").__enter__()


def damage(model: Path, **changes: object) -> None:
    data = json.loads(model.read_text())
    model.write_text(json.dumps({k: v for k, v in (data | changes).items() if v is not None}))


def test_files_that_are_missing_damaged_or_foreign_are_named(model: Path) -> None:
    good = model.read_text()
    for changes, words in (
        ({"format": "dualfocus-model"}, r"expected format 'dualfocus-alignment', got 'dualfocus-model'"),
        ({"version": 2}, r"expected version 1, got 2"),
        ({"opset": None}, r"opset missing in the manifest"),
        ({"inputs": {}}, r"expected inputs .*images.*, got \{\}"),
        ({"file": "../align_small.onnx"}, r"expected file to be the name of a file beside it"),
        ({"file": "other.onnx"}, r"expected the network .*other\.onnx beside it, found none"),
        ({"sha256": "0" * 64}, r"its SHA-256 is .*, align_small\.json says 000000000000"),
    ):
        model.write_text(good)
        damage(model, **changes)
        with pytest.raises(EngineError, match=words):
            NetworkResidual(model).__enter__()
    for text, words in (("{", "in JSON"), ("[]", "a JSON object, got list")):
        model.write_text(text)
        with pytest.raises(EngineError, match=words):
            NetworkResidual(model).__enter__()


def test_a_graph_that_is_none_or_another_is_refused(model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = model.with_suffix(".onnx")
    graph = onnx.load(str(path))
    path.write_bytes(b"no graph")
    damage(model, sha256=module.sha256_of(path))
    with pytest.raises(EngineError, match=r"cannot load .*align_small\.onnx"):
        NetworkResidual(model).__enter__()
    graph.graph.output[0].name = "numbers"
    graph.graph.node[-1].output[0] = "numbers"
    onnx.save(graph, str(path))
    damage(model, sha256=module.sha256_of(path))
    with pytest.raises(EngineError, match=r"expected outputs .*equations.*, got .*numbers"):
        NetworkResidual(model).__enter__()


def test_a_network_that_fails_says_on_what(model: Path) -> None:
    with NetworkResidual(model) as estimator, pytest.raises(EngineError, match=r"2 slices of 32 x 32 failed"):
        estimator.relate(2 * [np.ones((32, 32), np.float32)], [(0, 5)], Grid.of(32, 32, 15.5, 15.5))


def test_without_onnx_runtime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        NetworkResidual().__enter__()
