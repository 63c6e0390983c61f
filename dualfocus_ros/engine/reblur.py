# SPDX-License-Identifier: Apache-2.0
"""Blur as a thin lens with a round pupil makes it: a uniform disc."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from dualfocus_ros.types import FloatImage

# Disc blurs wider than this are computed at half resolution.
COARSE_BLUR_PX = 8.0


@functools.lru_cache(maxsize=64)
def _disc(diameter_px: float) -> FloatImage:
    """Return the disc kernel of this diameter, anti-aliased, sum 1."""
    half, fine = math.ceil(diameter_px / 2 + 0.5), 9
    offset = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    inside = (np.square(offset[:, None]) + np.square(offset[None, :])) <= diameter_px**2 / 4
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3)).astype(np.float32)
    normalised: FloatImage = np.divide(kernel, kernel.sum())
    return normalised


def reblurred(sharp: FloatImage, diameter_px: float) -> FloatImage:
    """Return the image (h, w) blurred by a disc of this diameter, as a lens does; 0 gives the image itself."""
    diameter_px = min(diameter_px, math.hypot(*sharp.shape))  # more than the whole image is no more blur
    if diameter_px <= COARSE_BLUR_PX:
        blurred: FloatImage = cv2.filter2D(sharp, -1, _disc(diameter_px)) if diameter_px > 0.0 else sharp
        return blurred
    height, width = sharp.shape
    half = cv2.resize(sharp, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    wide: FloatImage = cv2.resize(reblurred(half, diameter_px / 2), (width, height))
    return wide


def blur_level_px(diameter_px: float) -> float:
    """Round a blur diameter to one of few levels, finer where blur is small; under 0.3 px there is none."""
    if diameter_px < 0.3:
        return 0.0
    step = 0.25 if diameter_px < 4.0 else 0.5 if diameter_px < 8.0 else 1.0
    return round(diameter_px / step) * step
