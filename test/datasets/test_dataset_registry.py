# SPDX-License-Identifier: Apache-2.0
"""What all data sets have in common: names, errors, laziness, and how they are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import texture, write_exr, write_h5, write_image

from dualfocus_ros.datasets.base import (
    Dataset,
    DatasetStack,
    Source,
    dataset_stack,
    focal_stack,
    leaking_focus_m,
    truth,
)
from dualfocus_ros.datasets.files import (
    decode,
    need,
    open_h5,
    read_exr,
    read_grey,
    read_lines,
    read_mat,
    read_pfm,
    read_rgb,
)
from dualfocus_ros.datasets.registry import DATASETS, find_dataset, open_dataset
from dualfocus_ros.errors import DatasetError, LensError
from dualfocus_ros.stackio import StoredStack
from dualfocus_ros.types import LensModel

LENS = LensModel(0.01, 2.0, 1e-5)


def one_stack(name: str, focus_m: Sequence[float] = (0.5, 1.0, 2.0)) -> Source:
    def load() -> DatasetStack:
        images = [np.zeros((4, 6, 3), np.uint8)] * len(focus_m)
        return dataset_stack(focal_stack(images, focus_m, LENS), None, source="a.png", scale="relative")

    return Source(name, load)


def made(*sources: Source) -> Dataset:
    return Dataset(
        "made",
        "Made up",
        "https://example.org",
        "-",
        "a.png",
        "three slices",
        ("test",),
        "test",
        lambda root, split: sources,
    )


def test_names_are_unique_and_splits_hold_the_default() -> None:
    names = [d.name for d in DATASETS]
    assert len(set(names)) == len(names) == 13
    for dataset in DATASETS:
        assert dataset.default_split in dataset.splits
        assert dataset.url.startswith("https://") and dataset.licence and dataset.protocol


@pytest.mark.parametrize(("name", "split"), [(d.name, s) for d in DATASETS for s in d.splits])
def test_absent_data_are_one_clear_error(name: str, split: str, tmp_path: Path) -> None:
    dataset = find_dataset(name)
    with pytest.raises(DatasetError) as caught:
        open_dataset(name, tmp_path, split)
    text = str(caught.value)
    assert text.startswith("expected ") and str(tmp_path) in text and "\n" not in text
    assert dataset.layout in text and dataset.url in text


def test_unknown_names_splits_and_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="fod500.*got 'fod50'; did you mean 'fod500'"):
        open_dataset("fod50", tmp_path)
    with pytest.raises(DatasetError, match="split of ddff12 out of train, val, test, got 'all'"):
        open_dataset("ddff12", tmp_path, "all")
    with pytest.raises(DatasetError, match="expected the folder of the data, .*nowhere is not one"):
        open_dataset("ddff12", tmp_path / "nowhere")


def test_a_stack_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    read: list[str] = []

    def watched(name: str) -> Source:
        source = one_stack(name)
        return replace(source, load=lambda: (read.append(name), source.load())[1])

    stacks = made(watched("test/a"), watched("test/b")).stacks(tmp_path)
    assert read == []
    first = next(stacks)
    assert read == ["test/a"]
    assert isinstance(first, StoredStack)
    assert (first.name, first.path, first.family) == ("test/a", Path("made/test/a"), "test")
    # What the loader knows better stays.
    assert first.meta["scale"] == "relative" and first.meta["data_set"] == "made"
    assert first.meta["protocol"] == "three slices" and first.meta["source"] == "a.png"
    assert [s.name for s in stacks] == ["test/b"]


def test_no_stack_and_the_same_stack_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match="found no stack of split test .*Made up is to be had from https://example"
    ):
        made().sources(tmp_path)
    with pytest.raises(DatasetError, match="test/a is there several times"):
        made(one_stack("test/a"), one_stack("test/a")).sources(tmp_path)


def test_errors_of_the_lens_name_stack_and_origin(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="made test/a: .*focal length of 0.01 m, got 0.005.*example.org"):
        next(made(one_stack("test/a", (0.005, 1.0, 2.0))).stacks(tmp_path))


def test_stacks_are_sorted_and_counted() -> None:
    images = [np.full((4, 6, 3), i, np.uint8) for i in range(3)]
    stack = focal_stack(images, [2.0, 0.5, 1.0], LENS)
    assert [int(s.image[0, 0, 0]) for s in stack.slices] == [1, 2, 0]
    assert [s.intrinsics.fx_px for s in stack.slices] == pytest.approx([1000.0] * 3)
    with pytest.raises(DatasetError, match="got 3 and 2"):
        focal_stack(images, [1.0, 2.0], LENS)
    with pytest.raises(LensError):
        focal_stack(images, [0.01, 1.0, 2.0], LENS)


def test_truth_is_nan_where_it_is_none() -> None:
    depth = truth([[1.0, -1.0, 0.0], [np.inf, 700.0, 2.0]], [[True, True, True], [True, True, False]])
    assert depth.dtype == np.float32 and depth[0, 0] == 1.0
    assert np.isnan(depth).sum() == 5
    assert leaking_focus_m(np.array([[np.nan, 1.0, 4.0]], np.float32), 4).tolist() == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(DatasetError, match="some range"):
        leaking_focus_m(depth, 5)


@pytest.mark.parametrize(("module", "name"), [("h5py", "h5py"), ("scipy.io", "scipy"), ("OpenEXR", "OpenEXR")])
def test_a_missing_library_is_named(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DatasetError, match=rf"pip install {name}, .*pip install '.\[datasets\]'"):
        need(module)


def test_images_are_what_they_are_expected_to_be(tmp_path: Path) -> None:
    image = texture((6, 8))
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", (6, 8)), image)
    write_image(tmp_path / "b.png", np.dstack([image, image[..., :1]])[..., [3, 0, 1, 2]])  # with alpha
    assert read_rgb(tmp_path / "b.png").shape == (6, 8, 3)
    with pytest.raises(DatasetError, match=r"one channel of uint16 in .*a.png, got uint8 of shape \(6, 8, 3\)"):
        read_grey(tmp_path / "a.png", np.uint16)
    write_image(tmp_path / "c.png", image.astype(np.uint16))
    with pytest.raises(DatasetError, match="8-bit colour in .*c.png, got uint16"):
        read_rgb(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"cannot decode .*d.png \(0 bytes\)"):
        read_rgb(tmp_path / "d.png")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="e.txt as text"):
        read_lines(tmp_path / "e.txt")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "pfm"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
def test_an_image_that_is_cut_off_is_named(suffix: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    image = texture((60, 80))
    write_image(path, image[..., 0].astype(np.float32) if suffix == "pfm" else image)
    decode(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DatasetError, match=rf"cannot decode .*a.{suffix} \(\d+ bytes\)"):
        decode(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
def test_other_files_that_are_cut_off_are_named(part: float, tmp_path: Path) -> None:
    for module in ("OpenEXR", "scipy.io", "h5py"):
        pytest.importorskip(module)
    values = np.random.default_rng(0).uniform(size=(60, 80)).astype(np.float32)
    write_exr(tmp_path / "a.exr", R=values)
    need("scipy.io").savemat(tmp_path / "a.mat", {"x": values}, do_compression=True)
    write_h5(tmp_path / "a.h5", x=values)
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr", ("R",)), values)
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "x"), values)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DatasetError, match="a.exr as OpenEXR"):
        read_exr(tmp_path / "a.exr", ("R",))
    with pytest.raises(DatasetError, match="a.mat"):
        read_mat(tmp_path / "a.mat", "x")
    with pytest.raises(DatasetError, match="a.h5 as HDF5"), open_h5(tmp_path / "a.h5") as file:
        file["x"][()]


def test_pfm_runs_from_the_bottom_up_in_either_byte_order(tmp_path: Path) -> None:
    rows = np.array([[1.5, 2.5], [np.inf, 4.5], [5.5, 6.5]], np.float32)
    (tmp_path / "a.pfm").write_bytes(b"Pf\n2 3\n-1.0\n" + rows[::-1].astype("<f4").tobytes())
    (tmp_path / "b.pfm").write_bytes(b"Pf\n2 3\n1.0\n" + rows[::-1].astype(">f4").tobytes())
    for name in ("a.pfm", "b.pfm"):
        np.testing.assert_array_equal(read_pfm(tmp_path / name), rows)
