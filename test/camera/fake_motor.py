# SPDX-License-Identifier: Apache-2.0
"""A lens motor behind a fake camera, and what the fakes have in common."""

from __future__ import annotations

import itertools
import math
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bgr = npt.NDArray[np.uint8]


class Misuse(BaseException):
    """A call that the real library would not survive, or would silently ignore.

    No Exception, so that a driver that takes every error of a library for a lost device does not hide it.
    """


@dataclass(frozen=True)
class Truth:
    """Where the lens was when the first row began and when the last row ended to be exposed."""

    exposure: tuple[float, float]
    positions: tuple[float, float]
    at_rest: bool


class Motor:
    """A lens that goes straight to where it was written to go, at a speed. Times are of CLOCK_MONOTONIC."""

    def __init__(self, position: float, units_per_s: float = math.inf) -> None:
        self._units_per_s = units_per_s
        self._times: list[float] = []
        self._legs: list[tuple[float, float]] = []  # from, to
        self._start = position
        self._lock = threading.Lock()

    def write(self, time_s: float, position: float) -> None:
        """Send it to a position. Times come in order; one that is not new changes nothing."""
        with self._lock:
            here = self._at(time_s)
            if position != (self._legs[-1][1] if self._legs else self._start):
                self._times.append(time_s)
                self._legs.append((here, position))

    def at(self, time_s: float) -> float:
        """Return where it is at a time."""
        with self._lock:
            return self._at(time_s)

    def truth(self, start_s: float, end_s: float) -> Truth:
        """Return what it did during an exposure."""
        with self._lock:
            positions = self._at(start_s), self._at(end_s)
            written = bisect_right(self._times, end_s) - bisect_right(self._times, start_s)
            return Truth((start_s, end_s), positions, positions[0] == positions[1] and not written)

    def _at(self, time_s: float) -> float:
        i = bisect_right(self._times, time_s) - 1
        if i < 0:
            return self._start
        here, there = self._legs[i]
        if math.isinf(self._units_per_s):
            return there
        gone = min(abs(there - here), self._units_per_s * (time_s - self._times[i]))
        return here + math.copysign(gone, there - here)


class Truths:
    """What the lens did in every frame, found by the start of its exposure."""

    def __init__(self) -> None:
        self._all: list[Truth] = []

    def add(self, truth: Truth) -> None:
        self._all.append(truth)

    def of(self, exposure: tuple[float, float]) -> Truth:
        """Return that of the frame whose exposure a driver tells."""
        found = min(self._all, key=lambda t: abs(t.exposure[0] - exposure[0]))
        assert abs(found.exposure[0] - exposure[0]) < 1e-4, "no frame began to be exposed then"
        return found


def flickering(width: int, height: int) -> Callable[[float], Bgr]:
    """Return pictures of which each has another brightness than the one before."""
    levels = itertools.cycle((40, 120))
    return lambda position: np.full((height, width, 3), next(levels), np.uint8)


def plain(width: int, height: int) -> Callable[[float], Bgr]:
    """Return a picture of one colour, blue 10, green 20, red 30, whatever the focus."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (10, 20, 30)
    return lambda position: image
