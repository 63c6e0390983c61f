# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.photometry import GAIN_STEP, Gain, cell_size_px, light_cells, light_range, relative_light

FACTORS = (1.12, 0.9, 0.97)


def scene(seed: int = 0, width: int = 320, height: int = 240) -> np.ndarray:
    """Linear light (H, W, 3) with detail of all sizes, nowhere near black or white."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (1.0, 2.0, 6.0, 20.0):
        noise = cv2.GaussianBlur(rng.normal(size=total.shape).astype(np.float32), (0, 0), sigma)
        total += noise / noise.std()
    return np.exp(0.2 * total) * np.float32(0.1)


def photograph(
    light: np.ndarray, blur_px: float = 0.0, factors: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    if blur_px > 0.0:
        light = cv2.GaussianBlur(light, (0, 0), blur_px)
    return np.rint(255.0 * linear_to_srgb(light * np.array(factors))).astype(np.uint8)


def told(images: list[np.ndarray], reference: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return relative_light([light_cells(i) for i in images], reference, light_range(images))


def steps_of(*factors: float) -> tuple[int, ...]:
    return tuple(round(np.log(f) / GAIN_STEP) for f in factors)


def test_a_gain_multiplies_linear_light_of_each_channel() -> None:
    coded = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    gain = Gain(steps_of(*FACTORS), 255)
    expected = np.clip(srgb_to_linear(coded / 255.0) * gain.factors, 0.0, 1.0)
    found = gain.applied_to(coded)
    assert found.dtype == np.uint8
    assert np.abs(255.0 * linear_to_srgb(expected) - found).max() <= 0.5 + 1e-6
    assert found[-1, -1, 0] == 255 and found[-1, -1, 1] < 250  # white stays white, or becomes darker
    assert coded[3, 3, 0] == 51  # the image itself is as it was
    np.testing.assert_allclose(gain.factors, FACTORS, rtol=0.5 * GAIN_STEP + 1e-9)


def test_a_gain_of_grey_images() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    gain = Gain(steps_of(0.8), 255)
    found = gain.applied_to(grey)
    assert found.shape == grey.shape
    three = Gain(gain.steps * 3, 255).applied_to(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(found, three[..., 1])


def test_16_bits_are_linear_and_stay_within_those_that_the_camera_has() -> None:
    raw = np.linspace(0, 4095, 40 * 30 * 3).astype(np.uint16).reshape(30, 40, 3)
    gain = Gain(steps_of(*FACTORS), 4095)
    found = gain.applied_to(raw)
    assert found.dtype == np.uint16 and found.max() == 4095
    assert np.abs(np.minimum(raw * np.array(gain.factors), 4095.0) - found).max() <= 0.5 + 1e-3
    grey = Gain(gain.steps[:1], 4095).applied_to(raw[..., 0])
    np.testing.assert_array_equal(grey, found[..., 0])


def test_cells_average_light_and_not_coded_values() -> None:
    image = np.full((480, 640, 3), 20, np.uint8)
    image[::2, ::2], image[1::2, 1::2] = 200, 200
    expected = 0.5 * (srgb_to_linear(20 / 255.0) + srgb_to_linear(200 / 255.0))
    cells = light_cells(image)
    assert cells.shape == (60, 80, 3)
    np.testing.assert_allclose(cells, expected, rtol=1e-5)


def test_one_burnt_out_pixel_spoils_what_is_near_in_its_channel() -> None:
    image = np.full((480, 640, 3), 100, np.uint8)
    image[244, 324, 1] = 255
    over = light_cells(image) > 1.0
    rows, columns = np.nonzero(over[..., 1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 32, 38, 42)
    assert not over[..., 0].any() and not over[..., 2].any()
    raw = np.full((480, 640), 1000, np.uint16)
    raw[244, 324] = 4095
    assert (light_cells(raw) > 1.0).sum() == 25


@pytest.mark.parametrize(
    ("width", "height"), [(3, 2), (64, 48), (320, 240), (641, 479), (1920, 1080), (4096, 3072)]
)
def test_cells_of_any_size(width: int, height: int) -> None:
    cells = light_cells(np.full((height, width), 128, np.uint8))
    size = cell_size_px(width, height)
    assert cells.shape == (height // size, width // size)
    assert cells.size < 2 * 80 * 60
    np.testing.assert_allclose(cells, srgb_to_linear(128 / 255.0), rtol=1e-5)


@pytest.mark.parametrize("blur_px", [0.0, 4.0, 12.0])
def test_gains_are_found_whatever_the_focus(blur_px: float) -> None:
    light = scene()
    found, error = told([photograph(light), photograph(light, blur_px, FACTORS)])
    np.testing.assert_array_equal(found[0], 0.0)
    np.testing.assert_allclose(found[1], np.log(FACTORS), atol=0.004)
    assert error.shape == (2, 3) and error.max() < 0.008


def test_all_are_told_against_the_reference() -> None:
    light = scene()
    levels = (0.85, 1.0, 1.1, 1.2)
    images = [photograph(light, 3.0 * n, (level,) * 3) for n, level in enumerate(levels)]
    found, _ = told(images, 2)
    np.testing.assert_allclose(found, np.log(np.array(levels) / 1.1)[:, None].repeat(3, axis=1), atol=0.005)


def test_what_moves_or_is_burnt_out_in_a_part_of_the_image_has_no_say() -> None:
    light = scene()
    other = light.copy()
    other[:80, :100] *= 3.0  # something came in
    for image in (light, other):
        image[150:170, 200:240] = 20.0  # a lamp, whose light spreads out of focus but not beyond white
    found, _ = told([photograph(light), photograph(other, 4.0, FACTORS)])
    np.testing.assert_allclose(found[1], np.log(FACTORS), atol=0.01)


def test_grey_and_16_bit_images() -> None:
    light = scene()
    images = [photograph(light)[..., 1], photograph(light, 6.0, (0.9,) * 3)[..., 1]]
    found, _ = told(images)
    assert found.shape == (2, 1)
    assert found[1, 0] == pytest.approx(np.log(0.9), abs=0.004)
    raw = [np.clip(4095.0 * x, 0, 4095).astype(np.uint16) for x in (light, cv2.blur(light, (15, 15)) * 0.9)]
    np.testing.assert_allclose(told(raw)[0][1], np.log(0.9), atol=0.004)


def test_the_error_grows_with_what_differs_between_the_images() -> None:
    light = scene()
    rng = np.random.default_rng(1)
    uneven = cv2.GaussianBlur(rng.normal(size=light.shape[:2]).astype(np.float32), (0, 0), 12.0)
    uneven *= 0.1 / uneven.std()
    found, error = told([photograph(light), photograph(light * np.exp(uneven)[..., None])])
    _, before = told([photograph(light), photograph(light)])
    assert error[1].min() > 10.0 * before[1].max()
    assert (np.abs(found[1]) < 4.0 * error[1]).all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((240, 320, 3), np.uint8), np.full((240, 320, 3), 255, np.uint8), np.full((2, 3, 3), 90, np.uint8)],
)
def test_dark_burnt_out_and_tiny_images_tell_nothing(image: np.ndarray) -> None:
    found, error = told([image, image.copy(), image.copy()], 1)
    np.testing.assert_array_equal(found, 0.0)
    assert np.isinf(error[[0, 2]]).all() and not error[1].any()
