# SPDX-License-Identifier: Apache-2.0
"""Focal stacks out of an image that is sharp everywhere and its depth.

`thin_lens_stack` forms them as a thin lens does: the scene is cut into layers of depth, each is blurred by the
disc of its circle of confusion in linear light, and they are put together from front to back: of the pupil, as
seen by a pixel, each layer takes the share that it covers, as far as those before it have left any. On a surface
that goes on from layer to layer the shares add up to one, so that no seam shows. Where they do not, something
hidden is seen past the blurred edge of what is before it; that is made up from the nearest visible pixels.
`camera.lightfield` is exact at occlusions, but asks for surfaces that it can trace from every point of the pupil,
which one image with depth is not.

`published_stack` repeats what HybridDepth's published numbers were made with: see there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.errors import InputError
from dualfocus_ros.types import FloatImage, Image, Mask

Distances: TypeAlias = Sequence[float] | npt.NDArray[np.float64]

# Across one layer the diameter of the blur changes by at most this; more layers than the second number, never.
LAYER_PX = 1.0
MAX_LAYERS = 128
# A share of the pupil that makes no difference to 8 bits.
LEAST_SHARE = 1e-4
# Samples a side of a pixel when a disc is drawn, and the steps of its diameter, pixels.
FINE = 8
DIAMETER_STEP_PX = 0.05
# Of the published renderer: side of its window, and below which radius it does not blur at all.
WINDOW = 7
SHARP_RADIUS_PX = 1.0
NO_DEPTH_M = 1e-8


def thin_lens_stack(
    image: Image,
    depth_m: FloatImage,
    focus_m: Distances,
    gain_px_per_dpt: Sequence[float],
) -> list[npt.NDArray[np.uint8]]:
    """Return the slices (H, W, 3) uint8, sRGB, that a thin lens takes of a scene, all of one field of view.

    The circle of confusion of a point at depth d in a slice focused at s has the diameter gain |1/d - 1/s|
    (`optics.blur_gain_px_per_dpt`).

    Args:
        image: (H, W, 3) uint8, sRGB, sharp everywhere.
        depth_m: (H, W) metres; where it is not finite and above 0, that of the nearest pixel stands in.
        focus_m: N focus distances.
        gain_px_per_dpt: N diameters in pixels per dioptre of defocus.

    Raises:
        InputError: if shapes do not fit, or there is no depth at all.
    """
    known = _check(image, depth_m, focus_m, gain_px_per_dpt)
    power_dpt = np.zeros(depth_m.shape)
    power_dpt[known] = 1.0 / depth_m[known].astype(np.float64)
    power_dpt = power_dpt.ravel()[nearest(known)[0]]
    light = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)[image]
    widest_px = max(gain * _farthest(power_dpt, 1.0 / s) for s, gain in zip(focus_m, gain_px_per_dpt, strict=True))
    layers = list(_layers(light, power_dpt, max(gain_px_per_dpt), math.ceil(0.5 * widest_px) + 1))
    slices = []
    for s, gain in zip(focus_m, gain_px_per_dpt, strict=True):
        picture = _put_together(
            layers, [disc(gain * abs(layer.power_dpt - 1.0 / s)) for layer in layers], light.shape
        )
        slices.append(np.rint(255.0 * linear_to_srgb(picture)).astype(np.uint8))
    return slices


def _farthest(power_dpt: npt.NDArray[np.float64], focus_dpt: float) -> float:
    """Return the largest defocus in dioptres."""
    return max(float(power_dpt.max()) - focus_dpt, focus_dpt - float(power_dpt.min()))


def published_stack(
    image: Image,
    depth_m: FloatImage,
    focus_m: Distances,
    gain_px_per_dpt: Sequence[float],
) -> list[npt.NDArray[np.uint8]]:
    """Return slices as the renderer of HybridDepth makes them, for comparison with published numbers.

    Not what a lens does: each pixel is a mean over 7 x 7 neighbours with weights exp(-2 r^2 / c^2) / c^2, c the
    radius of the neighbour's circle of confusion in pixels; those with c of at most 1 have no weight, and stay
    as they are themselves. Wider circles are cut off by the window, nothing hides anything, and sRGB codes are
    averaged instead of light. A hole in the depth counts as depth 0. (Gaussian of Gur and Wolf, CVPR 2019, as in
    HybridDepth's utils/synthetic.) The original hands on floating point, these slices are rounded to 8 bits.

    Args:
        image: (H, W, 3) uint8.
        depth_m: (H, W) metres; not finite is a hole.
        focus_m: N focus distances.
        gain_px_per_dpt: N diameters in pixels per dioptre of defocus.

    Raises:
        InputError: as `thin_lens_stack`.
    """
    _check(image, depth_m, focus_m, gain_px_per_dpt)
    power = 1.0 / (np.where(np.isfinite(depth_m), depth_m, 0.0).astype(np.float64) + NO_DEPTH_M)
    slices = []
    for s, gain in zip(focus_m, gain_px_per_dpt, strict=True):
        radius = 0.5 * gain * np.abs(power - 1.0 / s)
        slices.append(np.rint(_windowed(image.astype(np.float64), radius)).astype(np.uint8))
    return slices


def _windowed(image: npt.NDArray[np.float64], radius_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weighted mean over the window, one shift of the whole image at a time."""
    height, width = radius_px.shape
    half = WINDOW // 2
    blurred = radius_px > SHARP_RADIUS_PX
    square = np.where(blurred, radius_px, 1.0) ** 2
    peak = np.pad(np.where(blurred, 1.0 / square, 0.0), half)
    square = np.pad(square, half, constant_values=1.0)
    padded = np.pad(image, ((half, half), (half, half), (0, 0)))
    total, weights = np.zeros_like(image), np.zeros((height, width))
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            part = (slice(half + dy, half + dy + height), slice(half + dx, half + dx + width))
            weight = peak[part] * np.exp(-2.0 * (dx * dx + dy * dy) / square[part])
            total += weight[..., None] * padded[part]
            weights += weight
    return np.where(blurred[..., None], total / np.where(weights > 0.0, weights, 1.0)[..., None], image)


def nearest(known: Mask) -> tuple[npt.NDArray[np.int64], FloatImage]:
    """Return for every pixel the flat index (H, W) of the nearest in `known`, which is not empty, and how far."""
    indices = np.flatnonzero(known)
    distance_px, labels = cv2.distanceTransformWithLabels(
        np.where(known, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index_of_label = np.zeros(int(labels.max()) + 1, np.int64)
    index_of_label[labels.ravel()[indices]] = indices
    return index_of_label[labels], distance_px


@lru_cache(maxsize=1024)
def _disc(steps: int) -> FloatImage:
    diameter_px = steps * DIAMETER_STEP_PX
    half = max(0, math.ceil(0.5 * diameter_px - 0.5))
    size = (2 * half + 1) * FINE
    at = (np.arange(size) + 0.5) / FINE - (half + 0.5)
    inside = at[:, None] ** 2 + at[None, :] ** 2 <= (0.5 * diameter_px) ** 2
    kernel = inside.reshape(2 * half + 1, FINE, 2 * half + 1, FINE).sum(axis=(1, 3)).astype(np.float32)
    return kernel / kernel.sum() if half else np.ones((1, 1), np.float32)


def disc(diameter_px: float) -> FloatImage:
    """Return the uniform disc as a kernel (K, K) of sum 1, K odd: of each pixel the share that lies inside.

    Up to a diameter of 1 px that is one pixel.
    """
    return _disc(round(diameter_px / DIAMETER_STEP_PX))


@dataclass(frozen=True)
class Layer:
    """What lies in one range of depth, cut out of the image with a margin as wide as the widest blur.

    Attributes:
        part: rows and columns of the cutting.
        power_dpt: mean of 1 / depth.
        own: (h, w) where it is seen.
        light: (h, w, 3) its colours; elsewhere that of its nearest pixel.
        hidden: (h, w) where something nearer is seen that it may go on behind.
    """

    part: tuple[slice, slice]
    power_dpt: float
    own: Mask
    light: FloatImage
    hidden: Mask


def _layers(
    light: FloatImage, power_dpt: npt.NDArray[np.float64], gain_px_per_dpt: float, margin_px: int
) -> Iterator[Layer]:
    """Yield the layers from front to back."""
    far, near = float(power_dpt.min()), float(power_dpt.max())
    count = min(MAX_LAYERS, max(1, math.ceil((near - far) * gain_px_per_dpt / LAYER_PX)))
    number = np.zeros(power_dpt.shape, np.int64)
    if near > far:
        number = np.minimum(((near - power_dpt) / (near - far) * count).astype(np.int64), count - 1)
    for k in np.unique(number):
        rows, columns = np.nonzero(number == k)
        part = (
            slice(max(0, int(rows.min()) - margin_px), int(rows.max()) + 1 + margin_px),
            slice(max(0, int(columns.min()) - margin_px), int(columns.max()) + 1 + margin_px),
        )
        own = number[part] == k
        index, distance_px = nearest(own)
        hidden = (number[part] < k) & (distance_px <= margin_px)
        yield Layer(part, float(power_dpt[number == k].mean()), own, light[part].reshape(-1, 3)[index], hidden)


def _put_together(layers: list[Layer], kernels: list[FloatImage], shape: tuple[int, ...]) -> FloatImage:
    """Return the picture (H, W, 3) in linear light."""
    picture, left = np.zeros(shape, np.float32), np.ones(shape[:2], np.float32)
    for behind in (False, True):  # what is seen in the image first; what is hidden in it has to do with the rest
        for layer, kernel in zip(layers, kernels, strict=True):
            mask = layer.hidden if behind else layer.own
            rest = left[layer.part]
            if not (mask.any() and float(rest.max()) > LEAST_SHARE):
                continue
            share, light = _blurred(mask, layer.light, kernel)
            taken = np.minimum(share, rest)
            picture[layer.part] += light * (taken / np.maximum(share, LEAST_SHARE))[..., None]
            rest -= taken
    return picture / np.maximum(1.0 - left, LEAST_SHARE)[..., None]


def _blurred(mask: Mask, light: FloatImage, kernel: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return the share (h, w) of each pixel's pupil that a layer covers, and the light (h, w, 3) from there."""
    share = mask.astype(np.float32)
    light = light * share[..., None]
    if kernel.size > 1:  # what lies outside of the image is taken to go on as its border does
        share = cv2.filter2D(share, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
        light = cv2.filter2D(light, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
    # Large kernels are applied in frequency, whose rounding goes below 0.
    return np.maximum(share, 0.0), np.maximum(light, 0.0)


def _check(image: Image, depth_m: FloatImage, focus_m: Distances, gain: Sequence[float]) -> Mask:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or depth_m.shape != image.shape[:2]:
        raise InputError(
            f"expected an image (H, W, 3) of uint8 and depth (H, W), got {image.shape} of {image.dtype} and "
            f"{depth_m.shape}"
        )
    if len(focus_m) != len(gain):
        raise InputError(f"expected a blur gain for each of {len(focus_m)} focus distances, got {len(gain)}")
    known: Mask = np.isfinite(depth_m) & (depth_m > 0.0)
    if not known.any():
        raise InputError("expected depth in at least one pixel, got none")
    return known
