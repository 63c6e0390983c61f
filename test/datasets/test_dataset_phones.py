# SPDX-License-Identifier: Apache-2.0
"""Sets that phones and tablets took: ARKitScenes, Mobile Depth, Google's smartphone set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import damage, texture, write_exr, write_image

from dualfocus_ros.datasets.registry import open_dataset
from dualfocus_ros.errors import DatasetError


def write_frame(root: Path, video: str, frame: str, kind: str = "wide") -> None:
    """Write a frame of 1920 x 1440: 1.2 m, from column 961 on 3 m, a hole of 31 x 31 at the top left."""
    write_image(root / video / kind / f"{frame}.png", np.kron(texture((480, 640)), np.ones((3, 3, 1), np.uint8)))
    depth = np.full((1440, 1920), 1200, np.uint16)
    depth[:, 961:] = 3000
    depth[:31, :31] = 0
    write_image(root / video / "highres_depth" / f"{frame}.png", depth)


@pytest.fixture
def arkit(tmp_path: Path) -> Path:
    write_frame(tmp_path / "Validation", "41069021", "41069021_305.244")
    write_frame(tmp_path / "Validation", "41069021", "41069021_307.343", "color")
    return tmp_path


@pytest.mark.parametrize("name", ["arkitscenes", "arkitscenes-published"])
def test_arkitscenes(arkit: Path, name: str) -> None:
    found = next(open_dataset(name, arkit))
    assert found.name == "val/41069021_305.244"
    stack, truth_m = found.stack, found.ground_truth_m
    np.testing.assert_allclose(stack.focus_distance_m, [1.2, 1.65, 2.1, 2.55, 3.0], rtol=1e-6)
    assert truth_m is not None and truth_m.shape == (480, 640)
    # A hole of 31 px is one of 10 px, and nothing is averaged over its edge or that of the halves.
    assert np.isnan(truth_m[:10, :10]).all() and np.isnan(truth_m).sum() == 100
    assert sorted(set(truth_m[np.isfinite(truth_m)].tolist())) == pytest.approx([1.2, 3.0])
    assert (stack.lens.focal_length_m, stack.lens.f_number) == (0.0029, 0.5)
    assert stack.lens.pixel_pitch_m == pytest.approx(5.5357e-6, rel=1e-4)
    np.testing.assert_array_equal(stack.slices[0].image[100:200, 50:250], texture((480, 640))[100:200, 50:250])
    assert found.meta["focus_leaks_truth_range"] is True


def test_arkitscenes_with_a_list(arkit: Path) -> None:
    line = "41069021/lowres_wide/41069021_307.343.png 41069021/downsampled_gt/41069021_307.343.png\n"
    (arkit / "Validation.txt").write_text(line)
    assert [s.name for s in open_dataset("arkitscenes", arkit)] == ["val/41069021_307.343"]


def test_arkitscenes_that_is_wrong(arkit: Path) -> None:
    with pytest.raises(DatasetError, match="split train.*Training.*apple/ARKitScenes"):
        open_dataset("arkitscenes", arkit, "train")
    image = arkit / "Validation" / "41069021" / "wide" / "41069021_305.244.png"
    write_image(image, np.zeros((1440, 1440, 3), np.uint8))
    with pytest.raises(DatasetError, match="4 : 3 .*305.244.png, got 1440 x 1440"):
        next(open_dataset("arkitscenes", arkit))
    image.unlink()
    with pytest.raises(DatasetError, match="found neither"):
        next(open_dataset("arkitscenes", arkit))


def write_scene(root: Path, figure: str, scene: str, calibration: str, text: str, count: int = 11) -> None:
    """Write count images, number i of colour (10 i, 0, 90), and the calibration."""
    for i in range(count):
        write_image(
            root / "Aligned" / figure / scene / f"a{i}.jpg", np.full((36, 64, 3), (10 * i, 0, 90), np.uint8)
        )
    path = root / "calibration" / calibration / "calibrated.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# Far to near, as the phone swept: 40, 20, 40/3 ... in units of which the focal length is 0.2.
FAR_TO_NEAR = "".join(f"{40.0 / (i + 1)} {0.05 + i}\n" for i in range(11)) + "0.2\n"


def test_mobile_depth(tmp_path: Path) -> None:
    write_scene(tmp_path, "Figure1", "balls", "balls", FAR_TO_NEAR)
    (found,) = open_dataset("mobile-depth", tmp_path)
    assert found.name == "test/balls" and found.ground_truth_m is None
    # 0.2 units are 3.7 mm, so a unit is 18.5 mm: 40 are 0.74 m, and the last 40 / 11 are 67.27 mm.
    focus_m = found.stack.focus_distance_m
    assert focus_m[[0, 10]] == pytest.approx([0.067273, 0.74], rel=1e-4)
    # Numbers, not names, order the images: a10 comes after a9. It is the nearest.
    reds = [int(s.image[..., 0].mean().round()) for s in found.stack.slices]
    assert reds == pytest.approx([100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0], abs=2)
    assert found.stack.lens.pixel_pitch_m == pytest.approx(7.1e-5)  # 1280 x 3.55 um over 64 px
    assert found.meta["scale"] == "relative" and found.meta["focal_length_published"] == 0.2
    assert found.meta["aperture_published"][0] == 10.05 and found.meta["focus_distance_published"][-1] == 40.0


def test_mobile_depth_names_and_the_reversed_scene(tmp_path: Path) -> None:
    write_scene(tmp_path, "Figure5", "metals", "metal", FAR_TO_NEAR)
    write_scene(tmp_path, "Figure7", "zeromotion", "GT", FAR_TO_NEAR)
    metals, still = open_dataset("mobile-depth", tmp_path)
    assert (metals.name, still.name) == ("test/metals", "test/zeromotion")
    assert int(metals.stack.slices[0].image[..., 0].mean().round()) == pytest.approx(0, abs=2)
    assert int(still.stack.slices[0].image[..., 0].mean().round()) == pytest.approx(100, abs=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 0.1\n2 0.1\n1 0.1\n0.2\n", "expected 3 images .*got 11"),
        (FAR_TO_NEAR.replace("40.0 ", "forty "), "expected numbers in .*calibrated.txt"),
        (FAR_TO_NEAR.replace("40.0 ", "0.1 "), "beyond the focal length in .*got 0.1"),
        ("", "'focal_depth aperture'.*got 0 lines"),
        (FAR_TO_NEAR.replace("40.0 ", "20.0 "), "distinct focus distances"),
    ],
)
def test_mobile_depth_with_another_calibration(tmp_path: Path, text: str, expected: str) -> None:
    write_scene(tmp_path, "Figure1", "balls", "balls", text)
    with pytest.raises(DatasetError, match=expected):
        next(open_dataset("mobile-depth", tmp_path))


def test_mobile_depth_without_its_calibration(tmp_path: Path) -> None:
    write_scene(tmp_path, "Figure1", "balls", "keyboard", FAR_TO_NEAR)
    with pytest.raises(DatasetError, match="balls.calibrated.txt, there is no such file.*supasorn"):
        open_dataset("mobile-depth", tmp_path)


def write_google(part: Path, scene: str) -> None:
    """Write the ten slices that count, folder j of colour (5 j, 0, 0), depth and confidence."""
    for j in (0, 5, 11, 16, 21, 27, 32, 37, 43, 48):
        image = np.full((504, 378, 3), (5 * j, 0, 0), np.uint8)
        write_image(part / "scaled_images" / scene / str(j) / "result_scaled_image_center.jpg", image)
    grey = np.full((504, 378), 128, np.uint8)
    grey[84, 63], grey[84, 64], grey[84, 65] = 0, 255, 243
    write_image(part / "merged_depth" / scene / "result_merged_depth_center.png", grey)
    sure = np.ones((504, 378), np.float32)
    sure[419, 314] = 0.0  # the last pixel of the crop
    sure[0, 0] = 0.0
    write_exr(part / "merged_conf" / scene / "result_merged_conf_center.exr", R=sure, G=sure * 0, B=sure * 0)


def test_smartphone(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    write_google(tmp_path / "test", "20190601")
    (found,) = open_dataset("smartphone", tmp_path)
    assert found.name == "test/20190601"
    # Numbers 48, 43, 37, 32, 27, 21, 16, 11, 5 and 0 of the readme's list.
    expected = [0.10201, 0.11363, 0.13123, 0.15059, 0.17829, 0.22541, 0.29172, 0.4074, 0.80109, 3.91092]
    assert found.stack.focus_distance_m == pytest.approx(expected, abs=1e-9)
    reds = [int(s.image[..., 0].mean().round()) for s in found.stack.slices]
    assert reds == pytest.approx([240, 215, 185, 160, 135, 105, 80, 55, 25, 0], abs=2)
    truth_m = found.ground_truth_m
    assert truth_m is not None and truth_m.shape == (336, 252)
    # z = 20 / (100 - 99.8 g / 255): 0.2 m for 0, 100 m (out of focus range) for 255, 4.085 m (too) for 243.
    assert truth_m[0, 0] == pytest.approx(0.2) and np.isnan(truth_m[0, 1:3]).all()
    assert truth_m[5, 5] == pytest.approx(0.400767, rel=1e-5)  # 20 / (100 - 50.0957)
    assert np.isnan(truth_m[-1, -1]) and np.isnan(truth_m).sum() == 3


def test_smartphone_trains_on_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    write_google(tmp_path / "train3", "a")
    write_google(tmp_path / "train7", "a")
    assert [s.name for s in open_dataset("smartphone", tmp_path, "train")] == ["train/train3_a", "train/train7_a"]
    with pytest.raises(DatasetError, match="expected the slices in .*test/scaled_images.*learntoautofocus"):
        open_dataset("smartphone", tmp_path)
    damage(tmp_path / "train3" / "merged_conf" / "a" / "result_merged_conf_center.exr")
    with pytest.raises(DatasetError, match="train3_a: cannot read .*result_merged_conf_center.exr"):
        next(open_dataset("smartphone", tmp_path, "train"))
