# SPDX-License-Identifier: Apache-2.0
"""ARKitScenes as HybridDepth (Ganj et al., WACV 2025) uses it: focal stacks rendered from RGB and laser depth.

Layout from apple/ARKitScenes (DATA.md, raw/README.md), protocol from cake-lab/HybridDepth
(dataloader/ARKitScenes, utils/synthetic/camera_lib.py, configs/config_test_ARKitScenes.yaml). One deviation, on
purpose: the original averages depth when it makes it smaller, which mixes holes (0) and what is behind an edge
into depths that nothing has, and from those takes the nearest focus distance. Here depth is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, truth
from dualfocus_ros.datasets.files import first_folder, read_grey, read_lines, read_rgb
from dualfocus_ros.datasets.rgbd import LEAK, PUBLISHED, RENDERED, rendered
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

SHAPE = (480, 640)
FOLDERS = {"train": "Training", "val": "Validation"}
COLOURS = ("wide", "color")
DEPTHS = "highres_depth"
SLICES = 5
MILLIMETRE = 1e-3
# A sensor of 3.1 mm with 560 pixels, whatever the images have.
LENS = LensModel(focal_length_m=2.9e-3, f_number=0.5, pixel_pitch_m=3.1e-3 / 560)


def find(root: Path, split: str, published: bool) -> Sequence[Source]:
    """List the frames of a split: those of HybridDepth's list where it lies in `root`, or else all."""
    name = FOLDERS[split]
    folder = first_folder([root / name, root / "upsampling" / name], f"the split {split}")
    listed = next((p for p in (root / f"{name}.txt", root / f"arkit_split_{name}.txt") if p.is_file()), None)
    if listed is None:
        depths = sorted(folder.glob(f"*/{DEPTHS}/*.png"))
    else:  # names lowres_wide/, which stands for all kinds
        frames = [Path(words[0]) for words in read_lines(listed)]
        depths = [folder / p.parts[0] / DEPTHS / p.name for p in frames]
    return [Source(f"{split}/{p.stem}", partial(_load, p, published)) for p in depths]


def _load(depth_path: Path, published: bool) -> DatasetStack:
    video = depth_path.parent.parent
    colours = [video / folder / depth_path.name for folder in COLOURS]
    colour_path = next((p for p in colours if p.is_file()), None)
    if colour_path is None:
        raise DatasetError(
            f"expected the image of {depth_path} as {' or '.join(map(str, colours))}, found neither"
        )
    image = read_rgb(colour_path)
    height, width = image.shape[:2]
    if height * SHAPE[1] != width * SHAPE[0]:
        raise DatasetError(f"expected an image of 4 : 3 in {colour_path}, got {width} x {height}")
    millimetres = read_grey(depth_path, np.uint16, (height, width))
    small = cv2.resize(image, SHAPE[::-1], interpolation=cv2.INTER_AREA)
    sampled = cv2.resize(millimetres, SHAPE[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    truth_m = truth(sampled * MILLIMETRE, sampled != 0)
    return rendered(small, truth_m, LENS, SLICES, published, source=f"{video.name}/{DEPTHS}/{depth_path.name}")


def _dataset(published: bool) -> Dataset:
    return Dataset(
        name="arkitscenes-published" if published else "arkitscenes",
        title="ARKitScenes (Baruch et al. 2021), 5 slices as HybridDepth (Ganj et al. 2025)"
        + (", its renderer" if published else ""),
        url="https://github.com/apple/ARKitScenes (download_data.py upsampling, or raw)",
        licence="Apple's own, see LICENSE there (research; the terms for commercial use differ)",
        layout="Validation/<video>/wide/<frame>.png (or color/) and "
        "Validation/<video>/highres_depth/<frame>.png, also below upsampling/; Training/ likewise; "
        "Validation.txt of HybridDepth in the root where only its frames are wanted",
        protocol="RGB averaged and depth (mm) sampled to 480 x 640; truth d != 0; 5 slices of a virtual lens "
        f"f = 2.9 mm, f/0.5, pixel 3.1 mm / 560. {LEAK} {PUBLISHED if published else RENDERED}",
        splits=("train", "val"),
        default_split="val",
        find=partial(find, published=published),
    )


DATASETS = (_dataset(published=False), _dataset(published=True))
