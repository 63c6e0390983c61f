# SPDX-License-Identifier: Apache-2.0
"""NYU Depth v2 as HybridDepth (Ganj et al., WACV 2025) uses it: focal stacks rendered from RGB-D.

Layout, split, crop, mask, lens and focus list are those of cake-lab/HybridDepth, dataloader/NYU, and of
cleinc/bts, whose instructions it refers to. The original also finds the black border of the images and fills it
by reflection; the border lies outside of the crop, so that this makes no difference and is left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, truth
from dualfocus_ros.datasets.files import (
    first_folder,
    h5_dataset,
    open_h5,
    read_grey,
    read_lines,
    read_mat,
    read_rgb,
    to_levels,
)
from dualfocus_ros.datasets.rgbd import LEAK, PUBLISHED, RENDERED, rendered
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

SHAPE = (480, 640)
CROP = (slice(48, 432), slice(64, 576))
MILLIMETRE = 1e-3
DEPTH_M = (1e-3, 10.0)
LENS = LensModel(focal_length_m=50e-3, f_number=8.0, pixel_pitch_m=1.2e-5)
# Focal length of the camera that took the images, from the lists of BTS.
CAMERA_FX_PX = 518.8579
LISTS = {
    "test": ("nyu_test.txt", "nyudepthv2_test_files_with_gt.txt"),
    "train": ("nyu_train.txt", "nyudepthv2_train_files_with_gt.txt"),
}
LABELLED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
# What BTS leaves of an image of the labelled file.
INSIDE = (slice(7, 474), slice(7, 632))


def find(root: Path, split: str, slices: int, published: bool) -> Sequence[Source]:
    """List the pairs of a split: those that a list file in `root` names, or else all of test/; or the .mat."""
    if split == "test" and (root / LABELLED).is_file():
        return _labelled(root, slices, published)
    lists = [root / name for name in LISTS[split] if (root / name).is_file()]
    if split == "train":
        folder = first_folder([root / "sync"], "the training images of BTS")
        if not lists:
            raise DatasetError(
                f"expected the list of the training images, {' or '.join(LISTS[split])}, in {root} (HybridDepth "
                "has it in dataloader/NYU/input_splits, BTS in train_test_inputs)"
            )
    else:
        folder = first_folder(
            [root / "test", root / "official_splits" / "test"], f"the test images of BTS, or {LABELLED}"
        )
    pairs = _listed(lists[0], folder) if lists else _pairs(folder)
    return [
        Source(f"{split}/{rgb.parent.name}_{rgb.stem[4:]}", partial(_load, rgb, depth, slices, published))
        for rgb, depth in pairs
    ]


def _listed(path: Path, folder: Path) -> list[tuple[Path, Path]]:
    lines = read_lines(path)
    short = [words for words in lines if len(words) < 2]
    if short:
        raise DatasetError(
            f"expected 'image depth focal_length' in each line of {path}, got {' '.join(short[0])!r}"
        )
    return [(folder / words[0].lstrip("/"), folder / words[1].lstrip("/")) for words in lines]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    return [(p, p.with_name(f"sync_depth_{p.stem[4:]}.png")) for p in sorted(folder.glob("*/rgb_*.jpg"))]


def _load(rgb: Path, depth: Path, slices: int, published: bool) -> DatasetStack:
    image = read_rgb(rgb, SHAPE)
    millimetres = read_grey(depth, np.uint16, SHAPE)
    return _stack(image, millimetres, f"{rgb.parent.name}/{rgb.name}", slices, published)


def _stack(
    image: npt.NDArray[Any], millimetres: npt.NDArray[Any], source: str, slices: int, published: bool
) -> DatasetStack:
    depth_m = millimetres[CROP] * MILLIMETRE
    truth_m = truth(depth_m, (depth_m > DEPTH_M[0]) & (depth_m < DEPTH_M[1]))
    cropped = np.ascontiguousarray(image[CROP])
    return rendered(cropped, truth_m, LENS, slices, published, source=source, camera_fx_px=CAMERA_FX_PX)


def _labelled(root: Path, slices: int, published: bool) -> list[Source]:
    """List the official test images of the labelled file, which is what BTS writes its PNGs from."""
    path = root / LABELLED
    numbers = np.atleast_1d(read_mat(root / SPLITS, "testNdxs")).astype(int)
    with open_h5(path) as file:
        count = h5_dataset(file, "images", (None, 3, SHAPE[1], SHAPE[0])).shape[0]
        h5_dataset(file, "rawDepths", (count, SHAPE[1], SHAPE[0]))
    if numbers.min() < 1 or numbers.max() > count:
        raise DatasetError(f"expected numbers of 1 to {count} in {root / SPLITS}, got up to {numbers.max()}")
    return [Source(f"test/{i:05d}", partial(_load_labelled, path, i, slices, published)) for i in numbers - 1]


def _load_labelled(path: Path, index: int, slices: int, published: bool) -> DatasetStack:
    with open_h5(path) as file:  # MATLAB's arrays are transposed
        image = to_levels(file["images"][index], path.name).transpose(2, 1, 0)
        depth_m = np.asarray(file["rawDepths"][index], np.float64).T
    bordered = np.zeros_like(image)
    bordered[INSIDE] = image[INSIDE]
    millimetres = (depth_m / MILLIMETRE).astype(np.uint16)  # cut off, not rounded, as BTS does
    return _stack(bordered, millimetres, f"{path.name}, image {index + 1}", slices, published)


def _dataset(slices: int, published: bool) -> Dataset:
    suffix = "-published" if published else ""
    return Dataset(
        name=f"nyu{slices}{suffix}",
        title=f"NYU Depth v2 (Silberman et al. 2012), {slices} slices as HybridDepth (Ganj et al. 2025)"
        + (", its renderer" if published else ""),
        url="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, made into files as "
        "https://github.com/cleinc/bts (pytorch/README.md) says",
        licence="no licence stated; for research",
        layout="test/<scene>/rgb_NNNNN.jpg and sync_depth_NNNNN.png (also below official_splits/), with "
        "nyu_test.txt or nyudepthv2_test_files_with_gt.txt in the root where only some are wanted; or "
        "nyu_depth_v2_labeled.mat and splits.mat; for train: sync/<scene>/rgb_NNNNN.jpg, sync_depth_NNNNN.png "
        "and nyu_train.txt or nyudepthv2_train_files_with_gt.txt",
        protocol=f"Depth PNG in mm; rows 48:432, columns 64:576; truth 1e-3 < d < 10 m; {slices} slices of a "
        f"virtual lens f = 50 mm, f/8, pixel 12 um. {LEAK} {PUBLISHED if published else RENDERED}",
        splits=("train", "test"),
        default_split="test",
        find=partial(find, slices=slices, published=published),
    )


DATASETS = tuple(_dataset(slices, published) for published in (False, True) for slices in (10, 5))
