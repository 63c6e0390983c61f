# SPDX-License-Identifier: Apache-2.0
"""DDFF 12-Scene and the 4D Light Field, both in one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import damage, write_h5

from dualfocus_ros.datasets.registry import open_dataset
from dualfocus_ros.errors import DatasetError

pytest.importorskip("h5py")


def slices(count: int, shape: tuple[int, int], dtype: type = np.uint8) -> np.ndarray:
    """Return [count, 10, H, W, 3]: slice i of stack n has colour (20 i, 7, n)."""
    stacks = np.zeros((count, 10, *shape, 3), dtype)
    stacks[..., 0] = 20 * np.arange(10)[None, :, None, None]
    stacks[..., 1] = 7
    stacks[..., 2] = np.arange(count)[:, None, None, None]
    return stacks


def ddff(count: int = 2, dtype: type = np.uint8) -> dict[str, Any]:
    disparity = np.full((count, 383, 552), 0.141238 / 2.0, np.float32)  # 2 m
    disparity[:, 0, 0], disparity[:, 0, 1] = 0.0, 0.28
    return {"stack_val": slices(count, (383, 552), dtype), "disp_val": disparity}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_ddff(tmp_path: Path, dtype: type) -> None:
    write_h5(tmp_path / "my_ddff_trainVal.h5", **ddff(2, dtype))
    found = list(open_dataset("ddff12", tmp_path))
    assert [s.name for s in found] == ["val/000000", "val/000001"]
    stack, truth_m = found[1].stack, found[1].ground_truth_m
    # 0.141238 / 0.28, / 0.25111, ... / 0.02
    assert stack.focus_distance_m[[0, 1, 9]] == pytest.approx([0.50442, 0.56245, 7.0619], rel=1e-4)
    assert [s.image[3, 3].tolist() for s in stack.slices] == [[20 * i, 7, 1] for i in range(10)]
    assert stack.slices[0].image.dtype == np.uint8
    k = stack.slices[0].intrinsics
    assert (k.fx_px, k.cx_px, k.cy_px) == (pytest.approx(521.4052), 285.114, 187.8253)
    # Nine views that are a disparity of 0.141238 px at 1 m apart blur by 9 * 0.141238 px per dioptre.
    assert stack.lens.aperture_m * k.fx_px == pytest.approx(1.271142, rel=1e-6)
    assert truth_m is not None and np.isnan(truth_m[0, 0]) and np.isnan(truth_m).sum() == 1
    assert truth_m[0, 1] == pytest.approx(0.504421, rel=1e-5) and truth_m[9, 9] == pytest.approx(2.0, rel=1e-6)


def test_ddff_test_has_no_truth(tmp_path: Path) -> None:
    write_h5(tmp_path / "ddff-dataset-test.h5", stack_test=slices(1, (383, 552)))
    (found,) = open_dataset("ddff12", tmp_path, "test")
    assert found.ground_truth_m is None and found.name == "test/000000"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"disp_val": None}, "expected disp_val in .*trainVal.h5, it has stack_val"),
        ({"disp_val": np.zeros((1, 383, 552))}, r"disp_val of shape \(2, 383, 552\).*got \(1, 383, 552\)"),
        ({"stack_val": np.zeros((2, 9, 383, 552, 3), np.uint8)}, r"\(any, 10, 383, 552, 3\).*got \(2, 9, "),
        ({"stack_val": None}, "expected stack_val in .*hazirbas.com"),
    ],
)
def test_ddff_of_another_layout(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    arrays = {k: v for k, v in {**ddff(), **change}.items() if v is not None}
    write_h5(tmp_path / "my_ddff_trainVal.h5", **arrays)
    with pytest.raises(DatasetError, match=expected):
        open_dataset("ddff12", tmp_path)


def test_ddff_with_an_axis_of_one(tmp_path: Path) -> None:
    arrays = ddff(1)
    write_h5(tmp_path / "my_ddff_trainVal.h5", **{**arrays, "disp_val": arrays["disp_val"][:, None]})
    (found,) = open_dataset("ddff12", tmp_path)
    assert found.ground_truth_m is not None and found.ground_truth_m.shape == (383, 552)


def test_levels_of_another_range_are_named(tmp_path: Path) -> None:
    arrays = ddff(1, np.float32)
    write_h5(tmp_path / "my_ddff_trainVal.h5", **{**arrays, "stack_val": arrays["stack_val"] * 10})
    with pytest.raises(DatasetError, match="levels of 0 to 255 in stack_val.*got 0 to 1800"):
        next(open_dataset("ddff12", tmp_path))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_h5(tmp_path / "my_ddff_trainVal.h5", **ddff(1))
    damage(tmp_path / "my_ddff_trainVal.h5")
    with pytest.raises(DatasetError, match="my_ddff_trainVal.h5 as HDF5"):
        open_dataset("ddff12", tmp_path)


def light_field(names: list[str]) -> dict[str, Any]:
    disparity = np.zeros((len(names), 512, 512), np.float32)
    disparity[:, 0, :4] = (2.5, -2.5, 2.6, -2.6)
    return {
        "stack_val": slices(len(names), (512, 512), np.float32),
        "disp_val": disparity,
        "name_val": np.array([[n.encode()] for n in names], dtype=object),
        "focus_position_disp": np.linspace(-2.5, 2.5, 10, dtype=np.float32)[None],
    }


def write_light_field(root: Path, **arrays: Any) -> None:
    import h5py

    path = root / "HCI_FS_trainval.h5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if values.dtype == object:
                file.create_dataset(name, values.shape, h5py.string_dtype(), values)
            else:
                file[name] = values


def test_light_field(tmp_path: Path) -> None:
    write_light_field(tmp_path, **light_field(["full_data/training/boxes", "cotton"]))
    found = list(open_dataset("light-field-4d", tmp_path))
    assert [s.name for s in found] == ["val/boxes", "val/cotton"]
    stack, truth_m = found[0].stack, found[0].ground_truth_m
    # 1/z = 1 + d / 5: 1.5 dpt at 2.5 px, 0.5 dpt at -2.5 px. The file starts with the farthest.
    assert stack.focus_distance_m[[0, 9]] == pytest.approx([0.66667, 2.0], rel=1e-4)
    assert [int(s.image[5, 5, 0]) for s in stack.slices] == [180, 160, 140, 120, 100, 80, 60, 40, 20, 0]
    assert truth_m is not None and truth_m[0, :2] == pytest.approx([0.66667, 2.0], rel=1e-4)
    assert np.isnan(truth_m[0, 2:4]).all() and truth_m[5, 5] == 1.0
    # 9 px of blur for each of disparity, 45 px for each dioptre.
    assert stack.lens.aperture_m * stack.slices[0].intrinsics.fx_px == pytest.approx(45.0)
    assert found[0].meta["scale"] == "relative" and "assumed" in found[0].meta["scale_note"]


def test_light_field_names_that_are_none_are_numbers(tmp_path: Path) -> None:
    write_light_field(tmp_path, **light_field(["boxes", "../boxes"]))
    assert [s.name for s in open_dataset("light-field-4d", tmp_path)] == ["val/00", "val/01"]


def test_light_field_focused_elsewhere(tmp_path: Path) -> None:
    arrays = light_field(["boxes"])
    write_light_field(tmp_path, **{**arrays, "focus_position_disp": arrays["focus_position_disp"] * 2})
    with pytest.raises(DatasetError, match="focus_position_disp of -2.5 to 2.5.*got -5.0 to 5.0"):
        open_dataset("light-field-4d", tmp_path)
    with pytest.raises(DatasetError, match="expected stack_train"):
        open_dataset("light-field-4d", tmp_path, "train")
