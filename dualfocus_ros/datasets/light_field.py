# SPDX-License-Identifier: Apache-2.0
"""4D Light Field (HCI; Honauer et al., ACCV 2016): light fields, sheared and averaged into slices.

The file is the one that albert100121/AiFDepthNet (data/4D-Light-Field_Gen) makes and that wcy199705/DfFintheWild
reads. There is no lens: a slice is the mean of 9 x 9 views, each shifted by a disparity (pixels between
neighbouring views, larger is nearer), and slices and truth are given in disparity, from -2.5 to 2.5.

This format needs metres. Disparity is an affine function of 1 / depth (disp2depth of the benchmark's own
lightfield-analysis/evaluation-toolkit; its offset and factor are in each scene's parameters.cfg, which the file
lacks), so that any 1/z = a + b disparity with b > 0 is right up to an unknown scale and offset in dioptres.
Taken is 1/z = 1 + disparity / 5, that is 0.5 to 1.5 dioptres. A point then is blurred over 9 px for each pixel of
disparity, 45 px for each dioptre, and the lens is one that does that. Depth, and errors in metres, have no
meaning beyond this mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack, truth
from dualfocus_ros.datasets.files import check_shape, first_folder, h5_dataset, open_h5, to_levels
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

FILE = "HCI_FS_trainval.h5"
SHAPE = (512, 512)
SLICES = 10
DISPARITIES_PX = np.linspace(-2.5, 2.5, SLICES)
OFFSET_DPT, DPT_PER_PX = 1.0, 0.2
VIEWS = 9
# The virtual cameras of the set have 100 mm and a sensor of 35 mm; only the field of view follows from it.
FOCAL_LENGTH_M, PITCH_M = 0.1, 0.035 / 512
PUPIL_M = VIEWS / DPT_PER_PX / (FOCAL_LENGTH_M / PITCH_M)
LENS = LensModel(FOCAL_LENGTH_M, FOCAL_LENGTH_M / PUPIL_M, PITCH_M)
MAPPING = "1/z in 1/m = 1 + disparity in px / 5, assumed: depth has no scale and no origin"


def disparity_to_depth_m(disparity_px: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what stands for depth, NaN where the mapping has none (disparity of -5 and less)."""
    power = OFFSET_DPT + DPT_PER_PX * np.asarray(disparity_px, np.float64)
    return 1.0 / np.where(power > 0.0, power, np.nan)


def find(root: Path, split: str) -> Sequence[Source]:
    """List the scenes of a split."""
    folder = first_folder([p for p in (root, root / "FS", root / "HCI") if (p / FILE).is_file()] or [root], FILE)
    with open_h5(folder / FILE) as file:
        count = h5_dataset(file, f"stack_{split}", (None, SLICES, *SHAPE, 3)).shape[0]
        h5_dataset(file, f"disp_{split}", (count, *SHAPE))
        focus_px = np.squeeze(h5_dataset(file, "focus_position_disp", (1, SLICES))[()])
        names = _names(file, split, count)
    if not np.allclose(focus_px, DISPARITIES_PX, atol=1e-3):
        raise DatasetError(
            f"expected focus_position_disp of -2.5 to 2.5 in {folder / FILE}, got {focus_px[0]} to {focus_px[-1]}"
        )
    return [Source(f"{split}/{name}", partial(_load, folder / FILE, split, i)) for i, name in enumerate(names)]


def _names(file: Any, split: str, count: int) -> list[str]:
    """Return the names of the scenes, or their numbers where there are none or not all differ."""
    key = f"name_{split}"
    names: list[str] = []
    if key in file:
        check_shape(file[key].shape, (count, 1), key)
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in file[key][:, 0]]
        names = [text.replace("\\", "/").rpartition("/")[2] for text in texts]
    good = len(set(names)) == count and all(name and not name.startswith(".") for name in names)
    return names if good else [f"{i:02d}" for i in range(count)]


def _load(path: Path, split: str, index: int) -> DatasetStack:
    with open_h5(path) as file:
        levels = to_levels(file[f"stack_{split}"][index], f"stack_{split}[{index}] of {path.name}")
        disparity_px = np.asarray(file[f"disp_{split}"][index], np.float64)
    inside = (disparity_px >= DISPARITIES_PX[0]) & (disparity_px <= DISPARITIES_PX[-1])
    stack = focal_stack(list(levels), disparity_to_depth_m(DISPARITIES_PX), LENS)
    depth_m = truth(disparity_to_depth_m(disparity_px), inside)
    return dataset_stack(stack, depth_m, source=f"{path.name} stack_{split}[{index}]", scale_note=MAPPING)


DATASET = Dataset(
    name="light-field-4d",
    title="4D Light Field (HCI, Honauer et al. 2016), focal stacks as AiFDepthNet (Wang et al. 2021)",
    url="https://lightfield-analysis.uni-konstanz.de, made into the file by "
    "https://github.com/albert100121/AiFDepthNet (data/4D-Light-Field_Gen)",
    licence="CC BY-NC-SA 4.0",
    layout=f"{FILE} in the root, FS/ or HCI/, with stack_val [N,10,512,512,3], disp_val [N,512,512], "
    "focus_position_disp [1,10] and, where there, name_val [N,1]; _train likewise",
    protocol="10 slices at disparities linspace(-2.5, 2.5, 10) px; truth inside of that; val is boxes, cotton, "
    f"dino, sideboard. {MAPPING}. Published numbers are of disparity in pixels: not comparable with those in "
    "metres",
    splits=("train", "val"),
    default_split="val",
    find=find,
    scale="relative",
)
