# SPDX-License-Identifier: Apache-2.0
"""Middlebury and FlyingThings3D, as AiFDepthNet hands them out and in their original layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import damage, texture, write_exr, write_image

from dualfocus_ros.datasets.registry import open_dataset
from dualfocus_ros.datasets.stereo import read_calibration
from dualfocus_ros.errors import DatasetError

CALIBRATION = """cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]
cam1=[994.978 0 392.036; 0 994.978 254.877; 0 0 1]
doffs=31.086
baseline=193.001
width=741
height=497
ndisp=70
"""


def write_made(folder: Path, last: float) -> None:
    """Write AiFDepthNet's files of a scene: slice i of colour (10 i, 0, 0), disparity 20 px."""
    for i, s in enumerate(np.linspace(10, last, 15)):
        write_image(folder / f"{float(s)}.png", np.full((20, 30, 3), (10 * i, 0, 0), np.uint8))
    write_image(folder / "AiF.png", np.zeros((20, 30, 3), np.uint8))
    disparity = np.full((20, 30), 20.0, np.float32)
    disparity[0, :4] = (10.0, last, last + 1.0, 0.0)
    write_exr(folder / "disp.exr", Y=disparity)


def test_middlebury_as_handed_out(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    write_made(tmp_path / "Middlebury_FS" / "focal_stack" / "Motorcycle", 60)
    (found,) = open_dataset("middlebury", tmp_path)
    assert found.name == "test/Motorcycle"
    # z = 10 / disparity. Slices run from the farthest, 10 px, to the nearest, 60 px.
    assert found.stack.focus_distance_m[[0, 1, 14]] == pytest.approx([0.166667, 0.177215, 1.0], rel=1e-5)
    assert [int(s.image[9, 9, 0]) for s in found.stack.slices] == [10 * i for i in reversed(range(15))]
    truth_m = found.ground_truth_m
    assert truth_m is not None and truth_m[0, :2] == pytest.approx([1.0, 0.166667], rel=1e-5)
    assert np.isnan(truth_m[0, 2:4]).all() and truth_m[9, 9] == 0.5
    assert found.meta["scale"] == "relative" and "rendered_here" not in found.meta
    # One pixel of blur for each of disparity: 10 px for each dioptre, as z = 10 / disparity.
    assert found.stack.lens.aperture_m * found.stack.slices[0].intrinsics.fx_px == pytest.approx(10.0)


def test_a_slice_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    folder = tmp_path / "focal_stack" / "Piano"
    write_made(folder, 60)
    damage(folder / "35.0.png")
    with pytest.raises(DatasetError, match="35.0.png"):
        next(open_dataset("middlebury", tmp_path))
    (folder / "35.0.png").unlink()
    with pytest.raises(DatasetError, match=r"15 slices 10.0.png to 60.0.png in .*Piano, got 14.*AiFDepthNet"):
        next(open_dataset("middlebury", tmp_path))


@pytest.fixture
def middlebury(tmp_path: Path) -> Path:
    """Make a scene of MiddEval3: disparity 10 px, right half 60 px; a pixel without, one beyond the range."""
    folder = tmp_path / "trainingQ" / "Adirondack"
    write_image(folder / "im0.png", texture((60, 200)))
    disparity = np.full((60, 200), 10.0, np.float32)
    disparity[:, 100:] = 60.0
    disparity[5, 5], disparity[5, 150] = np.inf, 61.0
    write_image(folder / "disp0GT.pfm", disparity)
    (folder / "calib.txt").write_text(CALIBRATION)
    return tmp_path


def test_middlebury_from_the_original(middlebury: Path) -> None:
    (found,) = open_dataset("middlebury", middlebury)
    # z = 0.193001 m * 994.978 px / (disparity + 31.086 px)
    assert found.stack.focus_distance_m[[0, 14]] == pytest.approx([2.108266, 4.673864], rel=1e-5)
    truth_m = found.ground_truth_m
    assert truth_m is not None and truth_m[9, 9] == pytest.approx(4.673864, rel=1e-5)
    assert truth_m[9, 150] == pytest.approx(2.108266, rel=1e-5)
    assert np.isnan(truth_m[5, 5]) and np.isnan(truth_m[5, 150]) and np.isnan(truth_m).sum() == 2
    assert found.meta["scale"] == "metric" and found.meta["rendered_here"] is True
    image = texture((60, 200)).astype(int)
    near, far = found.stack.slices[0].image.astype(int), found.stack.slices[14].image.astype(int)
    # In focus as it was; else blurred over 50 px, which no more than the mean is left of.
    assert np.abs(near - image)[10:50, 110:190].max() <= 1 and np.abs(far - image)[10:50, 10:70].max() <= 1
    assert near[20:40, 20:50].std() < 0.2 * image[20:40, 20:50].std()


def test_middlebury_with_half_a_calibration(middlebury: Path) -> None:
    path = middlebury / "trainingQ" / "Adirondack" / "calib.txt"
    rig = read_calibration(path)
    assert (rig.f_px, rig.baseline_m, rig.doffs_px) == (994.978, pytest.approx(0.193001), 31.086)
    path.write_text(CALIBRATION.replace("doffs", "offs"))
    with pytest.raises(DatasetError, match="doffs= and baseline= in .*calib.txt"):
        next(open_dataset("middlebury", middlebury))


def test_flying_things_from_the_original(tmp_path: Path) -> None:
    left = Path("TEST/A/0000/left")
    write_image(tmp_path / "frames_cleanpass" / left / "0006.png", texture((54, 96)))
    disparity = np.full((54, 96), -50.0, np.float32)  # the subset has negative ones
    disparity[0, :2] = (-5.0, -100.0)
    write_image(tmp_path / "disparity" / left / "0006.pfm", disparity)
    (found,) = open_dataset("flyingthings3d", tmp_path)
    assert found.name == "test/A_0000_0006"
    assert found.stack.focus_distance_m[[0, 14]] == pytest.approx([0.1, 1.0])
    truth_m = found.ground_truth_m
    assert truth_m is not None and truth_m[9, 9] == pytest.approx(0.2)
    assert np.isnan(truth_m[0, 0]) and truth_m[0, 1] == pytest.approx(0.1)
    assert found.meta["scale"] == "relative"
    damage(tmp_path / "disparity" / left / "0006.pfm")
    with pytest.raises(DatasetError, match="0006.pfm.*lmb.informatik"):
        next(open_dataset("flyingthings3d", tmp_path))


def test_flying_things_as_handed_out(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    write_made(tmp_path / "FlyingThings3D_FS" / "val" / "A" / "0000", 100)
    (found,) = open_dataset("flyingthings3d", tmp_path)
    assert found.name == "test/A_0000" and found.stack.focus_distance_m[0] == pytest.approx(0.1)
    with pytest.raises(DatasetError, match="disparity/.*FlyingThings3D_FS/train"):
        open_dataset("flyingthings3d", tmp_path, "train")
