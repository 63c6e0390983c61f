# SPDX-License-Identifier: Apache-2.0
"""What can be said of a depth image without its truth: coverage, confidence, stability, flatness of a plane.

None of it is an error: a depth that is constant and wrong is stable and flat. It tells settings and engines apart
on recordings of one's own, where no better depth is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.metrics import covered_mask
from dualfocus_ros.types import DepthEstimate, FloatImage

# The plane is sought among this many points, with this many tries of three points; enough to find a plane that
# fills a fifth of the image with a chance of 1 - (1 - 0.2^3)^512 = 0.98.
PLANE_POINTS = 4096
PLANE_TRIES = 512
# The tries are judged in so many blocks: one at once would not fit into the cache of a processor.
PLANE_BLOCKS = 16
# Points whose depth is within this fraction of the plane's belong to it.
PLANE_TOLERANCE = 0.03


@dataclass(frozen=True)
class Plausibility:
    """The numbers of one depth image, or the mean of several; NaN: not known.

    Attributes:
        coverage: fraction of the pixels that have an estimate.
        confidence: mean confidence of these.
        instability: median of |depth - depth of the stack before| / depth, where both have an estimate. It counts
            everything that moved in the scene, too.
        plane_residual: how far the points of the largest plane (indoors mostly the floor, a wall or a table) lie
            off it along their ray, as the root mean square fraction of their depth.
        plane_share: fraction of the points that belong to that plane; the residual of a small one says little.
    """

    coverage: float
    confidence: float
    instability: float
    plane_residual: float
    plane_share: float

    @classmethod
    def mean(cls, items: list[Plausibility]) -> Plausibility:
        """Return the mean of each number over the depth images where it is known.

        Raises:
            EvaluationError: if there are none.
        """
        if not items:
            raise EvaluationError("expected at least one depth image to average over, got none")
        known = ([v for item in items if math.isfinite(v := getattr(item, f.name))] for f in fields(cls))
        return cls(*(float(np.mean(values)) if values else math.nan for values in known))


def look_at(estimate: DepthEstimate, before_m: FloatImage | None = None) -> Plausibility:
    """Describe one estimate.

    Args:
        estimate: its depth; not finite or not above 0 is no estimate.
        before_m: (H, W) metres, the depth of the stack before; None or another shape: instability is not known.
    """
    depth_m = estimate.depth_m
    known = covered_mask(depth_m)
    if not known.any():
        return Plausibility(0.0, math.nan, math.nan, math.nan, math.nan)
    instability = math.nan
    if before_m is not None and before_m.shape == depth_m.shape:
        both = known & covered_mask(before_m)
        if both.any():
            instability = float(np.median(np.abs(depth_m[both] - before_m[both]) / depth_m[both]))
    residual, share = plane_residual(depth_m, known)
    return Plausibility(
        float(known.mean()), float(estimate.confidence[known].mean()), instability, residual, share
    )


def plane_residual(depth_m: FloatImage, known: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the relative root mean square residual of the largest plane, and the share of points on it.

    A plane is linear in inverse depth over the image: 1/z = a x + b y + c, with x and y in pixels, whatever the
    focal length; so the residual times the depth is the relative error along the ray. Found by random sampling of
    three points (Fischler and Bolles 1981, with fixed random numbers), then least squares over the points on it.

    Args:
        depth_m: (H, W) metres.
        known: (H, W) where there is depth.

    Returns:
        Both NaN with fewer than 3 points, or where all lie on a line of the image.
    """
    at = np.flatnonzero(known)
    at = at[:: max(1, math.ceil(at.size / PLANE_POINTS))]
    if at.size < 3:
        return math.nan, math.nan
    height, width = depth_m.shape
    y, x = np.divmod(at, width)
    rows = np.stack([x / width - 0.5, y / height - 0.5, np.ones(at.size)], axis=1)
    z = depth_m.reshape(-1)[at].astype(np.float64)
    triples = np.random.default_rng(0).integers(0, at.size, (PLANE_TRIES, 3))
    triples = triples[np.abs(np.linalg.det(rows[triples])) > 1e-6]
    if not triples.size:
        return math.nan, math.nan
    planes = np.linalg.solve(rows[triples], (1.0 / z)[triples][..., None])[..., 0]  # (tries, 3)
    scaled = rows * z[:, None]  # times a plane: 1 where a point is on it, 1 and its relative distance else
    counts = np.concatenate([_count_on(block, scaled) for block in np.array_split(planes, PLANE_BLOCKS)])
    on_it = np.abs(scaled @ planes[int(np.argmax(counts))] - 1.0) < PLANE_TOLERANCE
    # Relative residuals are what is squared: rows times depth, to be 1.
    plane, *_ = np.linalg.lstsq(scaled[on_it], np.ones(int(on_it.sum())), rcond=None)
    residual = scaled[on_it] @ plane - 1.0
    return float(np.sqrt(np.mean(residual**2))), float(on_it.mean())


def _count_on(planes: npt.NDArray[np.float64], scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return how many points (points, 3), scaled by their depth, lie on each plane (planes, 3)."""
    relative = planes @ scaled.T
    relative -= 1.0
    np.abs(relative, out=relative)
    counts: npt.NDArray[np.intp] = np.count_nonzero(relative < PLANE_TOLERANCE, axis=1)
    return counts
