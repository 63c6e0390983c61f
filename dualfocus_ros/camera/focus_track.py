# SPDX-License-Identifier: Apache-2.0
"""Where a lens was when: by what it was told, and how long its moves take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# Moves that are remembered. Frames come late by a few exposures at most.
MEMORY = 16


@dataclass(frozen=True)
class Motion:
    """What a lens did during an exposure, in units of its actuator.

    Attributes:
        position: in the middle of the exposure; where the lens moved, a guess on a straight line.
        moved: whether it moved, or may have moved.
        speed: mean speed in units a second, signed; 0 unless it moved.
    """

    position: float
    moved: bool
    speed: float = 0.0


@dataclass(frozen=True)
class _Move:
    start_s: float
    from_position: float
    to_position: float
    takes_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.takes_s

    def at(self, time_s: float) -> float:
        if self.takes_s <= 0.0 or time_s >= self.end_s:
            return self.to_position
        done = max(0.0, (time_s - self.start_s) / self.takes_s)
        return self.from_position + done * (self.to_position - self.from_position)


class FocusTrack:
    """Remembers the commands to a lens. One thread uses it."""

    def __init__(self, position: float, time_s: float, settle_s: Callable[[float], float]) -> None:
        """Start with a lens that stands still.

        Args:
            position: of the actuator.
            time_s: since when it is there.
            settle_s: how long a move of a length (in units) takes until the image is settled.
        """
        self._settle_s = settle_s
        self._moves: deque[_Move] = deque([_Move(time_s, position, position, 0.0)], maxlen=MEMORY)

    @property
    def target(self) -> float:
        """Where the lens was told to go last."""
        return self._moves[-1].to_position

    @property
    def told_at_s(self) -> float:
        """When it was told."""
        return self._moves[-1].start_s

    @property
    def settled_at_s(self) -> float:
        """When it will be there."""
        return self._moves[-1].end_s

    def command(self, time_s: float, position: float) -> None:
        """Note that the lens was told to go to a position."""
        last = self._moves[-1]
        here = last.at(time_s)
        # How far a move has got that the next one overtakes is a guess: the longest way that may be left counts.
        ends = (last.from_position, last.to_position) if time_s < last.end_s else (here,)
        way = max(abs(position - end) for end in ends)
        self._moves.append(_Move(time_s, here, position, self._settle_s(way) if way > 0.0 else 0.0))

    def during(self, start_s: float, end_s: float) -> Motion:
        """Return what the lens did between two times."""
        middle_s = 0.5 * (start_s + end_s)
        active = [m for m in self._moves if m.start_s < end_s and m.end_s > start_s and m.takes_s > 0.0]
        last = next((m for m in reversed(self._moves) if m.start_s <= middle_s), self._moves[0])
        if not active:
            return Motion(last.to_position, moved=False)
        way = active[-1].to_position - active[-1].from_position
        return Motion(last.at(middle_s), moved=True, speed=way / active[-1].takes_s)
