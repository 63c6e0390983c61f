# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import numpy as np
import pytest

from dualfocus_ros.camera.steady import MIN_PICTURES, PICTURES, LightWatch, SteadyBrightness, let_settle


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


def test_it_waits_for_white_balance_too() -> None:
    steady = SteadyBrightness()
    answers = []
    for i in range(20):
        drift = 30.0 * 0.6**i
        answers.append(
            steady.add(np.full((48, 64, 3), (90.0 + drift, 90.0, 90.0 - drift)).round().astype(np.uint8))
        )
    assert not any(answers[:8]) and answers[-1]


def test_waiting_ends_when_it_is_steady_and_in_time() -> None:
    levels = iter([100.0 * (1.0 - 0.7**i) for i in range(200)])
    taken = []

    def read() -> np.ndarray:
        taken.append(next(levels))
        return picture(taken[-1])

    let_settle(read, 60.0)
    assert taken[-1] > 98.0 and len(taken) < 40
    flicker = iter([40.0, 90.0] * 100000)
    start = time.monotonic()
    let_settle(lambda: picture(next(flicker)), 0.1)
    assert 0.1 <= time.monotonic() - start < 5.0


def sweep(watch: LightWatch, level: float, pictures: int = MIN_PICTURES, dtype: type = np.uint8) -> bool:
    for i in range(pictures):
        watch.add(picture(level + i, dtype))
    return watch.changed()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_sweep_in_another_light_is_noticed(dtype: type) -> None:
    watch = LightWatch(1.4)
    assert not sweep(watch, 100.0, dtype=dtype)
    assert not sweep(watch, 130.0, dtype=dtype)
    assert not sweep(watch, 75.0, dtype=dtype)
    assert sweep(watch, 150.0, dtype=dtype)
    assert sweep(watch, 60.0, dtype=dtype)
    assert sweep(watch, 0.0, dtype=dtype)
    watch.restart()
    assert not sweep(watch, 0.0, dtype=dtype)
    assert sweep(watch, 100.0, dtype=dtype)


def test_a_sweep_that_was_cut_off_counts_with_the_next() -> None:
    watch = LightWatch(1.4)
    assert not sweep(watch, 100.0)
    assert not sweep(watch, 200.0, pictures=MIN_PICTURES - 1)
    assert sweep(watch, 200.0, pictures=1)
