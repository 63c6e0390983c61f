# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros.errors import InputError
from dualfocus_ros.outputs import render_preview, write_estimate, write_ply
from dualfocus_ros.types import DepthEstimate, Intrinsics

SHAPE = (48, 64)
K = Intrinsics(64, 48, 80.0, 90.0, 30.0, 25.0)


@pytest.fixture
def estimate() -> DepthEstimate:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 3.0, SHAPE).astype(np.float32)
    depth[0, 0], depth[0, 1], depth[0, 2] = np.nan, np.inf, -np.inf
    confidence = rng.uniform(0, 1, SHAPE).astype(np.float32)
    return DepthEstimate(depth, confidence, rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8), K)


def read_ply(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read by the letter of the format, independently of the writer: header, xyz (N, 3), rgb (N, 3)."""
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    raw = np.frombuffer(body, np.uint8).reshape(count, 15)
    return lines, np.ascontiguousarray(raw[:, :12]).view("<f4"), raw[:, 12:]


def test_arrays_and_pictures(tmp_path: Path, estimate: DepthEstimate) -> None:
    write_estimate(tmp_path / "a" / "b", estimate)
    folder = tmp_path / "a" / "b"
    assert sorted(p.name for p in folder.iterdir()) == [
        "all_in_focus.png",
        "confidence.npy",
        "depth.npy",
        "points.ply",
        "preview.png",
    ]
    depth = np.load(folder / "depth.npy")
    assert depth.dtype == np.float32
    assert np.isnan(depth[0, :3]).all()
    np.testing.assert_array_equal(depth.ravel()[3:], estimate.depth_m.ravel()[3:])
    np.testing.assert_array_equal(np.load(folder / "confidence.npy"), estimate.confidence)
    sharp = cv2.imread(str(folder / "all_in_focus.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sharp[..., ::-1], estimate.all_in_focus)


def test_points(tmp_path: Path, estimate: DepthEstimate) -> None:
    write_estimate(tmp_path, estimate)
    lines, xyz, rgb = read_ply(tmp_path / "points.ply")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert [line for line in lines if line.startswith("property")] == [
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
    ]
    v, u = np.nonzero(np.isfinite(estimate.depth_m))
    z = estimate.depth_m[v, u]
    assert len(xyz) == 48 * 64 - 3
    np.testing.assert_allclose(xyz, np.column_stack([(u - 30.0) / 80.0 * z, (v - 25.0) / 90.0 * z, z]), rtol=1e-5)
    np.testing.assert_array_equal(rgb, estimate.all_in_focus[v, u])


def test_points_in_another_reader(tmp_path: Path, estimate: DepthEstimate) -> None:
    plyfile = pytest.importorskip("plyfile")
    write_estimate(tmp_path, estimate)
    vertices = plyfile.PlyData.read(str(tmp_path / "points.ply"))["vertex"]
    finite = np.isfinite(estimate.depth_m)
    np.testing.assert_array_equal(vertices["z"], estimate.depth_m[finite])
    np.testing.assert_array_equal(vertices["blue"], estimate.all_in_focus[..., 2][finite])


def test_no_points_at_all(tmp_path: Path) -> None:
    write_ply(tmp_path / "p.ply", np.full((2, 2, 3), np.nan, np.float32), np.zeros((2, 2, 3), np.uint8))
    _, xyz, _ = read_ply(tmp_path / "p.ply")
    assert xyz.shape == (0, 3)
    with pytest.raises(InputError, match="points and colours"):
        write_ply(tmp_path / "p.ply", np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8))


def decode(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1].astype(int)


def like(image: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image - rgb) <= 6).all(axis=-1)


def test_preview_shows_near_warm_and_far_cold() -> None:
    depth = np.full(SHAPE, 0.5, np.float32)
    depth[:, 32:] = 3.0
    black = DepthEstimate(depth, np.ones(SHAPE, np.float32), np.zeros((*SHAPE, 3), np.uint8), K)
    image = decode(render_preview(black))
    columns = np.arange(image.shape[1])
    # The ends of the turbo colours, over more than half of the height: not the colour bar.
    near_x = columns[like(image, (122, 4, 3)).mean(axis=0) > 0.5]
    far_x = columns[like(image, (48, 18, 59)).mean(axis=0) > 0.5]
    assert near_x.size > 50 and far_x.size > 50
    assert near_x.max() < far_x.min()


def test_preview_with_truth_is_wider_and_shows_the_error(estimate: DepthEstimate) -> None:
    without = decode(render_preview(estimate))
    truth = np.where(np.isfinite(estimate.depth_m), estimate.depth_m, 1.0).astype(np.float32)
    right = decode(render_preview(estimate, truth))
    assert right.shape[1] > 1.3 * without.shape[1]
    half_wrong = truth.copy()
    half_wrong[24:] *= 2.0
    wrong = decode(render_preview(estimate, half_wrong))
    assert (right != wrong).any()
    # An error of 50 % is beyond the scale: the pale end of the colours fills half of the last panel.
    pale = (wrong > (240, 240, 170)).all(axis=-1) & (wrong[..., 2] < 215)
    panel = wrong[:, 2 * wrong.shape[1] // 3 :].shape
    assert pale.sum() > 0.2 * panel[0] * panel[1]


def test_error_outside_the_focus_range_is_not_shown(estimate: DepthEstimate) -> None:
    truth = np.full(SHAPE, 9.0, np.float32)
    outside = render_preview(estimate, truth, (0.5, 5.0))
    assert outside == render_preview(estimate, np.full(SHAPE, np.nan, np.float32), (0.5, 5.0))
    assert outside != render_preview(estimate, truth, (0.5, 10.0))


def test_previews_of_equal_inputs_have_equal_sizes() -> None:
    rng = np.random.default_rng(1)
    k = Intrinsics(160, 120, 500.0, 500.0, 0.0, 0.0)
    sizes = set()
    for far_m in (0.6, 5.0, 100.0):  # linear, logarithmic and dioptre scale
        depth = rng.uniform(0.5, far_m, (120, 160)).astype(np.float32)
        noise = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        sizes.add(decode(render_preview(DepthEstimate(depth, depth / 100, noise, k), depth + 0.1)).shape)
    assert len(sizes) == 1 and sizes.pop()[1] > 1000


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_preview_of_empty_and_flat_depth(value: float) -> None:
    depth = np.full(SHAPE, value, np.float32)
    picture = DepthEstimate(depth, np.zeros(SHAPE, np.float32), np.zeros((*SHAPE, 3), np.uint8), K)
    assert decode(render_preview(picture, depth)).size


def test_pyplot_is_not_touched(estimate: DepthEstimate) -> None:
    render_preview(estimate)
    assert "matplotlib.pyplot" not in sys.modules


def test_errors(tmp_path: Path, estimate: DepthEstimate) -> None:
    with pytest.raises(InputError, match="ground truth of shape"):
        write_estimate(tmp_path, estimate, np.ones((2, 2), np.float32))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to .*file"):
        write_estimate(tmp_path / "file", estimate)
