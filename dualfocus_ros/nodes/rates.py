# SPDX-License-Identifier: Apache-2.0
"""Message rates and silence, by the steady clock."""

from __future__ import annotations

import time
from collections import deque


class Rate:
    """Rate over the last seconds, and how long nothing came."""

    WINDOW = 60

    def __init__(self) -> None:
        """Start with nothing heard."""
        self._ticks: deque[float] = deque(maxlen=self.WINDOW)
        self._since_s = time.monotonic()

    def restart(self) -> None:
        """Forget the past; silence counts from now."""
        self._ticks.clear()
        self._since_s = time.monotonic()

    def tick(self) -> None:
        """Note one message."""
        self._since_s = time.monotonic()
        self._ticks.append(self._since_s)

    def hz(self) -> float:
        """Return the rate in messages per second; it falls towards 0 when they stop."""
        ticks = list(self._ticks)
        if len(ticks) < 2:
            return 0.0
        return (len(ticks) - 1) / max(time.monotonic() - ticks[0], 1e-9)

    def silent_for_s(self) -> float:
        """Return the time since the last message, or since the start."""
        return time.monotonic() - self._since_s
