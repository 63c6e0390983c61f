# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros.errors import StackError
from dualfocus_ros.stackio import find_stacks, load_stack, save_stack
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel

SHAPE = (24, 32)
LENS = {"focal_length_m": 0.016, "f_number": 1.4, "pixel_pitch_m": 2e-5}
SHARED = Path(__file__).resolve().parents[2] / "shared"


def write_stack(
    folder: Path,
    distances: list[float | None],
    *,
    shape: tuple[int, ...] = (*SHAPE, 3),
    dtype: type = np.uint8,
    suffix: str = ".png",
    **meta: object,
) -> list[np.ndarray]:
    """Write a stack with OpenCV and json alone; returns the images as OpenCV sees them (BGR)."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    images = [rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype) for _ in distances]
    for i, image in enumerate(images):
        assert cv2.imwrite(str(folder / f"slice_{i:02d}{suffix}"), image)
    (folder / "meta.json").write_text(json.dumps({**LENS, "focus_distance_m": distances, **meta}))
    return images


def test_reads_colour_as_rgb_and_sorts_nearest_first(tmp_path: Path) -> None:
    images = write_stack(tmp_path / "s", [4.0, 1.0, 2.0])
    stored = load_stack(tmp_path / "s")
    assert stored.stack.focus_distance_m.tolist() == [1.0, 2.0, 4.0]
    for s, source in zip(stored.stack.slices, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(s.image, images[source][..., ::-1])
    assert stored.breathing == "camera_info"
    assert stored.ground_truth_m is None
    assert stored.family == tmp_path.name


@pytest.mark.parametrize(("shape", "dtype"), [(SHAPE, np.uint8), (SHAPE, np.uint16), ((*SHAPE, 3), np.uint16)])
def test_keeps_grey_and_16_bit(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    images = write_stack(tmp_path, [1.0, 2.0, 4.0], shape=shape, dtype=dtype)
    stack = load_stack(tmp_path).stack
    assert stack.slices[1].image.dtype == dtype
    expected = images[1] if len(shape) == 2 else images[1][..., ::-1]
    np.testing.assert_array_equal(stack.slices[1].image, expected)


def test_reads_jpeg(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0], suffix=".jpg")
    red = np.zeros((*SHAPE, 3), np.uint8)
    red[..., 2] = 250
    cv2.imwrite(str(tmp_path / "slice_00.jpg"), red)
    image = load_stack(tmp_path).stack.slices[0].image
    assert np.abs(image.astype(int) - [250, 0, 0]).max() <= 3


def test_constant_field_of_view_without_k(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    for s in load_stack(tmp_path).stack.slices:
        assert s.intrinsics == Intrinsics(32, 24, 800.0, 800.0, 15.5, 11.5)


def test_thin_lens_field_of_view_when_breathing(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, None], focal_breathing=True)
    stack = load_stack(tmp_path).stack
    # v / pitch by hand: v = 0.016 s / (s - 0.016), and v = f at infinity.
    expected = [0.016 / 0.984 / 2e-5, 0.032 / 1.984 / 2e-5, 800.0]
    np.testing.assert_allclose([s.intrinsics.fx_px for s in stack.slices], expected, rtol=1e-12)
    assert stack.reference == 0
    assert math.isinf(stack.slices[2].focus_distance_m)


def test_reported_k_wins_and_chooses_the_smallest_field_of_view(tmp_path: Path) -> None:
    k = [{"fx": f, "fy": f + 1, "cx": 15.0, "cy": 11.0} for f in (700.0, 720.0, 710.0)]
    write_stack(tmp_path, [1.0, 2.0, 4.0], K=k, focal_breathing=True)
    stack = load_stack(tmp_path).stack
    assert [s.intrinsics.fx_px for s in stack.slices] == [700.0, 720.0, 710.0]
    assert stack.slices[0].intrinsics == Intrinsics(32, 24, 700.0, 701.0, 15.0, 11.0)
    assert stack.reference == 1


def test_reference_slice_follows_the_sorting(tmp_path: Path) -> None:
    write_stack(tmp_path, [4.0, 1.0, 2.0], reference_slice=0)
    stack = load_stack(tmp_path).stack
    assert stack.slices[stack.reference].focus_distance_m == 4.0


def test_infinity_in_json_is_read(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, math.inf])
    assert "Infinity" in (tmp_path / "meta.json").read_text()
    assert load_stack(tmp_path).stack.slices[2].focus_dpt == 0.0


def test_ground_truth_units_and_invalid_pixels(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0], depth_unit_m=0.001)
    depth = np.full(SHAPE, 1500, np.uint16)
    depth[0, 0] = 0
    cv2.imwrite(str(tmp_path / "depth.png"), depth)
    truth = load_stack(tmp_path).ground_truth_m
    assert truth is not None and truth.dtype == np.float32
    assert np.isnan(truth[0, 0])
    np.testing.assert_allclose(truth.ravel()[1:], 1.5, rtol=1e-6)


@pytest.mark.parametrize("farthest_m", [3.0, 50.0, 400.0])
def test_save_then_load_gives_the_same(tmp_path: Path, farthest_m: float) -> None:
    rng = np.random.default_rng(1)
    slices = [
        FocalSlice(rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8), i, s, Intrinsics(32, 24, f, f, 15.25, 11.75))
        for i, (s, f) in enumerate(((0.7, 801.0), (2.0, 800.5), (math.inf, 800.0)))
    ]
    stack = FocalStack.from_slices(slices, LensModel(0.016, 1.4, 2e-5))
    truth = rng.uniform(0.5, farthest_m, SHAPE).astype(np.float32)
    truth[3, 4], truth[5, 6] = np.nan, np.inf
    save_stack(tmp_path / "new" / "s", stack, truth, {"family": "f"})
    stored = load_stack(tmp_path / "new" / "s")
    for a, b in zip(stack.slices, stored.stack.slices, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.focus_distance_m, a.intrinsics) == (b.focus_distance_m, b.intrinsics)
    assert stored.stack.lens == stack.lens
    assert stored.ground_truth_m is not None
    assert np.isnan(stored.ground_truth_m[3, 4]) and np.isnan(stored.ground_truth_m[5, 6])
    good = np.isfinite(truth)
    half_unit_m = {3.0: 5e-5, 50.0: 5e-4, 400.0: 5e-3}[farthest_m]
    assert np.abs(stored.ground_truth_m - truth)[good].max() <= half_unit_m * 1.01
    json.loads((tmp_path / "new/s/meta.json").read_text(), parse_constant=lambda c: pytest.fail(c))


def test_save_refuses_depth_that_does_not_fit(tmp_path: Path) -> None:
    write_stack(tmp_path / "s", [1.0, 2.0, 4.0])
    stack = load_stack(tmp_path / "s").stack
    with pytest.raises(StackError, match="shape"):
        save_stack(tmp_path / "t", stack, np.ones((3, 3), np.float32))
    with pytest.raises(StackError, match=r"at most 655\.35 m"):
        save_stack(tmp_path / "t", stack, np.full(SHAPE, 700.0, np.float32))


def test_find_stacks(tmp_path: Path) -> None:
    for name in ("b/2", "a/1", "b/1"):
        write_stack(tmp_path / name, [1.0, 2.0, 4.0])
    (tmp_path / "other").mkdir()
    assert [str(p.relative_to(tmp_path)) for p in find_stacks(tmp_path)] == ["a/1", "b/1", "b/2"]
    assert find_stacks(tmp_path / "a/1") == (tmp_path / "a/1",)


@pytest.mark.parametrize("name", ["absent", "other", "file"])
def test_find_stacks_without_any(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=name):
        find_stacks(tmp_path / name)


K3 = [{"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0}] * 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"focus_distance_m": [1.0, 2.0]}, "at least 3 slices"),
        ({"focus_distance_m": [1.0, -2.0, 4.0]}, r"focus_distance_m\[1\].*above 0 m, got -2.0"),
        ({"focus_distance_m": [1.0, math.nan, 4.0]}, "expected a number for focus_distance_m.*nan"),
        ({"focus_distance_m": [1.0, "2", 4.0]}, "expected a number"),
        ({"focus_distance_m": 1.0}, "expected a list"),
        ({"focus_distance_m": [1.0, 1.0, 4.0]}, "distinct focus distances"),
        ({"focus_distance_m": [0.01, 1.0, 4.0], "focal_breathing": True}, "beyond the focal length"),
        ({"focus_distance_m": [1.0, 2.0, 3.0, 4.0]}, "slice_03.png"),
        ({"focal_length_m": "16 mm"}, "expected a number for focal_length_m"),
        ({"f_number": 0}, "f_number of 0.1 to 1000, got 0"),
        ({"width": 33}, "33 x 24.*32 x 24"),
        ({"K": K3[:2]}, "3 entries.*got 2"),
        ({"K": [{"fx": 1.0}] * 3}, r"fx, fy, cx, cy in K\[0\]"),
        ({"K": [*K3[:2], {**K3[0], "fx": -1.0}]}, "fx, fy of 0.01 to 1e.07 pixels"),
        ({"reference_slice": 3}, r"reference_slice.*0\.\.2"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    write_stack(tmp_path / "stack7", [1.0, 2.0, 4.0])
    path = tmp_path / "stack7" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StackError, match=expected) as caught:
        load_stack(tmp_path / "stack7")
    assert "stack7" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_meta_that_is_not_an_object(tmp_path: Path, text: str) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(StackError, match="meta.json"):
        load_stack(tmp_path)


@pytest.mark.parametrize("key", ["focal_length_m", "f_number", "pixel_pitch_m", "focus_distance_m"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta[key]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(StackError, match=f"meta.json: {key}"):
        load_stack(tmp_path)


@pytest.mark.parametrize("name", ["meta.json", "slice_01.png"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    (tmp_path / name).unlink()
    assert find_stacks(tmp_path) == (tmp_path,)
    with pytest.raises(StackError, match=f"missing .*{name}"):
        load_stack(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not an image"])
def test_unreadable_image(tmp_path: Path, data: bytes) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    (tmp_path / "slice_01.png").write_bytes(data)
    with pytest.raises(StackError, match=r"slice_01\.png"):
        load_stack(tmp_path)


def test_slices_of_two_sizes(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    cv2.imwrite(str(tmp_path / "slice_02.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(StackError, match="10 x 10"):
        load_stack(tmp_path)


def test_depth_without_unit_or_of_another_size(tmp_path: Path) -> None:
    write_stack(tmp_path, [1.0, 2.0, 4.0])
    cv2.imwrite(str(tmp_path / "depth.png"), np.ones(SHAPE, np.uint16))
    with pytest.raises(StackError, match="depth_unit_m"):
        load_stack(tmp_path)
    write_stack(tmp_path, [1.0, 2.0, 4.0], depth_unit_m=1e-4)
    cv2.imwrite(str(tmp_path / "depth.png"), np.ones((5, 5), np.uint16))
    with pytest.raises(StackError, match=r"depth\.png"):
        load_stack(tmp_path)


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="absent"):
        load_stack(tmp_path / "absent")


@pytest.mark.shared
def test_validation_stacks() -> None:
    root = SHARED / "focal_stacks"
    if not root.is_dir():
        pytest.skip(f"no validation stacks at {root}")
    paths = find_stacks(root)
    assert len(paths) == 40
    stored = load_stack(root / "breathing" / "4000")
    assert stored.family == "breathing"
    assert stored.stack.reference == 0
    assert stored.stack.slices[0].intrinsics.fx_px == pytest.approx(740.7407407, rel=1e-9)
    assert stored.ground_truth_m is not None
    low, high = np.nanmin(stored.ground_truth_m), np.nanmax(stored.ground_truth_m)
    assert (low, high) == pytest.approx((0.62285, 4.70977), abs=1e-4)


@pytest.mark.shared
def test_real_stack() -> None:
    root = SHARED / "real_stacks" / "balls"
    if not root.is_dir():
        pytest.skip(f"no real stack at {root}")
    stack = load_stack(root).stack
    assert len(stack.slices) == 10
    assert stack.focus_distance_m[0] == 0.185 and stack.focus_distance_m[-1] == 133.63523
    assert stack.reference == 0
    f_px = [s.intrinsics.fx_px for s in stack.slices]
    assert f_px == sorted(f_px, reverse=True)
