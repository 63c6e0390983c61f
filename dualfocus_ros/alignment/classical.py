# SPDX-License-Identifier: Apache-2.0
"""Residual alignment by closed-form least squares on image gradients, made blind to defocus.

Two slices of one scene differ by their alignment, by defocus and by noise. To first order

    b - a = -p . flow . grad + beta * laplacian,

where the second term is what more or less blur does (the heat equation). The amount beta changes over the image
with depth; it is taken out window by window (the theorem of Frisch, Waugh and Lovell), which leaves the first term
to an ordinary weighted least-squares fit after Lucas and Kanade (IJCAI 1981). Without that, tilted and cluttered
scenes pull the estimate along: blur then changes across the very gradients that the fit is made on.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.alignment.base import Grid, Pair
from dualfocus_ros.types import FloatImage

FINE_SIGMA_PX, COARSE_SIGMA_PX = 1.0, 8.0  # the band that is compared: between noise and shading
WINDOW_PX = 15  # blur is taken to change evenly within
BLUR_FLOOR = 2e-5  # added to the mean square of the Laplacian: below, blur cannot be told from noise
RESIDUAL_SIGMA_PX = 4.0  # what still differs is averaged over such a window to weight the pixels
RESIDUAL_FLOOR = 1e-4  # variance of it in the best of pixels
BORDER_PX = 4  # not compared: filters see beyond the image there
# Neighbouring pixels err together, and what defocus leaves does not average out: there is less information than
# pixels. Chosen so that the true errors on rendered stacks are as large as it says.
INFORMATION_PER_PIXEL = 0.004


class ClassicalResidual:
    """Implements `alignment.base.ResidualEstimator` with OpenCV."""

    name = "classical"

    def __enter__(self) -> ClassicalResidual:
        """Nothing to load."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to free."""

    def relate(self, images: Sequence[FloatImage], pairs: Sequence[Pair], grid: Grid) -> npt.NDArray[np.float64]:
        """Return normal equations (P, 3, 4) of every pair, see `ResidualEstimator`."""
        bands = [band_pass(image) for image in images]
        gradients = [gradient(band) for band in bands]
        found = [_equations(bands[i], bands[j], gradients[i], gradients[j], grid) for i, j in pairs]
        return np.stack(found)


def band_pass(image: FloatImage) -> FloatImage:
    """Return what of an image (h, w) is neither noise nor shading."""
    fine: FloatImage = cv2.GaussianBlur(image, (0, 0), FINE_SIGMA_PX)
    fine -= cv2.GaussianBlur(image, (0, 0), COARSE_SIGMA_PX)
    return fine


def gradient(image: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return the derivatives of an image (h, w) along x and y, per pixel."""
    scale = 1.0 / 32.0  # of Scharr's kernel
    return cv2.Scharr(image, -1, 1, 0, scale=scale), cv2.Scharr(image, -1, 0, 1, scale=scale)


def _equations(
    a: FloatImage,
    b: FloatImage,
    gradient_a: tuple[FloatImage, FloatImage],
    gradient_b: tuple[FloatImage, FloatImage],
    grid: Grid,
) -> npt.NDArray[np.float64]:
    gx, gy = (cv2.addWeighted(p, 0.5, q, 0.5, 0.0) for p, q in zip(gradient_a, gradient_b, strict=True))
    blur = cv2.Laplacian(cv2.addWeighted(a, 0.5, b, 0.5, 0.0), -1, ksize=1)
    columns = [cv2.multiply(gx, grid.x) + cv2.multiply(gy, grid.y), gx, gy, a - b]
    blur_gain = cv2.divide(blur, _window_mean(cv2.multiply(blur, blur)) + np.float32(BLUR_FLOOR))
    for column in columns:
        column -= cv2.multiply(blur_gain, _window_mean(cv2.multiply(blur, column)))
    left = columns[3]
    variance = cv2.GaussianBlur(cv2.multiply(left, left), (0, 0), RESIDUAL_SIGMA_PX) + np.float32(RESIDUAL_FLOOR)
    inside = np.s_[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    weight = np.float32(INFORMATION_PER_PIXEL) / variance[inside].ravel()
    rows = np.stack([column[inside].ravel() for column in columns])
    product = (rows[:3] * weight) @ rows.T
    return product.astype(np.float64)


def _window_mean(image: FloatImage) -> FloatImage:
    mean: FloatImage = cv2.boxFilter(image, -1, (WINDOW_PX, WINDOW_PX))
    return mean
