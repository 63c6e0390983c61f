# SPDX-License-Identifier: Apache-2.0
"""Procedural surface textures of the simulated scene: RGB images (H, W, 3), uint8, sRGB coded.

They range from rich (speckle, print) to weak (plain paint), with detail down to one texel. All randomness
comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import FloatImage

Texture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Painter = Callable[[np.random.Generator, int, int, Colour], Texture]

# Friendly, saturated but not neon; sRGB.
PALETTE: tuple[Colour, ...] = (
    (214, 86, 62),
    (233, 168, 58),
    (76, 138, 92),
    (52, 118, 168),
    (124, 84, 150),
    (226, 122, 140),
    (66, 164, 160),
    (198, 186, 160),
)


def fractal(rng: np.random.Generator, height: int, width: int, cells: int = 4, decay: float = 0.62) -> FloatImage:
    """Return smooth noise (height, width) with zero mean and unit deviation.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cells: cells of the coarsest octave along the longer side; every octave doubles them down to one texel.
        decay: amplitude of an octave relative to the one before.
    """
    total = np.zeros((height, width), np.float32)
    longest, amplitude, count = max(height, width), 1.0, cells
    while True:
        count = min(count, longest)
        shape = (max(2, round(height * count / longest)), max(2, round(width * count / longest)))
        octave = rng.standard_normal(shape).astype(np.float32)
        total += amplitude * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        if count >= longest:
            break
        amplitude, count = amplitude * decay, count * 2
    result: FloatImage = (total - total.mean()) / max(float(total.std()), 1e-6)
    return result


def plain(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return painted plaster or cardboard: next to no texture."""
    return _tint(colour, 1.0 + 0.018 * fractal(rng, height, width, 6, 0.8))


def grain(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return rough stone or cork: medium contrast at every scale."""
    return _tint(colour, 1.0 + 0.16 * fractal(rng, height, width, 8, 0.8))


def marble(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return veined stone."""
    bend = fractal(rng, height, width, 3, 0.55)
    veins = np.abs(np.sin(2.4 * bend + np.linspace(0.0, 9.0, width, dtype=np.float32)[None, :])) ** 0.5
    return _tint(colour, 0.62 + 0.5 * veins + 0.05 * fractal(rng, height, width, 32, 0.9))


def speckle(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return terrazzo: chips of many colours on a base."""
    image = _tint(colour, 1.0 + 0.05 * fractal(rng, height, width, 8, 0.8))
    for _ in range(height * width // 160):
        shade = PALETTE[rng.integers(len(PALETTE))]
        chip = tuple(int(v) for v in np.clip(np.array(shade) * rng.uniform(0.5, 1.25), 0, 255))
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(1, 7)), int(rng.integers(1, 5)))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, chip, -1, cv2.LINE_AA)
    return image


def weave(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return cloth: crossing threads a few texels wide."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pattern = np.sin(x * 0.9) * np.sin(y * 0.9) + 0.5 * np.sign(np.sin(x * 0.11) * np.sin(y * 0.11))
    return _tint(colour, 0.9 + 0.16 * pattern + 0.07 * fractal(rng, height, width, 32, 0.9))


def stripes(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return broad stripes of two colours with worn paint."""
    period = max(12, width // int(rng.integers(5, 9)))
    other = np.array(PALETTE[-1] if rng.random() < 0.6 else PALETTE[rng.integers(len(PALETTE))], np.float32)
    bent = np.arange(width, dtype=np.float32)[None, :] + 1.5 * fractal(rng, height, width, 6)
    inside = np.clip(4.0 * np.sin(2.0 * np.pi * bent / period) + 0.5, 0.0, 1.0)[..., None]
    base = inside * np.array(colour, np.float32) + (1.0 - inside) * other
    return _to_u8(base * (1.0 + 0.07 * fractal(rng, height, width, 16, 0.9))[..., None])


def checker(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return a chequered pattern with print noise."""
    cell = max(8, min(height, width) // int(rng.integers(5, 9)))
    y, x = np.mgrid[0:height, 0:width] // cell
    odd = ((x + y) % 2).astype(np.float32)[..., None]
    base = odd * np.array(colour, np.float32) + (1.0 - odd) * np.array((236, 228, 212), np.float32)
    return _to_u8(base * (1.0 + 0.06 * fractal(rng, height, width, 16, 0.9))[..., None])


def printed(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return a page: a coloured title block and lines of strokes that look like text."""
    image = _tint((240, 234, 220), 1.0 + 0.012 * fractal(rng, height, width, 16, 0.9))
    margin, line = max(4, width // 14), max(5, height // 40)
    title = max(line, height // 6)
    cv2.rectangle(image, (margin, margin), (width - margin, margin + title), colour, -1)
    y = margin + title + 2 * line
    while y < height - margin:
        x = margin
        while x < width - margin:
            length = int(rng.integers(2, 9)) * line // 3 + 2
            cv2.line(image, (x, y), (min(x + length, width - margin), y), (58, 54, 60), max(1, line // 3))
            x += length + max(2, line // 2)
        y += line
    return image


def painting(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return an abstract picture in a dark frame."""
    image = _tint(colour, 1.0 + 0.12 * fractal(rng, height, width, 3, 0.7))
    size = min(height, width)
    for _ in range(14):
        shade = PALETTE[rng.integers(len(PALETTE))]
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        radius = int(rng.integers(size // 14 + 1, size // 4 + 2))
        if rng.random() < 0.6:
            cv2.circle(image, centre, radius, shade, -1, cv2.LINE_AA)
        else:
            box = (centre, (2.4 * radius, 0.9 * radius), float(rng.uniform(0, 180)))
            cv2.fillPoly(image, [cv2.boxPoints(box).astype(np.int32)], shade, cv2.LINE_AA)
    image = _to_u8(image * (1.0 + 0.10 * fractal(rng, height, width, 24, 0.95))[..., None])
    border = max(2, size // 16)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (52, 40, 34), 2 * border)
    return image


def planks(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return wooden boards along the rows; tiles in both directions."""
    image = np.empty((height, width, 3), np.uint8)
    count = 8
    edges = np.linspace(0, width, count + 1).astype(int)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        board = right - left
        along = fractal(rng, max(2, height // 24), board, max(8, board // 4), 0.9)
        fibre = cv2.resize(along, (board, height), interpolation=cv2.INTER_CUBIC)
        fine = fractal(rng, height, board, height // 8, 0.9)
        tone = rng.uniform(0.82, 1.12)
        strip = _tint(colour, tone * (1.0 + 0.10 * fibre + 0.07 * fine))
        strip[:, :2] //= 3
        joint = int(rng.integers(height))
        strip[joint : joint + 2] //= 3
        image[:, left:right] = strip
    return image


def bricks(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Texture:
    """Return a brick wall, every brick of its own tone; tiles in both directions."""
    image = _tint((188, 182, 172), 1.0 + 0.06 * fractal(rng, height, width, 32, 0.9))
    rows, columns = 12, 5
    detail = 0.08 * fractal(rng, height, width, 24, 0.9)
    for row in range(rows):
        top, bottom = row * height // rows + 2, (row + 1) * height // rows - 2
        offset = (row % 2) * width // (2 * columns)
        for column in range(columns):
            left = column * width // columns + offset + 3
            xs = np.arange(left, left + width // columns - 6) % width
            tone = rng.uniform(0.78, 1.15)
            image[top:bottom, xs] = _tint(colour, tone * (1.0 + detail[top:bottom, xs]))
    return image


RICH: tuple[Painter, ...] = (speckle, marble, weave, stripes, checker, printed, painting, grain)


def _tint(colour: Colour, factor: FloatImage) -> Texture:
    return _to_u8(factor[..., None] * np.array(colour, np.float32))


def _to_u8(values: FloatImage) -> Texture:
    coded: Texture = np.clip(values + 0.5, 0.0, 255.0).astype(np.uint8)
    return coded
