# SPDX-License-Identifier: Apache-2.0
"""Depth metrics of one stack, as the depth-from-focus literature defines them.

Every pixel with a true depth inside the focus range counts. Where the estimate leaves such a pixel out, the
nearest estimate stands in, so that leaving pixels out never pays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.types import FloatImage, Mask

# Bump: the Hessian's norm is clipped here, and a second difference reaches 2 px far.
BUMP_CLIP = 0.05
BUMP_MARGIN_PX = 2
DELTA_BASE = 1.25
# Fractions of the pixels, most confident first, at which the sparsification curve is sampled.
SPARSIFICATION_STEPS = 100


@dataclass(frozen=True)
class DepthMetrics:
    """The numbers of one stack, or the mean of several.

    Attributes:
        mse_m2: mean squared error, square metres.
        rmse_m: root of it, metres.
        log_rmse: root mean squared difference of the natural logarithms.
        abs_rel: mean of |error| / truth.
        sq_rel_m: mean of error^2 / truth, metres.
        delta1: fraction with max(estimate / truth, truth / estimate) below 1.25; `delta2`, `delta3`:
            below 1.25^2, 1.25^3.
        delta2: see `delta1`.
        delta3: see `delta1`.
        bump: 100 times the mean norm of the Hessian of the error, clipped at 0.05.
        coverage: fraction of the scored pixels that have an estimate.
        sparsification: area under the AbsRel curve as the least confident pixels are dropped, over the
            area under random dropping: 1 tells nothing, lower is better. NaN without confidence.
    """

    mse_m2: float
    rmse_m: float
    log_rmse: float
    abs_rel: float
    sq_rel_m: float
    delta1: float
    delta2: float
    delta3: float
    bump: float
    coverage: float
    sparsification: float

    @classmethod
    def mean(cls, items: list[DepthMetrics]) -> DepthMetrics:
        """Return the mean of each number over the stacks.

        Raises:
            EvaluationError: if there are none.
        """
        if not items:
            raise EvaluationError("expected at least one stack with metrics to average, got none")
        return cls(*(float(np.mean([getattr(item, f.name) for item in items])) for f in fields(cls)))


def score(
    depth_m: FloatImage,
    truth_m: FloatImage,
    focus_range_m: tuple[float, float],
    confidence: FloatImage | None = None,
) -> DepthMetrics:
    """Compare one estimate with the truth.

    Args:
        depth_m: (H, W) metres; not finite or not above 0 is no estimate.
        truth_m: (H, W) metres; not finite is invalid.
        focus_range_m: nearest and farthest focus distance of the stack; truth outside is not scored.
        confidence: (H, W), higher means smaller error; scores how well it ranks the pixels.

    Raises:
        EvaluationError: if shapes differ, nothing is to be scored, or there is no estimate at all.
    """
    for name, other in (("ground truth", truth_m), ("confidence", confidence)):
        if other is not None and other.shape != depth_m.shape:
            raise EvaluationError(f"expected {name} of shape {depth_m.shape} as the depth, got {other.shape}")
    valid = valid_mask(truth_m, focus_range_m)
    if not valid.any():
        raise EvaluationError(f"no true depth inside the focus range {focus_range_m} m: nothing to score")
    covered = covered_mask(depth_m)
    filled = fill_nearest(depth_m, covered).astype(np.float64)
    truth = truth_m.astype(np.float64)
    p, t = filled[valid], truth[valid]
    error = p - t
    ratio = np.maximum(p / t, t / p)
    mse = float(np.mean(error**2))
    ranking = np.nan
    if confidence is not None:
        trust = np.where(covered, confidence, -1.0)[valid]
        ranking = sparsification(np.abs(error) / t, trust)
    return DepthMetrics(
        mse_m2=mse,
        rmse_m=float(np.sqrt(mse)),
        log_rmse=float(np.sqrt(np.mean(np.log(p / t) ** 2))),
        abs_rel=float(np.mean(np.abs(error) / t)),
        sq_rel_m=float(np.mean(error**2 / t)),
        delta1=float(np.mean(ratio < DELTA_BASE)),
        delta2=float(np.mean(ratio < DELTA_BASE**2)),
        delta3=float(np.mean(ratio < DELTA_BASE**3)),
        bump=bump(filled - np.where(valid, truth, 0.0), valid),
        coverage=float(np.mean(covered[valid])),
        sparsification=ranking,
    )


def valid_mask(truth_m: FloatImage, focus_range_m: tuple[float, float]) -> Mask:
    """Return (H, W) bool: truth finite and inside the focus range (metres, ends included)."""
    near_m, far_m = focus_range_m
    return np.isfinite(truth_m) & (truth_m >= near_m) & (truth_m <= far_m)


def covered_mask(depth_m: FloatImage) -> Mask:
    """Return (H, W) bool: where a depth in metres is an estimate, that is finite and above 0."""
    return np.isfinite(depth_m) & (depth_m > 0.0)


def fill_nearest(depth_m: FloatImage, covered: Mask) -> FloatImage:
    """Return a copy of (H, W) with every pixel outside `covered` taken from the nearest one inside.

    Raises:
        EvaluationError: if nothing is covered.
    """
    if covered.all():
        return depth_m
    if not covered.any():
        raise EvaluationError("expected an estimate with at least one finite depth above 0, got none")
    holes = np.where(covered, 0, 255).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(
        holes, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value_of_label = np.zeros(int(labels.max()) + 1, depth_m.dtype)
    value_of_label[labels[covered]] = depth_m[covered]
    filled: FloatImage = value_of_label[labels]
    return filled


def bump(error_m: npt.NDArray[np.float64], valid: Mask) -> float:
    """Return 100 x mean over valid pixels of min(0.05, Frobenius norm of the Hessian of (H, W) error).

    Central differences, twice. Pixels within 2 px of an invalid one are left out, as their differences would
    reach over it; NaN where none remains, or the image is smaller than that.
    """
    if min(error_m.shape) <= 2 * BUMP_MARGIN_PX:
        return float("nan")
    gy, gx = np.gradient(error_m)
    gyy, gyx = np.gradient(gy)
    gxy, gxx = np.gradient(gx)
    norm = np.sqrt(gxx**2 + gxy**2 + gyx**2 + gyy**2)
    size = 2 * BUMP_MARGIN_PX + 1
    inner = cv2.erode(valid.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    return float(100.0 * np.mean(np.minimum(norm[inner], BUMP_CLIP))) if inner.any() else float("nan")


def sparsification_curve(
    error: npt.NDArray[np.float64], trust: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean error of the most trusted 1 %, 2 % ... 100 % of the pixels: (SPARSIFICATION_STEPS,).

    Args:
        error: (K,) at least 0; K at least 1.
        trust: (K,) higher means smaller error; minus the error itself gives the best curve that there can be.
    """
    running = np.cumsum(error[np.argsort(-trust, kind="stable")]) / np.arange(1, error.size + 1)
    # Rounded up, in whole numbers.
    kept = -(-np.arange(1, SPARSIFICATION_STEPS + 1) * error.size // SPARSIFICATION_STEPS)
    curve: npt.NDArray[np.float64] = running[kept - 1]
    return curve


def sparsification(error: npt.NDArray[np.float64], trust: npt.NDArray[np.float64]) -> float:
    """Return the area under `sparsification_curve` over that of random dropping (the mean error).

    Args:
        error: (K,) at least 0.
        trust: (K,) higher means smaller error.
    """
    curve = sparsification_curve(error, trust)
    total = float(curve[-1])
    return float(np.mean(curve)) / total if total > 0.0 else 0.0
