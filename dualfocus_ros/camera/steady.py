# SPDX-License-Identifier: Apache-2.0
"""Brightness of pictures: when automatic exposure has found its value, and when the light has changed since."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import Image

# Pictures in a row, and how much their brightness may differ: 1 % of it and half a grey level of 8 bits.
PICTURES, RELATIVE, LEVELS = 6, 0.01, 0.5
# Every so many pixels along both axes are looked at.
STRIDE = 8
# Sweeps of fewer pictures at rest are taken together with the next one.
MIN_PICTURES = 3


def brightness(image: Image) -> npt.NDArray[np.float64]:
    """Return the mean level of each channel of a picture (H, W[, C]) of any encoding, as 8 bits count it: (C,)."""
    scale = 257.0 if image.dtype.itemsize == 2 else 1.0
    samples = image[::STRIDE, ::STRIDE]
    return np.atleast_1d(samples.mean(axis=(0, 1))) / scale


class SteadyBrightness:
    """Takes picture after picture and says when the last few were alike in brightness and colour."""

    def __init__(self) -> None:
        """Start with no picture."""
        self._means: deque[npt.NDArray[np.float64]] = deque(maxlen=PICTURES)

    def add(self, image: Image) -> bool:
        """Add a picture (H, W[, C]) of any encoding; say whether it is steady by now."""
        self._means.append(brightness(image))
        if len(self._means) < PICTURES:
            return False
        means = np.stack(self._means)
        return bool(np.all(np.ptp(means, axis=0) <= RELATIVE * means.max(axis=0) + LEVELS))


def let_settle(read: Callable[[], Image], longest_s: float) -> None:
    """Read pictures until the automatics of a camera have found their values, for a time at most."""
    until, steady = time.monotonic() + longest_s, SteadyBrightness()
    while time.monotonic() < until and not steady.add(read()):
        pass


class LightWatch:
    """Compares the brightness of sweeps with that of the first one."""

    def __init__(self, factor: float) -> None:
        """Say a change where a sweep is brighter or darker by more than this factor, above 1."""
        self._factor = factor
        self._first: float | None = None
        self.restart()

    def restart(self) -> None:
        """Forget all: the exposure is another now."""
        self._first = None
        self._sum, self._pictures = 0.0, 0

    def add(self, image: Image) -> None:
        """Add a picture (H, W[, C]) of the sweep that is under way."""
        self._sum += float(brightness(image).mean())
        self._pictures += 1

    def changed(self) -> bool:
        """End a sweep; say whether its light differs from that of the first."""
        if self._pictures < MIN_PICTURES:
            return False
        level = max(self._sum / self._pictures, LEVELS)
        self._sum, self._pictures = 0.0, 0
        if self._first is None:
            self._first = level
        return max(level / self._first, self._first / level) > self._factor
