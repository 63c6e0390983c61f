# SPDX-License-Identifier: Apache-2.0
"""FoD500, the synthetic set of DefocusNet (Maximov et al., CVPR 2020), also known as fs_6.

Layout and split from fuy34/DFV (dataloader/FoD500.py) and dvl-tum/defocus-net; the size of the sensor, which
neither publishes, is 3.1 mm, the value that other published code has for this lens (HybridDepth,
utils/synthetic/camera_lib.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack, truth
from dualfocus_ros.datasets.files import read_exr, read_rgb
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

SHAPE = (256, 256)
FOCUS_M = (0.1, 0.15, 0.3, 0.7, 1.5)
LENS = LensModel(focal_length_m=2.9e-3, f_number=1.0, pixel_pitch_m=3.1e-3 / 256)
FIRST_TEST = 400
DEPTH_NAME = re.compile(r"(\d{6})Dpt\.exr")


def find(root: Path, split: str) -> Sequence[Source]:
    """List the samples: those of a folder of that name, or, where all lie in one, by their number."""
    of_split = (root / split, root / "fs_6" / split)
    candidates = (*of_split, root / "fs_6", root)
    folder = next((p for p in candidates if any(p.glob("*Dpt.exr"))), None)
    if folder is None:
        raise DatasetError(f"expected NNNNNNDpt.exr in {' or '.join(map(str, candidates))}, found none")
    numbers = sorted(int(m[1]) for p in folder.glob("*Dpt.exr") if (m := DEPTH_NAME.fullmatch(p.name)))
    if folder not in of_split:
        numbers = [n for n in numbers if (n >= FIRST_TEST) == (split == "test")]
    return [Source(f"{split}/{n:06d}", partial(_load, folder, n)) for n in numbers]


def _load(folder: Path, number: int) -> DatasetStack:
    depth_path = folder / f"{number:06d}Dpt.exr"
    images = [read_rgb(folder / f"{number:06d}_{i:02d}All.tif", SHAPE) for i in range(len(FOCUS_M))]
    depth_m = read_exr(depth_path, ("R",), SHAPE)
    return dataset_stack(focal_stack(images, FOCUS_M, LENS), truth(depth_m, depth_m > 0.0), source=depth_path.name)


DATASET = Dataset(
    name="fod500",
    title="FoD500 / DefocusNet fs_6 (Maximov et al. 2020)",
    url="https://github.com/dvl-tum/defocus-net",
    licence="none stated",
    layout="NNNNNN_00All.tif to NNNNNN_04All.tif (256 x 256) and NNNNNNDpt.exr (channel R, metres) in the root "
    "or in fs_6/, 000000 to 000399 train, from 000400 on test; or in train/ and test/",
    protocol="400 train, 100 test; focus at 0.1, 0.15, 0.3, 0.7, 1.5 m; f = 2.9 mm, f/1; truth d > 0 (evaluate "
    "scores what lies inside the focus range, 0.1 to 1.5 m, as Won and Jeon (2022) do; DFV clips both to 1.5 m)",
    splits=("train", "test"),
    default_split="test",
    find=find,
)
