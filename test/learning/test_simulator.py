# SPDX-License-Identifier: Apache-2.0
"""The simulator's optics against the thin lens, written out here anew."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

torch = pytest.importorskip("torch")

from dualfocus_ros import optics  # noqa: E402
from dualfocus_ros.errors import ParameterError  # noqa: E402
from dualfocus_ros.learning.scenes import Surface  # noqa: E402
from dualfocus_ros.learning.simulator import (  # noqa: E402
    BLUR_STEP_PX,
    MAX_VIEWS,
    MIN_VIEWS,
    MOST_BLUR_PX,
    LightField,
    gaussian_blur,
    pupil,
    random_optics,
    simulate,
)

SIZE = (72, 64)  # width, height
MIDDLE = (36.3, 31.6)  # of the spot: not on a pixel
# Focal length, f-number, pixel pitch, nearest and farthest focus: from a phone to machine vision.
LENSES = {
    "phone": (0.0045, 1.8, 2.4e-6, 0.25, 2.0),
    "fod": (0.0029, 1.0, 1.21e-5, 0.1, 1.5),
    "room": (0.016, 1.4, 2.25e-5, 0.4, 5.0),
    "macro": (0.00474, 1.8, 2.0e-5, 0.08, 0.6),
    "machine vision": (0.035, 5.6, 7e-6, 1.0, math.inf),
}


def blur_px(lens: str, focus_m: float, depth_m: float) -> float:
    """Diameter of the circle of confusion by the textbook, in pixels of the slice focused nearest."""
    f, n, pitch, nearest_m, _ = LENSES[lens]
    w, w_n = 1 / depth_m, 1 / focus_m
    v, v_nearest = 1 / (1 / f - w_n), 1 / (1 / f - 1 / nearest_m)
    image_of_point = 1 / (1 / f - w)
    on_sensor = f / n * abs(image_of_point - v) / image_of_point  # similar triangles behind the lens
    return on_sensor / pitch * v_nearest / v


def gain_of(lens: str) -> float:
    f, n, pitch, nearest_m, _ = LENSES[lens]
    return f / n / (1 / f - 1 / nearest_m) / pitch


def round_pupil(count: int) -> np.ndarray:
    """Return the first round pupil that is drawn."""
    for seed in range(60):
        points = pupil(np.random.default_rng(seed), count)
        if len(points) == count and np.hypot(*points.mean(axis=0)) < 0.02 and np.hypot(*points.T).max() > 0.98:
            return points
    raise AssertionError("no round pupil in 60 draws")


def surface(outline: str = "everywhere", **changes: object) -> Surface:
    """A plain, fully lit, frontal surface in the middle of the picture."""
    values: dict[str, object] = {
        "relief": "flat", "centre_px": ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2), "half_size_px": (20.0, 20.0),
        "angle_rad": 0.0, "inverse_depth_dpt": 1.0, "slope_dpt": (0.0, 0.0), "relief_dpt": 0.0, "texture": 0,
        "texel_per_px": 1.0, "texture_offset": (0.0, 0.0), "gain": (1.0, 1.0, 1.0), "contrast": 1.0,
    }  # fmt: skip
    return Surface(outline=outline, **(values | changes))  # type: ignore[arg-type]


BLACK = (0.0, 0.0, 0.0)
WHITE = torch.ones(1, 3, 8, 8)


def field_of(
    surfaces: list[Surface], gain: float, focus_dpt: tuple[float, float], bank=WHITE, views: int = 100, size=SIZE
) -> LightField:
    return LightField(surfaces, bank, size, round_pupil(views), gain, (min(focus_dpt), max(focus_dpt)))


def moments(image: np.ndarray) -> tuple[float, float, float, float, float]:
    """Return sum, centroid x and y, and variance along x and y of a picture (H, W)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    total = image.sum()
    cx, cy = (x * image).sum() / total, (y * image).sum() / total
    return total, cx, cy, ((x - cx) ** 2 * image).sum() / total, ((y - cy) ** 2 * image).sum() / total


SPOT_PX = 1.5  # radius
SPOT_VARIANCE = SPOT_PX**2 / 4 + 1 / 12  # of a disc, per axis, and of the area of a pixel


def spot(w: float) -> list[Surface]:
    """A bright spot on black, both at the same depth so that nothing in the picture is sharper than the spot."""
    return [
        surface(inverse_depth_dpt=w - 1e-6, gain=BLACK),
        surface("ellipse", centre_px=MIDDLE, half_size_px=(SPOT_PX, SPOT_PX), inverse_depth_dpt=w),
    ]


def disc_diameter(variance: float) -> float:
    """A uniform disc of diameter D has the variance D^2 / 16 along each axis."""
    return 4 * math.sqrt(max(variance - SPOT_VARIANCE, 0.0))


def spot_of(field: LightField, focus_dpt: float, aperture: float = 1.0) -> tuple[float, float, float, float]:
    """Return sum, centroid and the diameter of the disc that has the spot's second moment about its centroid."""
    total, x, y, var_x, var_y = moments(field.refocus(focus_dpt, aperture)[1].numpy().astype(float))
    return total, x, y, disc_diameter(0.5 * (var_x + var_y))


@pytest.mark.parametrize("lens", LENSES)
def test_blur_is_the_disc_of_the_thin_lens(lens: str) -> None:
    near, far = 1 / LENSES[lens][3], 1 / LENSES[lens][4]
    w = far + 0.3 * (near - far)
    field = field_of(spot(w), gain_of(lens), (far, near), views=MAX_VIEWS)
    checked = 0
    for focus_dpt in np.linspace(far, near, 7):
        truth = blur_px(lens, 1 / focus_dpt if focus_dpt else 1e9, 1 / w)
        total, x, y, found = spot_of(field, float(focus_dpt))
        if truth >= 3.0:
            assert found == pytest.approx(truth, rel=0.05)
        elif truth > 1.0:  # where a pixel's own area is not sampled evenly: its border within 0.1 px, as its place
            assert found / 2 == pytest.approx(truth / 2, abs=0.1)
        assert (x, y) == pytest.approx(MIDDLE, abs=0.1)
        # All the light stays.
        assert total == pytest.approx(math.pi * SPOT_PX**2, rel=0.05)
        checked += truth >= 3.0
    assert checked >= 2


@pytest.mark.parametrize("lens", LENSES)
def test_the_gain_is_that_of_the_package_optics(lens: str) -> None:
    """Discs scaled to the view of the slice focused nearest: kappa of that slice times the defocus in dioptres."""
    f, n, pitch, nearest_m, _ = LENSES[lens]
    for focus_m, depth_m in ((nearest_m, 2 * nearest_m), (1.3 * nearest_m, 4 * nearest_m)):
        here = float(optics.blur_diameter_px(f, n, pitch, focus_m, depth_m))
        scale = optics.image_distance_m(f, nearest_m) / optics.image_distance_m(f, focus_m)
        assert here * scale == pytest.approx(blur_px(lens, focus_m, depth_m), rel=1e-9)
        assert gain_of(lens) * abs(1 / depth_m - 1 / focus_m) == pytest.approx(here * scale, rel=1e-9)


def test_the_disc_is_filled_evenly() -> None:
    gain, w, focus_dpt = 12.0, 1.0, 2.5  # a disc of 18 px
    picture = field_of(spot(w), gain, (0.0, 2.5), views=128).refocus(focus_dpt)[0].numpy()
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    radius = np.hypot(x - MIDDLE[0], y - MIDDLE[1])
    level = math.pi * SPOT_PX**2 / (math.pi * 9.0**2)
    inner, outer = radius < 4.5, (radius > 4.5) & (radius < 7.0)
    assert picture[inner].mean() == pytest.approx(level, rel=0.07)
    assert picture[outer].mean() == pytest.approx(level, rel=0.07)
    assert picture[radius > 9.0 + SPOT_PX + 2.5].max() < 0.02 * level


@pytest.mark.parametrize("aperture", [0.5, 0.75])
def test_a_smaller_aperture_makes_a_smaller_disc(aperture: float) -> None:
    field = field_of(spot(1.0), 15.0, (0.0, 3.0), views=MAX_VIEWS)
    for focus_dpt in (0.0, 3.0):
        whole, small = spot_of(field, focus_dpt)[3], spot_of(field, focus_dpt, aperture)[3]
        assert small / whole == pytest.approx(aperture, rel=0.05)


@pytest.mark.parametrize(
    ("diameter_px", "views"),
    [
        (12.0, 64),
        (8.0, 64),
        (4.0, 64),
        (3.0, 64),
        (2.0, 64),
    ],
)
def test_the_filter_against_ghosts_hardly_widens_a_disc(diameter_px: float, views: int) -> None:
    """Something strongly blurred at the border of the picture must leave the disc of the spot as it is."""
    gain, found = 4.0, []
    far = surface(
        "box", centre_px=(70.0, 36.0), half_size_px=(6.0, 60.0), inverse_depth_dpt=13.4 / gain, gain=BLACK
    )
    for dx in np.linspace(0.0, 0.9, 7):
        w = diameter_px / gain
        here = surface("ellipse", centre_px=(22.3 + dx, 31.6 + 0.6 * dx), half_size_px=(SPOT_PX, SPOT_PX),
                       inverse_depth_dpt=w)  # fmt: skip
        scene = [surface(inverse_depth_dpt=w - 1e-6, gain=BLACK), here, far]
        found.append(spot_of(field_of(scene, gain, (0.0, 13.4 / gain), views=views), 0.0)[3])
    assert np.mean(found) == pytest.approx(diameter_px, rel=0.05)


def test_no_light_is_lost_of_an_object_far_from_the_middle_of_the_focus_range() -> None:
    """Its place differs by up to 15 px from view to view, all of which must find it."""
    field = field_of(spot(1.0), 60.0, (0.0, 1.0), views=MAX_VIEWS)
    for focus_dpt, diameter in ((1.0, 0.0), (0.7, 18.0), (0.4, 36.0)):
        total, _, _, found = spot_of(field, focus_dpt)
        assert total == pytest.approx(math.pi * SPOT_PX**2, rel=0.05)
        assert not diameter or found == pytest.approx(diameter, rel=0.05)


def test_a_uniformly_lit_plane_stays_uniform_at_any_focus() -> None:
    slanted = surface(gain=(0.2, 0.5, 0.8), slope_dpt=(0.6, 0.2), inverse_depth_dpt=1.2)
    field = field_of([slanted], 10.0, (0.0, 3.0), views=40)
    for focus_dpt in (0.0, 1.2, 3.0):
        light = field.refocus(focus_dpt)
        torch.testing.assert_close(light.mean(dim=(1, 2)), torch.tensor([0.2, 0.5, 0.8]), atol=1e-5, rtol=0)
        assert float(light.std(dim=(1, 2)).max()) < 1e-5


def noise_bank(seed: int = 0, size: int = 128) -> torch.Tensor:
    """Return textures with detail down to about two texels."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.random((size, size, 3)), (0, 0), 1.0)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    return torch.from_numpy(texture.transpose(2, 0, 1)[None].astype(np.float32))


def sharp_picture(bank: torch.Tensor) -> np.ndarray:
    """Return the texture (H, W, 3) as `surface` shows it, over the area of each pixel, 16 x 16 samples a pixel.

    The middle of the picture shows the border between two mirrored tiles, or the middle of one.
    """
    size, fine = bank.shape[-1], 16
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    out = np.empty((SIZE[1], SIZE[0], 3))
    x = (np.arange(SIZE[0])[:, None] + offsets).ravel() - (SIZE[0] - 1) / 2 + (size - 1) / 2
    y = (np.arange(SIZE[1])[:, None] + offsets).ravel() - (SIZE[1] - 1) / 2 + (size - 1) / 2
    for c in range(3):
        texture = (
            bank[0, c].numpy().astype(float)[::-1, ::-1]
        )  # tiles are mirrored; this one is turned by 180 degrees
        dense = map_coordinates(texture, np.meshgrid(y, x, indexing="ij"), order=1)
        out[..., c] = dense.reshape(SIZE[1], fine, SIZE[0], fine).mean(axis=(1, 3))
    return out


def laplacian_energy(image: np.ndarray) -> float:
    inner = image[6:-6, 6:-6]
    return float((cv2.Laplacian(inner, cv2.CV_64F) ** 2)[2:-2, 2:-2].mean())


def test_the_slice_in_focus_is_the_sharp_picture_and_the_sharpest() -> None:
    bank = noise_bank()
    expected = sharp_picture(bank)
    field = field_of([surface(inverse_depth_dpt=1.3)], 10.0, (0.1, 2.5), bank, views=64)
    pictures = {
        w: field.refocus(w).numpy().transpose(1, 2, 0).astype(float) for w in (0.1, 0.7, 1.1, 1.3, 1.5, 2.5)
    }
    error = np.sqrt(((pictures[1.3] - expected) ** 2).mean())
    assert error < 0.03 * expected.std(), f"rms error {error / expected.std():.4f} of the contrast"
    energy = {w: laplacian_energy(p) for w, p in pictures.items()}
    assert energy[0.1] < energy[0.7] < energy[1.1] < energy[1.3] > energy[1.5] > energy[2.5]


@pytest.mark.parametrize(("views", "worst", "deviation"), [(MIN_VIEWS, 0.1, 0.05), (MAX_VIEWS, 0.05, 0.025)])
def test_sharpness_does_not_depend_on_the_sub_pixel_shift(views: int, worst: float, deviation: float) -> None:
    bank = noise_bank(1)
    truth = laplacian_energy(sharp_picture(bank))
    ratio = []
    for w in np.linspace(0.2, 2.4, 12) + 0.0137:
        field = field_of([surface(inverse_depth_dpt=float(w))], 7.3, (0.1, 2.5), bank, views=views)
        ratio.append(laplacian_energy(field.refocus(float(w)).numpy().transpose(1, 2, 0).astype(float)) / truth)
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.abs(np.array(ratio) - 1.0).max() < worst, f"{min(ratio):.3f} to {max(ratio):.3f}"
    assert np.std(ratio) < deviation


def share_of_disc(x: np.ndarray, radius: float) -> np.ndarray:
    """Return the share of a disc about 0 that lies on the side below -x: its edge-spread function."""
    t = np.clip(x / radius, -1, 1)
    return 0.5 - (t * np.sqrt(1 - t * t) + np.arcsin(t)) / math.pi


def edge(near_dpt: float, far_dpt: float, near_light: float, far_light: float) -> list[Surface]:
    """A near half plane, left of x = 35.2, before a far plane."""
    x = 35.2
    return [
        surface(inverse_depth_dpt=far_dpt, gain=(far_light,) * 3),
        surface("box", inverse_depth_dpt=near_dpt, gain=(near_light,) * 3, centre_px=(x - 100, 30.0),
                half_size_px=(100.0, 300.0)),
    ]  # fmt: skip


@pytest.mark.parametrize(("near_light", "far_light"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.8)])
def test_a_near_edge_out_of_focus_follows_the_edge_spread_function(near_light: float, far_light: float) -> None:
    gain, near, far = 10.0, 2.0, 0.5
    rows = field_of(edge(near, far, near_light, far_light), gain, (far, near), views=128).refocus(far)[0].numpy()
    radius = 0.5 * gain * (near - far)
    fine = (np.arange(SIZE[0])[:, None] + np.linspace(-0.45, 0.45, 10)) - 35.2  # the area of a pixel
    share = share_of_disc(fine, radius).mean(axis=1)
    expected = share * near_light + (1 - share) * far_light
    np.testing.assert_allclose(rows.mean(axis=0), expected, atol=0.03)


def test_what_lies_behind_a_sharp_edge_does_not_bleed_over_it() -> None:
    rows = field_of(edge(2.0, 0.5, 0.0, 1.0), 10.0, (0.5, 2.0), views=64).refocus(2.0)[0].numpy()
    assert rows[:, :34].max() == 0.0
    np.testing.assert_allclose(rows[:, 37:], 1.0, atol=1e-4)


def test_inverse_depth_is_that_of_the_surface_at_pixel_centres() -> None:
    slanted = surface(inverse_depth_dpt=1.2, half_size_px=(40.0, 20.0), slope_dpt=(0.3, -0.2), angle_rad=0.4)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]].astype(float)
    dx, dy = x - 35.5, y - 31.5
    u, v = (dx * math.cos(0.4) + dy * math.sin(0.4)) / 40, (dy * math.cos(0.4) - dx * math.sin(0.4)) / 20
    plane = 1.2 + 0.3 * u - 0.2 * v
    ball = surface("ellipse", relief="bowl", centre_px=(30.0, 30.0), half_size_px=(12.0, 12.0),
                   inverse_depth_dpt=1.5, relief_dpt=0.5)  # fmt: skip
    q = ((x - 30) ** 2 + (y - 30) ** 2) / 144
    bowl = np.where(q < 1, 1.5 + 0.5 * np.sqrt(np.maximum(1 - q, 0.04)), -np.inf)
    found = field_of([slanted, ball], 5.0, (0.5, 2.5), views=36).inverse_depth.numpy()
    np.testing.assert_allclose(found, np.maximum(plane, bowl), atol=2e-5)


def test_the_nearest_surface_wins_wherever_it_stands_in_the_list() -> None:
    near = surface("box", inverse_depth_dpt=2.0, half_size_px=(10.0, 10.0), gain=(1.0, 0.0, 0.0))
    middle = surface("box", inverse_depth_dpt=1.5, half_size_px=(15.0, 15.0), gain=(0.0, 1.0, 0.0))
    far = surface(inverse_depth_dpt=0.5, gain=(0.0, 0.0, 1.0))
    for order in ([near, middle, far], [far, middle, near], [middle, near, far]):
        field = field_of(order, 2.0, (0.5, 2.0), views=36)
        assert field.inverse_depth[32, 36] == 2.0 and field.inverse_depth[32, 48] == 1.5
        assert field.inverse_depth[2, 2] == 0.5
        light = field.refocus(2.0)
        assert light[:, 32, 36].tolist() == [1.0, 0.0, 0.0] and light[:, 2, 2].tolist() == [0.0, 0.0, 1.0]


def test_a_slanted_plane_is_seen_from_every_view_where_it_is() -> None:
    """Textured slant: where the plane crosses the focus, the picture must be the sharp one."""
    bank = noise_bank(2)
    plane = surface(inverse_depth_dpt=1.2, half_size_px=(35.5, 31.5), slope_dpt=(0.5, 0.0))
    light = field_of([plane], 14.0, (0.5, 2.0), bank, views=100).refocus(1.2).numpy().transpose(1, 2, 0)
    expected = sharp_picture(bank)
    error = np.sqrt(((light - expected) ** 2).mean(axis=(0, 2))) / expected.std()
    assert error[34:38].max() < 0.06
    assert error[:6].mean() > 0.5 and error[-6:].mean() > 0.5


def test_pupils_lie_in_the_unit_disc_and_are_filled_evenly_from_the_middle() -> None:
    whole_discs = 0
    for seed in range(60):
        points = pupil(np.random.default_rng(seed), 100)
        radius = np.hypot(*points.T)
        assert points.shape[1] == 2 and 60 <= len(points) <= 130
        assert radius.max() <= 1.0 and np.all(np.diff(radius) >= 0)
        # An inner disc that the shape holds whole has as many points as its share of the area: Vogel's spiral.
        density = len(points[radius < 0.25]) / (math.pi * 0.25**2)
        inner = points[radius < 0.5]
        if abs(inner.mean(axis=0)).max() < 0.06:
            assert len(inner) / (math.pi * 0.25) == pytest.approx(density, rel=0.3)
            assert (inner**2).sum(axis=1).mean() == pytest.approx(0.125, rel=0.12)
        if len(points) == 100 and abs(points.mean(axis=0)).max() < 0.02:
            quarters = [
                int(((points[:, 0] * a > 0) & (points[:, 1] * b > 0)).sum()) for a in (1, -1) for b in (1, -1)
            ]
            whole_discs += min(quarters) >= 22 and radius.max() > 0.99
    assert 18 <= whole_discs <= 45


def test_random_optics_keep_their_limits() -> None:
    rng = np.random.default_rng(3)
    at_infinity, breathing = 0, 0
    for i in range(200):
        slices = 3 + i % 13
        lens = random_optics(rng, [slices, 15, 3] if i % 2 else [slices])
        focus = np.array(lens.focus_dpt)
        assert focus.shape == (slices,) and np.all(np.diff(focus) < 0) and focus[-1] >= 0
        assert 1 / 2.5 <= focus[0] <= 1 / 0.05 + 1e-9
        total_px = lens.blur_gain * (focus[0] - focus[-1])
        assert 1.5 <= total_px <= MOST_BLUR_PX
        for number in (slices, 15, 3) if i % 2 else (slices,):
            assert BLUR_STEP_PX[0] <= total_px / (number - 1) <= BLUR_STEP_PX[1]
        assert lens.breathing == 0.0 or (0.002 <= lens.breathing <= 0.05)
        assert lens.breathing * focus[0] < 0.17  # nearest focus at no less than six focal lengths
        at_infinity += focus[-1] == 0
        breathing += lens.breathing > 0
    assert 4 <= at_infinity <= 40 and 40 <= breathing <= 100


def test_random_optics_refuse_too_few_slices() -> None:
    with pytest.raises(ParameterError, match="at least 3 slices, got 2"):
        random_optics(np.random.default_rng(0), [5, 2])


def test_simulate_gives_the_stacks_asked_for_and_the_same_for_the_same_seed() -> None:
    bank = noise_bank(4, 64).expand(3, -1, -1, -1)
    first, second = simulate(np.random.default_rng(11), bank, (40, 32), [4, 6])
    assert first.light.shape == (4, 3, 32, 40) and second.light.shape == (6, 3, 32, 40)
    assert len(second.optics.focus_dpt) == 6
    for stack in (first, second):
        assert bool(torch.isfinite(stack.light).all()) and float(stack.light.min()) >= 0.0
        assert bool(torch.isfinite(stack.inverse_depth).all()) and stack.inverse_depth.shape == (32, 40)
    again = simulate(np.random.default_rng(11), bank, (40, 32), [4, 6])[1]
    assert torch.equal(again.light, second.light) and again.optics == second.optics
    assert MIN_VIEWS <= MAX_VIEWS


def test_gaussian_blur_against_opencv() -> None:
    image = np.random.default_rng(5).random((24, 30)).astype(np.float32)
    found = gaussian_blur(torch.from_numpy(image)[None, None], 1.2)[0, 0].numpy()
    expected = cv2.GaussianBlur(image, (9, 9), 1.2, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(found, expected, atol=1e-5)
