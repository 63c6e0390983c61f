# SPDX-License-Identifier: Apache-2.0
"""At which position of the lens a small window of the picture is sharpest."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import Image

FloatArray = npt.NDArray[np.float64]

# Takes out pixel noise before gradients are made; blur of a pixel more does not move the peak.
SMOOTHING_PX = 1.0
# Positions whose sharpness is at least this part of the highest one are fitted.
NEAR_PEAK = 0.7
# The fine sweep goes where sharpness is at least this part of the highest one.
RANGE_PART = 0.5
LEAST_POSITIONS = 5
# The highest sharpness must be so many times the lowest one, or there is nothing in focus.
LEAST_CONTRAST = 1.25
# A peak bends by more than so many standard deviations.
LEAST_BEND_SIGMAS = 5.0
# Largest relative deviation (rms) of 1 / sharpness^2 from its parabola.
MAX_MISFIT = 0.25


def window_sharpness(grey: Image, centres_px: FloatArray, radii_px: FloatArray) -> FloatArray:
    """Return the gradient energy (K,) of round windows over their squared mean; NaN where one leaves the picture.

    It is energy per length of edge, the same for a picture that is only larger: the mean of a window times its
    radius, since edges grow with the radius and the window with its square. Windows fade out and lie between
    pixels, so that what they hold does not change in jumps where they move with the picture. Each goes by its own
    mean: that of the picture changes with what enters and leaves it.

    Args:
        grey: (H, W) picture.
        centres_px: (K, 2) x and y; may be NaN.
        radii_px: (K,) where they end.
    """
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SMOOTHING_PX)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    energy = dx * dx + dy * dy
    return np.array([_window(energy, smooth, c, r) for c, r in zip(centres_px, radii_px, strict=True)])


def _window(energy: FloatArray, grey: FloatArray, centre_px: FloatArray, radius_px: float) -> float:
    height, width = energy.shape
    low, high = centre_px - radius_px, centre_px + radius_px
    if not (np.isfinite(low).all() and (low >= 0.0).all() and high[0] <= width - 1 and high[1] <= height - 1):
        return float("nan")
    (x0, y0), (x1, y1) = np.floor(low).astype(int), np.ceil(high).astype(int) + 1
    across, down = np.arange(x0, x1) - centre_px[0], np.arange(y0, y1) - centre_px[1]
    apart = np.sqrt(across**2 + down[:, None] ** 2) / radius_px
    weight = np.where(apart < 1.0, np.cos(0.5 * np.pi * np.minimum(apart, 1.0)) ** 2, 0.0)
    part, total = (slice(y0, y1), slice(x0, x1)), float(weight.sum())
    mean = float((weight * grey[part]).sum()) / total
    return radius_px * float((weight * energy[part]).sum()) / total / max(mean, 1.0) ** 2


@dataclass(frozen=True)
class Peaks:
    """Where windows are sharpest.

    Attributes:
        positions: (K,) of the lens; NaN: not found.
        errors: (K,) standard deviation, as the fit has it.
    """

    positions: FloatArray
    errors: FloatArray


def find_peaks(positions: FloatArray, sharpness: FloatArray) -> Peaks:
    """Return where each window is sharpest, finer than the steps of the sweep.

    The gradient energy of an edge falls with the width of its blur, so that 1 / energy^2 is a parabola in defocus:
    energy = 1 / sqrt(a + b (u - u0)^2). It is fitted to the positions near the highest one.

    Args:
        positions: (M,) ascending or descending.
        sharpness: (M, K) gradient energies; NaN: not known.
    """
    found = [_peak(positions, column) for column in sharpness.T]
    return Peaks(np.array([f[0] for f in found]), np.array([f[1] for f in found]))


def sharp_range(positions: FloatArray, sharpness: FloatArray) -> tuple[float, float] | None:
    """Return between which positions windows are near their sharpest; None: none is ever sharper than else.

    Args:
        positions: (M,) ascending.
        sharpness: (M, K) gradient energies; NaN: not known.
    """
    ends: list[int] = []
    for column in sharpness.T:
        known = np.flatnonzero(np.isfinite(column))
        if known.size < LEAST_POSITIONS:
            continue
        # The mean of neighbours: noise is no contrast.
        even = np.convolve(column[known], np.full(3, 1.0 / 3.0), "valid")
        if even.max() > LEAST_CONTRAST * even.min():
            first, last = near_top(column[known], int(column[known].argmax()), RANGE_PART)
            ends += [known[first], known[last]]
    return (float(positions[min(ends)]), float(positions[max(ends)])) if ends else None


def near_top(e: FloatArray, top: int, part: float = NEAR_PEAK) -> tuple[int, int]:
    """Return the first and last of the sharpnesses around the highest that are at least this part of it."""
    near = e >= part * e[top]
    first = last = top
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(e) - 1 and near[last + 1]:
        last += 1
    return first, last


def _peak(u: FloatArray, sharpness: FloatArray) -> tuple[float, float]:
    nothing = (np.nan, np.nan)
    known = np.isfinite(sharpness) & (sharpness > 0.0)
    if known.sum() < LEAST_POSITIONS:
        return nothing
    u, e = u[known], sharpness[known]
    top = int(e.argmax())
    # At the end of the sweep the peak may lie beyond it.
    if top in (0, len(e) - 1) or e[top] <= LEAST_CONTRAST * e.min():
        return nothing
    first, last = near_top(e, top)
    if last - first + 1 < LEAST_POSITIONS:
        middle = min(max(top, LEAST_POSITIONS // 2), len(e) - 1 - LEAST_POSITIONS // 2)
        first, last = middle - LEAST_POSITIONS // 2, middle + LEAST_POSITIONS // 2
    return _fit(u[first : last + 1], e[first : last + 1] / e[top], u[top])


def _fit(u: FloatArray, e: FloatArray, start: float) -> tuple[float, float]:
    """Return the lowest point of the parabola through 1 / e^2, and its standard deviation."""
    scale = max(float(np.ptp(u)), 1e-12) / 2.0
    x = (u - start) / scale
    design = np.column_stack([np.ones_like(x), x, x * x])
    y, weight = e**-2.0, e**2.0  # relative errors are alike
    solution, *_ = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)
    _, b, a = solution
    if a <= 0.0:
        return np.nan, np.nan
    residual = (design @ solution - y) * weight
    rms = float(np.sqrt((residual**2).sum() / max(len(x) - 3, 1)))
    at = -b / (2.0 * a)
    if rms > MAX_MISFIT or not x.min() <= at <= x.max():
        return np.nan, np.nan
    covariance = np.linalg.inv((design * weight[:, None]).T @ (design * weight[:, None])) * rms**2
    if a < LEAST_BEND_SIGMAS * float(np.sqrt(covariance[2, 2])):
        return np.nan, np.nan
    slope = np.array([0.0, -1.0 / (2.0 * a), b / (2.0 * a * a)])
    return start + scale * at, scale * float(np.sqrt(slope @ covariance @ slope))
