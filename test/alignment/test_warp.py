# SPDX-License-Identifier: Apache-2.0
"""The warp must not fake focus: white noise, the hardest texture, on a plane that breathing magnifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dualfocus_ros.align import NO_WARP, KeptSlices, align, metadata_intrinsics, reference_to_slice
from dualfocus_ros.engine.classical import PRESMOOTH_SIGMA_PX
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.types import AlignedStack, FocalSlice, FocalStack, Intrinsics, LensModel

WIDTH, HEIGHT = 320, 240
MAGNIFICATION = 1.02
# Blur of 1 px from slice to slice: little, so that what a warp does to sharpness shows in depth.
LENS = LensModel(0.016, 5.6, 22.5e-6)
FOCUS_DPT = np.linspace(2.5, 0.5, 5)
PLANE_DPT = 1.4  # between two slices
FINER = 4  # the plane is painted in pixels this much smaller


def package_warp(image: np.ndarray, ref_to_slice: np.ndarray) -> np.ndarray:
    return KeptSlices().warp(image, ref_to_slice, resample=True).aligned


def bilinear(image: np.ndarray, ref_to_slice: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, ref_to_slice, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def sharpness(image: np.ndarray) -> np.ndarray:
    """Return the focus measure of the classical engine, with the least that it smooths."""
    calm = cv2.GaussianBlur(image.astype(np.float32), (0, 0), PRESMOOTH_SIGMA_PX)
    kernel = np.array([[-1.0, 2.0, -1.0]])
    return np.asarray(np.abs(cv2.filter2D(calm, -1, kernel)) + np.abs(cv2.filter2D(calm, -1, kernel.T)), float)


def expected_sharpness(warp: Callable, ref_to_slice: np.ndarray) -> np.ndarray:
    """Return the sharpness of warped white noise, smoothed over 15 px, without the border.

    It is averaged over many images: what is left is what the warp does, not the noise itself.
    """
    rng = np.random.default_rng(0)
    total = np.zeros((HEIGHT, WIDTH))
    for _ in range(200):
        image = np.clip(rng.normal(128.0, 30.0, (HEIGHT, WIDTH)), 0, 255).astype(np.uint8)
        total += sharpness(warp(image, ref_to_slice))
    return cv2.blur(total, (15, 15))[20:-20, 20:-20]


def magnified() -> np.ndarray:
    m = 1.0 / MAGNIFICATION
    return np.array([[m, 0.0, (WIDTH - 1) / 2 * (1.0 - m)], [0.0, m, (HEIGHT - 1) / 2 * (1.0 - m)]])


def test_a_warp_changes_the_sharpness_by_less_than_3_percent() -> None:
    """Over the image, and against the reference, which stays in its place."""
    warped = expected_sharpness(package_warp, magnified())
    assert warped.std() / warped.mean() < 0.03
    reference = expected_sharpness(package_warp, NO_WARP)
    assert warped.mean() / reference.mean() == pytest.approx(1.0, abs=0.03)


def test_the_measure_sees_what_a_bilinear_warp_does() -> None:
    warped = expected_sharpness(bilinear, magnified())
    assert warped.std() / warped.mean() > 0.08
    assert warped.mean() < 0.8 * expected_sharpness(bilinear, NO_WARP).mean()


def plane(seed: int, magnification: float) -> FocalStack:
    """Return a stack of a plane of white noise; each slice is magnified less than the one before."""
    rng = np.random.default_rng(seed)
    paint = rng.normal(0.3, 0.12, (HEIGHT * 5 // 4, WIDTH * 5 // 4)).astype(np.float32)
    paint = cv2.resize(paint, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_NEAREST)
    slices = []
    for i, focus_dpt in enumerate(FOCUS_DPT):
        f_px = 740.0 * magnification**-i
        zoom = magnification**i
        disc = LENS.aperture_m * f_px * abs(PLANE_DPT - focus_dpt) * FINER
        reach = int(np.ceil(disc / 2))
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        kernel = (np.hypot(x, y) <= disc / 2).astype(np.float32)
        middle = (paint.shape[1] - 1) / 2, (paint.shape[0] - 1) / 2
        size = (WIDTH * FINER, HEIGHT * FINER)
        view = np.array(
            [[zoom, 0, middle[0] - zoom * (size[0] - 1) / 2], [0, zoom, middle[1] - zoom * (size[1] - 1) / 2]]
        )
        large = cv2.warpAffine(
            cv2.filter2D(paint, -1, kernel / kernel.sum()),
            view,
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        light = np.clip(cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), 0.0, 1.0)
        coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
        image = np.repeat(np.rint(255 * coded).astype(np.uint8)[..., None], 3, axis=2)
        k = Intrinsics(WIDTH, HEIGHT, f_px, f_px, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
        slices.append(FocalSlice(image, i, 1.0 / focus_dpt, k))
    return FocalStack.from_slices(slices, LENS, reference=0)


def by_bilinear(stack: FocalStack) -> AlignedStack:
    aligned, intrinsics = align(stack, "camera_info"), metadata_intrinsics(stack, "camera_info")
    images = [
        bilinear(s.image, reference_to_slice(intrinsics[0], k))
        for s, k in zip(stack.slices, intrinsics, strict=True)
    ]
    return replace(aligned, images=(stack.slices[0].image, *images[1:]), numbers=())


def unevenness(engine, stacks: list[AlignedStack]) -> float:  # type: ignore[no-untyped-def]
    """Return the relative standard deviation of the depth of the plane, averaged over stacks and 15 px."""
    depth = np.mean([engine.infer(stack).depth_m for stack in stacks], axis=0)
    smooth = cv2.blur(depth, (15, 15))[24:-24, 24:-24]
    return float(smooth.std() / smooth.mean())


@pytest.mark.parametrize("name, most", [("classical", 0.02), ("onnx", 0.012)])
def test_an_evenly_textured_plane_shows_no_bands(name: str, most: float) -> None:
    breathing = [plane(seed, MAGNIFICATION) for seed in range(4)]
    with make_engine(name) as engine:
        found = unevenness(engine, [align(s, "camera_info") for s in breathing])
        assert found < most
        if name == "classical":
            assert found < 0.6 * unevenness(engine, [by_bilinear(s) for s in breathing])
        else:  # as even as where nothing was magnified
            assert found < 1.2 * unevenness(engine, [align(plane(seed, 1.0), "none") for seed in range(4)])
