# SPDX-License-Identifier: Apache-2.0
"""Noise of the sensor: how much there is in a focal stack, and less of it.

Noise looks like sharpness. In a noisy stack, slices are calmed before depth is estimated from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from dualfocus_ros.image_encodings import bits_used
from dualfocus_ros.types import Image

# Up to this standard deviation, in 1/255 of the full range, slices are left as they are: there is little to gain.
NEGLIGIBLE_NOISE = 1.5
WINDOW_PX = 5
# Variance, in units of that of the noise, at which half of the detail in a window is kept.
HALF_KEPT = 4.0
_ROWS = 64
_BANDS, _BAND_ROWS = 8, 16  # the noise is measured in so many bands of so many rows
_IMMERKAER = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], np.float32)


def noise_level(images: Iterable[Image]) -> float:
    """Return the standard deviation of the noise in 1/255 of the full range, in the slice that has least of it.

    What is in focus counts as noise, but some slice is out of focus nearly everywhere. Where a slice is black or
    burnt out there is no noise to be seen; it has no say. (J. Immerkaer, "Fast noise variance estimation", CVIU
    1996.)

    Args:
        images: slices (H, W) or (H, W, 3), uint8, or uint16 of which the lower 8 bits or more are used.
    """
    images = list(images)
    full = full_scale(images)
    return min((found for image in images if (found := _noise_of(image, full)) is not None), default=0.0)


def full_scale(images: Sequence[Image]) -> float:
    """Return the largest value that slices can have: of 16 bits, as many count as the brightest pixel needs."""
    return float(2 ** bits_used(images) - 1)


def _noise_of(image: Image, full: float) -> float | None:
    green = image if image.ndim == 2 else image[..., 1]
    tops = np.linspace(0, max(green.shape[0] - _BAND_ROWS, 0), _BANDS).astype(int)
    found = []
    for top in dict.fromkeys(tops.tolist()):
        band = green[top : top + _BAND_ROWS].astype(np.float32)
        inside = cv2.filter2D(band, -1, _IMMERKAER)[1:-1, 1:-1]
        middle = float(np.median(band))
        if inside.size and 0.0 < middle < full:
            found.append(float(np.abs(inside).mean()))
    return math.sqrt(math.pi / 2.0) / 6.0 * float(np.mean(found)) * 255.0 / full if found else None


def calmed(image: Image, noise: float) -> Image:
    """Return an image with less noise, edges kept: a guided filter with the image as its own guide.

    (K. He et al., "Guided image filtering", PAMI 2013.)

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16.
        noise: its standard deviation in 1/255 of the full range; 0: the image is returned as it is.
    """
    if noise <= 0.0:
        return image
    full = full_scale([image])
    result = np.empty_like(image)
    height, halo = image.shape[0], 2 * (WINDOW_PX // 2)
    for top in range(0, height, _ROWS):  # what is worked on stays in the cache
        first, last = max(top - halo, 0), min(top + _ROWS + halo, height)
        part = _guided(image[first:last], noise, full)
        bottom = min(top + _ROWS, height)
        result[top:bottom] = part[top - first : bottom - first]
    return result


def _guided(image: Image, noise: float, full: float) -> Image:
    size = (WINDOW_PX, WINDOW_PX)
    mean = cv2.boxFilter(image, cv2.CV_32F, size)
    variance = cv2.sqrBoxFilter(image, cv2.CV_32F, size)
    variance -= cv2.multiply(mean, mean)
    np.maximum(variance, 0.0, out=variance)
    kept = cv2.divide(variance, variance + np.float32(HALF_KEPT * (noise * full / 255.0) ** 2 + 1e-6))
    base = cv2.blur(mean - cv2.multiply(kept, mean), size)
    base += cv2.multiply(cv2.blur(kept, size), image, dtype=cv2.CV_32F)
    base += np.float32(0.5)
    return np.clip(base, 0.0, full, out=base).astype(image.dtype)
