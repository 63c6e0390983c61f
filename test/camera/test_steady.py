# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import numpy as np
import pytest

from dualfocus_ros.camera.steady import FIRST_NEEDED, PICTURES, LightWatch, SteadyBrightness, let_settle


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
        colour = np.full((48, 64, 3), (90.0 + drift, 90.0, 90.0 - drift))
        answers.append(steady.add(colour.round().astype(np.uint8)))
    assert not any(answers[:8]) and answers[-1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("level", [255.0, 0.0])
def test_a_picture_that_shows_nothing_is_not_steady(level: float, dtype: type) -> None:
    steady = SteadyBrightness()
    steady.add(picture(255.0, dtype))  # 16 bits tell by their brightest how many of them are used
    assert not any(steady.add(picture(level, dtype)) for _ in range(30))
    for _ in range(PICTURES - 1):
        assert not steady.add(picture(120.0, dtype))
    assert steady.add(picture(120.0, dtype))


def test_a_dark_colour_is_not_a_black_picture() -> None:
    steady = SteadyBrightness()
    lamplight = np.full((48, 64, 3), (90, 60, 8), np.uint8)
    assert [steady.add(lamplight) for _ in range(PICTURES)][-1]
    steady = SteadyBrightness()
    yuyv = np.full((48, 64, 2), (16, 128), np.uint8)
    assert not any(steady.add(yuyv) for _ in range(2 * PICTURES))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_bits_that_lie_low_in_16_are_levels_all_the_same(bits: int) -> None:
    ramp = [np.full((48, 64), 120.0 * 0.92**i * 2.0 ** (bits - 8)).astype(np.uint16) for i in range(30)]
    ramp[0][0, 0] = 2**bits - 1
    steady = SteadyBrightness()
    # 8 % a picture: no six are alike before it is black.
    assert not any(steady.add(one) for one in ramp)
    watch = LightWatch(1.4)
    watch.restart(ramp[0])
    assert not changed(watch, ramp[1])
    assert changed(watch, ramp[10])


class Automatic:
    """A camera whose automatic exposure goes `rate` of the way to level 110 a picture, `latency` pictures late."""

    def __init__(self, light: float, rate: float, latency: int = 0, period_s: float = 0.005) -> None:
        self.light, self.rate, self.left, self.period_s = light, rate, latency, period_s
        self.exposure = 1.0

    @property
    def level(self) -> float:
        return min(110.0 * self.light * self.exposure, 255.0)

    def read(self) -> np.ndarray:
        time.sleep(self.period_s)
        image = picture(self.level)
        self.left -= 1
        if self.left < 0:
            self.exposure *= (110.0 / self.level) ** self.rate
        return image


@pytest.mark.parametrize("light", [0.3, 8.0])
@pytest.mark.parametrize(("rate", "latency"), [(0.9, 0), (0.2, 0), (0.1, 0), (0.3, 15)])
def test_waiting_ends_when_the_exposure_is_found(light: float, rate: float, latency: int) -> None:
    camera = Automatic(light, rate, latency)
    assert let_settle(camera.read, 20.0)
    assert camera.level == pytest.approx(110.0, rel=0.05)


def test_waiting_ends_in_time_and_says_that_nothing_was_found() -> None:
    camera = Automatic(8.0, rate=0.002)
    start = time.monotonic()
    assert not let_settle(camera.read, 0.6)
    assert 0.6 <= time.monotonic() - start < 5.0
    assert not let_settle(camera.read, 0.0)


def changed(watch: LightWatch, *pictures: np.ndarray, count: int = FIRST_NEEDED) -> bool:
    """Return whether a light has changed after so many of each of these pictures."""
    for image in pictures:
        for _ in range(count):
            watch.add(image)
    return watch.changed()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_another_light_is_noticed(dtype: type) -> None:
    def of(level: float) -> np.ndarray:
        return picture(level, dtype)

    watch = LightWatch(1.4)
    watch.restart(of(100.0))
    assert not changed(watch, of(100.0), of(130.0), of(75.0))
    assert not changed(watch, of(150.0), of(60.0), of(150.0), count=FIRST_NEEDED - 1)
    assert changed(watch, of(150.0), count=1)
    watch.restart(of(150.0))
    assert not changed(watch, of(150.0), count=50)
    assert changed(watch, of(60.0))
    watch.restart(of(0.0))
    assert not changed(watch, of(2.0), count=50)
    assert changed(watch, of(100.0))


def test_a_light_that_changes_all_the_time_is_followed_ever_more_slowly() -> None:
    watch, dark, bright = LightWatch(1.4), picture(60.0), picture(120.0)
    watch.restart(dark)
    found = []
    for i in range(3000):
        image = (bright, dark)[i // 30 % 2]  # another light every thirty pictures
        watch.add(image)
        if watch.changed():
            found.append(i)
            watch.restart(image)
    # After 12 pictures in another light, and after 24; thirty are never 48 in a row.
    assert found == [11, 53]
    # Once it was calm, a change is followed at once.
    watch.restart(dark)
    assert not changed(watch, dark, count=100)
    assert changed(watch, bright)
