# SPDX-License-Identifier: Apache-2.0
"""Rays, points and scaled intrinsics against formulas written out here."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from dualfocus_ros.errors import InputError
from dualfocus_ros.geometry import depth_to_points, fill_colours, ray_table
from dualfocus_ros.types import Intrinsics

WIDTH, HEIGHT = 64, 48
PINHOLE = Intrinsics(WIDTH, HEIGHT, 50.0, 55.0, 30.25, 23.5)
PIXELS = [(0, 0), (63, 0), (0, 47), (63, 47), (30, 23), (17, 40)]


def with_distortion(model: str, *coefficients: float, f_px: float = 50.0) -> Intrinsics:
    return Intrinsics(WIDTH, HEIGHT, f_px, f_px, 30.25, 23.5, model, coefficients)


def test_pinhole_rays_are_the_formula() -> None:
    rays = ray_table(PINHOLE)
    assert rays.shape == (HEIGHT, WIDTH, 2)
    assert rays.dtype == np.float32
    for x, y in PIXELS:
        assert rays[y, x] == pytest.approx(((x - 30.25) / 50.0, (y - 23.5) / 55.0), abs=1e-6)


def test_table_is_cached_read_only_and_has_contiguous_planes() -> None:
    rays = ray_table(PINHOLE)
    assert ray_table(Intrinsics(WIDTH, HEIGHT, 50.0, 55.0, 30.25, 23.5)) is rays
    assert rays[..., 0].flags.c_contiguous
    assert rays[..., 1].flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        rays[0, 0, 0] = 1.0


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "", "anything"])
def test_zero_polynomial_coefficients_are_a_pinhole(model: str) -> None:
    zero = Intrinsics(WIDTH, HEIGHT, 50.0, 55.0, 30.25, 23.5, model, (0.0,) * 5)
    np.testing.assert_array_equal(ray_table(zero), ray_table(PINHOLE))


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", (-0.28, 0.07, 0.001, -0.002, 0.01)),
        ("plumb_bob", (0.2, -0.05, 0.0, 0.003)),
        ("rational_polynomial", (0.3, 0.1, 0.001, -0.001, 0.02, 0.6, 0.1, 0.01)),
    ],
)
def test_polynomial_rays_project_back_onto_their_pixels(model: str, coefficients: tuple[float, ...]) -> None:
    k = with_distortion(model, *coefficients)
    rays = ray_table(k).astype(np.float64)
    assert np.isfinite(rays).all()
    points = np.concatenate([rays, np.ones((HEIGHT, WIDTH, 1))], axis=-1).reshape(-1, 1, 3)
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k.matrix(), np.array(coefficients))
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    np.testing.assert_allclose(pixels.reshape(HEIGHT, WIDTH, 2), np.stack([x, y], axis=-1), atol=2e-3)
    # And it does correct something: the corner moves by more than a pixel.
    assert np.abs(rays[0, 0] - ray_table(with_distortion(""))[0, 0]).max() * k.fx_px > 1.0


@pytest.mark.parametrize("coefficients", [(0.0, 0.0, 0.0, 0.0), (0.05, -0.01, 0.002, 0.0)])
def test_equidistant_rays_are_kannala_brandt(coefficients: tuple[float, ...]) -> None:
    k = with_distortion("equidistant", *coefficients)
    rays = ray_table(k).astype(np.float64)
    for x, y in PIXELS:
        radius = math.hypot(*rays[y, x])
        theta = math.atan(radius)
        bent = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(coefficients)))
        expected = (
            k.cx_px + k.fx_px * bent * rays[y, x, 0] / radius,
            k.cy_px + k.fy_px * bent * rays[y, x, 1] / radius,
        )
        assert expected == pytest.approx((x, y), abs=2e-3)


def test_rays_outside_of_the_model_are_nan() -> None:
    # r (1 - 2 r^2) has its maximum 0.272 at r = 0.408: no ray reaches pixels farther out than that.
    k = with_distortion("plumb_bob", -2.0, 0.0, 0.0, 0.0, 0.0)
    rays = ray_table(k)
    x, y = np.meshgrid(np.arange(WIDTH) - k.cx_px, np.arange(HEIGHT) - k.cy_px)
    radius = np.hypot(x, y) / k.fx_px
    assert np.isnan(rays[radius > 0.29]).all()
    assert np.isfinite(rays[radius < 0.25]).all()
    points = depth_to_points(np.ones((HEIGHT, WIDTH), np.float32), k)
    np.testing.assert_array_equal(np.isnan(points).any(axis=-1), np.isnan(points).all(axis=-1))
    np.testing.assert_array_equal(np.isnan(points[..., 2]), np.isnan(rays[..., 0]))


def test_a_fisheye_pixel_beyond_90_degrees_has_no_ray() -> None:
    rays = ray_table(with_distortion("equidistant", 0.0, 0.0, 0.0, 0.0, f_px=18.0))
    assert np.isnan(rays[23, 63]).all()  # 32.75 px / 18 px = 104 degrees
    assert np.isfinite(rays[23, 50]).all()  # 63 degrees


@pytest.mark.parametrize(
    ("model", "coefficients", "says"),
    [
        ("thin_prism", (0.1,) * 12, "equidistant.*plumb_bob.*rational_polynomial.*'thin_prism'.*image_proc"),
        ("plumb_bob", (0.1,) * 3, "4 or 5 finite"),
        ("rational_polynomial", (0.1,) * 5, "8 finite"),
        ("equidistant", (0.0,) * 5, "4 finite"),
        ("plumb_bob", (0.1, math.nan, 0.0, 0.0, 0.0), "finite"),
    ],
)
def test_unusable_distortion_is_refused(model: str, coefficients: tuple[float, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ray_table(with_distortion(model, *coefficients))


def test_points_are_back_projected_pixels() -> None:
    depth = np.random.default_rng(1).uniform(0.2, 5.0, (HEIGHT, WIDTH)).astype(np.float32)
    before = depth.copy()
    points = depth_to_points(depth, PINHOLE)
    assert points.shape == (HEIGHT, WIDTH, 3)
    assert points.dtype == np.float32
    for x, y in PIXELS:
        z = float(depth[y, x])
        assert points[y, x] == pytest.approx(((x - 30.25) / 50.0 * z, (y - 23.5) / 55.0 * z, z), rel=1e-5)
    np.testing.assert_array_equal(points[..., 2], depth)
    np.testing.assert_array_equal(depth, before)


def test_optical_frame_is_x_right_y_down_z_forward() -> None:
    points = depth_to_points(np.full((HEIGHT, WIDTH), 2.0, np.float32), PINHOLE)
    assert points[0, 63, 0] > 0 > points[0, 0, 0]
    assert points[47, 0, 1] > 0 > points[0, 0, 1]
    assert (points[..., 2] == 2.0).all()


def test_depth_that_is_not_finite_is_nan_in_all_three() -> None:
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    depth[3, 4], depth[5, 6], depth[7, 8] = np.nan, np.inf, -np.inf
    points = depth_to_points(depth, PINHOLE)
    bad = np.isnan(points)
    assert bad[3, 4].all() and bad[5, 6].all() and bad[7, 8].all()
    assert bad.sum() == 9
    assert np.isfinite(points[~bad]).all()


def test_infinite_depth_on_the_axis_is_nan_too() -> None:
    centred = Intrinsics(5, 5, 10.0, 10.0, 2.0, 2.0)  # here the ray is exactly 0: 0 * inf
    assert np.isnan(depth_to_points(np.full((5, 5), np.inf, np.float32), centred)).all()


@pytest.mark.parametrize("depth", [np.ones((HEIGHT, WIDTH + 1), np.float32), np.ones((HEIGHT, WIDTH), np.uint16)])
def test_depth_of_another_size_or_type_is_refused(depth: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected depth in metres.*\(48, 64\).*got"):
        depth_to_points(depth, PINHOLE)


def test_colours_are_packed_as_00rrggbb() -> None:
    rgb = np.array([[[1, 2, 3], [255, 128, 0]]], np.uint8)
    packed = np.full((1, 2, 4), 0xFFFFFFFF, np.uint32)
    fill_colours(packed[..., 3], rgb)
    assert packed[0, :, 3].tolist() == [0x00010203, 0x00FF8000]
    assert (packed[..., :3] == 0xFFFFFFFF).all()


@pytest.mark.parametrize(
    "rgb", [np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint16), np.zeros((1, 2), np.uint8)]
)
def test_colours_of_another_size_or_type_are_refused(rgb: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected colours as uint8 of shape \(1, 2, 3\)"):
        fill_colours(np.zeros((1, 2), np.uint32), rgb)


@pytest.mark.parametrize(("sx", "sy"), [(2, 2), (4, 2), (1, 3)])
def test_resized_intrinsics_agree_with_averaged_pixels(sx: int, sy: int) -> None:
    small = PINHOLE.resized(WIDTH // sx, HEIGHT // sy)
    rays = ray_table(PINHOLE).astype(np.float64)
    # Rays of a pinhole are linear in the pixel: that of a big pixel is the mean of those it is made of.
    mean = rays.reshape(HEIGHT // sy, sy, WIDTH // sx, sx, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(ray_table(small), mean, atol=1e-6)


def test_scaling_up_and_back_changes_nothing() -> None:
    k = with_distortion("plumb_bob", 0.1, 0.0, 0.0, 0.0, 0.0)
    back = k.resized(200, 150).resized(WIDTH, HEIGHT)
    assert (back.distortion_model, back.distortion) == (k.distortion_model, k.distortion)
    np.testing.assert_allclose(back.matrix(), k.matrix(), rtol=1e-12)


def test_scaling_to_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="positive image size"):
        PINHOLE.resized(0, 10)
