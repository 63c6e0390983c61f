# SPDX-License-Identifier: Apache-2.0
"""Exposure of the slices of a focal stack: how much more light one has than another, and the same for all.

Defocus spreads light and loses none: means of linear light over windows that are large against the blur are those
of the exposure, whatever the focus. Images of 8 bits are taken to be coded as sRGB, those of 16 bits to be linear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.noise import full_scale
from dualfocus_ros.types import FloatImage, Image

FloatArray = npt.NDArray[np.float64]

GAIN_STEP = 0.0025  # of the natural logarithm; gains are in whole steps
CELLS = 80 * 60  # an image is made smaller by a whole number to about that
CELL_ROWS = 8  # of a larger cell no more rows are read
DARK = 0.004  # of full light; below, the black level and the noise decide
BURNT_LEVEL = 251 / 255  # of the full range, from which a pixel has lost light
_BURNT = 1e4  # light of a burnt out pixel; one suffices for the mean of a cell to be beyond 1
_REACH_CELLS = 2  # so far from what is burnt out cells are not used: out of focus it shines into them
WINDOW_CELLS = 3.0  # standard deviation of the window that light is averaged over
STRIDE_CELLS = 4  # from window to window
LEAST_COVER = 0.5  # of a window that must be seen in both slices
LEAST_WINDOWS = 12
TUKEY = 4.685  # standard deviations from which a window does not count (Beaton and Tukey, Technometrics 1974)
_STEPS_OF_FIT = 3
# Windows overlap, and err together: so many of them tell as much as one.
_REDUNDANCY = max(1.0, 4.0 * math.pi * (WINDOW_CELLS / STRIDE_CELLS) ** 2)


@dataclass(frozen=True)
class Gain:
    """What the light of an image is multiplied by.

    Attributes:
        steps: (C,) for each channel, natural logarithm in steps of GAIN_STEP.
        full: largest value that the result may have.
    """

    steps: tuple[int, ...]
    full: int

    @property
    def factors(self) -> tuple[float, ...]:
        """What each channel is multiplied by."""
        return tuple(math.exp(GAIN_STEP * step) for step in self.steps)

    def applied_to(self, image: Image) -> Image:
        """Return an image (H, W) or (H, W, 3) of other exposure, of the same type."""
        if image.dtype == np.uint8:
            return cv2.LUT(image, _coded_gain(self.steps))
        factors = self.factors
        brighter = cv2.multiply(image, (*factors, 1.0) if len(factors) > 1 else factors[0])
        return np.minimum(brighter, np.uint16(self.full), out=brighter)


@lru_cache(maxsize=128)
def _coded_gain(steps: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the table (1, 256, C) that multiplies the light of sRGB levels; white is the most there is."""
    light = srgb_to_linear(np.arange(256) / 255.0)
    factors = np.exp(GAIN_STEP * np.array(steps))
    return np.rint(255.0 * linear_to_srgb(light[None, :, None] * factors)).astype(np.uint8)


def light_range(images: Sequence[Image]) -> tuple[float, float]:
    """Return between which light cells of images of one type tell of the exposure, see `light_cells`."""
    full = 1.0 if images[0].dtype == np.uint8 else full_scale(images) / 65535.0
    return DARK * full, full


def cell_size_px(width: int, height: int) -> int:
    """Return the pixels along the side of a cell of an image of that size."""
    size = max(1, round(math.sqrt(width * height / CELLS)))
    return size - size % _rows_skipped(size)


def _rows_skipped(size: int) -> int:
    return max(1, size // CELL_ROWS)


def light_cells(image: Image) -> FloatImage:
    """Return the mean linear light, of the largest value of its type, of square cells of an image.

    Cells that are burnt out, and their neighbours, have far more than 1.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16.

    Returns:
        (h, w) or (h, w, 3), the sides by `cell_size_px` smaller; what is left over is not looked at.
    """
    size = cell_size_px(image.shape[1], image.shape[0])
    height, width = image.shape[0] // size, image.shape[1] // size
    rows = image[: height * size : _rows_skipped(size), : width * size]
    light = cv2.LUT(rows, _decoder()) if image.dtype == np.uint8 else _linear_light(rows, image)
    cells = cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA) if size > 1 else light
    side = 2 * _REACH_CELLS + 1
    brightest = cv2.dilate(cells, np.ones((side, side), np.uint8))
    cells[brightest > 1.0] = _BURNT
    return cells


def _linear_light(rows: Image, image: Image) -> FloatImage:
    light = rows.astype(np.float32)
    light *= np.float32(1.0 / 65535.0)
    burnt = BURNT_LEVEL * full_scale([image])
    if image.max() >= burnt:
        light[rows >= burnt] = _BURNT
    return light


@lru_cache(maxsize=1)
def _decoder() -> FloatImage:
    """Return the light of the 256 levels of sRGB: 0..1, or burnt out."""
    coded = np.arange(256) / 255.0
    return np.where(coded < BURNT_LEVEL, srgb_to_linear(coded), _BURNT).astype(np.float32)


def warped_cells(cells: FloatImage, ref_to_slice: FloatArray) -> FloatImage:
    """Return cells in the grid of the cells of the reference; those that are not seen there count as burnt out.

    Args:
        cells: see `light_cells`.
        ref_to_slice: affine map (2, 3) from cells of the reference to those of the slice.
    """
    size = (cells.shape[1], cells.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = (_BURNT,) * 4
    return cv2.warpAffine(
        cells, ref_to_slice, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def relative_light(
    cells: Sequence[FloatImage], reference: int, usable: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Compare the light of images that lie upon each other with that of one of them.

    The comparison is made window by window; those that differ most from the others, since something moved there
    or blur carried light across their edge, do not count. Windows count by their light in both: by that in one of
    them, what blur takes from the bright and gives to the dark would not cancel.

    Args:
        cells: of N images, (h, w) or (h, w, C), see `light_cells`.
        reference: the image to compare with.
        usable: light of cells that count, see `light_range`.

    Returns:
        Natural logarithm (N, C) of the light of each channel over that of the reference, and its standard error
        (N, C): inf, and the logarithm 0, where there is too little to compare.
    """
    channels = 1 if cells[0].ndim == 2 else cells[0].shape[2]
    found, errors = np.zeros((len(cells), channels)), np.full((len(cells), channels), np.inf)
    errors[reference] = 0.0
    where, ratios, weights = [], [], []
    for n, own in enumerate(cells):
        if n != reference:
            ratio, weight = _compare(own, cells[reference], usable, channels)
            enough = (weight > 0.0).sum(axis=1) >= LEAST_WINDOWS
            where += [(n, int(channel)) for channel in np.flatnonzero(enough)]
            ratios.append(ratio[enough])
            weights.append(weight[enough])
    if where:
        at = tuple(np.array(where).T)
        found[at], errors[at] = _robust_mean(np.concatenate(ratios), np.concatenate(weights))
    return found, errors


def _compare(
    own: FloatImage, other: FloatImage, usable: tuple[float, float], channels: int
) -> tuple[FloatImage, FloatImage]:
    """Return the logarithm of the ratio of light in windows (C, P) of two images, and the weight of each."""
    low, high = usable
    both = ((own > low) & (own <= high) & (other > low) & (other <= high)).astype(np.float32)
    cover = _windows(both, channels)
    light, reference = _windows(own * both, channels), _windows(other * both, channels)
    counts = cover > LEAST_COVER
    ratio = np.log(np.divide(light, reference, out=np.ones_like(light), where=counts))
    return ratio, np.where(counts, light + reference, np.float32(0.0))


def _windows(image: FloatImage, channels: int) -> FloatImage:
    """Return means over windows of an image, (C, P); what is beyond its borders counts as 0."""
    mean = cv2.GaussianBlur(image, (0, 0), WINDOW_CELLS, borderType=cv2.BORDER_CONSTANT)
    first = STRIDE_CELLS // 2
    return np.ascontiguousarray(mean[first::STRIDE_CELLS, first::STRIDE_CELLS].reshape(-1, channels).T)


def _robust_mean(values: FloatImage, weights: FloatImage) -> tuple[FloatArray, FloatArray]:
    """Return the means (K,) of values (K, P) without outliers, and their standard errors (K,)."""
    counts = weights > 0.0
    mean = _median(values, counts)[:, None]
    scale = np.maximum(1.4826 * _median(np.abs(values - mean), counts), 1e-4)[:, None]
    weight = weights
    for _ in range(_STEPS_OF_FIT):
        weight = weights * np.square(np.maximum(1.0 - np.square((values - mean) / (TUKEY * scale)), 0.0))
        mean = (weight * values).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
    error = np.sqrt(np.square(weight * (values - mean)).sum(axis=1) * _REDUNDANCY) / weight.sum(axis=1)
    return mean[:, 0].astype(np.float64), error.astype(np.float64)


def _median(values: FloatImage, counts: npt.NDArray[np.bool_]) -> FloatImage:
    """Return the median (K,) of those of values (K, P) that count; of two in the middle the lower."""
    ordered = np.sort(np.where(counts, values, np.float32(np.inf)), axis=1)
    middle = (counts.sum(axis=1) - 1) // 2
    return np.take_along_axis(ordered, middle[:, None], axis=1)[:, 0]
