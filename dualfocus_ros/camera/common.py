# SPDX-License-Identifier: Apache-2.0
"""What cameras share: described settings, their check, and the clock that paces frames."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, TypeVar

from dualfocus_ros.errors import ParameterError

Value = TypeVar("Value")

# Frame rate by which simulated time advances when frames come as fast as possible.
VIRTUAL_RATE_HZ = 15.0
# Where simulated time starts: not at 0, which ROS reads as "no stamp".
VIRTUAL_START_S = 1.0


def setting(default: Value, doc: str, **limits: Any) -> Value:
    """Return a dataclass field with its description and `unit`, `min`, `max` (inclusive), `choices` or `live`."""
    described: Value = dataclasses.field(default=default, metadata={"doc": doc, **limits})
    return described


def check_settings(config: Any) -> None:
    """Check every number of a dataclass against `min` and `max` of its metadata.

    Raises:
        ParameterError: naming the field, its range and unit, and the value.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high = f.metadata.get("min", -float("inf")), f.metadata.get("max", float("inf"))
        if not low <= value <= high:
            unit = f" {f.metadata['unit']}" if "unit" in f.metadata else ""
            raise ParameterError(f"expected {f.name} within {low} .. {high}{unit}, got {value}")


class FrameClock:
    """Times of exposures at a fixed rate, or, at rate 0, of a simulated time that costs none.

    Times are seconds of a clock that only this object knows; `stamp_ns` turns them into stamps.
    """

    def __init__(self, rate_hz: float, exposure_s: float) -> None:
        """Start the clock; at rate 0 frames come at once, stamped `VIRTUAL_RATE_HZ` apart."""
        self._virtual = rate_hz == 0.0
        self._period_s = 1.0 / (VIRTUAL_RATE_HZ if self._virtual else rate_hz)
        self._exposure_s = exposure_s
        self._virtual_s = VIRTUAL_START_S
        self._last_start_s: float | None = None

    def now(self) -> float:
        """Return the time in seconds."""
        return self._virtual_s if self._virtual else time.monotonic()

    def next_exposure(self, not_before_s: float) -> tuple[float, float]:
        """Return start and end of the next exposure, which starts no earlier than `not_before_s`.

        It may lie in the past by up to a period: a camera exposes at its own pace, also while nobody
        reads, so that a late reader does not lower the rate.
        """
        now = self.now()
        due = now if self._last_start_s is None else self._last_start_s + self._period_s
        start = max(due, not_before_s, now - self._period_s)
        return start, start + self._exposure_s

    def wait_for(self, exposure: tuple[float, float]) -> None:
        """Wait until this exposure is over."""
        start, end = exposure
        self._last_start_s = start
        if self._virtual:
            self._virtual_s = end
            return
        while (left := end - time.monotonic()) > 0.0:
            time.sleep(left)

    def stamp_ns(self, time_s: float) -> int:
        """Return the stamp of a time: wall clock, or simulated time at rate 0."""
        if self._virtual:
            return round(time_s * 1e9)
        return time.time_ns() - round((time.monotonic() - time_s) * 1e9)
