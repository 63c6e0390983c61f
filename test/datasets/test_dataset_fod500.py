# SPDX-License-Identifier: Apache-2.0
"""FoD500 in the layout of DefocusNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import damage, write_exr, write_image

from dualfocus_ros.datasets.registry import open_dataset
from dualfocus_ros.errors import DatasetError

pytest.importorskip("OpenEXR")


def write_sample(folder: Path, number: int) -> None:
    """Write five slices of one colour each, (10 i, 20, 200), and a depth of 0.5 m with two pixels that differ."""
    for i in range(5):
        image = np.full((256, 256, 3), (10 * i, 20, 200), np.uint8)
        write_image(folder / f"{number:06d}_{i:02d}All.tif", image)
    depth = np.full((256, 256), 0.5, np.float16)
    depth[0, 0], depth[0, 1] = 0.0, 2.5
    write_exr(folder / f"{number:06d}Dpt.exr", R=depth, G=depth * 0, B=depth * 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (399, 400, 499):
        write_sample(tmp_path / "fs_6", number)
    return tmp_path


def test_slices_focus_and_depth(root: Path) -> None:
    found = list(open_dataset("fod500", root))
    assert [s.name for s in found] == ["test/000400", "test/000499"]
    stack, truth_m = found[0].stack, found[0].ground_truth_m
    assert stack.focus_distance_m.tolist() == [0.1, 0.15, 0.3, 0.7, 1.5]
    assert [s.image[9, 9].tolist() for s in stack.slices] == [[10 * i, 20, 200] for i in range(5)]
    assert (stack.lens.focal_length_m, stack.lens.f_number) == (0.0029, 1.0)
    assert stack.lens.pixel_pitch_m == pytest.approx(1.2109e-5, rel=1e-4)
    assert stack.slices[0].intrinsics.fx_px == pytest.approx(239.48, rel=1e-4)
    assert truth_m is not None and np.isnan(truth_m[0, 0])
    assert (truth_m[0, 1], truth_m[5, 5]) == (2.5, 0.5) and np.isnan(truth_m).sum() == 1
    assert found[0].meta["source"] == "000400Dpt.exr" and found[0].meta["scale"] == "metric"


def test_the_first_four_hundred_are_for_training(root: Path) -> None:
    assert [s.name for s in open_dataset("fod500", root, "train")] == ["train/000399"]
    assert [s.name for s in open_dataset("fod500", root / "fs_6", "train")] == ["train/000399"]


def test_folders_of_splits_count_as_they_are(tmp_path: Path) -> None:
    write_sample(tmp_path / "fs_6" / "test", 3)
    assert [s.name for s in open_dataset("fod500", tmp_path)] == ["test/000003"]


def test_what_is_wrong_is_named(root: Path) -> None:
    (root / "fs_6" / "000400_03All.tif").unlink()
    with pytest.raises(DatasetError, match="fod500 test/000400: expected .*000400_03All.tif.*defocus-net"):
        list(open_dataset("fod500", root))
    write_image(root / "fs_6" / "000400_03All.tif", np.zeros((128, 256, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"\(256, 256\) in .*000400_03All.tif, got \(128, 256\)"):
        list(open_dataset("fod500", root))


def test_a_damaged_depth_comes_up_when_it_is_its_turn(root: Path) -> None:
    damage(root / "fs_6" / "000499Dpt.exr")
    stacks = open_dataset("fod500", root)
    assert next(stacks).name == "test/000400"
    with pytest.raises(DatasetError, match="000499Dpt.exr as OpenEXR"):
        next(stacks)


def test_a_depth_without_the_channel_is_named(root: Path) -> None:
    write_exr(root / "fs_6" / "000400Dpt.exr", Z=np.ones((256, 256), np.float32))
    with pytest.raises(DatasetError, match="channel R in .*000400Dpt.exr, got Z"):
        next(open_dataset("fod500", root))
