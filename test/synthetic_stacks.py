# SPDX-License-Identifier: Apache-2.0
"""Focal stacks of known depth for tests: every point blurred by the disc of the thin lens, nothing occludes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.signal import fftconvolve

from dualfocus_ros import optics
from dualfocus_ros.types import AlignedStack, FocalSlice, FocalStack, Intrinsics, LensModel

LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=2.25e-5)
FOCUS_M = (0.4, 0.5, 0.65, 0.9, 1.5, 4.0)
SHAPE = (96, 128)


def intrinsics(shape: tuple[int, int] = SHAPE) -> Intrinsics:
    f_px = LENS.focal_length_m / LENS.pixel_pitch_m
    return Intrinsics(shape[1], shape[0], f_px, f_px, (shape[1] - 1) / 2, (shape[0] - 1) / 2)


def texture(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) linear light in 0..1 with detail at all scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*shape, 3))
    for cell in (1, 2, 4, 8, 16):
        coarse = rng.uniform(-1, 1, (shape[0] // cell + 2, shape[1] // cell + 2, 3))
        image += np.kron(coarse, np.ones((cell, cell, 1)))[: shape[0], : shape[1]]
    return np.clip(0.5 + 0.15 * image, 0, 1)


def disc(diameter_px: float) -> np.ndarray:
    """Return the kernel by counting points of a fine grid inside the circle."""
    if diameter_px < 0.2:
        return np.ones((1, 1))
    half, fine = int(np.ceil(diameter_px / 2 + 0.5)), 15
    y, x = np.mgrid[0 : (2 * half + 1) * fine, 0 : (2 * half + 1) * fine]
    centre = ((2 * half + 1) * fine - 1) / 2
    inside = np.hypot(x - centre, y - centre) <= diameter_px / 2 * fine
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).sum(axis=(1, 3)).astype(float)
    return kernel / kernel.sum()


def render(
    linear: np.ndarray, depths_m: Sequence[float], focus_m: Sequence[float] = FOCUS_M, lens: LensModel = LENS
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return slices (H, W, 3) in 0..1 with gamma 2.2, and the true depth (H, W).

    The image is cut into vertical strips of equal width, one for each of `depths_m`; each is blurred on its
    own.
    """
    height, width = linear.shape[:2]
    strip = np.arange(width) * len(depths_m) // width
    slices = []
    for s in focus_m:
        image = np.empty_like(linear)
        for i, depth in enumerate(depths_m):
            blur = float(optics.blur_diameter_px(lens.focal_length_m, lens.f_number, lens.pixel_pitch_m, s, depth))
            kernel = disc(blur)
            pad = kernel.shape[0] // 2
            padded = np.pad(linear, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
            blurred = fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))
            image[:, strip == i] = blurred[:, strip == i]
        slices.append(np.clip(image, 0, 1) ** (1 / 2.2))
    truth = np.broadcast_to(np.asarray(depths_m, np.float32)[strip], (height, width)).copy()
    return slices, truth


def quantised(slices: Sequence[np.ndarray], dtype: type = np.uint8, white: int = 255) -> list[np.ndarray]:
    return [np.rint(s * white).astype(dtype) for s in slices]


def aligned(
    images: Sequence[np.ndarray],
    focus_m: Sequence[float] = FOCUS_M,
    valid: np.ndarray | None = None,
    lens: LensModel = LENS,
) -> AlignedStack:
    return AlignedStack(tuple(images), valid, np.array(focus_m), intrinsics(images[0].shape[:2]), lens)


def captured(images: Sequence[np.ndarray], focus_m: Sequence[float] = FOCUS_M) -> FocalStack:
    k = intrinsics(images[0].shape[:2])
    slices = [FocalSlice(image, i, s, k) for i, (image, s) in enumerate(zip(images, focus_m, strict=True))]
    return FocalStack.from_slices(slices, LENS)
