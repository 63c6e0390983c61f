# SPDX-License-Identifier: Apache-2.0
"""A bank of surface textures for training: procedural, from rich to almost none, and photographs if given.

A scene takes textures from the bank at random and recolours, scales and mixes them, so that a few hundred
stand for very many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera import textures as painters
from dualfocus_ros.camera.sensor import srgb_to_linear
from dualfocus_ros.errors import InputError
from dualfocus_ros.types import FloatImage

TEXTURE_PX = 256
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# Share of photographs in a bank that has any.
PHOTO_SHARE = 0.4
GRAIN_SHARE = 0.85
GRAIN_LOG_STRENGTH = (float(np.log(0.02)), float(np.log(0.35)))

Bank = npt.NDArray[np.float32]
_Grey = Callable[[np.random.Generator], FloatImage]


def texture_bank(count: int, seed: int, photo_folder: Path | None = None) -> Bank:
    """Return (count, 3, 256, 256) float32 textures in linear light, 0..1.

    Args:
        count: number of textures.
        seed: of all randomness.
        photo_folder: folder tree of photographs to cut patches from.

    Raises:
        InputError: if the folder holds no readable image.
    """
    rng = np.random.default_rng(seed)
    photos = [] if photo_folder is None else _photos(photo_folder)
    table = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)
    bank = np.empty((count, 3, TEXTURE_PX, TEXTURE_PX), np.float32)
    for i in range(count):
        image = _patch(rng, photos) if photos and rng.random() < PHOTO_SHARE else _procedural(rng)
        bank[i] = table[image].transpose(2, 0, 1)
        if rng.random() < GRAIN_SHARE:  # hardly a surface is without a faint grain, and it is what shows focus
            grain = painters.fractal(rng, TEXTURE_PX, TEXTURE_PX, int(2 ** rng.uniform(4, 7)), 0.9)
            bank[i] = np.clip(bank[i] * (1.0 + np.exp(rng.uniform(*GRAIN_LOG_STRENGTH)) * grain), 0.0, 1.0)
    return bank


def _photos(folder: Path) -> list[npt.NDArray[np.uint8]]:
    paths: Sequence[Path] = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    images = [cv2.imread(str(p), cv2.IMREAD_COLOR) for p in paths]
    large = [
        np.ascontiguousarray(image[..., ::-1])
        for image in images
        if image is not None and min(image.shape[:2]) >= TEXTURE_PX
    ]
    if not large:
        raise InputError(f"expected photographs of at least {TEXTURE_PX} px below {folder}, found none")
    return large


def _patch(rng: np.random.Generator, photos: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Cut a patch of random size and place and bring it to the size of the bank."""
    photo = photos[rng.integers(len(photos))]
    height, width = photo.shape[:2]
    size = int(np.exp(rng.uniform(np.log(TEXTURE_PX), np.log(min(height, width)))))
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    patch = photo[top : top + size, left : left + size]
    return np.asarray(cv2.resize(patch, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _procedural(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if rng.random() < 0.4:
        painter = (
            painters.plain, painters.grain, painters.marble, painters.speckle, painters.weave, painters.stripes,
            painters.checker, painters.printed, painters.painting, painters.planks, painters.bricks,
        )[rng.integers(11)]  # fmt: skip
        colour = painters.PALETTE[rng.integers(len(painters.PALETTE))]
        return painter(rng, TEXTURE_PX, TEXTURE_PX, colour)
    makers: tuple[_Grey, ...] = (_noise, _noise, _threshold, _gratings, _dots, _glyphs, _polygons)
    pattern = makers[rng.integers(len(makers))](rng)
    dark, light = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    if rng.random() < 0.5:  # grey-ish: colour varies less than brightness in the world
        dark, light = 0.8 * dark.mean() + 0.2 * dark, 0.8 * light.mean() + 0.2 * light
    return np.clip(dark + pattern[..., None] * (light - dark), 0, 255).astype(np.uint8)


def _unit(values: FloatImage) -> FloatImage:
    low, high = np.percentile(values, (1, 99))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _noise(rng: np.random.Generator) -> FloatImage:
    """Return fractal noise of random spectrum, from clouds to sand."""
    cells = int(2 ** rng.uniform(1, 6))
    return _unit(painters.fractal(rng, TEXTURE_PX, TEXTURE_PX, cells, float(rng.uniform(0.35, 1.0))))


def _threshold(rng: np.random.Generator) -> FloatImage:
    """Return blots with hard edges."""
    noise = painters.fractal(
        rng, TEXTURE_PX, TEXTURE_PX, int(2 ** rng.uniform(2, 6)), float(rng.uniform(0.3, 0.8))
    )
    return (noise > rng.normal(0, 0.5)).astype(np.float32)


def _gratings(rng: np.random.Generator) -> FloatImage:
    """Return one or two periodic gratings, square or sine: repetitive texture."""
    y, x = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32)
    total = np.zeros_like(x)
    for _ in range(rng.integers(1, 3)):
        angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(64)))
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        total += np.sign(wave) if rng.random() < 0.5 else wave
    return _unit(total)


def _dots(rng: np.random.Generator) -> FloatImage:
    image = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    for _ in range(int(np.exp(rng.uniform(2.5, 6.5)))):
        centre = tuple(int(v) for v in rng.integers(0, TEXTURE_PX, 2))
        radius = int(np.exp(rng.uniform(0, 2.3)))
        cv2.circle(image, centre, radius, float(rng.random()), -1, cv2.LINE_AA)
    return image


def _glyphs(rng: np.random.Generator) -> FloatImage:
    """Return lines of text-like marks."""
    image = np.full((TEXTURE_PX, TEXTURE_PX), 255, np.uint8)
    scale = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    step = max(int(30 * scale), 6)
    for y in range(step, TEXTURE_PX + step, step):
        text = "".join(chr(c) for c in rng.integers(33, 127, 60))
        origin = (-int(rng.integers(40)), y)
        cv2.putText(image, text, origin, int(rng.integers(4)), scale, 0, 1 + int(scale), cv2.LINE_AA)
    return image.astype(np.float32) / 255.0


def _polygons(rng: np.random.Generator) -> FloatImage:
    """Return overlapping flat patches: edges with nothing between them."""
    image = np.full((TEXTURE_PX, TEXTURE_PX), rng.random(), np.float32)
    for _ in range(rng.integers(5, 40)):
        centre, size = rng.uniform(0, TEXTURE_PX, 2), np.exp(rng.uniform(2, 4.5))
        corners = (centre + rng.normal(0, size, (int(rng.integers(3, 6)), 2))).astype(np.int32)
        cv2.fillPoly(image, [corners], float(rng.random()), cv2.LINE_AA)
    return image
