# SPDX-License-Identifier: Apache-2.0
"""Brightness of pictures: when automatic exposure has found its value, and when the light has changed since."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.image_encodings import bits_used
from dualfocus_ros.types import Image

# Pictures in a row, and how much their brightness may differ: 1 % of it and half a grey level of 8 bits.
PICTURES, RELATIVE, LEVELS = 6, 0.01, 0.5
# Automatics take some pictures, and some time, before they begin; so long nothing counts as found.
UNJUDGED, LEAST_S = 3, 0.3
# Where most of a picture is brighter or darker than these levels of 8 bits, brightness hardly shows a change.
BURNT_OUT, BLACK, MOST = 230.0, 18.0, 0.5
# Grey levels of 8 bits below which there is nothing but noise.
DARK = 4.0
# Pictures in a row in another light before the exposure is found anew: at first, and where that never lasts.
FIRST_NEEDED, MOST_NEEDED = 12, 384
# Every so many pixels along both axes are looked at.
STRIDE = 8


class Levels:
    """Reads pictures (H, W[, C]) of any encoding.

    Attributes:
        unit: what a level of 8 bits is in the pictures: 16 bits are as many as the brightest so far uses.
    """

    def __init__(self) -> None:
        """Start with 8 bits."""
        self.unit = 1.0

    def samples(self, image: Image) -> npt.NDArray[Any]:
        """Return some pixels, (h, w, C)."""
        found = image[::STRIDE, ::STRIDE]
        if image.dtype.itemsize == 2:
            self.unit = max(self.unit, 2.0 ** (bits_used([found]) - 8))
        return found.reshape(*found.shape[:2], -1)


class SteadyBrightness:
    """Takes picture after picture and says when the last few were alike in brightness and colour."""

    def __init__(self) -> None:
        """Start with no picture."""
        self._levels = Levels()
        self._means: deque[npt.NDArray[np.float64]] = deque(maxlen=PICTURES)

    def add(self, image: Image) -> bool:
        """Add a picture (H, W[, C]) of any encoding; say whether it is steady by now.

        It never is where most of the picture is burnt out or black: a change would not show.
        """
        samples, unit = self._levels.samples(image), self._levels.unit
        self._means.append(samples.mean(axis=(0, 1)))
        if len(self._means) < PICTURES:
            return False
        # One channel of colour may well be dark; YUYV has brightness in one of its two.
        light = samples.mean(axis=2, keepdims=True) if samples.shape[2] > 2 else samples
        burnt_out, black = light > BURNT_OUT * unit, light < BLACK * unit
        blind = np.maximum(burnt_out.mean(axis=(0, 1)), black.mean(axis=(0, 1)))
        means = np.stack(self._means)
        alike = np.ptp(means, axis=0) <= RELATIVE * means.max(axis=0) + LEVELS * unit
        return bool(np.all(alike) and np.all(blind <= MOST))


def let_settle(read: Callable[[], Image], longest_s: float) -> bool:
    """Read pictures until the automatics of a camera have found their values, or for this time; say if they have.

    Args:
        read: returns the next picture, (H, W[, C]).
        longest_s: how long at most, beyond the last picture.
    """
    start_s, steady = time.monotonic(), SteadyBrightness()
    pictures = 0
    while (passed_s := time.monotonic() - start_s) < longest_s:
        image = read()
        pictures += 1
        if pictures > UNJUDGED and steady.add(image) and passed_s >= LEAST_S:
            return True
    return False


class LightWatch:
    """Compares the brightness of pictures with that of one from when the exposure was found.

    Pictures (H, W[, C]) are of what carries brightness, see `image_encodings.luminance`.
    """

    def __init__(self, factor: float) -> None:
        """Say a change where pictures are brighter or darker by more than this factor, above 1."""
        self._factor = factor
        self._levels = Levels()
        self._reference: float | None = None
        self._needed = FIRST_NEEDED
        self._side, self._pictures = 0, 0  # brighter (1), darker (-1) or alike, and how many in a row

    def restart(self, image: Image) -> None:
        """Take a picture of the exposure that was just found."""
        self._reference = self._level(image)
        self._side = self._pictures = 0

    def add(self, image: Image) -> None:
        """Add the next picture."""
        if self._reference is None:
            return
        least = DARK * self._levels.unit
        ratio = max(self._level(image), least) / max(self._reference, least)
        side = int(ratio > self._factor) - int(ratio < 1.0 / self._factor)
        self._pictures = self._pictures + 1 if side == self._side else 1
        self._side = side
        if side == 0 and self._pictures >= self._needed:
            self._needed = FIRST_NEEDED

    def changed(self) -> bool:
        """Say whether the exposure is to be found anew: enough pictures in a row were in another light.

        Where the light changes again and again, it takes more and more of them, until it is calm for as long.
        """
        if self._side == 0 or self._pictures < self._needed:
            return False
        self._needed = min(2 * self._needed, MOST_NEEDED)
        return True

    def _level(self, image: Image) -> float:
        return float(self._levels.samples(image).mean())
