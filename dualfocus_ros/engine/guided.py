# SPDX-License-Identifier: Apache-2.0
"""Guided filters (He et al., PAMI 2013): smoothing that stops where a guide image has edges."""

from __future__ import annotations

import cv2
import numpy as np

from dualfocus_ros.types import FloatImage


def box_mean(image: FloatImage, radius_px: int) -> FloatImage:
    """Return the mean over a square window of 2 radius + 1 pixels, in the shape of `image`."""
    mean: FloatImage = cv2.blur(image, (2 * radius_px + 1, 2 * radius_px + 1))
    return mean


def guided_filter(volume: FloatImage, guide: FloatImage, radius: int, epsilon: float) -> None:
    """Filter every plane of (D, h, w) in place; contrast^2 of the guide (h, w) above `epsilon` is an edge."""
    guide_mean = box_mean(guide, radius)
    guide_variance = box_mean(guide * guide, radius) - guide_mean * guide_mean + np.float32(epsilon)
    for plane in volume:
        mean = box_mean(plane, radius)
        slope: FloatImage = (box_mean(guide * plane, radius) - guide_mean * mean) / guide_variance  # type: ignore[assignment]
        offset = mean - slope * guide_mean
        np.add(box_mean(slope, radius) * guide, box_mean(offset, radius), out=plane)


def weighted_guided_filter(
    value: FloatImage, weight: FloatImage, guide: FloatImage, radius: int, epsilon: float
) -> tuple[FloatImage, FloatImage]:
    """Fit value = slope guide + offset in windows, by weight; return the value and the mean weight (h, w)."""
    shrink = max(1, radius // 4)  # the fit varies slowly: a coarse grid is as good (He and Sun, 2015)
    height, width = value.shape
    size = (max(4, width // shrink), max(4, height // shrink))

    def window(image: FloatImage) -> FloatImage:
        return box_mean(cv2.resize(image, size, interpolation=cv2.INTER_AREA), radius // shrink)

    w, wg, wv = window(weight), window(weight * guide), window(weight * value)
    mean_g, mean_v = wg / w, wv / w
    variance = window(weight * guide * guide) / w - mean_g * mean_g
    slope = (window(weight * guide * value) / w - mean_g * mean_v) / (variance + np.float32(epsilon))
    offset = mean_v - slope * mean_g
    support = box_mean(w, radius // shrink)
    slope = cv2.resize(box_mean(slope * w, radius // shrink) / support, (width, height))
    offset = cv2.resize(box_mean(offset * w, radius // shrink) / support, (width, height))
    return slope * guide + offset, cv2.resize(support, (width, height))
