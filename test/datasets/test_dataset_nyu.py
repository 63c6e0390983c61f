# SPDX-License-Identifier: Apache-2.0
"""NYU Depth v2 in the layout of BTS, and as MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import damage, texture, write_h5, write_image

from dualfocus_ros.datasets.registry import open_dataset
from dualfocus_ros.errors import DatasetError


def write_pair(folder: Path, number: str, seed: int = 0) -> None:
    """Write an image and its depth: 1 m, from column 320 on 3 m, with what crop and mask must leave out."""
    write_image(folder / f"rgb_{number}.jpg", texture((480, 640), seed))
    depth = np.full((480, 640), 1000, np.uint16)
    depth[:, 320:] = 3000
    depth[47, :] = depth[:, 63] = 200  # just outside of the crop
    depth[432, :] = depth[:, 576] = 9000
    depth[48, 64], depth[431, 575] = 1500, 2500  # its corners
    depth[100, 100], depth[100, 101], depth[100, 102] = (
        0,
        10000,
        1,
    )  # invalid: hole, not below 10 m, not above 1 mm
    write_image(folder / f"sync_depth_{number}.png", depth)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pair(tmp_path / "test" / "office", "00007", seed=1)
    write_pair(tmp_path / "test" / "bathroom", "00045")
    return tmp_path


def test_crop_mask_and_focus(root: Path) -> None:
    first, second = open_dataset("nyu10", root)
    assert (first.name, second.name) == ("test/bathroom_00045", "test/office_00007")
    truth_m = first.ground_truth_m
    assert truth_m is not None and truth_m.shape == (384, 512) and truth_m.dtype == np.float32
    assert (truth_m[0, 0], truth_m[-1, -1]) == (1.5, 2.5)
    assert np.isnan(truth_m[52, 36:39]).all() and np.isnan(truth_m).sum() == 3
    assert (np.nanmin(truth_m), np.nanmax(truth_m)) == (1.0, 3.0)
    # linspace(1, 3, 10)
    expected = [1.0, 1.2222, 1.4444, 1.6667, 1.8889, 2.1111, 2.3333, 2.5556, 2.7778, 3.0]
    np.testing.assert_allclose(first.stack.focus_distance_m, expected, atol=1e-4)
    lens, k = first.stack.lens, first.stack.slices[0].intrinsics
    assert (lens.focal_length_m, lens.f_number, lens.pixel_pitch_m) == (0.05, 8.0, 1.2e-5)
    assert k.fx_px == pytest.approx(4166.667, rel=1e-6) and (k.cx_px, k.cy_px) == (255.5, 191.5)
    assert (
        first.meta["focus_leaks_truth_range"] is True and "tells the range of the answer" in first.meta["protocol"]
    )
    assert first.meta["source"] == "bathroom/rgb_00045.jpg" and first.meta["scale"] == "metric"


@pytest.mark.parametrize("name", ["nyu5", "nyu5-published"])
def test_the_slices_are_sharp_where_they_are_focused(root: Path, name: str) -> None:
    found = next(open_dataset(name, root))
    assert found.stack.focus_distance_m.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    near, far = (found.stack.slices[i].image.astype(float) for i in (0, 4))
    image = texture((480, 640))[48:432, 64:576].astype(float)
    left, right = (slice(200, 300), slice(50, 200)), (slice(200, 300), slice(300, 450))

    def error(slice_: np.ndarray, part: tuple[slice, slice]) -> float:
        return float(np.abs(slice_[part] - image[part]).mean())

    assert error(near, left) < 3 and error(far, right) < 3  # what JPEG does
    assert error(near, right) > 15 and error(far, left) > 15


def test_a_list_chooses_and_orders(root: Path) -> None:
    line = "office/rgb_00007.jpg office/sync_depth_00007.png 518.8579\n"
    (root / "nyu_test.txt").write_text(line)
    assert [s.name for s in open_dataset("nyu5", root)] == ["test/office_00007"]
    (root / "nyu_test.txt").write_text("office/rgb_00007.jpg\n")
    with pytest.raises(DatasetError, match="'image depth focal_length' in each line"):
        open_dataset("nyu5", root)


def test_train_needs_its_list(root: Path) -> None:
    write_pair(root / "sync" / "kitchen_0001", "00011")
    write_pair(root / "sync" / "kitchen_0001", "00012")
    with pytest.raises(DatasetError, match="nyu_train.txt"):
        open_dataset("nyu5", root, "train")
    pair = "/kitchen_0001/rgb_00012.jpg /kitchen_0001/sync_depth_00012.png 518.8579\n"
    (root / "nyudepthv2_train_files_with_gt.txt").write_text(pair)
    assert [s.name for s in open_dataset("nyu5", root, "train")] == ["train/kitchen_0001_00012"]


def test_matlab_files(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    images = np.stack([texture((480, 640), seed).T for seed in range(3)])
    depths = np.full((3, 640, 480), 2.0, np.float32)
    depths[2, :320] = 1.2345  # x below 320
    write_h5(tmp_path / "nyu_depth_v2_labeled.mat", images=images, rawDepths=depths)
    scipy_io.savemat(tmp_path / "splits.mat", {"testNdxs": [[3]], "trainNdxs": [[1], [2]]})
    (found,) = open_dataset("nyu5", tmp_path)
    assert found.name == "test/00002" and found.ground_truth_m is not None
    # Millimetres, cut off: 1.2345 m is 1.234.
    assert found.ground_truth_m[0, 255] == np.float32(1.234) and found.ground_truth_m[0, 256] == 2.0
    sharp = found.stack.slices[0].image[100:200, 20:200]
    assert np.abs(sharp.astype(int) - texture((480, 640), 2)[148:248, 84:264]).max() <= 1
    scipy_io.savemat(tmp_path / "splits.mat", {"testNdxs": [[4]]})
    with pytest.raises(DatasetError, match="numbers of 1 to 3"):
        open_dataset("nyu5", tmp_path)
    scipy_io.savemat(tmp_path / "splits.mat", {"other": [[4]]})
    with pytest.raises(DatasetError, match="expected testNdxs in .*splits.mat, it has other"):
        open_dataset("nyu5", tmp_path)


def test_what_is_wrong_is_named(root: Path) -> None:
    depth = root / "test" / "bathroom" / "sync_depth_00045.png"
    write_image(depth, np.ones((480, 600), np.uint16))
    with pytest.raises(
        DatasetError, match=r"shape \(480, 640\) in .*sync_depth_00045.png, got \(480, 600\).*nyu.edu"
    ):
        next(open_dataset("nyu5", root))
    write_image(depth, np.ones((480, 640), np.uint8))
    with pytest.raises(DatasetError, match="one channel of uint16"):
        next(open_dataset("nyu5", root))
    write_image(depth, np.full((480, 640), 1500, np.uint16))
    with pytest.raises(DatasetError, match="true depths of some range"):
        next(open_dataset("nyu5", root))
    depth.unlink()
    with pytest.raises(DatasetError, match="expected .*sync_depth_00045.png, cannot read it"):
        next(open_dataset("nyu5", root))


def test_a_damaged_image_is_named(root: Path) -> None:
    damage(root / "test" / "bathroom" / "sync_depth_00045.png")
    with pytest.raises(DatasetError, match="nyu5 test/bathroom_00045: .*sync_depth_00045.png"):
        next(open_dataset("nyu5", root))
