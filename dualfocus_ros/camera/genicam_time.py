# SPDX-License-Identifier: Apache-2.0
"""When the images of a GenICam camera were exposed, on the clock of this machine.

pylon's time stamp is the camera's count when the exposure began, 0 where the camera has none. The count is related
to CLOCK_MONOTONIC by latching it: TimestampLatch and TimestampLatchValue in nanoseconds (SFNC), on GigE cameras
from before it GevTimestampControlLatch, GevTimestampValue and GevTimestampTickFrequency.

Without counts only the arrival is known. An image arrives after its exposure and readout, and since transfer keeps
up with the frame rate, no later than a frame period after its exposure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from dualfocus_ros.camera.genicam_nodes import Nodes

LATCHES = (("TimestampLatch", "TimestampLatchValue"), ("GevTimestampControlLatch", "GevTimestampValue"))
NS_PER_S = 1e9
# The quickest of these tells best when the count was latched.
LATCH_TRIES = 5
# Quartzes differ by some 50 parts in a million: half a millisecond in this time.
SYNC_PERIOD_S = 10.0
# Between two latches that tell whether the count runs at the rate that it should.
CHECK_S = 0.3
SAME_RATE = 0.01
# A count that says that the image is older is of another clock.
MAX_AGE_S = 5.0
EXPOSURES, READOUTS = ("ExposureTime", "ExposureTimeAbs"), ("SensorReadoutTime", "ReadoutTimeAbs")
RATES = ("ResultingFrameRate", "BslResultingAcquisitionFrameRate", "ResultingFrameRateAbs", "AcquisitionFrameRate")


@dataclass(frozen=True)
class Arrival:
    """When an image was found, and when it was not yet there, seconds of CLOCK_MONOTONIC; None: it lay ready."""

    absent_s: float | None
    came_s: float


@dataclass(frozen=True)
class _Latched:
    count: int
    time_s: float
    error_s: float


class CameraTime:
    """Relates the counts of a camera to CLOCK_MONOTONIC. One thread uses it."""

    def __init__(self, nodes: Nodes) -> None:
        """Take the features of an open camera."""
        self._nodes = nodes
        self._latch = next((pair for pair in LATCHES if nodes.has(pair[0])), None)
        per_s = nodes.read("GevTimestampTickFrequency") if self._latch == LATCHES[1] else NS_PER_S
        self._per_s = float(per_s or 0.0)
        self._last: _Latched | None = None
        self._checked = False
        if self._latch is None or not self._per_s > 0.0:
            self._give_up("the camera does not tell its time")
        else:
            self._sync()

    @property
    def usable(self) -> bool:
        """Whether counts can be related."""
        return self._latch is not None

    @property
    def checked(self) -> bool:
        """Whether it is known if the count runs at the rate that it should."""
        return self._checked or not self.usable

    def started_s(self, count: int, now_s: float) -> tuple[float, float] | None:
        """Return when the exposure began that a count tells, and how far that may be off; None: not known.

        Raises:
            DeviceError: if the camera is lost.
        """
        if self._latch is None or self._last is None:
            return None
        if count == 0:
            self._give_up("the camera does not stamp its images")
            return None
        if now_s - self._last.time_s > (SYNC_PERIOD_S if self._checked else CHECK_S):
            self._sync()
            if self._latch is None:
                return None
        last = self._last
        at_s = last.time_s + (count - last.count) / self._per_s
        if not now_s - MAX_AGE_S < at_s <= now_s + last.error_s:
            self._give_up("the stamps of the images are not of the time that the camera tells")
            return None
        return at_s, last.error_s

    def _sync(self) -> None:
        tries = [found for found in (self._latched() for _ in range(LATCH_TRIES)) if found is not None]
        if not tries:
            self._give_up("the camera does not tell its time")
            return
        best = min(tries, key=lambda t: t.error_s)
        last, self._last = self._last, best
        if last is not None:
            took_s = best.time_s - last.time_s
            slack_s = SAME_RATE * took_s + best.error_s + last.error_s
            if abs((best.count - last.count) / self._per_s - took_s) > slack_s:
                self._give_up("the camera's time runs at another rate than it says")
            self._checked = True

    def _latched(self) -> _Latched | None:
        if self._latch is None:
            return None
        command, value = self._latch
        before_s = time.monotonic()
        if not self._nodes.execute(command):
            return None
        after_s = time.monotonic()
        count = self._nodes.read(value)
        return (
            None if count is None else _Latched(int(count), 0.5 * (before_s + after_s), 0.5 * (after_s - before_s))
        )

    def _give_up(self, why: str) -> None:
        self._latch = None
        self._nodes.note(f"{why}: the arrival of frames less a frame period is taken for their exposure")


class Exposures:
    """Tells when images were exposed: the widest time that what is known allows."""

    def __init__(self, nodes: Nodes, rate_hz: float) -> None:
        """Take the features of an open camera.

        Args:
            nodes: of the camera, set up.
            rate_hz: frame rate that was asked for.
        """
        self._nodes = nodes
        self._time = CameraTime(nodes)
        name = nodes.first(*RATES)
        reached_hz = float(nodes.read(name)) if name else 0.0
        self.period_s = 1.0 / (reached_hz or rate_hz)
        # Every row of a global shutter is exposed at once; a camera that does not say may have a rolling one.
        self._readout_s = 0.0
        if nodes.read("SensorShutterMode") != "Global":
            readout = nodes.first(*READOUTS)
            self._readout_s = float(nodes.read(readout)) * 1e-6 if readout else 0.0
        self._exposure_s: float | None = None

    @property
    def checked(self) -> bool:
        """Whether it is known by now if the stamps of the camera can be relied on: some frames are needed."""
        return self._time.checked

    def hold(self) -> None:
        """Read the exposure time, which does not change from now on."""
        self._exposure_s = self._exposure_now_s()

    def of(self, count: int, arrival: Arrival) -> tuple[float, float]:
        """Return from when to when an image was exposed, seconds of CLOCK_MONOTONIC.

        Raises:
            DeviceError: if the camera is lost.
        """
        exposure_s = self._exposure_s if self._exposure_s is not None else self._exposure_now_s()
        if exposure_s is None:
            self._nodes.note("the exposure time is not known: a frame period is taken as its bound")
            exposure_s = self.period_s
        started = self._time.started_s(count, arrival.came_s)
        if started is not None:
            start_s, error_s = started
            return start_s - error_s, min(start_s + exposure_s + self._readout_s + error_s, arrival.came_s)
        # One that lay ready came within the last period: the next would have replaced it.
        earliest_s = arrival.came_s - self.period_s if arrival.absent_s is None else arrival.absent_s
        return earliest_s - self.period_s - exposure_s, arrival.came_s

    def _exposure_now_s(self) -> float | None:
        name = self._nodes.first(*EXPOSURES)
        return float(self._nodes.read(name)) * 1e-6 if name else None
