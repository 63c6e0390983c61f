# SPDX-License-Identifier: Apache-2.0
"""What a report with pictures keeps of a stack while an evaluation runs.

Nothing of a stack's slices is kept: what is to be shown of them is taken when the stack is seen, at a few places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.align import Breathing, metadata_intrinsics, reference_to_slice
from dualfocus_ros.evaluation.metrics import valid_mask
from dualfocus_ros.evaluation.results import Observation, StackLook, StackResult
from dualfocus_ros.types import FloatImage, FocalStack, Image

FloatArray = npt.NDArray[np.float64]

PICTURE_PX = 480  # pictures are kept with their longer side this long at most
SPOTS = 4
# Error is averaged over a square this large before the worst places are sought: not for a single stray pixel.
SPOT_SIDE = 1 / 64  # of the width
SPOT_DISTANCE = 1 / 6  # of the diagonal
# Sharpness at a place: the mean of the modified Laplacian (Nayar and Nakagawa 1994) in a window.
WINDOW_SIDE = 1 / 32  # of the width
MIN_WINDOW_PX = 9
PRESMOOTH_SIGMA_PX = 0.8


@dataclass(frozen=True, eq=False)
class Spot:
    """A place where the estimate is among the worst of its stack.

    Attributes:
        x: from the left edge, as a fraction of the width.
        y: from the upper edge, as a fraction of the height.
        depth_m: estimated.
        truth_m: NaN where it is not known.
        confidence: of the estimate.
        sharpness: (N,) at that place in each slice, 1 in the sharpest; NaN where the slice does not see it.
    """

    x: float
    y: float
    depth_m: float
    truth_m: float
    confidence: float
    sharpness: FloatArray


@dataclass(frozen=True, eq=False)
class KeptStack:
    """What is kept of one observation; arrays are copies of its own, h and w at most PICTURE_PX.

    Attributes:
        engine: name of the engine.
        path: of the stack.
        family: of the stack.
        result: its scores, where there is a truth.
        look: what can be said without, where that was asked for.
        focus_dpt: (N,) focus positions, nearest first.
        all_in_focus: (h, w, 3) RGB.
        depth_m: (h, w).
        truth_m: (h, w), NaN where it is not scored; None where there is none.
        confidence: (h, w).
        spots: worst first.
    """

    engine: str
    path: str
    family: str
    result: StackResult | None
    look: StackLook | None
    focus_dpt: FloatArray
    all_in_focus: npt.NDArray[np.uint8]
    depth_m: FloatImage
    truth_m: FloatImage | None
    confidence: FloatImage
    spots: tuple[Spot, ...]

    @classmethod
    def of(cls, observation: Observation) -> KeptStack:
        """Take what is to be shown from an observation; some milliseconds."""
        stack, estimate = observation.stack, observation.estimate
        depth_m = _small(np.where(estimate.depth_m > 0.0, estimate.depth_m, np.nan))
        depth_m[np.isinf(depth_m)] = np.nan
        confidence = _small(estimate.confidence)
        truth_m = None
        if observation.truth_m is not None:
            truth_m = _small(observation.truth_m)
            truth_m[~valid_mask(truth_m, stack.focus_range_m)] = np.nan
        path, family = name_of(observation)
        return cls(
            observation.engine,
            path,
            family,
            observation.result,
            observation.look,
            1.0 / stack.focus_distance_m,
            _small(estimate.all_in_focus),
            depth_m,
            truth_m,
            confidence,
            _spots(observation, depth_m, truth_m, confidence),
        )


def name_of(observation: Observation) -> tuple[str, str]:
    """Return path and family of the stack."""
    named = observation.result or observation.look
    return (str(named.path), named.family) if named is not None else ("", "")


def _small(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy that is no larger than PICTURE_PX; numbers are taken, colours averaged."""
    height, width = image.shape[:2]
    scale = PICTURE_PX / max(height, width)
    if scale >= 1.0:
        return image.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST)


def _spots(
    observation: Observation, depth_m: FloatImage, truth_m: FloatImage | None, confidence: FloatImage
) -> tuple[Spot, ...]:
    """Return where the relative error is largest; without a truth, where the confidence is smallest."""
    badness = -confidence if truth_m is None else np.abs(depth_m - truth_m) / truth_m
    places = worst_places(np.where(np.isfinite(depth_m), badness, np.nan).astype(np.float32))
    height, width = depth_m.shape
    at = [((x + 0.5) / width, (y + 0.5) / height) for y, x in places]
    sharpness = sharpness_at(observation.stack, at, observation.breathing)
    return tuple(
        Spot(
            *fraction,
            float(depth_m[y, x]),
            math.nan if truth_m is None else float(truth_m[y, x]),
            float(confidence[y, x]),
            curve,
        )
        for (y, x), fraction, curve in zip(places, at, sharpness, strict=True)
    )


def worst_places(badness: FloatImage, count: int = SPOTS) -> list[tuple[int, int]]:
    """Return the pixels (y, x) in whose neighbourhood badness is highest, worst first, spread over the image.

    Args:
        badness: (H, W), NaN where not known: such a pixel is never returned.
        count: how many at most; fewer where the image is full.
    """
    height, width = badness.shape
    known = np.isfinite(badness)
    side = 2 * round(SPOT_SIDE * width / 2) + 1
    weights = cv2.blur(known.astype(np.float32), (side, side))
    mean = cv2.blur(np.where(known, badness, 0.0).astype(np.float32), (side, side)) / np.maximum(weights, 1e-6)
    mean[~known] = -np.inf
    radius_px = round(SPOT_DISTANCE * math.hypot(height, width))
    places: list[tuple[int, int]] = []
    while len(places) < count:
        row, column = divmod(int(np.argmax(mean)), width)
        if not np.isfinite(mean[row, column]):
            break
        places.append((row, column))
        cv2.circle(mean, (column, row), radius_px, -math.inf, cv2.FILLED)
    return places


def sharpness_at(stack: FocalStack, places: list[tuple[float, float]], breathing: Breathing) -> list[FloatArray]:
    """Return how sharp each slice is around places of the reference frame: for each (N,), 1 where it is sharpest.

    Slices are brought to the reference by what the metadata say of the field of view alone, to whole pixels.

    Args:
        stack: as captured.
        places: (x, y) as fractions of the width and the height.
        breathing: what the field of view of its slices is taken from.
    """
    intrinsics = metadata_intrinsics(stack, breathing)
    reference = intrinsics[stack.reference]
    found = np.full((len(places), len(stack.slices)), np.nan)
    for n, (s, k) in enumerate(zip(stack.slices, intrinsics, strict=True)):
        to_slice = reference_to_slice(reference, k)
        for i, (x, y) in enumerate(places):
            at = to_slice @ [x * reference.width - 0.5, y * reference.height - 0.5, 1.0]
            found[i, n] = _sharpness(s.image, round(at[0]), round(at[1]))
    highest = np.array([np.nanmax(row) if np.isfinite(row).any() else 1.0 for row in found])
    return list(found / np.where(highest > 0.0, highest, 1.0)[:, None])


def _sharpness(image: Image, x: int, y: int) -> float:
    """Return the mean modified Laplacian around a pixel; NaN outside of the image."""
    height, width = image.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        return math.nan
    half = max(MIN_WINDOW_PX, round(WINDOW_SIDE * width)) // 2 + 2
    window = image[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].astype(np.float32)
    grey = window if window.ndim == 2 else window.mean(axis=2)
    grey = cv2.GaussianBlur(grey, (0, 0), PRESMOOTH_SIGMA_PX)
    return float(np.abs(np.diff(grey, 2, axis=0)).mean() + np.abs(np.diff(grey, 2, axis=1)).mean())
