# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from dualfocus_ros.noise import NEGLIGIBLE_NOISE, calmed, noise_level


def ramp(dtype: type = np.uint8) -> np.ndarray:
    """A picture without noise: a slope and an edge."""
    x, y = np.meshgrid(np.arange(160), np.arange(120))
    picture = 60.0 + 0.2 * x + 0.1 * y + 80.0 * (x > 90)
    scale = np.iinfo(dtype).max / 255.0
    return np.rint(np.repeat(picture[..., None], 3, axis=2) * scale).astype(dtype)


def noisy(deviation: float, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    scale = np.iinfo(dtype).max / 255.0
    noise = np.random.default_rng(seed).normal(0.0, deviation * scale, (120, 160, 3))
    return np.clip(np.rint(ramp(dtype) + noise), 0, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("deviation", [1.0, 3.0, 8.0])
def test_level_is_the_standard_deviation(deviation: float, dtype: type) -> None:
    assert noise_level([noisy(deviation, dtype)]) == pytest.approx(deviation, rel=0.15)


def test_level_is_that_of_the_slice_with_least() -> None:
    assert noise_level([noisy(8.0), noisy(2.0), noisy(5.0)]) == pytest.approx(2.0, rel=0.15)


def test_grey_and_tiny_images_have_a_level_too() -> None:
    assert noise_level([noisy(4.0)[..., 0]]) == pytest.approx(4.0, rel=0.15)
    assert noise_level([np.zeros((2, 3, 3), np.uint8)]) == 0.0


def test_pictures_without_noise_count_as_such() -> None:
    smooth = cv2.GaussianBlur(noisy(20.0), (0, 0), 4.0)
    assert noise_level([smooth]) < NEGLIGIBLE_NOISE


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_less_noise_and_the_same_edge(dtype: type) -> None:
    scale = np.iinfo(dtype).max / 255.0
    image, truth = noisy(4.0, dtype), ramp(dtype).astype(float)
    found = calmed(image, 4.0).astype(float)
    flat = np.s_[10:-10, 10:70]
    assert np.std((found - truth)[flat]) < 0.5 * np.std((image - truth)[flat])
    step = found[10:-10, 93].mean() - found[10:-10, 88].mean()
    assert step / scale == pytest.approx(81.0, abs=4.0)
    assert abs((found - truth)[10:-10, 10:-10].mean()) < 0.1 * scale


@pytest.mark.parametrize("height", [7, 63, 64, 65, 130])
def test_bands_of_rows_leave_no_seams(height: int) -> None:
    """A picture and the same moved by some rows give the same, moved."""
    image = np.vstack([noisy(5.0), noisy(5.0, seed=1)])[:height]
    moved = np.vstack([noisy(5.0, seed=2)[:10], image])
    np.testing.assert_array_equal(calmed(image, 5.0)[4:], calmed(moved, 5.0)[14:])


def test_input_is_not_changed_and_grey_stays_grey() -> None:
    image = noisy(5.0)[..., 0]
    before = image.copy()
    assert calmed(image, 5.0).shape == image.shape
    np.testing.assert_array_equal(image, before)


def test_ten_bits_in_sixteen_count_as_ten() -> None:
    ten = (noisy(4.0, np.uint16) >> 6).astype(np.uint16)
    ten[0, 0] = 1023
    assert noise_level([ten]) == pytest.approx(4.0, rel=0.15)


def test_black_and_burnt_slices_have_no_say() -> None:
    black, burnt = (np.full((120, 160, 3), value, np.uint8) for value in (0, 255))
    assert noise_level([noisy(5.0), black, burnt]) == pytest.approx(5.0, rel=0.15)
    assert noise_level([black, burnt]) == 0.0
