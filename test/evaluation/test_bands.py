# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.bands import REACH, BandScore, score_bands


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_by_hand() -> None:
    # Bands of 1 to 16 m: from 1, 2, 4 and 8 m on; an edge belongs to the band that it starts.
    truth = row(1.0, 1.5, 2.0, 3.0, 8.0, 16.0, 0.5, 17.0)
    found = row(1.5, 1.5, 1.0, 3.0, 4.0, 24.0, 9.0, 9.0)
    first, second, third, last = score_bands(found, truth, (1.0, 16.0))
    assert [s.pixels for s in (first, second, third, last)] == [2, 2, 0, 2]
    assert (first.near_m, first.far_m, last.near_m, last.far_m) == pytest.approx((1.0, 2.0, 8.0, 16.0))
    assert (first.abs_rel, first.bias, first.rmse_m) == pytest.approx((0.25, 0.25, math.sqrt(0.125)))
    assert (second.abs_rel, second.bias) == pytest.approx((0.25, -0.25))
    assert math.isnan(third.abs_rel) and math.isnan(third.rmse_m)
    assert (last.abs_rel, last.bias, last.rmse_m) == pytest.approx((0.5, 0.0, math.sqrt(40.0)))


def test_a_hole_takes_the_nearest_estimate() -> None:
    (only,) = score_bands(row(2.0, np.nan), row(2.0, 4.0), (1.0, 8.0), 1)
    assert (only.pixels, only.abs_rel) == (2, pytest.approx(0.25))


def test_the_last_band_reaches_to_infinity() -> None:
    scores = score_bands(row(1.0, 90.0), row(1.0, 100.0), (1.0, math.inf), 2)
    assert scores[0].far_m == pytest.approx(math.sqrt(REACH)) and math.isinf(scores[1].far_m)
    assert [s.pixels for s in scores] == [1, 1]


def test_bands_of_several_stacks_are_weighted_by_pixels() -> None:
    merged = BandScore.merged(
        [
            BandScore(1.0, 2.0, 1, 0.4, 2.0, 0.4),
            BandScore(0.9, 2.1, 3, 0.0, 0.0, 0.0),
            BandScore(1, 2, 0, math.nan, math.nan, math.nan),
        ]
    )
    assert merged == BandScore(0.9, 2.1, 4, 0.1, 1.0, 0.1)
    empty = BandScore.merged([BandScore(1.0, 2.0, 0, math.nan, math.nan, math.nan)])
    assert empty.pixels == 0 and math.isnan(empty.abs_rel)


def test_no_band_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 1 band"):
        score_bands(row(1.0), row(1.0), (0.5, 2.0), 0)
