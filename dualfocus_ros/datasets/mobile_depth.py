# SPDX-License-Identifier: Apache-2.0
"""Mobile Depth (Suwajanakorn, Hernandez and Seitz, CVPR 2015): focal stacks of a phone, hand-held, without truth.

Layout from fuy34/DFV (data_preprocess/reorganize_mobelDepth.py, eval_mobile_Depth.py) and
albert100121/AiFDepthNet (data/Mobile_Depth_Gen). calibrated.txt has a line "focal_depth aperture" for each
slice, and in the last line the focal length, all in one unknown unit. Metres follow from an assumed focal length
of 3.7 mm; f/2.6 and a sensor 4.54 mm wide are assumed, too (typical of the phone of that paper). The meaning of
the column "aperture" could not be verified: it is handed on as it is.

The list of the scene metals runs the other way round than its images (both sources say so), and is reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dualfocus_ros.datasets.base import Dataset, DatasetStack, Source, dataset_stack, focal_stack
from dualfocus_ros.datasets.files import first_folder, read_lines, read_rgb
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import LensModel

FOCAL_LENGTH_M = 3.7e-3
F_NUMBER = 2.6
SENSOR_WIDTH_M = 1280 * 3.55e-6
# Folder of the images -> that of the calibration.
CALIBRATIONS = {"metals": "metal", "largemotion": "GTLarge", "smallmotion": "GTSmall", "zeromotion": "GT"}
REVERSED = ("metals",)
ASSUMED = "metres assume f = 3.7 mm; f/2.6 and a sensor 4.54 mm wide are assumed, not measured"


def find(root: Path, split: str) -> Sequence[Source]:
    """List the aligned scenes; each needs its calibration."""
    aligned = first_folder([root / "Aligned"], "the aligned stacks")
    calibrations = first_folder(
        [
            root / "calibration",
            root / "depth_from_focus_data2" / "calibration",
            root / "Photos_Calibration_Results" / "calibration",
        ],
        "the calibrations",
    )
    scenes = sorted(p for p in aligned.glob("*/*") if any(p.glob("a*.jpg")))
    found = []
    for p in scenes:
        several = sum(p.name == q.name for q in scenes) > 1
        name = f"{p.parent.name}_{p.name}" if several else p.name
        found.append(Source(f"{split}/{name}", partial(_load, p, _calibration(calibrations, p.name))))
    return found


def _calibration(folder: Path, scene: str) -> Path:
    paths = [folder / name / "calibrated.txt" for name in dict.fromkeys((CALIBRATIONS.get(scene, scene), scene))]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise DatasetError(f"expected {' or '.join(map(str, paths))}, there is no such file")
    return path


def _numbers(path: Path) -> tuple[list[float], list[float], float]:
    """Return focus distances, apertures and the focal length, in the unit of the file."""
    lines = read_lines(path)
    try:
        rows = [[float(word) for word in words] for words in lines]
    except ValueError as error:
        raise DatasetError(f"expected numbers in {path}: {error}") from error
    if len(rows) < 2 or any(len(row) < 2 for row in rows[:-1]) or len(rows[-1]) < 1:
        raise DatasetError(
            f"expected lines 'focal_depth aperture' and a last one with the focal length in {path}, "
            f"got {len(rows)} lines, the last {' '.join(lines[-1]) if lines else 'none'!r}"
        )
    return [row[0] for row in rows[:-1]], [row[1] for row in rows[:-1]], rows[-1][0]


def _load(folder: Path, calibration: Path) -> DatasetStack:
    focus, apertures, focal_length = _numbers(calibration)
    paths = [p for p in folder.glob("a*.jpg") if p.stem[1:].isdigit()]
    paths.sort(key=lambda p: int(p.stem[1:]))
    if len(paths) != len(focus):
        raise DatasetError(f"expected {len(focus)} images as {calibration} has, got {len(paths)} in {folder}")
    if not (focal_length > 0.0 and min(focus) > focal_length and np.isfinite(focus).all()):
        raise DatasetError(
            f"expected focus distances beyond the focal length in {calibration}, got {min(focus)} to {max(focus)} "
            f"and {focal_length}"
        )
    if folder.name in REVERSED:
        focus, apertures = focus[::-1], apertures[::-1]
    first = read_rgb(paths[0])
    images = [first, *(read_rgb(p, first.shape[:2]) for p in paths[1:])]
    lens = LensModel(FOCAL_LENGTH_M, F_NUMBER, SENSOR_WIDTH_M / first.shape[1])
    metres = FOCAL_LENGTH_M / focal_length
    order = np.argsort(focus)
    return dataset_stack(
        focal_stack(images, [metres * s for s in focus], lens),
        None,
        source=f"{folder.parent.name}/{folder.name}",
        scale_note=ASSUMED,
        focus_distance_published=[focus[i] for i in order],
        aperture_published=[apertures[i] for i in order],
        focal_length_published=focal_length,
    )


DATASET = Dataset(
    name="mobile-depth",
    title="Mobile Depth (Suwajanakorn et al. 2015)",
    url="https://www.supasorn.com/dffdownload.html",
    licence="none stated",
    layout="Aligned/<figure>/<scene>/a*.jpg, and calibration/<scene>/calibrated.txt (also below "
    "depth_from_focus_data2/ or Photos_Calibration_Results/; metal, GT, GTSmall, GTLarge are metals, zeromotion, "
    "smallmotion, largemotion)",
    protocol="All slices of the aligned stacks; no truth: evaluate says what can be said without; focus "
    "distances are known up to scale, " + ASSUMED,
    splits=("test",),
    default_split="test",
    find=find,
    scale="relative",
)
