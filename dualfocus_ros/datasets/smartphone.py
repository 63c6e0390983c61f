# SPDX-License-Identifier: Apache-2.0
"""Google's smartphone set (Herrmann et al., Learning to Autofocus, CVPR 2020), as Won and Jeon (ECCV 2022) use it.

Layout, crop, focus list and the formula of depth from wcy199705/DfFintheWild (test_Dataloader.py), which quotes
the readme of the data for the distances. The lens (4.44 mm from there, f/1.8 and pixels of 1.4 um of that phone,
here 8 times as large) was not verified, nor was it that the slices named "scaled" have one field of view: they
are taken to. In the confidence, channel A is read where there is one and R else, as that code's reader does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack, truth
from dualfocus_ros.datasets.files import first_folder, read_exr, read_grey, read_rgb
from dualfocus_ros.types import LensModel

SHAPE = (504, 378)
CROP = (slice(84, -84), slice(63, -63))
# Millimetres, folder 0 to 48.
FOCUS_MM = (
    *(3910.92, 2289.27, 1508.71, 1185.83, 935.91, 801.09, 700.37, 605.39, 546.23, 486.87, 447.99, 407.40, 379.91),
    *(350.41, 329.95, 307.54, 291.72, 274.13, 261.53, 247.35, 237.08, 225.41, 216.88, 207.10, 198.18, 191.60),
    *(183.96, 178.29, 171.69, 165.57, 160.99, 155.61, 150.59, 146.81, 142.35, 138.98, 134.99, 131.23, 127.69),
    *(124.99, 121.77, 118.73, 116.40, 113.63, 110.99, 108.47, 106.54, 104.23, 102.01),
)
SLICES = 10
INDICES = tuple(int(i) for i in np.rint(np.linspace(0, len(FOCUS_MM) - 1, SLICES)))
LENS = LensModel(focal_length_m=4.44e-3, f_number=1.8, pixel_pitch_m=8 * 1.4e-6)
TRAIN_PARTS = tuple(f"train{i}" for i in range(1, 8))


def grey_to_depth_m(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return depth in metres of the 8-bit depth images, 0.2 (grey 0) to 100: z = 20 / (100 - 99.8 g / 255)."""
    return 20.0 / (100.0 - 99.8 * np.asarray(grey, np.float64) / 255.0)


def find(root: Path, split: str) -> Sequence[Source]:
    """List the scenes of test/, or of train1/ to train7/, of which some may be left out."""
    parts = [root / name for name in (TRAIN_PARTS if split == "train" else ("test",))]
    there = [p for p in parts if (p / "scaled_images").is_dir()]
    if not there:
        first_folder([p / "scaled_images" for p in parts], "the slices")
    return [
        Source(
            f"{split}/{scene.name}" if split == "test" else f"{split}/{p.name}_{scene.name}",
            partial(_load, p, scene),
        )
        for p in there
        for scene in sorted((p / "scaled_images").iterdir())
        if scene.is_dir()
    ]


def _load(part: Path, scene: Path) -> DatasetStack:
    paths = [scene / str(i) / "result_scaled_image_center.jpg" for i in INDICES]
    images = [np.ascontiguousarray(read_rgb(p, SHAPE)[CROP]) for p in paths]
    depth_path = part / "merged_depth" / scene.name / "result_merged_depth_center.png"
    depth_m = grey_to_depth_m(read_grey(depth_path, np.uint8, SHAPE)[CROP])
    conf_path = part / "merged_conf" / scene.name / "result_merged_conf_center.exr"
    sure = read_exr(conf_path, ("A", "R", "Y"), SHAPE)[CROP] > 0.0
    focus_m = [1e-3 * FOCUS_MM[i] for i in INDICES]
    inside = (depth_m >= min(focus_m)) & (depth_m <= max(focus_m))
    source = f"{part.name}/merged_depth/{scene.name}"
    return dataset_stack(focal_stack(images, focus_m, LENS), truth(depth_m, inside & sure), source=source)


DATASET = Dataset(
    name="smartphone",
    title="Google Smartphone (Herrmann et al. 2020)",
    url="https://learntoautofocus-google.github.io/",
    licence="see the page of the data",
    layout="test/scaled_images/<scene>/<0..48>/result_scaled_image_center.jpg (504 rows, 378 columns), "
    "test/merged_depth/<scene>/result_merged_depth_center.png, test/merged_conf/<scene>/"
    "result_merged_conf_center.exr; train1/ to train7/ likewise",
    protocol="10 of 49 slices, rint(linspace(0, 48, 10)), 3.911 to 0.102 m; rows 84:-84, columns 63:-63; depth "
    "z = 20 / (100 - 99.8 g / 255); truth inside the focus range and of confidence above 0. Published numbers "
    "weigh each pixel by its confidence, and are of 1/m; evaluate weighs all alike, in metres: they are not "
    "comparable",
    splits=("train", "test"),
    default_split="test",
    find=find,
)
