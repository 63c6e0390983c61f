# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from dualfocus_ros.calibration.placing import wanted_placements
from dualfocus_ros.errors import CalibrationError


@pytest.mark.parametrize("count", [3, 5, 8, 12, 40])
def test_placements_cover_the_range_evenly_and_not_in_order(count: int) -> None:
    wanted = wanted_placements(count, 0.25, 2.0)
    dpt = np.array([1.0 / w.distance_m for w in wanted])
    np.testing.assert_allclose(np.sort(dpt), np.linspace(0.5, 4.0, count))
    if count >= 5:
        # Distance must not go with time, or drift could not be told from the curve.
        assert abs(np.corrcoef(np.arange(count), dpt)[0, 1]) <= 0.5 + 1e-9
        assert np.abs(np.diff(dpt)).min() > 0.9 * 3.5 / (count - 1)
    assert all(10.0 < np.hypot(w.tilt_x_deg, w.tilt_y_deg) < 45.0 for w in wanted)
    assert all(f"{w.distance_m:.2f} m" in w.words for w in wanted)


@pytest.mark.parametrize(
    ("count", "near_m", "far_m"), [(2, 0.2, 1.0), (99, 0.2, 1.0), (8, 1.0, 0.2), (8, 0.0, 1.0), (8, 0.2, np.inf)]
)
def test_no_range_is_an_error(count: int, near_m: float, far_m: float) -> None:
    with pytest.raises(CalibrationError):
        wanted_placements(count, near_m, far_m)
