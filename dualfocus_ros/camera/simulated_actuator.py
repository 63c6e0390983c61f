# SPDX-License-Identifier: Apache-2.0
"""The hidden truth of the simulated lens: what its actuator does with a position, and when."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.camera.motion import Move

# Moves that are remembered: an exposure is shorter than that.
_MEMORY = 16
# Smoothness of the end of the dead zone, part of the range.
_HINGE = 0.02
# Largest bend and wave of a curve; its slope stays above 1 - _MAX_BEND - _MAX_WAVE of the mean.
_MAX_BEND, _MAX_WAVE = 0.45, 0.25
# A settled lens is looked for this finely, part of the longest time.
_SETTLE_STEPS = 20000


class HiddenCurve:
    """A monotone, bent actuator curve with a dead zone at its low end, drawn by a seed."""

    def __init__(
        self, seed: int, low: float, high: float, dead_zone: float, ends_dpt: tuple[float, float]
    ) -> None:
        """Draw it.

        Args:
            seed: of the shape.
            low: lowest position.
            high: highest position.
            dead_zone: part of the range, from the low end, in which nothing moves.
            ends_dpt: dioptres at the low and at the high end.
        """
        rng = np.random.default_rng([seed, 7])
        self._low, self._range, self._dead, self._ends = low, high - low, dead_zone, ends_dpt
        self._bend = float(rng.uniform(-_MAX_BEND, _MAX_BEND))
        self._wave = float(rng.uniform(0.2, 1.0)) * _MAX_WAVE
        self._phase = float(rng.uniform(0.0, 2.0 * math.pi))

    def dioptres_at(self, position: float) -> float:
        """Return the focus in dioptres where the lens itself is at that position."""
        part = (position - self._low) / self._range
        if self._dead > 0.0:
            part = (part - self._dead) / (1.0 - self._dead)
            part = _hinge(part) / _hinge(1.0)
        far, near = self._ends
        return far + (near - far) * self._shape(part)

    def _shape(self, x: float) -> float:
        wave = math.sin(2.0 * math.pi * x + self._phase) - math.sin(self._phase)
        return (1.0 - self._bend) * x + self._bend * x * x + self._wave * wave / (2.0 * math.pi)


@dataclass(frozen=True)
class Ringing:
    """A move that swings: a damped spring, as the voice-coil motors of phones are.

    Attributes:
        start_s: when it starts.
        from_dpt: where.
        to_dpt: where it comes to rest.
        frequency_hz: of the swing.
        damping: ratio, below 1.
    """

    start_s: float
    from_dpt: float
    to_dpt: float
    frequency_hz: float
    damping: float

    def position_dpt(self, time_s: float) -> float:
        """Return the focus position in dioptres."""
        t = time_s - self.start_s
        if t <= 0.0:
            return self.from_dpt
        swing = 2.0 * math.pi * self.frequency_hz * t
        decay = self.damping / math.sqrt(1.0 - self.damping**2)
        left = math.exp(-decay * swing) * (math.cos(swing) + decay * math.sin(swing))
        return self.to_dpt + (self.from_dpt - self.to_dpt) * left


AnyMove = Move | Ringing
# (start_s, from_dpt, to_dpt) -> the move
Mover = Callable[[float, float, float], AnyMove]


class Actuator:
    """Follows commands: with play, a dead time, and moves that take their time. Positions in dioptres, cold."""

    def __init__(self, curve: HiddenCurve, start: float, play: float, dead_time_s: float, mover: Mover) -> None:
        """Start with a lens at rest.

        Args:
            curve: of the lens.
            start: where the lens is, in the unit of the actuator.
            play: between the actuator and the lens, in the same.
            dead_time_s: between a command and the beginning of its move.
            mover: makes the moves.
        """
        self._curve, self._half_play = curve, 0.5 * play
        self._dead_time_s, self._mover = dead_time_s, mover
        self._lens = start
        at_dpt = curve.dioptres_at(start)
        self._moves: deque[AnyMove] = deque([mover(-math.inf, at_dpt, at_dpt)], maxlen=_MEMORY)

    def command(self, time_s: float, position: float) -> None:
        """Send the actuator to a position."""
        self._lens = pushed(self._lens, position, self._half_play)
        start_s = time_s + self._dead_time_s
        here_dpt = self.position_dpt(start_s)
        self._moves.append(self._mover(start_s, here_dpt, self._curve.dioptres_at(self._lens)))

    def position_dpt(self, time_s: float) -> float:
        """Return where the focus is, in dioptres."""
        begun = [m for m in self._moves if m.start_s <= time_s]
        move = begun[-1] if begun else self._moves[0]
        return move.to_dpt if math.isinf(move.start_s) else move.position_dpt(time_s)


def pushed(lens: float, actuator: float, half_play: float) -> float:
    """Return where the lens is after the actuator went to a position: it follows only where it is pushed."""
    return min(max(lens, actuator - half_play), actuator + half_play)


def settle_s(move: AnyMove, tolerance_dpt: float, longest_s: float = 5.0) -> float:
    """Return how long after its start a move stays within a tolerance of its end; inf: for longer than that."""
    start = move.start_s
    times = np.linspace(0.0, longest_s, _SETTLE_STEPS + 1)
    off = [abs(move.position_dpt(start + float(t)) - move.to_dpt) > tolerance_dpt for t in times]
    outside = np.flatnonzero(off)
    if not outside.size:
        return 0.0
    return float(times[outside[-1] + 1]) if outside[-1] + 1 < times.size else math.inf


def _hinge(x: float) -> float:
    """Return max(x, 0), smooth, and ever rising."""
    return _HINGE * float(np.logaddexp(0.0, x / _HINGE))
