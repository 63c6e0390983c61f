# SPDX-License-Identifier: Apache-2.0
"""The two renderers, against the formula of the thin lens and against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import texture

from dualfocus_ros import optics
from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.datasets.files import read_rgb
from dualfocus_ros.datasets.render import disc, published_stack, thin_lens_stack
from dualfocus_ros.errors import InputError
from dualfocus_ros.stackio import load_stack

ROOM = Path(__file__).parents[3] / "shared" / "focal_stacks" / "room" / "2000"


def flat(depth_m: float, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, depth_m, np.float32)


def diameter(picture: np.ndarray) -> float:
    """Return the diameter of a uniform disc with the second moment of the picture's light: 4 sigma."""
    light = srgb_to_linear(picture[..., 1] / 255.0)
    at = np.arange(light.shape[1]) - light.shape[1] // 2
    return float(4.0 * np.sqrt((light.sum(axis=0) * at**2).sum() / light.sum()))


@pytest.mark.parametrize(
    ("focus_m", "depth_m", "expected_px"),
    # f = 50 mm, f/8, 12 um: A = 6.25 mm; v = 0.05 s / (s - 0.05); c = A v |1/d - 1/s| / 12 um
    [(1.0, 2.0, 13.706), (2.0, 1.0, 13.355), (1.0, 4.0, 20.559), (4.0, 1.0, 19.778)],
)
def test_a_point_becomes_the_circle_of_confusion(focus_m: float, depth_m: float, expected_px: float) -> None:
    image = np.zeros((61, 61, 3), np.uint8)
    image[30, 30] = 255
    gain = optics.blur_gain_px_per_dpt(0.05, 8.0, 1.2e-5, focus_m)
    (slice_,) = thin_lens_stack(image, flat(depth_m, (61, 61)), [focus_m], [gain])
    assert diameter(slice_) == pytest.approx(expected_px, rel=0.03)
    assert optics.blur_diameter_px(0.05, 8.0, 1.2e-5, focus_m, depth_m) == pytest.approx(expected_px, rel=1e-3)
    lit = np.argwhere(slice_[..., 1] > 0) - 30
    assert np.hypot(*lit.T).max() <= expected_px / 2 + 1.0  # nothing outside of the disc


def test_a_plane_in_focus_stays_as_it_is_and_blurs_out_of_focus() -> None:
    image = texture((48, 64))
    sharp, blurred = thin_lens_stack(image, flat(0.7, (48, 64)), [0.7, 1.5], [12.0, 12.0])
    np.testing.assert_array_equal(sharp, image)
    assert blurred.astype(float).std() < 0.5 * image.astype(float).std()


def test_an_edge_is_as_wide_as_the_disc() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    (slice_,) = thin_lens_stack(image, flat(1.0, (40, 80)), [2.0], [20.0])  # 10 px
    row = slice_[20, :, 0].astype(int)
    assert row[:34].tolist() == [0] * 34 and row[46:].tolist() == [255] * 34
    assert 0 < row[36] < row[39] < row[43] < 255
    assert srgb_to_linear(row[39:41] / 255.0).mean() == pytest.approx(0.5, abs=0.01)


@pytest.fixture
def two_planes() -> tuple[np.ndarray, np.ndarray]:
    """A red plane at 1 m at the left, a green one at 4 m at the right of column 40."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40] = (200, 0, 0)
    image[:, 40:] = (0, 180, 0)
    depth_m = flat(4.0, (40, 80))
    depth_m[:, :40] = 1.0
    return image, depth_m


def test_a_sharp_foreground_keeps_its_edge_and_its_colour(two_planes: tuple[np.ndarray, np.ndarray]) -> None:
    image, depth_m = two_planes
    (slice_,) = thin_lens_stack(image, depth_m, [1.0], [16.0])
    # The background is blurred by 12 px, but all of its visible pixels are green, and no foreground is in it.
    np.testing.assert_array_equal(slice_, image)


def test_a_blurred_foreground_lies_over_a_sharp_background(two_planes: tuple[np.ndarray, np.ndarray]) -> None:
    image, depth_m = two_planes
    (slice_,) = thin_lens_stack(image, depth_m, [4.0], [16.0])  # foreground 12 px
    assert slice_[20, 44, 0] > 0 and slice_[20, 44, 1] > 0  # 4 px outside: half transparent
    assert slice_[20, 36, 1] > 20  # and inside: what is hidden there is green, too
    np.testing.assert_array_equal(slice_[:, 47:], image[:, 47:])
    np.testing.assert_array_equal(slice_[:, :33], image[:, :33])
    light = srgb_to_linear(slice_[20] / 255.0)
    share = light[:, 0] / srgb_to_linear(200 / 255.0) + light[:, 1] / srgb_to_linear(180 / 255.0)
    np.testing.assert_allclose(share, 1.0, atol=0.02)  # red and green add up: no seam, no doubling


def test_a_slanted_plane_has_no_seams_and_is_sharp_where_it_is_in_focus() -> None:
    depth_m = np.broadcast_to(np.linspace(0.5, 2.0, 120, dtype=np.float32), (40, 120)).copy()
    grey = np.full((40, 120, 3), 140, np.uint8)
    (even,) = thin_lens_stack(grey, depth_m, [1.0], [12.0])
    np.testing.assert_allclose(even.astype(int), 140, atol=1)
    image = texture((40, 120))
    (slice_,) = thin_lens_stack(image, depth_m, [1.0], [12.0])
    error = np.abs(slice_.astype(float) - image).mean(axis=(0, 2))
    column = int(np.argmin(np.abs(depth_m[0] - 1.0)))
    assert error[column] < 1.0
    assert error[:10].mean() > 15.0 and error[-10:].mean() > 8.0


def test_a_slanted_plane_is_what_its_points_are_blurred_to() -> None:
    """Against the sum of all discs, pixel by pixel: on one surface nothing hides anything."""
    image = texture((40, 100), seed=3)
    depth_m = np.broadcast_to(1.0 / np.linspace(1.2, 0.6, 100), (40, 100)).astype(np.float32)
    (slice_,) = thin_lens_stack(image, depth_m, [2.0], [20.0])  # discs of 14 to 2 px
    light, total, weight = srgb_to_linear(image / 255.0), np.zeros((60, 120, 3)), np.zeros((60, 120, 1))
    for y, x in np.ndindex(40, 100):
        kernel = disc(20.0 * abs(1.0 / depth_m[y, x] - 0.5))[..., None]
        half = kernel.shape[0] // 2
        window = np.s_[10 + y - half : 11 + y + half, 10 + x - half : 11 + x + half]
        total[window] += kernel * light[y, x]
        weight[window] += kernel
    expected = 255.0 * linear_to_srgb((total / np.maximum(weight, 1e-9))[10:50, 10:110])
    error = np.abs(slice_ - expected)[10:30, 10:90]
    assert error.mean() < 1.0 and error.max() < 8.0
    assert np.abs(slice_ - image.astype(float))[10:30, 10:90].mean() > 10.0


@pytest.mark.shared
@pytest.mark.skipif(not ROOM.is_dir(), reason="the validation stacks are not beside the checkout")
def test_a_traced_stack_is_rendered_alike() -> None:
    """The sharp image and the depth of a path-traced stack against its slices, occlusions included."""
    stored = load_stack(ROOM)
    assert stored.ground_truth_m is not None
    sharp, lens = read_rgb(ROOM / "aif.png"), stored.stack.lens
    focus_m = stored.stack.focus_distance_m
    gains = [
        optics.blur_gain_px_per_dpt(lens.focal_length_m, lens.f_number, lens.pixel_pitch_m, float(s))
        for s in focus_m
    ]

    def psnr(slices: list[np.ndarray]) -> list[float]:
        errors = [
            np.mean((a.astype(float) - b.image) ** 2) for a, b in zip(slices, stored.stack.slices, strict=True)
        ]
        return [float(10.0 * np.log10(255.0**2 / e)) for e in errors]

    thin = psnr(thin_lens_stack(sharp, stored.ground_truth_m, focus_m, gains))
    published = psnr(published_stack(sharp, stored.ground_truth_m, focus_m, gains))
    assert min(thin) > 38.0 and np.mean(thin) > np.mean(published) + 3.0


def test_holes_take_the_nearest_depth() -> None:
    image = texture((40, 40))
    whole = flat(1.0, (40, 40))
    holes = whole.copy()
    holes[5:20, 10:30] = np.nan
    holes[30, :] = 0.0
    np.testing.assert_array_equal(
        thin_lens_stack(image, holes, [1.5], [15.0])[0], thin_lens_stack(image, whole, [1.5], [15.0])[0]
    )


def test_the_disc_has_its_area() -> None:
    assert disc(0.9).tolist() == [[1.0]]
    kernel = disc(9.0)
    assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1.0, abs=1e-6)
    assert 1.0 / kernel[4, 4] == pytest.approx(63.62, rel=0.01)  # pi 9^2 / 4
    assert kernel[0, 0] == 0.0


def test_the_published_renderer_is_a_gaussian_cut_to_seven_pixels() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    # Radius of blur c = 8 * |1/2 - 1| / 2 = 2 px. Sum over the window of exp(-2 r^2 / c^2): 2.50596^2 = 6.2798.
    blurred, sharp = published_stack(image, flat(2.0, (21, 21)), [1.0, 1.0], [8.0, 3.9])
    row = blurred[10, :, 0].tolist()
    assert row[10] == 41  # 255 / 6.2798 = 40.6
    assert row[11] == row[9] == 25  # exp(-1/2) of it
    assert row[12] == 5 and row[13] == 0 and blurred[11, 11, 0] == 15  # exp(-2), exp(-4.5), exp(-1)
    np.testing.assert_array_equal(sharp, image)  # radius below 1 px: not blurred at all


def test_the_published_renderer_leaves_sharp_neighbours_out() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[:, :10] = 250
    depth_m = flat(2.0, (21, 21))
    depth_m[:, :10] = 1.0  # in focus, bright
    (slice_,) = published_stack(image, depth_m, [1.0], [8.0])
    np.testing.assert_array_equal(slice_, image)


def test_wrong_input_is_named() -> None:
    image = texture((8, 8))
    with pytest.raises(InputError, match=r"\(8, 9\)"):
        thin_lens_stack(image, flat(1.0, (8, 9)), [1.0], [1.0])
    with pytest.raises(InputError, match="of 2 focus distances, got 1"):
        published_stack(image, flat(1.0, (8, 8)), [1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="at least one pixel"):
        thin_lens_stack(image, flat(np.nan, (8, 8)), [1.0], [1.0])
