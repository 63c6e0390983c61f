# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.metrics import (
    DepthMetrics,
    bump,
    fill_nearest,
    score,
    sparsification,
    sparsification_curve,
    valid_mask,
)

RANGE_M = (0.5, 10.0)


def array(rows) -> np.ndarray:
    return np.array(rows, np.float32)


def test_by_hand() -> None:
    # Errors 0, 1, -2, 1 m at truths 1, 2, 4, 5 m: ratios 1, 1.5, 2, 1.2.
    metrics = score(array([[1, 3], [2, 6]]), array([[1, 2], [4, 5]]), RANGE_M)
    assert metrics.mse_m2 == pytest.approx(1.5)
    assert metrics.rmse_m == pytest.approx(math.sqrt(1.5))
    logs = [0.0, math.log(1.5), math.log(0.5), math.log(1.2)]
    assert metrics.log_rmse == pytest.approx(math.sqrt(sum(v * v for v in logs) / 4))
    assert metrics.abs_rel == pytest.approx((0 + 1 / 2 + 2 / 4 + 1 / 5) / 4)
    assert metrics.sq_rel_m == pytest.approx((0 + 1 / 2 + 4 / 4 + 1 / 5) / 4)
    # 1.25, 1.5625, 1.953125
    assert (metrics.delta1, metrics.delta2, metrics.delta3) == (0.5, 0.75, 0.75)
    assert metrics.coverage == 1.0
    assert math.isnan(metrics.sparsification)


def test_perfect_estimate() -> None:
    truth = np.random.default_rng(0).uniform(1, 5, (20, 30)).astype(np.float32)
    metrics = score(truth, truth, RANGE_M, np.ones_like(truth))
    assert metrics == DepthMetrics(0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0)


def test_only_truth_inside_the_focus_range_counts() -> None:
    truth = array([[0.4, 0.5, 2.0, 10.0, 11.0, np.nan, np.inf]])
    np.testing.assert_array_equal(valid_mask(truth, RANGE_M), [[0, 1, 1, 1, 0, 0, 0]])
    estimate = array([[99, 0.5, 2.0, 10.0, 99, 99, 99]])
    assert score(np.repeat(estimate, 9, 0), np.repeat(truth, 9, 0), RANGE_M).rmse_m == 0.0


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_a_pixel_left_out_is_filled_from_the_nearest(hole: float) -> None:
    estimate = array([[1, hole, hole, 4]])
    np.testing.assert_array_equal(fill_nearest(estimate, np.isfinite(estimate) & (estimate > 0)), [[1, 1, 4, 4]])
    metrics = score(estimate, array([[1, 2, 4, 4]]), RANGE_M)
    assert metrics.coverage == 0.5
    assert metrics.abs_rel == pytest.approx(0.5 / 4)


def test_filling_leaves_the_estimate_alone() -> None:
    estimate = array([[1, np.nan], [np.nan, np.nan]])
    score(estimate, array([[1, 1], [1, 1]]), RANGE_M)
    assert np.isnan(estimate).sum() == 3


def test_bump_of_a_paraboloid() -> None:
    y, x = np.mgrid[0:40, 0:50].astype(float)
    valid = np.zeros((40, 50), bool)
    valid[5:35, 5:45] = True
    # Hessian [[2a, b], [b, 2c]] everywhere: Frobenius norm sqrt(4a^2 + 2b^2 + 4c^2).
    a, b, c = 0.004, 0.003, 0.002
    expected = math.sqrt(4 * a * a + 2 * b * b + 4 * c * c)
    assert bump(a * x * x + b * x * y + c * y * y, valid) == pytest.approx(100 * expected)
    assert bump(0.3 * x - 0.7 * y + 5, valid) == pytest.approx(0, abs=1e-9)
    assert bump(5 * x * x, valid) == pytest.approx(5.0)


def test_bump_does_not_see_invalid_pixels() -> None:
    error = np.zeros((20, 20))
    valid = np.ones((20, 20), bool)
    valid[10, 10] = False
    error[10, 10] = 1e3
    assert bump(error, valid) == 0.0
    assert math.isnan(bump(error, np.zeros((20, 20), bool)))


def test_sparsification() -> None:
    error = np.repeat([0.0, 1.0], 50)
    # Perfect order: nothing is wrong until half of the pixels are in, then (k - 50) / k.
    perfect = np.mean([max(0, k - 50) / k for k in range(1, 101)]) / 0.5
    worst = np.mean([min(k, 50) / k for k in range(1, 101)]) / 0.5
    assert sparsification(error, -error) == pytest.approx(perfect)
    assert sparsification(error, error) == pytest.approx(worst)
    rng = np.random.default_rng(2)
    assert sparsification(rng.uniform(size=100_000), rng.uniform(size=100_000)) == pytest.approx(1, abs=0.01)


def test_confidence_where_there_is_no_estimate_is_ignored() -> None:
    truth = np.full((1, 100), 2.0, np.float32)
    estimate = truth.copy()
    estimate[0, 0], estimate[0, 1:10] = 4.0, np.nan
    confidence = np.full((1, 100), 0.5, np.float32)
    confidence[0, 1:10] = 1.0
    confidence[0, 0] = 0.1
    metrics = score(estimate, truth, RANGE_M, confidence)
    assert metrics.sparsification < 0.2


def test_mean_over_stacks() -> None:
    one = DepthMetrics(*range(11))
    other = DepthMetrics(*range(2, 13))
    assert DepthMetrics.mean([one, other]) == DepthMetrics(*range(1, 12))
    with pytest.raises(EvaluationError, match="at least one"):
        DepthMetrics.mean([])


@pytest.mark.parametrize(
    ("estimate", "truth", "confidence", "expected"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), None, "ground truth of shape"),
        (np.ones((2, 2)), np.ones((2, 2)), np.ones((1, 2)), "confidence of shape"),
        (np.ones((2, 2)), np.full((2, 2), 0.1), None, "nothing to score"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), None, "at least one finite depth"),
    ],
)
def test_what_cannot_be_scored(estimate, truth, confidence, expected: str) -> None:
    with pytest.raises(EvaluationError, match=expected):
        score(estimate, truth, RANGE_M, confidence)


def test_sparsification_curve_by_hand() -> None:
    error = np.repeat([0.0, 1.0], 50)
    curve = sparsification_curve(error, -error)
    assert curve == pytest.approx([max(0, k - 50) / k for k in range(1, 101)])
    # 3 pixels: each hundredth takes one more as soon as it has begun.
    few = sparsification_curve(np.array([3.0, 6.0, 0.0]), np.array([1.0, 2.0, 3.0]))
    assert few[[0, 32, 33, 65, 66, 99]] == pytest.approx([0, 0, 3, 3, 3, 3])
