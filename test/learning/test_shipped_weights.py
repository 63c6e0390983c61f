# SPDX-License-Identifier: Apache-2.0
"""What the weights in models/ must not do: take texture for depth, or lose an edge of depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dualfocus_ros.camera.lightfield import pupil_points
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.learning.camera_effects import encode
from dualfocus_ros.learning.scenes import Surface
from dualfocus_ros.learning.simulator import LightField, gaussian_blur
from dualfocus_ros.types import AlignedStack, Intrinsics, LensModel

MODEL = Path(__file__).resolve().parents[2] / "models" / "dualfocus_small.onnx"
SIZE_PX = (256, 192)
LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=2.25e-5)
NEAR_DPT, FAR_DPT, SLICES = 2.5, 0.2, 10
STEP_DPT = (NEAR_DPT - FAR_DPT) / (SLICES - 1)
FX_PX = LENS.focal_length_m / LENS.pixel_pitch_m
KAPPA = LENS.aperture_m * FX_PX
WALL = {
    "outline": "everywhere",
    "relief": "flat",
    "centre_px": (128.0, 96.0),
    "half_size_px": (128.0, 96.0),
    "angle_rad": 0.0,
    "slope_dpt": (0.0, 0.0),
    "relief_dpt": 0.0,
    "texture": 0,
    "texel_per_px": 1.0,
    "texture_offset": (0.0, 0.0),
    "gain": (1.0, 1.0, 1.0),
    "contrast": 1.0,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[OnnxEngine]:
    with OnnxEngine(MODEL) as engine:
        yield engine


def patches(seed: int) -> torch.Tensor:
    """Return a texture (1, 3, 256, 256): patches of strong contrast, each with a faint grain."""
    rng = np.random.default_rng(seed)
    image = np.full((256, 256), 0.5, np.float32)
    for _ in range(60):
        corners = rng.uniform(0, 256, 2) + rng.normal(0, 28, (5, 2))
        cv2.fillPoly(image, [cv2.convexHull(corners.astype(np.int32))], float(rng.uniform(0.05, 0.9)), cv2.LINE_AA)
    grain = 1.0 + 0.15 * rng.standard_normal((3, 256, 256)).astype(np.float32)
    return torch.from_numpy(np.clip(image * grain, 0.0, 1.0))[None]


def grain(seed: int) -> torch.Tensor:
    """Return a texture (1, 3, 256, 256) that is the same all over: noise of all scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((256, 256, 3), np.float32)
    for cell in (1, 2, 4, 8):
        coarse = rng.uniform(-1, 1, (256 // cell, 256 // cell, 3)).astype(np.float32)
        image += cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(np.clip(0.4 + 0.1 * image, 0.0, 1.0).transpose(2, 0, 1))[None]


def capture(scene: list[Surface], bank: torch.Tensor) -> tuple[AlignedStack, np.ndarray]:
    """Return the stack that a thin lens takes, sRGB of 8 bits, and the true inverse depth."""
    field = LightField(scene, bank, SIZE_PX, pupil_points(128, 2.0), KAPPA, (FAR_DPT, NEAR_DPT))
    focus = np.linspace(NEAR_DPT, FAR_DPT, SLICES)
    light = gaussian_blur(torch.stack([field.refocus(float(p)) for p in focus]), 0.35)
    images = (encode(light.clamp(0.0, 1.0), "srgb") * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    width, height = SIZE_PX
    grid = Intrinsics(width, height, FX_PX, FX_PX, (width - 1) / 2, (height - 1) / 2)
    return AlignedStack(tuple(images), None, 1.0 / focus, grid, LENS), field.inverse_depth.numpy()


def texture_bias(engine: OnnxEngine, seed: int) -> tuple[float, float, float]:
    """Return what a slanted plane under patches shows of them.

    The change of the mean absolute error at edges of the texture and the largest correlation of the error with
    brightness and edges, once its trend is taken off; the mean absolute error. Errors are in slices.
    """
    scene = [Surface(**{**WALL, "inverse_depth_dpt": 1.3, "slope_dpt": (0.8, 0.3)})]  # type: ignore[arg-type]
    stack, truth = capture(scene, patches(seed))
    found = engine.infer(stack)
    error = ((1.0 / found.depth_m - truth) / STEP_DPT)[12:-12, 12:-12]
    assert found.all_in_focus is not None
    grey = found.all_in_focus.astype(np.float32).mean(axis=2)
    contrast = cv2.GaussianBlur(
        np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)), (0, 0), 1.5
    )
    grey, contrast = grey[12:-12, 12:-12], contrast[12:-12, 12:-12]
    edges = contrast > np.quantile(contrast, 0.85)
    flat = contrast < np.quantile(contrast, 0.5)
    change = float(np.abs(error[edges]).mean() - np.abs(error[flat]).mean())
    local = error - cv2.GaussianBlur(error, (0, 0), 16.0)
    correlations = [abs(np.corrcoef(local.ravel(), image.ravel())[0, 1]) for image in (grey, contrast)]
    return change, float(max(correlations)), float(np.abs(error).mean())


def edge_offsets_px(engine: OnnxEngine, near_dpt: float, far_dpt: float, seed: int) -> np.ndarray:
    """Return how far each row places the edge of a near half picture in front of a far one of equal texture."""
    near = {
        "outline": "box",
        "centre_px": (32.0, 96.0),
        "half_size_px": (96.0, 150.0),  # its edge lies at x = 128
        "inverse_depth_dpt": near_dpt,
        "texture_offset": (77.0, 31.0),
    }
    scene = [Surface(**{**WALL, "inverse_depth_dpt": far_dpt}), Surface(**{**WALL, **near})]  # type: ignore[arg-type]
    stack, truth = capture(scene, grain(seed))
    middle = 0.5 * (near_dpt + far_dpt)
    assert (truth[:, :128] > middle).all() and (truth[:, 128:] < middle).all()
    inverse = 1.0 / engine.infer(stack).depth_m[12:-12]
    # Of all places to cut a row in two, the one that puts the fewest pixels on the wrong side.
    is_near = inverse > middle
    far_before = np.cumsum(np.pad(~is_near, ((0, 0), (1, 0))), axis=1)
    near_before = np.cumsum(np.pad(is_near, ((0, 0), (1, 0))), axis=1)
    wrong = far_before + near_before[:, -1:] - near_before  # a place, and what lies on the wrong side of it
    return np.asarray(wrong.argmin(axis=1) - 128)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_texture_does_not_become_depth(engine: OnnxEngine, seed: int) -> None:
    change, correlation, error = texture_bias(engine, seed)
    assert error < 0.15
    assert abs(change) < 0.05
    assert correlation < 0.2


@pytest.mark.parametrize(("near_dpt", "far_dpt"), [(2.0, 0.5), (1.5, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_edge_of_depth_between_equal_textures_is_in_its_place(
    engine: OnnxEngine, near_dpt: float, far_dpt: float, seed: int
) -> None:
    offsets = edge_offsets_px(engine, near_dpt, far_dpt, seed)
    assert abs(np.median(offsets)) <= 1.0
    assert np.mean(np.abs(offsets) <= 2) >= 0.9
