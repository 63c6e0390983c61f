# SPDX-License-Identifier: Apache-2.0
"""Whether the camera of the camera node works, was lost, and is back."""

from __future__ import annotations

import time
from typing import Any

from dualfocus_ros.errors import DeviceError, DualFocusError

FIRST_RETRY_S = 0.1
# A camera that gave frames for so long, or a whole sweep, works.
STEADY_S = 1.0


class CameraHealth:
    """Remembers losses of a camera and tells the log of them. The camera thread notes, any thread reads.

    Attributes:
        worked: whether it has worked since the node was activated; then nothing about it ends the node.
        lost: what went wrong last, while it is lost.
        attempts: to open it since it was lost.
        reopened: how often it came back.
    """

    def __init__(self, logger: Any, retry_max_s: float) -> None:
        """Take what logs, and the longest time between two attempts to open the camera."""
        self._logger = logger
        self._retry_max_s = retry_max_s
        self.reopened = 0
        self.restart()

    def restart(self) -> None:
        """Forget all but how often it came back."""
        self.worked = False
        self.lost: DualFocusError | None = None
        self.attempts = 0
        self._lost_since_s = self._opened_s = 0.0
        self._wait_s = FIRST_RETRY_S

    def opened(self) -> None:
        """Note that it was opened, which does not mean that it works."""
        self._opened_s = time.monotonic()

    def forgives(self, error: DualFocusError) -> bool:
        """Say whether it is worth trying again: settings and devices can change, once it has worked."""
        return self.worked or isinstance(error, DeviceError)

    def lose(self, error: DualFocusError) -> float:
        """Note that it is lost, and say so, now and then; return the time until the next attempt, seconds."""
        self.attempts += 1
        if self.lost is None:
            self._lost_since_s, self._wait_s = time.monotonic(), FIRST_RETRY_S
            what = "lost" if self.worked else "not there"
            self._logger.error(f"camera {what}, trying again until it works: {error}")
        else:
            self._logger.error(f"camera still not there: {error}", throttle_duration_sec=30.0)
        self.lost = error
        wait_s, self._wait_s = self._wait_s, min(2.0 * self._wait_s, self._retry_max_s)
        return wait_s

    def frame(self, sweeps: int) -> bool:
        """Note a frame, and how many whole sweeps came since opening; say whether it works for the first time."""
        if self.worked and self.lost is None:
            return False
        if not (sweeps or time.monotonic() - self._opened_s > STEADY_S):
            return False
        first = not self.worked
        if self.lost is not None and self.worked:
            self.reopened += 1
            self._logger.info(f"the camera is back after {time.monotonic() - self._lost_since_s:.1f} s")
        self.worked, self.lost, self.attempts = True, None, 0
        return first

    def text(self) -> str:
        """Return in words how it is lost; empty: it is not."""
        error = self.lost
        if error is None:
            return ""
        what = "lost" if self.worked else "not there, waited for since"
        return f"camera {what} {time.monotonic() - self._lost_since_s:.0f} s ago, trying again: {error}"
