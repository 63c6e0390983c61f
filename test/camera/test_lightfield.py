# SPDX-License-Identifier: Apache-2.0
"""Defocus of the simulated lens against the thin-lens formulas, computed here on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dualfocus_ros import optics
from dualfocus_ros.camera.lightfield import Framing, LightField, pupil_points
from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.camera.surfaces import Cylinder, Plane, Sphere, trace
from dualfocus_ros.types import Intrinsics

FOCAL_M, F_NUMBER, PITCH_M = 0.016, 1.4, 13.75e-6
WIDTH, HEIGHT = 120, 90
NEAR_DPT, FAR_DPT = 2.5, 0.2
X, Y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
LIGHT = np.array([0.0, -1.0, 0.0])


def f_px(focus_m: float) -> float:
    return FOCAL_M * focus_m / (focus_m - FOCAL_M) / PITCH_M


def disc_px(focus_m: float, depth_m: float) -> float:
    """Diameter of the circle of confusion, from similar triangles on the sensor."""
    to_sensor = FOCAL_M * focus_m / (focus_m - FOCAL_M)
    to_image = FOCAL_M * depth_m / (depth_m - FOCAL_M)
    return FOCAL_M / F_NUMBER * abs(to_sensor - to_image) / to_image / PITCH_M


def wall(depth_m: float, texture: np.ndarray, texel_m: float, left_m: float | None = None) -> Plane:
    """A plane across the axis. Texel (0, 0) is centred on the axis; `left_m` cuts off what is right of it."""
    if left_m is None:
        return Plane(texture, np.array([0.0, 0.0, depth_m]), X, Y, None, texel_m)
    origin = np.array([left_m - 8.0, -4.0, depth_m])
    return Plane(texture, origin, X, Y, (8.0, 8.0), texel_m)


def grey(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


def light_field(*surfaces: object, views: int = 128) -> LightField:
    k = Intrinsics(WIDTH, HEIGHT, f_px(0.4), f_px(0.4), (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    margin = WIDTH * 0.03 + 2.0
    field = LightField(surfaces, k, FOCAL_M / F_NUMBER, (FAR_DPT, NEAR_DPT), views, margin)  # type: ignore[arg-type]
    field.render()
    return field


def picture(field: LightField, focus_m: float) -> np.ndarray:
    framing = Framing(f_px(focus_m), (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    shot = field.refocus(1.0 / focus_m, framing)
    field.close()
    return shot[..., 1].astype(np.float64)


@pytest.mark.parametrize(
    ("focus_m", "depth_m"), [(0.4, 0.6), (0.4, 3.4), (0.7, 1.2), (1.2, 0.7), (5.0, 0.55), (5.0, 1.2)]
)
def test_a_point_blurs_to_a_disc_of_the_thin_lens_diameter(focus_m: float, depth_m: float) -> None:
    side_px = 4.0
    size_m = side_px * depth_m / f_px(focus_m)
    dot = Plane(grey(255), np.array([-0.5, -0.5, 0.0]) * size_m + [0, 0, depth_m], X, Y, (size_m, size_m), 1.0)
    shot = picture(light_field(wall(4.0, grey(0), 1.0), dot, views=512), focus_m)

    expected = disc_px(focus_m, depth_m)
    assert expected == pytest.approx(
        float(optics.blur_diameter_px(FOCAL_M, F_NUMBER, PITCH_M, focus_m, depth_m)), rel=1e-9
    )
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    total = shot.sum()
    assert total == pytest.approx(side_px**2, rel=0.02)  # no light is lost or made
    cx, cy = (shot * x).sum() / total, (shot * y).sum() / total
    assert (cx, cy) == pytest.approx(((WIDTH - 1) / 2, (HEIGHT - 1) / 2), abs=0.05)
    # Variance of a disc along an axis is D^2 / 16; the dot and the pixel, both square, add side^2 / 12.
    for variance in ((shot * (x - cx) ** 2).sum() / total, (shot * (y - cy) ** 2).sum() / total):
        diameter = 4.0 * math.sqrt(variance - side_px**2 / 12.0 - 1.0 / 12.0)
        assert diameter == pytest.approx(expected, rel=0.03)
    # A filled disc with a rim, not a Gaussian or a ring.
    radius = np.hypot(x - cx, y - cy)
    level = side_px**2 / (math.pi / 4.0 * expected**2)
    if expected > 13.0:
        assert shot[radius < 0.5 * expected - 4.5].mean() == pytest.approx(level, rel=0.06)
        assert shot[radius < 0.25 * expected].mean() == pytest.approx(level, rel=0.08)
    assert shot[radius > 0.5 * expected + 5.5].max() < 0.02 * level


def covered(distance_px: np.ndarray, diameter_px: float) -> np.ndarray:
    """Share of a disc that lies beyond a straight edge at this distance from its centre."""
    t = np.clip(distance_px / (0.5 * diameter_px), -1.0, 1.0)
    return (np.arccos(t) - t * np.sqrt(1.0 - t * t)) / math.pi


def test_a_near_edge_out_of_focus_spreads_over_a_sharp_background() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, :32] = 255
    focus_m, near_m, far_m, period_px = 3.0, 0.8, 3.0, 8.0
    texel_m = period_px / 64 * far_m / f_px(focus_m)
    shot = picture(
        light_field(wall(far_m, stripes, texel_m), wall(near_m, grey(0), 1.0, left_m=0.0)), focus_m
    ).mean(axis=0)

    diameter = disc_px(focus_m, near_m)
    assert diameter > 10.0
    x = np.arange(WIDTH)
    # Texel i covers i - 0.5 .. i + 0.5: the stripes begin half a texel before the axis.
    phase = np.mod(x - (WIDTH - 1) / 2 + 0.5 * period_px / 64, period_px)
    alpha = covered(x - (WIDTH - 1) / 2, diameter)
    bright = (phase > 0.6) & (phase < 0.5 * period_px - 0.6)
    dark = (phase > 0.5 * period_px + 0.6) & (phase < period_px - 0.6)
    seen = (x > 8) & (x < WIDTH - 8)
    # Behind the veil of the near edge the background stays sharp, to the last pixel.
    np.testing.assert_allclose(shot[bright & seen], (1.0 - alpha)[bright & seen], atol=0.02)
    assert shot[dark & seen].max() < 0.01


def test_a_near_edge_in_focus_stays_sharp_over_a_blurred_background() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, :32] = 255
    focus_m, far_m = 0.6, 3.0
    texel_m = 8.0 / 64 * far_m / f_px(focus_m)
    near = wall(focus_m, grey(255), 1.0, left_m=0.0)
    shot = picture(light_field(wall(far_m, stripes, texel_m), near), focus_m)
    edge = WIDTH // 2  # between this pixel and the one before
    # Nothing of the darker background bleeds over the near surface, and the other way round.
    np.testing.assert_allclose(shot[:, 8:edge], 1.0, atol=1e-3)
    assert shot[:, edge:].max() < 0.75
    # The stripes, 8 pixels wide, are gone in a disc of 16 pixels.
    assert shot[10:-10, edge + 12 : -8].mean() == pytest.approx(0.5, abs=0.02)
    assert shot[10:-10, edge + 12 : -8].std() < 0.04


@pytest.fixture(scope="module")
def noise_wall() -> tuple[LightField, np.ndarray]:
    """A wall of blocks of 2 x 2 pixels of white noise at 1.25 m, and what a sensor in focus sees of it."""
    rng = np.random.default_rng(3)
    depth_m = 1.25
    texel_m = depth_m / f_px(depth_m) / 4.0
    blocks = rng.choice(np.array([40, 90, 200], np.uint8), (128, 128))
    texture = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    # Pixel x covers the texels 4 (x - cx) - 2 .. 4 (x - cx) + 2, and texel i is centred on i.
    within = np.arange(-1.75, 2.0, 0.5)
    columns = np.mod(np.floor(4 * (np.arange(WIDTH)[:, None] - (WIDTH - 1) / 2) + within + 0.5).astype(int), 1024)
    rows = np.mod(np.floor(4 * (np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2) + within + 0.5).astype(int), 1024)
    light = ((texture / 255.0 + 0.055) / 1.055) ** 2.4
    expected = light[rows[:, :, None, None], columns[None, None]].mean(axis=(1, 3))
    return light_field(wall(depth_m, np.repeat(texture[..., None], 3, 2), texel_m)), expected


def test_what_is_in_focus_is_as_sharp_as_the_pixels_allow(noise_wall: tuple[LightField, np.ndarray]) -> None:
    field, expected = noise_wall
    framing = Framing(f_px(1.25), (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    shot = field.refocus(1.0 / 1.25, framing)[..., 1]
    inner = np.s_[12:-12, 12:-12]
    assert (shot - expected)[inner].std() < 0.08 * expected[inner].std()
    assert shot[inner].std() == pytest.approx(expected[inner].std(), rel=0.01)


def test_wide_blur_leaves_no_ghosts_of_the_views(noise_wall: tuple[LightField, np.ndarray]) -> None:
    field, _ = noise_wall
    sharp = field.refocus(1.0 / 1.25, Framing(f_px(1.25), (WIDTH - 1) / 2, (HEIGHT - 1) / 2))[..., 1]
    # 24 pixels of blur, at the field of view of the sharp picture, so that both can be compared.
    gain = FOCAL_M / F_NUMBER * f_px(1.25)
    focus_dpt = 0.8 + 24.0 / gain
    shot = field.refocus(focus_dpt, Framing(f_px(1.25), (WIDTH - 1) / 2, (HEIGHT - 1) / 2))[..., 1]
    y, x = np.mgrid[-14:14.999:0.125, -14:14.999:0.125] + 0.0625 - 0.5
    kernel = (np.hypot(x, y) <= 12.0).reshape(29, 8, 29, 8).mean(axis=(1, 3))
    kernel /= kernel.sum()
    spectrum = np.fft.rfft2(sharp) * np.fft.rfft2(np.roll(np.pad(kernel, ((0, 61), (0, 91))), (-14, -14), (0, 1)))
    expected = np.fft.irfft2(spectrum, s=sharp.shape)
    inner = np.s_[20:-20, 20:-20]
    assert (shot - expected)[inner].std() < 0.05 * sharp.std()


def test_views_fill_the_pupil_evenly() -> None:
    points = pupil_points(128, 0.01)
    radius = np.hypot(*points.T)
    assert radius.max() <= 0.005
    # A uniform disc: half of the points within 1 / sqrt(2) of the radius, centroid on the axis.
    assert np.count_nonzero(radius < 0.005 / math.sqrt(2.0)) == 64
    assert np.abs(points.mean(axis=0)).max() < 1e-4


def test_srgb_follows_the_standard() -> None:
    # Values of IEC 61966-2-1.
    assert srgb_to_linear(0.5) == pytest.approx(0.21404114)
    assert srgb_to_linear(0.02) == pytest.approx(0.02 / 12.92)
    codes = np.arange(256) / 255.0
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(codes)), codes, atol=1e-7)


def rays(fx: float) -> tuple[np.ndarray, np.ndarray]:
    xs = ((np.arange(WIDTH) - (WIDTH - 1) / 2) / fx).astype(np.float32)
    ys = ((np.arange(HEIGHT) - (HEIGHT - 1) / 2) / fx).astype(np.float32)
    return xs[None], ys[:, None]


def test_depth_of_a_tilted_plane_is_analytic() -> None:
    tilt = math.radians(35.0)
    u_axis = np.array([math.cos(tilt), 0.0, math.sin(tilt)])
    plane = Plane(grey(90), np.array([0.0, 0.0, 1.3]), u_axis, Y, None, 0.01)
    xs, ys = rays(200.0)
    eye = np.array([0.004, -0.003, 0.0])
    _, w = trace((plane,), xs, ys, eye)
    # On the plane z = 1.3 + tan(tilt) x, with x = eye_x + x' z.
    z = (1.3 + math.tan(tilt) * eye[0]) / (1.0 - math.tan(tilt) * xs.astype(np.float64))
    np.testing.assert_allclose(1.0 / w, np.broadcast_to(z, w.shape), rtol=2e-6)


def test_spheres_and_cylinders_are_where_they_say() -> None:
    centre, radius = np.array([0.02, -0.01, 0.8]), 0.06
    base, axis = np.array([-0.1, 0.1, 1.0]), np.array([math.sin(0.2), -math.cos(0.2), 0.0])
    xs, ys = rays(300.0)
    eye = np.array([0.003, 0.002, 0.0])
    for surface, distance, count in (
        (Sphere(grey(99), centre, radius, LIGHT), lambda p: np.linalg.norm(p - centre, axis=-1), 1500),
        (
            Cylinder(grey(99), base, axis, 0.2, radius, 0.001, LIGHT),
            lambda p: np.linalg.norm(np.cross(p - base, axis), axis=-1),
            1500,
        ),
    ):
        _, w = trace((surface,), xs, ys, eye)
        seen = w > 0.0
        z = 1.0 / w[seen].astype(np.float64)
        x, y = np.broadcast_arrays(xs, ys)
        points = np.column_stack([x[seen] * z, y[seen] * z, z]) + eye
        np.testing.assert_allclose(distance(points), radius, atol=3e-6)
        assert np.count_nonzero(seen) > count
        assert z.max() < 1.0  # the front half: the middle of the ball, and the axis, lie behind
