# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from dualfocus_ros.errors import ParameterError
from dualfocus_ros.sweep import SweepConfig, focus_positions_m


def test_positions_are_evenly_spaced_in_dioptres_by_default():
    positions = focus_positions_m(SweepConfig(near_m=0.4, far_m=5.0, slices=10))
    assert np.diff(1 / np.array(positions)) == pytest.approx([-(2.5 - 0.2) / 9] * 9)
    assert positions[0] == pytest.approx(0.4) and positions[-1] == pytest.approx(5.0)


def test_positions_can_reach_infinity():
    assert focus_positions_m(SweepConfig(near_m=0.5, far_m=math.inf, slices=3)) == (0.5, 1.0, math.inf)


def test_positions_in_metres_and_explicit():
    assert focus_positions_m(SweepConfig(near_m=1, far_m=3, slices=3, spacing="metres")) == (1.0, 2.0, 3.0)
    assert focus_positions_m(SweepConfig(distances_m=(3.0, 1.0, 2.0))) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"near_m": 2.0, "far_m": 1.0}, "near_m < sweep.far_m, got 2.0 and 1.0"),
        ({"near_m": -1.0}, "near_m"),
        ({"near_m": math.nan}, "near_m"),
        ({"slices": 2}, "at least 3, got 2"),
        ({"spacing": "log"}, "'log'"),
        ({"pattern": "random"}, "'random'"),
        ({"distances_m": (1.0, 2.0)}, "3 or more"),
        ({"distances_m": (1.0, 1.0, 2.0)}, "distinct"),
        ({"distances_m": (1.0, -1.0, 2.0)}, "above 0"),
        ({"far_m": math.inf, "spacing": "metres"}, "finite sweep.far_m"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ParameterError, match=message):
        SweepConfig(**values)
