# SPDX-License-Identifier: Apache-2.0
"""Pairs of slices to learn alignment from: noise-free stacks of a pool, seen through lenses that err.

Every use of a stack draws anew how its slices are displaced and what the camera does to them. Then comes what the
running system does (`alignment.residual`): light is decoded as if it were sRGB, made grey and smaller, and warped
by an estimate that is not yet right. What that leaves is to be found; levels of a pyramid are but other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dualfocus_ros.alignment.base import Grid, corner_radius_px
from dualfocus_ros.alignment.classical import ClassicalResidual
from dualfocus_ros.alignment.residual import linear_grey, solve_graph
from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.camera_effects import expose, quantise, random_effects, well_exposed
from dualfocus_ros.learning.data import find_pool, load_stack
from dualfocus_ros.learning.simulator import Stack
from dualfocus_ros.types import FloatImage

FloatArray = npt.NDArray[np.float64]

MOST_SLICES = 5  # of a stack at a time
GAPS = (1, 2, 3)  # as in `alignment.residual`
# Captured pixels to a pixel of the level, and how often; the crop is about 5/6 of a stack, or half of it.
SHRINKS, SHRINK_SHARES = (1, 2, 4), (0.4, 0.4, 0.2)
LEFT_PX = (0.02, 2.5)  # displacement to be found, rms at the corner; log-uniform
UNDONE_PX = 1.5  # what the warp has undone already, in each coefficient
ELECTRONS = (300.0, 40000.0)  # full well
BRIGHTEST_SEEN = 4.0  # of the light of a pool, where the places of its pictures are found
PLACE_STEPS = 3


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one size.

    Attributes:
        pairs: (B, 2, h, w) linear light of mean 1.
        grid: (2, h, w) radial basis flow, of all of them.
        truth: (B, 3) displacement of the second image from the first, see `alignment.base`.
    """

    pairs: Tensor
    grid: Tensor
    truth: Tensor


@dataclass(frozen=True)
class View:
    """What of the stacks is seen: crop, level and principal point.

    Attributes:
        size_px: side of the images.
        shrink: captured pixels to one of theirs.
        centre: principal point, pixels of theirs.
        radius_px: distance of the corner of the image that they are a part of.
    """

    size_px: int
    shrink: int
    centre: tuple[float, float]
    radius_px: float

    @property
    def grid(self) -> Grid:
        """The radial basis flow."""
        whole = Grid.of(self.size_px, self.size_px, *self.centre)
        scale = np.float32(corner_radius_px(self.size_px, self.size_px, *self.centre) / self.radius_px)
        return Grid(whole.x * scale, whole.y * scale)


def random_view(rng: np.random.Generator, stack_px: int) -> View:
    """Draw a view of stacks with sides of `stack_px`; half of them are the middle of an image, half any part."""
    shrink = int(rng.choice(SHRINKS, p=SHRINK_SHARES))
    side = 8 * (stack_px * 5 // 6 // 8)
    size = side // shrink if shrink > 1 else side // 2
    size = max(16, size // 4 * 4)
    middle = (size - 1) / 2
    if rng.random() < 0.5:
        centre = middle + rng.uniform(-0.05, 0.05, 2) * size
        return View(size, shrink, (float(centre[0]), float(centre[1])), float(np.hypot(middle, middle)))
    centre = rng.uniform(-0.2, 1.2, 2) * size
    return View(size, shrink, (float(centre[0]), float(centre[1])), float(rng.uniform(0.9, 1.5) * size))


def pairs_of(
    stack: Stack, place: FloatArray, view: View, rng: np.random.Generator
) -> tuple[list[FloatImage], list[FloatArray]]:
    """Return pairs (2, h, w) of slices of a stack, as a level of the pyramid sees them, and their truth (3,).

    Args:
        stack: of a pool.
        place: (N, 2) of its pictures, see `places`.
        view: what is seen of it.
        rng: draws all else.

    Raises:
        InputError: if the stack is too small for the view.
    """
    chosen = _some_slices(len(stack.light), rng)
    light, place = _turned(stack.light[chosen], place[chosen], rng)
    count = len(light)
    left = _spread(rng, count, math.exp(rng.uniform(*np.log(LEFT_PX))))
    undone = rng.uniform(-UNDONE_PX, UNDONE_PX, (count, 3)) * (rng.random() < 0.6)
    displaced = np.hstack([_after(undone, left, view), place])
    images = _captured(light, np.array(stack.optics.focus_dpt)[chosen], displaced, view, rng)
    images = [_undo(image, row, view) for image, row in zip(images, undone, strict=True)]
    pairs, truths = [], []
    for gap in GAPS:
        for i in range(count - gap):
            first, second = (i, i + gap) if rng.random() < 0.5 else (i + gap, i)
            pairs.append(np.stack([images[first], images[second]]))
            truths.append(_between(left[first], left[second], view))
    return pairs, truths


def _some_slices(count: int, rng: np.random.Generator) -> list[int]:
    step = 2 if count > 6 and rng.random() < 0.15 else 1
    number = min(MOST_SLICES, (count + step - 1) // step)
    first = int(rng.integers(count - step * (number - 1)))
    return list(range(first, first + step * number, step))


def _turned(light: Tensor, place: FloatArray, rng: np.random.Generator) -> tuple[Tensor, FloatArray]:
    """Return slices and the places of their pictures mirrored and transposed at random."""
    for axis, dim in enumerate((-1, -2)):
        if rng.random() < 0.5:
            light, place = light.flip(dim), place * np.where(np.arange(2) == axis, -1.0, 1.0)
    return (light.mT, place[:, ::-1]) if rng.random() < 0.5 else (light, place)


def _spread(rng: np.random.Generator, count: int, rms_px: float) -> FloatArray:
    """Return coefficients (N, 3): any of the three may be alone, as many lenses only breathe."""
    kinds = np.array([(1, 1, 1), (1, 0, 0), (0, 1, 1)])[rng.choice(3, p=(0.7, 0.2, 0.1))]
    return rng.normal(0.0, rms_px / math.sqrt(6.0), (count, 3)) * kinds


def _after(undone: FloatArray, left: FloatArray, view: View) -> FloatArray:
    """Return the displacement (N, 3) that the first of two, seen where the other has led, makes a whole of."""
    r = view.radius_px
    scale = 1.0 + undone[:, :1] / r
    whole = undone + left * scale
    whole[:, 0] = ((1.0 + left[:, 0] / r) * scale[:, 0] - 1.0) * r
    return whole


def _between(first: FloatArray, second: FloatArray, view: View) -> FloatArray:
    """Return the displacement (3,) of the second from the first of two that are displaced from a third."""
    ratio = (1.0 + second[0] / view.radius_px) / (1.0 + first[0] / view.radius_px)
    return np.array([(ratio - 1.0) * view.radius_px, *(second[1:] - ratio * first[1:])])


def _captured(
    light: Tensor, focus_dpt: FloatArray, displaced: FloatArray, view: View, rng: np.random.Generator
) -> list[FloatImage]:
    """Return what a camera, and the decoding of its pictures, make of light (N, 3, H, W), displaced by (N, 5)."""
    side, (height, width) = view.size_px * view.shrink, light.shape[-2:]
    if side > min(height, width):
        raise InputError(f"expected stacks of at least {side} x {side} px for this view, got {height} x {width}")
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    noisy = rng.random() < 0.85
    effects = replace(
        random_effects(rng, focus_dpt, 0.0),
        magnification=np.ones(len(light)),
        residual=np.zeros((len(light), 3)),
        full_well=math.exp(rng.uniform(*np.log(ELECTRONS))) if noisy else math.inf,
    )
    if rng.random() < 0.2:
        effects = replace(effects, gain=effects.gain * float(rng.uniform(1.0, 3.0)))  # burnt out in places
    exposed = well_exposed(light)
    taken = torch.cat(
        [_displaced(s[None], row, view, top, left) for s, row in zip(exposed, displaced, strict=True)]
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    coded = (quantise(expose(taken, effects, generator)) * 255.0).round().to(torch.uint8)
    coarser = int(rng.choice([k for k in (1, 2, 4) if k <= view.shrink]))
    found = []
    for image in coded.permute(0, 2, 3, 1).contiguous().numpy():
        grey = linear_grey(image, view.shrink // coarser)
        size = (view.size_px, view.size_px)
        found.append(cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if coarser > 1 else grey)
    return found


def _displaced(light: Tensor, row: FloatArray, view: View, top: int, left: int) -> Tensor:
    """Return a crop of light (1, 3, H, W) whose content is displaced by `row` (5,).

    These are the displacement (3,) in pixels of the view, and the place (2,) of the picture of the light.
    """
    height, width = light.shape[-2:]
    side, k = view.size_px * view.shrink, view.shrink
    theta = []
    for axis, (start, size) in enumerate(((left, width), (top, height))):
        centre, shift = view.centre[axis], row[1 + axis]
        c = centre * k + (k - 1) / 2
        source = c + (np.arange(side) - c - shift * k) / (1.0 + row[0] / view.radius_px) + start + row[3 + axis]
        theta.append(torch.from_numpy((2.0 * source + 1.0) / size - 1.0).float())
    y, x = torch.meshgrid(theta[1], theta[0], indexing="ij")
    grid = torch.stack([x, y], -1)[None]
    moved = functional.grid_sample(light, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(min=0.0)


def _undo(image: FloatImage, row: FloatArray, view: View) -> FloatImage:
    """Return an image warped back by `row` (3,) as `alignment.residual` warps."""
    if not row.any():
        return image
    scale = 1.0 + row[0] / view.radius_px
    to_slice = np.zeros((2, 3))
    for axis, c in enumerate(view.centre):
        to_slice[axis, axis] = scale
        to_slice[axis, 2] = c - scale * c + row[1 + axis]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_slice, image.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


FREE_PX = 100.0  # no place is expected more than another


def places(stack: Stack) -> FloatArray:
    """Return where the picture of each slice (N, 2) lies against the first, x and y in pixels of the stack.

    A picture of a simulated lens moves with the focus if the pupil is not symmetric, and a little at random
    because views are added at whole pixels: evenly over the image, whatever the depth. Unseen, both would be taken
    for errors of an estimate that is right. Here is neither noise nor change of scale to be told from them.
    """
    grey = [s.mean(0).clamp(0.0, BRIGHTEST_SEEN).numpy() for s in stack.light]
    height, width = grey[0].shape
    size = (width // 2, height // 2)
    grid = Grid.of(*size, (size[0] - 1) / 2, (size[1] - 1) / 2)
    pairs = [(i, i + gap) for gap in GAPS for i in range(len(grey) - gap)]
    found = np.zeros((len(grey), 2))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    for _ in range(PLACE_STEPS):
        images = []
        for image, (x, y) in zip(grey, found, strict=True):
            there = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
            moved = cv2.warpAffine(image, there, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            small = cv2.resize(moved, size, interpolation=cv2.INTER_AREA)
            images.append(small / max(float(small.mean()), 1e-6))
        equations = ClassicalResidual().relate(images, pairs, grid)
        equations[:, 0, :] = equations[:, :, 0] = 0.0  # shift alone
        found += 2.0 * solve_graph(equations, pairs, np.zeros((len(grey), 3)), 0, FREE_PX)[0][:, 1:]
    return found


def batches(folder: Path, stacks: int, seed: int, start: int = 0) -> Iterator[PairBatch]:
    """Yield batches of pairs of `stacks` stacks of a pool for ever.

    A batch is a function of (seed, its number) and of the pool, so that a resumed run goes on where it stopped.
    """
    paths = find_pool(folder)
    known: dict[Path, FloatArray] = {}
    for number in range(start, 2**62):
        rng = np.random.default_rng([seed, number])
        pairs: list[FloatImage] = []
        truths: list[FloatArray] = []
        view: View | None = None
        for path in (paths[int(k)] for k in rng.integers(len(paths), size=stacks)):
            stack = load_stack(path)
            view = random_view(rng, stack.light.shape[-1]) if view is None else view
            if path not in known:
                known[path] = places(stack)
            found, truth = pairs_of(stack, known[path], view, rng)
            pairs += found
            truths += truth
        assert view is not None
        yield PairBatch(
            torch.from_numpy(np.stack(pairs)),
            torch.from_numpy(np.stack([view.grid.x, view.grid.y])),
            torch.from_numpy(np.stack(truths)).float(),
        )
