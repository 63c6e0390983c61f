# SPDX-License-Identifier: Apache-2.0
"""Batches of training stacks: from the simulator, straight or by way of a pool on disk.

A pool holds noise-free stacks in linear light; everything that a camera adds (misalignment, noise, response,
compression) is drawn anew each time a stack is used. Where rendering costs as much as training, as on a CPU, the
pool is worth its space.
"""

from __future__ import annotations

import argparse
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dualfocus_ros.errors import DualFocusError, InputError
from dualfocus_ros.learning.camera_effects import expose, random_effects, well_exposed
from dualfocus_ros.learning.simulator import Optics, Stack, simulate
from dualfocus_ros.learning.textures import texture_bank

# Brightest value kept: highlights beyond saturate anyway, and half floats hold it well.
BRIGHTEST = 16.0
STACKS_A_SCENE = 3  # of other focus schedules; rendering the scene is what costs most
SLICE_COUNTS = np.arange(3, 16)
SLICE_WEIGHTS = np.array([2, 2, 4, 3, 3, 3, 2, 5, 1, 1, 1, 0.5, 1])


def random_slices(rng: np.random.Generator) -> int:
    """Return a random number of slices, 3 to 15; 5 to 10 are the most common in use."""
    return int(rng.choice(SLICE_COUNTS, p=SLICE_WEIGHTS / SLICE_WEIGHTS.sum()))


def save_stack(path: Path, stack: Stack) -> None:
    """Write one stack of a pool; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            light=stack.light.clamp(0.0, BRIGHTEST).half().cpu().numpy(),
            inverse_depth=stack.inverse_depth.cpu().numpy(),
            focus_dpt=np.array(stack.optics.focus_dpt),
            lens=np.array([stack.optics.blur_gain, stack.optics.breathing]),
        )
    os.replace(partial, path)


def load_stack(path: Path) -> Stack:
    """Read one stack of a pool.

    Raises:
        InputError: if the file is not one.
    """
    try:
        with np.load(path) as file:
            gain, breathing = (float(v) for v in file["lens"])
            optics = Optics(tuple(float(p) for p in file["focus_dpt"]), gain, breathing)
            light = torch.from_numpy(file["light"]).float()
            return Stack(light, torch.from_numpy(file["inverse_depth"]), optics)
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"expected a stack of a training pool in {path}: {error}") from error


def fill_pool(folder: Path, first_seed: int, scenes: int, size_px: int, bank: Tensor) -> Iterator[Path]:
    """Render `scenes` scenes of STACKS_A_SCENE stacks each into `folder`; what is there already is kept.

    Files are named by seed and number of slices, so that several processes with different seeds can share it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + scenes):
        rng = np.random.default_rng(seed)
        slices = [random_slices(rng) for _ in range(STACKS_A_SCENE)]
        paths = [folder / f"{seed:07d}_{i}_{n:02d}.npz" for i, n in enumerate(slices)]
        if not all(path.exists() for path in paths):
            for path, stack in zip(paths, simulate(rng, bank, (size_px, size_px), slices), strict=True):
                save_stack(path, stack)
        yield from paths


def find_pool(folder: Path) -> list[Path]:
    """Return the stacks of a pool, sorted.

    Raises:
        InputError: if there are none.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError(
            f"expected training stacks (*.npz) in {folder}, found none: fill the pool first, with "
            f"python -m dualfocus_ros.learning.data {folder}"
        )
    return paths


@dataclass(frozen=True)
class Batch:
    """Stacks of one number of slices, ready for the network.

    Attributes:
        images: (B, N, 3, H, W) coded, 0..1.
        inverse_depth: (B, H, W) dioptres.
        focus_dpt: (B, N) descending.
        blur_gain: (B,) pixels per dioptre.
    """

    images: Tensor
    inverse_depth: Tensor
    focus_dpt: Tensor
    blur_gain: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the same on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


def collate(stacks: list[Stack], crop_px: int, rng: np.random.Generator) -> Batch:
    """Turn noise-free stacks of equal N into a batch: random crop, flips, and a random camera for each.

    Raises:
        InputError: if a stack is smaller than the crop.
    """
    images, depths = [], []
    for stack in stacks:
        light, depth = _crop(stack, crop_px, rng)
        focus_dpt = np.array(stack.optics.focus_dpt)
        effects = random_effects(rng, focus_dpt, stack.optics.breathing)
        generator = torch.Generator(light.device).manual_seed(int(rng.integers(2**62)))
        images.append(expose(well_exposed(light), effects, generator))
        depths.append(depth)
    focus = torch.tensor([s.optics.focus_dpt for s in stacks], dtype=torch.float32, device=images[0].device)
    gains = torch.tensor([s.optics.blur_gain for s in stacks], dtype=torch.float32, device=images[0].device)
    return Batch(torch.stack(images), torch.stack(depths), focus, gains)


def _crop(stack: Stack, crop_px: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = stack.inverse_depth.shape
    if crop_px > min(height, width):
        raise InputError(
            f"expected stacks of at least {crop_px} x {crop_px} px for this crop, got {height} x {width}"
        )
    top, left = int(rng.integers(height - crop_px + 1)), int(rng.integers(width - crop_px + 1))
    light = stack.light[:, :, top : top + crop_px, left : left + crop_px]
    depth = stack.inverse_depth[top : top + crop_px, left : left + crop_px]
    for dim in (-2, -1):
        if rng.random() < 0.5:
            light, depth = light.flip(dim), depth.flip(dim)
    if rng.random() < 0.5:
        light, depth = light.mT, depth.mT
    return light[:, torch.from_numpy(rng.permutation(3)).to(light.device)], depth


class PoolDataset(torch.utils.data.IterableDataset[Batch]):
    """Endless batches from a pool that may still be growing.

    A batch is a function of (seed, number of the batch) and the pool's content, so that a resumed run goes on
    where it stopped.
    """

    def __init__(self, folder: Path, slices_a_batch: int, crop_px: int, seed: int, start: int = 0):
        """Take batches of about `slices_a_batch` slices, so that all cost the same."""
        self._folder, self._slices, self._crop_px = folder, slices_a_batch, crop_px
        self._seed, self._start = seed, start
        self._paths: dict[int, list[Path]] = {}

    def _index(self) -> None:
        self._paths = {}
        for path in find_pool(self._folder):
            self._paths.setdefault(int(path.stem.rsplit("_", 1)[1]), []).append(path)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever."""
        worker = torch.utils.data.get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for i, index in enumerate(range(self._start + number, 2**62, of)):
            if i % 200 == 0:
                self._index()
            rng = np.random.default_rng([self._seed, index])
            counts = sorted(self._paths)
            weights = np.array([len(self._paths[n]) for n in counts], float)
            slices = int(rng.choice(counts, p=weights / weights.sum()))
            paths = self._paths[slices]
            size = max(1, round(self._slices / slices))
            chosen = [load_stack(paths[int(k)]) for k in rng.integers(len(paths), size=size)]
            yield collate(chosen, self._crop_px, rng)


class SimulatedDataset(torch.utils.data.IterableDataset[Batch]):
    """Endless batches straight from the simulator, on the device of its textures."""

    def __init__(self, bank: Tensor, slices_a_batch: int, crop_px: int, seed: int, start: int = 0):
        """Take batches of about `slices_a_batch` slices."""
        self._bank, self._slices, self._crop_px = bank, slices_a_batch, crop_px
        self._seed, self._start = seed, start

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever."""
        worker = torch.utils.data.get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(self._start + number, 2**62, of):
            rng = np.random.default_rng([self._seed, index])
            slices = random_slices(rng)
            stacks: list[Stack] = []
            while len(stacks) < max(1, round(self._slices / slices)):
                stacks += simulate(rng, self._bank, (self._crop_px, self._crop_px), [slices, slices])
            yield collate(stacks[: max(1, round(self._slices / slices))], self._crop_px, rng)


def main() -> None:
    """Fill a pool from the command line."""
    parser = argparse.ArgumentParser(description="Render a pool of training stacks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene; one more for each")
    parser.add_argument("--size", type=int, default=192, help="width and height in pixels")
    parser.add_argument("--textures", type=int, default=400)
    parser.add_argument("--photos", type=Path, help="folder of photographs to use as textures, too")
    args = parser.parse_args()
    torch.set_num_threads(1)  # several processes side by side are faster
    try:
        bank = torch.from_numpy(texture_bank(args.textures, args.seed, args.photos))
    except DualFocusError as error:
        parser.exit(1, f"data: {error}\n")
    paths = fill_pool(args.folder, args.seed, args.scenes, args.size, bank)
    for _ in tqdm(paths, total=STACKS_A_SCENE * args.scenes, unit="stack", mininterval=1.0):
        pass


if __name__ == "__main__":
    main()
