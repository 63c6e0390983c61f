# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from dualfocus_ros.camera.steady import PICTURES, SteadyBrightness


def picture(level: float, dtype: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(int(level)).normal(0.0, 2.0, (120, 160, 3))
    scale = 257.0 if dtype is np.uint16 else 1.0
    return np.clip((level + noise) * scale, 0, 255 * scale).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_it_waits_for_as_long_as_the_exposure_changes(dtype: type) -> None:
    steady = SteadyBrightness()
    levels = [100.0 * (1.0 - 0.7**i) for i in range(40)]  # an automatic that closes 30 % of the gap a frame
    first = next(i for i, level in enumerate(levels) if steady.add(picture(level, dtype)))
    assert levels[first] > 98.0
    assert levels[first - PICTURES + 1] > 97.0


def test_it_needs_some_pictures_and_no_more() -> None:
    steady = SteadyBrightness()
    assert [steady.add(picture(80.0)) for _ in range(PICTURES)] == [False] * (PICTURES - 1) + [True]
