# SPDX-License-Identifier: Apache-2.0
"""Time of a replay: where it is in its recording, how fast it goes, and waiting."""

from __future__ import annotations

import threading
import time


class Playhead:
    """A clock that starts anywhere, goes at any rate, and can be paused. Any thread may use it."""

    def __init__(self, rate: float) -> None:
        """Stand at 0, not paused."""
        self._changed = threading.Condition()
        self._rate = rate
        self._paused = False
        self._stopped = False
        self._start_ns = 0
        self._at_ns = 0.0  # where it was ...
        self._since_s = time.monotonic()  # ... at that time

    @property
    def paused(self) -> bool:
        """Whether it stands."""
        return self._paused

    def start(self, position_ns: int) -> None:
        """Go to a position; it counts as the start of what is played."""
        with self._changed:
            self._start_ns = position_ns
            self._at_ns, self._since_s = float(position_ns), time.monotonic()

    def position_ns(self) -> int:
        """Return where it is."""
        with self._changed:
            return int(self._position())

    def seconds(self) -> float:
        """Return how far it is behind its start."""
        return (self.position_ns() - self._start_ns) * 1e-9

    def reached(self, position_ns: int) -> bool:
        """Say whether it is there; never while it is paused or stopped."""
        with self._changed:
            return not self._paused and not self._stopped and self._position() >= position_ns

    def wait_for(self, position_ns: int, longest_s: float) -> bool:
        """Wait until it is there, but not longer; return False where it was stopped."""
        with self._changed:
            if not self._stopped:
                left_s = (position_ns - self._position()) * 1e-9 / self._rate
                self._changed.wait(longest_s if self._paused else min(max(left_s, 0.0), longest_s))
            return not self._stopped

    def sleep(self, duration_s: float) -> bool:
        """Wait in real time; return False where it was stopped."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopped, duration_s)

    def pause(self, paused: bool) -> None:
        """Stand still, or go on."""
        with self._changed:
            self._anchor()
            self._paused = paused
            self._changed.notify_all()

    def set_rate(self, rate: float) -> None:
        """Go faster or slower from here on."""
        with self._changed:
            self._anchor()
            self._rate = rate
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def go(self) -> None:
        """Take back `stop`."""
        with self._changed:
            self._stopped = False

    def _anchor(self) -> None:
        self._at_ns, self._since_s = self._position(), time.monotonic()

    def _position(self) -> float:
        if self._paused:
            return self._at_ns
        return self._at_ns + (time.monotonic() - self._since_s) * self._rate * 1e9
