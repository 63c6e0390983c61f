# SPDX-License-Identifier: Apache-2.0
"""Middlebury and FlyingThings3D: focal stacks from one view and its disparity, focused at even steps of disparity.

AiFDepthNet (Wang et al., ICCV 2021) hands out rendered stacks, which wcy199705/DfFintheWild uses as well: a
folder a scene with slices that are named by their disparity, AiF.png and disp.exr. These are read where they
are; else stacks are rendered from the original sets. How AiFDepthNet rendered, above all how much it blurs, is
not published: its slices and those rendered here differ.

Depth is B f / (disparity + doffs) where there is a calibration (Middlebury's calib.txt: metres). Else z in
metres is taken as 10 / disparity in px, as if of 1050 px and 9.5 mm, and depth is relative. The pupil is as wide
as the baseline, so that a point is blurred by one pixel for each pixel of disparity; for AiFDepthNet's slices
that is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack, truth
from dualfocus_ros.datasets.files import first_folder, read_exr, read_lines, read_pfm, read_rgb
from dualfocus_ros.datasets.render import thin_lens_stack
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import FloatImage, Image, LensModel

SLICES = 15
MIDDLEBURY_PX = np.linspace(10.0, 60.0, SLICES, dtype=np.float64)
FLYING_PX = np.linspace(10.0, 100.0, SLICES, dtype=np.float64)
RELATIVE = "z in m = 10 / disparity in px, assumed: depth is known up to scale"
NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Rig:
    """Two cameras side by side: focal length and offset of disparity in pixels, baseline in metres.

    `focal_length_m` is of the lens that stands for them, and only has to be nearer than what it focuses on.
    """

    f_px: float
    baseline_m: float
    doffs_px: float = 0.0
    focal_length_m: float = 0.01

    def depth_m(self, disparity_px: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return B f / (disparity + doffs), NaN where that has no sense."""
        sum_px = np.asarray(disparity_px, np.float64) + self.doffs_px
        return self.baseline_m * self.f_px / np.where(sum_px > 0.0, sum_px, np.nan)

    @property
    def lens(self) -> LensModel:
        """The lens whose pupil is as wide as the baseline."""
        return LensModel(
            self.focal_length_m, self.focal_length_m / self.baseline_m, self.focal_length_m / self.f_px
        )


# Focal length of most scenes of FlyingThings3D, and a baseline that makes it 10 m px.
RELATIVE_RIG = Rig(1050.0, 10.0 / 1050.0)


def find_middlebury(root: Path, split: str) -> Sequence[Source]:
    """List the scenes of AiFDepthNet's folder, or those of the training set of MiddEval3."""
    made = [root / "Middlebury_FS" / "focal_stack", root / "focal_stack"]
    folders = [p.parent for base in made if base.is_dir() for p in sorted(base.glob("*/disp.exr"))]
    if folders:
        return [Source(f"{split}/{p.name}", partial(_load_made, p, MIDDLEBURY_PX)) for p in folders]
    base = first_folder(
        [root / "trainingQ", root / "MiddEval3" / "trainingQ"], f"trainingQ/, or {made[0]} or {made[1]}"
    )
    scenes = sorted(p.parent for p in base.glob("*/disp0GT.pfm"))
    return [Source(f"{split}/{p.name}", partial(_load_middlebury, p)) for p in scenes]


def find_flying(root: Path, split: str) -> Sequence[Source]:
    """List the scenes of AiFDepthNet's folder, or the left views of the original set."""
    name = "train" if split == "train" else "val"
    for base in (root / "FlyingThings3D_FS" / name, root / name):
        folders = [p.parent for p in sorted(base.rglob("disp.exr"))]
        if folders:
            names = ["_".join(p.relative_to(base).parts) for p in folders]
            return [
                Source(f"{split}/{n}", partial(_load_made, p, FLYING_PX))
                for n, p in zip(names, folders, strict=True)
            ]
    disparities = first_folder(
        [root / "disparity" / ("TRAIN" if split == "train" else "TEST")],
        f"disparity/ (or {root / 'FlyingThings3D_FS' / name})",
    )
    paths = sorted(disparities.glob("*/*/left/*.pfm"))
    return [
        Source(f"{split}/{'_'.join((*p.parts[-4:-2], p.stem))}", partial(_load_flying, root, p)) for p in paths
    ]


def _load_made(folder: Path, focus_px: npt.NDArray[np.float64]) -> DatasetStack:
    slices = {float(p.stem): p for p in folder.glob("*.png") if NUMBER.fullmatch(p.stem)}
    found = np.array(sorted(slices))
    if found.shape != focus_px.shape or not np.allclose(found, focus_px, atol=1e-6):
        raise DatasetError(
            f"expected {len(focus_px)} slices {focus_px[0]}.png to {focus_px[-1]}.png in {folder}, got "
            f"{len(found)}"
        )
    disparity_px = read_exr(folder / "disp.exr", ("Y", "R", "Z"))
    images = [read_rgb(slices[s], disparity_px.shape[:2]) for s in sorted(slices)]
    return _stack(images, disparity_px, focus_px, RELATIVE_RIG, folder.name)


def _load_flying(root: Path, path: Path) -> DatasetStack:
    relative = path.relative_to(root / "disparity")
    # Left views have positive disparities in the full set, negative ones in the subset of the same name.
    disparity_px = np.abs(read_pfm(path))
    image = read_rgb(root / "frames_cleanpass" / relative.with_suffix(".png"), disparity_px.shape)
    return _rendered(image, disparity_px, FLYING_PX, RELATIVE_RIG, str(relative))


def _load_middlebury(folder: Path) -> DatasetStack:
    disparity_px = read_pfm(folder / "disp0GT.pfm")
    image = read_rgb(folder / "im0.png", disparity_px.shape)
    return _rendered(image, disparity_px, MIDDLEBURY_PX, read_calibration(folder / "calib.txt"), folder.name)


def read_calibration(path: Path) -> Rig:
    """Return the cameras of a calib.txt of Middlebury (cam0=[f 0 cx; ...], doffs in px, baseline in mm).

    Raises:
        DatasetError: if the file cannot be read, or lacks one of them.
    """
    text = "\n".join(" ".join(words) for words in read_lines(path))
    found = [
        re.search(pattern, text, re.MULTILINE)
        for pattern in (r"^cam0=\[\s*([\d.eE+-]+)", r"^baseline=([\d.eE+-]+)", r"^doffs=([\d.eE+-]+)")
    ]
    try:
        f_px, baseline_mm, doffs_px = (float(m[1]) for m in found if m)
    except ValueError as error:
        raise DatasetError(
            f"expected cam0=[f 0 cx; ...], doffs= and baseline= in {path}, got {text[:80]!r}"
        ) from error
    return Rig(f_px, 1e-3 * baseline_mm, doffs_px, 0.05)


def _rendered(
    image: Image, disparity_px: FloatImage, focus_px: npt.NDArray[np.float64], rig: Rig, source: str
) -> DatasetStack:
    focus_m = rig.depth_m(focus_px)
    depth_m = truth(rig.depth_m(disparity_px), np.isfinite(disparity_px) & (disparity_px > 0.0))
    gain = rig.baseline_m * rig.f_px  # one pixel of blur for each of disparity
    images = thin_lens_stack(image, depth_m, focus_m, [gain] * len(focus_m))
    return _stack(images, disparity_px, focus_px, rig, source, rendered_here=True)


def _stack(
    images: Sequence[npt.NDArray[np.uint8]],
    disparity_px: FloatImage,
    focus_px: npt.NDArray[np.float64],
    rig: Rig,
    source: str,
    **meta: object,
) -> DatasetStack:
    inside = (disparity_px >= focus_px[0]) & (disparity_px <= focus_px[-1])
    scale = {"scale": "relative", "scale_note": RELATIVE} if rig is RELATIVE_RIG else {"scale": "metric"}
    stack = focal_stack(images, rig.depth_m(focus_px), rig.lens)
    return dataset_stack(stack, truth(rig.depth_m(disparity_px), inside), source=source, **scale, **meta)


MIDDLEBURY = Dataset(
    name="middlebury",
    title="Middlebury 2014 (Scharstein et al. 2014), focal stacks as AiFDepthNet (Wang et al. 2021)",
    url="https://github.com/albert100121/AiFDepthNet (Middlebury_FS), or "
    "https://vision.middlebury.edu/stereo/submit3/ (MiddEval3, quarter size, with ground truth)",
    licence="none stated; for research",
    layout="Middlebury_FS/focal_stack/<scene>/ (or focal_stack/<scene>/) with 15 slices 10.0.png to 60.0.png "
    "named by disparity and disp.exr; or trainingQ/<scene>/ (also below MiddEval3/) with im0.png, disp0GT.pfm, "
    "calib.txt",
    protocol="15 slices at disparities linspace(10, 60, 15) px; truth inside of that. AiFDepthNet's stacks: "
    f"{RELATIVE}. From the originals: rendered here, metres by calib.txt. Published numbers are of disparity",
    splits=("test",),
    default_split="test",
    find=find_middlebury,
    scale="relative",
)
FLYING_THINGS = Dataset(
    name="flyingthings3d",
    title="FlyingThings3D (Mayer et al. 2016), focal stacks as AiFDepthNet (Wang et al. 2021)",
    url="https://github.com/albert100121/AiFDepthNet (FlyingThings3D_FS), or "
    "https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html",
    licence="research only, see the page of the data",
    layout="FlyingThings3D_FS/{train,val}/.../<scene>/ with 15 slices 10.0.png to 100.0.png named by disparity "
    "and disp.exr; or frames_cleanpass/{TRAIN,TEST}/<A|B|C>/<NNNN>/left/NNNN.png and disparity/ likewise with "
    ".pfm",
    protocol="15 slices at disparities linspace(10, 100, 15) px; truth inside of that; test is the val of "
    f"AiFDepthNet, TEST of the originals (rendered here). {RELATIVE}. Published numbers are of disparity",
    splits=("train", "test"),
    default_split="test",
    find=find_flying,
    scale="relative",
)
DATASETS = (MIDDLEBURY, FLYING_THINGS)
