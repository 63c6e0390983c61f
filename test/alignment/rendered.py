# SPDX-License-Identifier: Apache-2.0
"""Stacks with a known alignment: made by formula, by the simulated lens, and rendered by a path tracer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros.alignment.base import corner_radius_px
from dualfocus_ros.stackio import StoredStack, load_stack
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_stacks = pytest.mark.skipif(not (SHARED / "focal_stacks").is_dir(), reason="no rendered stacks beside")
LENS = LensModel(0.016, 1.4, 22.5e-6)
WIDTH, HEIGHT = 320, 240
FOCUS_M = (0.4, 0.6, 1.0, 2.0)
# What a lens that is not perfect adds: scale, x and y shift.
ERRORS = ((1.0, 0.0, 0.0), (1.004, -1.5, 0.8), (0.997, 0.6, 1.2), (0.995, -0.4, -2.0))
BREATHING = (1.0, 0.99, 0.975, 0.965)


def family(name: str) -> list[StoredStack]:
    """Return the rendered stacks of a family."""
    return [load_stack(p) for p in sorted((SHARED / "focal_stacks" / name).iterdir()) if p.is_dir()]


def true_residual(stored: StoredStack) -> np.ndarray:
    """Return what the lens of a rendered stack really did (N, 3); nothing but tests may look."""
    errors = json.loads((stored.path / "meta.json").read_text())["hidden"]["slice_errors"]
    return np.array([[e["scale"], e["shift_x_px"], e["shift_y_px"]] for e in errors])


def corner_error_px(found: np.ndarray, truth: np.ndarray, stack: FocalStack) -> float:
    """Return the RMS displacement of the corners of the image over the slices but the reference."""
    k = stack.slices[stack.reference].intrinsics
    corners = np.array([[x, y] for x in (0, k.width - 1) for y in (0, k.height - 1)]) - (k.cx_px, k.cy_px)
    squares = [
        np.square(corners * s.intrinsics.fx_px / k.fx_px * (a[0] - b[0]) + (a[1:] - b[1:])).sum(axis=1).mean()
        for n, (s, a, b) in enumerate(zip(stack.slices, found, truth, strict=True))
        if n != stack.reference
    ]
    return float(np.sqrt(np.mean(squares)))


def texture(seed: int) -> np.ndarray:
    """Return linear light (2 H, 2 W) with detail of all sizes, to be looked at from a little nearer."""
    rng = np.random.default_rng(seed)
    total = np.zeros((2 * HEIGHT, 2 * WIDTH), np.float32)
    for sigma in (1.5, 3.0, 6.0, 12.0):
        noise = cv2.GaussianBlur(rng.normal(size=total.shape).astype(np.float32), (0, 0), sigma)
        total += noise / noise.std()
    return np.exp(0.35 * total) * np.float32(0.2)


def take(
    scene: np.ndarray, k: Intrinsics, error: tuple[float, float, float], blur_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Photograph a scene with intrinsics that are off by an error, out of focus, with noise; 8 bits, sRGB."""
    fx, cx, cy = k.fx_px * error[0], k.cx_px + error[1], k.cy_px + error[2]
    zoom = fx / 740.0
    mapped = np.array([[zoom, 0.0, cx - zoom * (WIDTH - 0.5)], [0.0, zoom, cy - zoom * (HEIGHT - 0.5)]])
    blurred = cv2.GaussianBlur(scene, (0, 0), max(blur_px, 0.5))
    light = cv2.warpAffine(blurred, mapped, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    light = np.clip(light + rng.normal(0.0, 0.004, light.shape), 0.0, 1.0)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return np.repeat(np.rint(255 * coded).astype(np.uint8)[..., None], 3, axis=2)


def make_stack(
    seed: int = 0,
    errors: tuple[tuple[float, float, float], ...] = ERRORS,
    *,
    start_s: float = 0.0,
    moved_px: Callable[[float], float] = lambda t: 0.0,
    noise_seed: int = 0,
) -> FocalStack:
    """Return a stack, 0.1 s from slice to slice, of a lens with errors; the image moves along x with time."""
    scene, rng = texture(seed), np.random.default_rng(noise_seed)
    slices = []
    for i, (focus_m, zoom, error) in enumerate(zip(FOCUS_M, BREATHING, errors, strict=True)):
        k = Intrinsics(WIDTH, HEIGHT, 740.0 * zoom, 740.0 * zoom, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
        at_s = start_s + 0.1 * i
        shifted = (error[0], error[1] + moved_px(at_s) * zoom * error[0], error[2])
        image = take(scene, k, shifted, abs(i - 1.5), rng)
        slices.append(FocalSlice(image, round(at_s * 1e9), focus_m, k))
    return FocalStack.from_slices(slices, LENS, reference=0, frame_id="camera")


def reference_of(stack: FocalStack) -> Intrinsics:
    """Return the intrinsics of the reference slice."""
    return stack.slices[stack.reference].intrinsics


def in_pixels(residual: np.ndarray, k: Intrinsics) -> np.ndarray:
    """Return a residual (N, 3) as corner displacement, x and y shift, all pixels."""
    radius = corner_radius_px(k.width, k.height, k.cx_px, k.cy_px)
    return (residual - (1.0, 0.0, 0.0)) * (radius, 1.0, 1.0)
