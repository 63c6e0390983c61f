# SPDX-License-Identifier: Apache-2.0
"""Errors by distance: depth from focus is a near-range sensor, and one mean over all distances hides that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.metrics import covered_mask, fill_nearest, valid_mask
from dualfocus_ros.types import FloatImage

BANDS = 4
# Where focus reaches to infinity, the last band starts where it would with this many times the nearest distance.
REACH = 20.0


@dataclass(frozen=True)
class BandScore:
    """The errors of the pixels whose true depth lies in one band of distance.

    Attributes:
        near_m: start of the band, metres.
        far_m: its end; may be infinite.
        pixels: how many there are; without any, the errors are NaN.
        abs_rel: mean of |error| / truth.
        rmse_m: root mean squared error, metres.
        bias: mean of error / truth: below 0, depth comes out too near.
    """

    near_m: float
    far_m: float
    pixels: int
    abs_rel: float
    rmse_m: float
    bias: float

    @classmethod
    def merged(cls, scores: Sequence[BandScore]) -> BandScore:
        """Return the scores of the same band of several stacks as one, every pixel counting the same.

        Bands are fractions of the focus range; of stacks with other ranges each gives its own.
        """
        near_m, far_m = min(s.near_m for s in scores), max(s.far_m for s in scores)
        seen = [s for s in scores if s.pixels > 0]
        if not seen:
            return cls(near_m, far_m, 0, math.nan, math.nan, math.nan)
        pixels = np.array([s.pixels for s in seen])
        abs_rel, mse, bias = np.average([(s.abs_rel, s.rmse_m**2, s.bias) for s in seen], axis=0, weights=pixels)
        return cls(near_m, far_m, int(pixels.sum()), float(abs_rel), math.sqrt(mse), float(bias))


def score_bands(
    depth_m: FloatImage, truth_m: FloatImage, focus_range_m: tuple[float, float], bands: int = BANDS
) -> tuple[BandScore, ...]:
    """Score one estimate in bands of the focus range, nearest first, each as many times farther than the last.

    Args:
        depth_m: (H, W) metres; pixels without an estimate take the nearest one.
        truth_m: (H, W) metres; not finite is invalid.
        focus_range_m: nearest and farthest focus distance; truth outside is not scored.
        bands: at least 1.

    Raises:
        EvaluationError: if there is no estimate at all, or no band.
    """
    if bands < 1:
        raise EvaluationError(f"expected at least 1 band of distance, got {bands}")
    near_m, far_m = focus_range_m
    edges = np.geomspace(near_m, far_m if math.isfinite(far_m) else REACH * near_m, bands + 1)
    edges[-1] = far_m
    valid = valid_mask(truth_m, focus_range_m)
    filled = fill_nearest(depth_m, covered_mask(depth_m))[valid].astype(np.float64)
    truth = truth_m[valid].astype(np.float64)
    band_of = np.searchsorted(edges[1:-1], truth, side="right")
    scores = []
    for i in range(bands):
        t, error = truth[band_of == i], (filled - truth)[band_of == i]
        numbers = [math.nan] * 3
        if t.size > 0:
            numbers = [np.mean(np.abs(error) / t), np.sqrt(np.mean(error**2)), np.mean(error / t)]
        scores.append(BandScore(float(edges[i]), float(edges[i + 1]), t.size, *map(float, numbers)))
    return tuple(scores)
