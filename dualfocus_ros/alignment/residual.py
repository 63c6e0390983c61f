# SPDX-License-Identifier: Apache-2.0
"""Residual alignment of a whole stack: slices are related pair by pair, and all relations are solved for at once.

A slice is compared with its neighbours in focus, which are blurred alike, not with the reference, which may be
blurred beyond recognition there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.align import reference_to_slice
from dualfocus_ros.alignment.base import Grid, Pair, ResidualEstimator, corner_radius_px
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.types import FloatImage, FocalStack, Image, Intrinsics

FloatArray = npt.NDArray[np.float64]

WORK_PIXELS = 160 * 120  # of the finest level: slices are made smaller by a whole number to about that
COARSER = (4, 2, 1)  # levels, coarse to fine, by how much smaller they are than the finest
STEPS_PER_LEVEL = (2, 2, 2)
LEAST_SIDE_PX = 24  # levels smaller than that are left out
GAPS = (1, 2, 3)  # slices this far apart in the stack are compared
# What may be expected of a lens, as a share of the distance of the corner: errors of 1 to 2 % are common. Where
# images say little (no texture, much noise) a residual stays near none.
PRIOR_SHARE = 0.02
NO_RESIDUAL = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class StackResidual:
    """Residuals of the slices of one stack.

    Attributes:
        residual: (N, 3) scale, x and y shift in pixels of the slice, as `align.align` takes them.
        information: (N, 3, 3) inverse covariance of each slice's residual, as radial displacement at the corner,
            x shift and y shift in pixels; of the reference 0.
    """

    residual: FloatArray
    information: FloatArray


def estimate_residual(
    stack: FocalStack,
    intrinsics: Sequence[Intrinsics],
    estimator: ResidualEstimator,
    start: FloatArray | None = None,
) -> StackResidual:
    """Estimate the residual of every slice against the reference.

    Args:
        stack: as captured.
        intrinsics: of every slice, by metadata.
        estimator: relates pairs of slices.
        start: (N, 3) residual to start from; None: none.

    Raises:
        AlignmentError: if the slices are too small.
        EngineError: if the estimator fails.
    """
    count, reference = len(stack.slices), stack.reference
    k = intrinsics[reference]
    most = max(1, min(k.width, k.height) // LEAST_SIDE_PX)
    shrink = max(1, min(round(math.sqrt(k.width * k.height / WORK_PIXELS)), most))
    finest = [linear_grey(s.image, shrink) for s in stack.slices]
    if min(finest[0].shape) < LEAST_SIDE_PX:
        raise AlignmentError(
            f"expected slices of at least {LEAST_SIDE_PX} pixels a side to estimate their alignment, got "
            f"{k.width} x {k.height}: set residual to none"
        )
    residual = np.tile(NO_RESIDUAL, (count, 1)) if start is None else start.copy()
    pairs = [(i, i + gap) for gap in GAPS for i in range(count - gap)]
    information: FloatArray = np.zeros((count, 3, 3))
    for coarser, steps in zip(COARSER, STEPS_PER_LEVEL, strict=True):
        size = (finest[0].shape[1] // coarser, finest[0].shape[0] // coarser)
        if min(size) < LEAST_SIDE_PX:
            continue
        by = shrink * coarser
        images = [cv2.resize(i, size, interpolation=cv2.INTER_AREA) if coarser > 1 else i for i in finest]
        grid = _grid(*size, *((c - (by - 1) / 2) / by for c in (k.cx_px, k.cy_px)))
        for _ in range(steps):
            aligned = [
                _warped(image, shrunk(reference_to_slice(k, own, *correction), by))
                for image, own, correction in zip(images, intrinsics, residual, strict=True)
            ]
            equations = estimator.relate(aligned, pairs, grid)
            so_far_px = _in_pixels(residual, intrinsics, k) / by
            step, information = solve_graph(
                equations, pairs, so_far_px, reference, PRIOR_SHARE * _radius_px(k) / by
            )
            _compose(residual, step * by, intrinsics, k)
        information /= by * by  # from pixels of the level
    return StackResidual(residual, information)


def linear_grey(image: Image, shrink: int) -> FloatImage:
    """Return an image as grey linear light (h, w) of mean 1, made smaller by a whole number.

    Images of 8 bits are taken to be sRGB, those of 16 bits linear: in coded values a bright edge would move
    towards the dark when it blurs.
    """
    height, width = image.shape[0] // shrink, image.shape[1] // shrink
    image = image[: height * shrink, : width * shrink]
    half = max(1, shrink // 2)  # first by half, coded: faster, and no worse
    if half > 1:
        image = cv2.resize(image, (image.shape[1] // half, image.shape[0] // half), interpolation=cv2.INTER_AREA)
    light = cv2.LUT(image, _srgb_decoder()) if image.dtype == np.uint8 else image.astype(np.float32)
    grey = cv2.cvtColor(light, cv2.COLOR_RGB2GRAY) if light.ndim == 3 else light
    if grey.shape != (height, width):
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(grey * np.float32(1.0 / max(cv2.mean(grey)[0], 1e-6)))


@lru_cache(maxsize=1)
def _srgb_decoder() -> FloatImage:
    """Return linear light of the 256 levels of sRGB (IEC 61966-2-1), 0..1."""
    coded = np.arange(256) / 255.0
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4).astype(np.float32)


@lru_cache(maxsize=8)
def _grid(width: int, height: int, cx_px: float, cy_px: float) -> Grid:
    return Grid.of(width, height, cx_px, cy_px)


def shrunk(ref_to_slice: FloatArray, by: int) -> FloatArray:
    """Return an affine map (2, 3) between images, for both made smaller by a whole number."""
    off = (by - 1) / 2  # of the middle of the first pixel
    small = ref_to_slice.copy()
    small[:, 2] = (ref_to_slice[:, :2] @ (off, off) + ref_to_slice[:, 2] - off) / by
    return small


def _warped(image: FloatImage, ref_to_slice: FloatArray) -> FloatImage:
    """Return a slice in the grid of the reference; bilinear, since no finer detail than 1 px is compared."""
    size = (image.shape[1], image.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, ref_to_slice, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def solve_graph(
    equations: FloatArray, pairs: Sequence[Pair], so_far_px: FloatArray, reference: int, prior_px: float
) -> tuple[FloatArray, FloatArray]:
    """Return displacements (N, 3) of all images from the reference, and their information (N, 3, 3).

    All in pixels of the images: radial displacement at the corner, x and y shift.

    Args:
        equations: (P, 3, 4) normal equations of the displacement of the second of each pair from the first.
        pairs: indices of images.
        so_far_px: (N, 3) displacements that the images were corrected for already.
        reference: the image that does not move.
        prior_px: standard deviation to be expected of all displacements together, before looking.
    """
    count = len(so_far_px)
    a, b = np.zeros((count, 3, count, 3)), np.zeros((count, 3))
    for (i, j), found in zip(pairs, equations, strict=True):
        own, right = found[:, :3], found[:, 3]
        a[i, :, i] += own
        a[j, :, j] += own
        a[i, :, j] -= own
        a[j, :, i] -= own
        b[i] -= right
        b[j] += right
    free = [n for n in range(count) if n != reference]
    matrix = a[np.ix_(free, range(3), free, range(3))].reshape(3 * len(free), -1)
    matrix += np.eye(len(matrix)) / prior_px**2
    covariance = np.linalg.inv(matrix)
    moved, information = np.zeros((count, 3)), np.zeros((count, 3, 3))
    moved[free] = (covariance @ (b - so_far_px / prior_px**2)[free].ravel()).reshape(-1, 3)
    for place, n in enumerate(free):
        block = slice(3 * place, 3 * place + 3)
        information[n] = np.linalg.inv(covariance[block, block])
    return moved, information


def _compose(residual: FloatArray, moved_px: FloatArray, intrinsics: Sequence[Intrinsics], k: Intrinsics) -> None:
    """Add displacements (N, 3), seen after the warp by the residual so far, to that residual, in place."""
    radius = _radius_px(k)
    for row, step, own in zip(residual, moved_px, intrinsics, strict=True):
        row[1] += step[1] * own.fx_px / k.fx_px * row[0]
        row[2] += step[2] * own.fy_px / k.fy_px * row[0]
        row[0] *= 1.0 + step[0] / radius


def _in_pixels(residual: FloatArray, intrinsics: Sequence[Intrinsics], k: Intrinsics) -> FloatArray:
    """Return residuals (N, 3) as displacements in the grid of the reference."""
    zoom = np.array([own.fx_px / k.fx_px for own in intrinsics]) * residual[:, 0]
    radial_px = (residual[:, 0] - 1.0) * _radius_px(k)
    return np.asarray(np.column_stack([radial_px, residual[:, 1:] / zoom[:, None]]), np.float64)


def _radius_px(k: Intrinsics) -> float:
    return corner_radius_px(k.width, k.height, k.cx_px, k.cy_px)
