# SPDX-License-Identifier: Apache-2.0
"""Sharpness of windows, and where it is highest."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dualfocus_ros.calibration.sharpness import find_peaks, near_top, sharp_range, window_sharpness


def corner(shift: float, scale: float, blur_px: float) -> np.ndarray:
    """Return a picture (120, 160) with a checkerboard of squares of 30 px, times scale, moved and blurred."""
    y, x = np.mgrid[0 : 120 * 8, 0 : 160 * 8] / 8.0
    cells = np.floor((x - 80.0 - shift) / (30.0 * scale)) + np.floor((y - 60.0 - shift) / (30.0 * scale))
    large = np.where(cells % 2 == 0, 40.0, 200.0).astype(np.float32)
    # The lens blurs before the sensor samples.
    return cv2.resize(cv2.GaussianBlur(large, (0, 0), 8.0 * blur_px), (160, 120), interpolation=cv2.INTER_AREA)


def measured(shift: float, scale: float, blur_px: float) -> float:
    # Pixel centres are at whole numbers: the corner at 80 of the continuous picture is at 79.5.
    at = np.array([[79.5 + shift, 59.5 + shift]])
    return float(window_sharpness(corner(shift, scale, blur_px), at, np.array([13.0 * scale]))[0])


def test_sharpness_falls_with_blur() -> None:
    values = [measured(0.0, 1.0, blur) for blur in (0.5, 1.0, 2.0, 3.0)]
    assert values == sorted(values, reverse=True) and values[0] > 1.5 * values[-1]


@pytest.mark.parametrize("blur_px", [0.6, 2.0])
def test_sharpness_does_not_change_with_where_the_window_is_and_how_large_it_appears(blur_px: float) -> None:
    middle = measured(0.0, 1.0, blur_px)
    for shift in (0.2, 0.37, 0.5):
        assert measured(shift, 1.0, blur_px) == pytest.approx(middle, rel=0.01)
    for scale in (0.96, 1.04):
        assert measured(0.0, scale, blur_px) == pytest.approx(middle, rel=0.03)


def test_sharpness_does_not_change_with_the_light() -> None:
    picture = corner(0.0, 1.0, 1.0)
    at, radius = np.array([[79.5, 59.5]]), np.array([13.0])
    darker = window_sharpness(picture * 0.5, at, radius)
    assert darker == pytest.approx(window_sharpness(picture, at, radius), rel=1e-3)
    # What lies elsewhere does not count.
    picture[:, :40] = 0.0
    assert window_sharpness(picture, at, radius) == pytest.approx(darker, rel=1e-3)


def test_windows_that_leave_the_picture_are_not_known() -> None:
    picture = corner(0.0, 1.0, 1.0)
    centres = np.array([[5.0, 60.0], [80.0, 114.0], [np.nan, 50.0], [80.0, 60.0]])
    known = np.isfinite(window_sharpness(picture, centres, np.full(4, 10.0)))
    assert known.tolist() == [False, False, False, True]


def peaks_at(at: float, noise: float = 0.0, u: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    u = np.linspace(0.0, 100.0, 41) if u is None else u
    energy = 3.0 / np.sqrt(1.0 + ((u - at) / 12.0) ** 2)
    return u, energy * (1.0 + noise * np.random.default_rng(1).standard_normal(u.size))


@pytest.mark.parametrize("at", [30.0, 51.3, 60.9])
@pytest.mark.parametrize("step", [1, -1])
def test_peaks_are_found_between_the_steps(at: float, step: int) -> None:
    u, energy = peaks_at(at)
    found = find_peaks(u[::step], energy[::step, None])
    assert found.positions[0] == pytest.approx(at, abs=0.01)


def test_errors_of_peaks_are_as_large_as_told() -> None:
    off, told = [], []
    for seed in range(40):
        u, energy = peaks_at(50.0)
        energy = energy * (1.0 + 0.02 * np.random.default_rng(seed).standard_normal(u.size))
        found = find_peaks(u, energy[:, None])
        off.append(found.positions[0] - 50.0)
        told.append(found.errors[0])
    assert float(np.std(off)) == pytest.approx(float(np.mean(told)), rel=0.5)


@pytest.mark.parametrize("at", [-5.0, 0.0, 104.0])
def test_a_peak_beyond_the_sweep_is_none(at: float) -> None:
    u, energy = peaks_at(at)
    assert np.isnan(find_peaks(u, energy[:, None]).positions[0])


def test_where_nothing_is_ever_sharper_there_is_no_peak() -> None:
    u = np.linspace(0.0, 100.0, 41)
    flat = 1.0 + 0.05 * np.random.default_rng(3).standard_normal(u.size)
    assert np.isnan(find_peaks(u, flat[:, None]).positions[0])
    assert sharp_range(u, flat[:, None]) is None


def test_what_is_not_known_is_left_out() -> None:
    u, energy = peaks_at(40.0)
    energy[:5] = np.nan
    energy[20] = np.nan
    assert find_peaks(u, energy[:, None]).positions[0] == pytest.approx(40.0, abs=0.05)
    assert np.isnan(find_peaks(u, np.full((u.size, 1), np.nan)).positions[0])


def test_the_sharp_range_holds_the_flanks_of_all_windows() -> None:
    u, low = peaks_at(25.0)
    _, high = peaks_at(70.0)
    found = sharp_range(u, np.column_stack([low, high]))
    # Half of the highest energy at sqrt(3) widths.
    assert found is not None
    assert found[0] == pytest.approx(25.0 - 20.8, abs=2.6)
    assert found[1] == pytest.approx(70.0 + 20.8, abs=2.6)


def test_what_lies_near_the_top_hangs_together() -> None:
    assert near_top(np.array([0.9, 0.1, 0.8, 1.0, 0.75, 0.2, 0.9]), 3, 0.7) == (2, 4)
