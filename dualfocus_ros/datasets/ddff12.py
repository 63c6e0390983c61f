# SPDX-License-Identifier: Apache-2.0
"""DDFF 12-Scene (Hazirbas et al., ACCV 2018): refocused light fields of a Lytro Illum with registered depth.

Truth is disparity in pixels between neighbouring sub-apertures; disparity = 0.141238 / depth (baseline K2 /
flens = 1982.025 / 7317.021 mm between them, focal length 521.4052 px: hazirbas/ddff-toolbox, caldata). As a
lens, 9 x 9 views that far apart have a pupil 9 baselines wide, which blurs as this data does: 9 px per pixel of
disparity. The 9 views (from the paper) and the 9.5 mm of the main lens could not be checked against the files;
of the latter nothing depends on it but the f-number that is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack, truth
from dualfocus_ros.datasets.files import h5_dataset, open_h5, to_levels
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

SHAPE = (383, 552)
SLICES = 10
DISPARITY_METRES = 0.141238  # disparity in px times depth in m
DISPARITIES_PX = np.linspace(0.28, 0.02, SLICES)
FX_PX, CENTRE_PX = 521.4052, (285.114, 187.8253)
VIEWS = 9
PUPIL_M = VIEWS * DISPARITY_METRES / FX_PX
FOCAL_LENGTH_M = 9.5e-3
LENS = LensModel(FOCAL_LENGTH_M, FOCAL_LENGTH_M / PUPIL_M, FOCAL_LENGTH_M / FX_PX)
# DFV's file holds a validation split (glassroom, office41), the official one training data only.
FILES = {
    "train": ("my_ddff_trainVal.h5", "ddff-dataset-trainval.h5"),
    "val": ("my_ddff_trainVal.h5", "ddff-dataset-trainval.h5"),
    "test": ("ddff-dataset-test.h5",),
}


def disparity_to_depth_m(disparity_px: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return depth in metres, infinite where the disparity is 0."""
    with np.errstate(divide="ignore"):
        return DISPARITY_METRES / np.asarray(disparity_px, np.float64)


def find(root: Path, split: str) -> Sequence[Source]:
    """List the stacks of the first file that is there."""
    paths = [root / name for name in FILES[split]]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise DatasetError(f"expected {' or '.join(map(str, paths))}, there is no such file")
    with open_h5(path) as file:
        count = h5_dataset(file, f"stack_{split}", (None, SLICES, *SHAPE, 3)).shape[0]
        has_truth = f"disp_{split}" in file
        if has_truth or split != "test":
            _disparities(file, split, count)
    return [Source(f"{split}/{i:06d}", partial(_load, path, split, i, has_truth)) for i in range(count)]


def _disparities(file: object, split: str, count: int) -> object:
    """Return the data set of disparities, which some files have with an axis of length 1."""
    try:
        return h5_dataset(file, f"disp_{split}", (count, *SHAPE))
    except DatasetError as error:
        try:
            return h5_dataset(file, f"disp_{split}", (count, 1, *SHAPE))
        except DatasetError:
            raise error from None


def _load(path: Path, split: str, index: int, has_truth: bool) -> DatasetStack:
    with open_h5(path) as file:
        levels = to_levels(file[f"stack_{split}"][index], f"stack_{split}[{index}] of {path.name}")
        disparity_px = file[f"disp_{split}"][index].reshape(SHAPE) if has_truth else None
    stack = focal_stack(list(levels), disparity_to_depth_m(DISPARITIES_PX), LENS, CENTRE_PX)
    depth_m = None
    if disparity_px is not None:
        depth_m = truth(disparity_to_depth_m(disparity_px), disparity_px > 0.0)
    return dataset_stack(stack, depth_m, source=f"{path.name} stack_{split}[{index}]")


DATASET = Dataset(
    name="ddff12",
    title="DDFF 12-Scene (Hazirbas et al. 2018)",
    url="https://hazirbas.com/datasets/ddff12scene/ (val: made with https://github.com/fuy34/DFV, "
    "data_preprocess)",
    licence="see the page of the data; the code that comes with them is GPLv3",
    layout="my_ddff_trainVal.h5 of DFV or ddff-dataset-trainval.h5 with stack_train [N,10,383,552,3], disp_train "
    "[N,383,552] (px), stack_val, disp_val; ddff-dataset-test.h5 with stack_test (its truth is not public)",
    protocol="10 slices at disparities linspace(0.28, 0.02, 10) px, depth = 0.141238 / disparity, so 0.504 to "
    "7.06 m; truth disparity > 0. DFV's validation scenes are glassroom and office41. Published numbers are of "
    "disparity in pixels, evaluate's are of metres: they are not comparable",
    splits=("train", "val", "test"),
    default_split="val",
    find=find,
)
