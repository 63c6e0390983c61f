# SPDX-License-Identifier: Apache-2.0
"""A device in simulated time whose lens has play, takes its time, and does what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np

from dualfocus_ros.camera.device import ActuatorRange, DeviceFrame
from dualfocus_ros.errors import DeviceError
from dualfocus_ros.types import Image

PERIOD_S = 1.0 / 30.0
EXPOSURE_S = 0.01


class VirtualClock:
    """A clock that its device moves on."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now(self) -> float:
        return self.time_s

    def stamp_ns(self, time_s: float) -> int:
        return round(time_s * 1e9)


class ScriptedDevice:
    """Implements FocusDevice. The lens goes straight to where it is told within `takes_s`, behind a play.

    `latency_frames` frames are in the pipeline when a command comes: they are handed out after it. Of every frame,
    `truth` tells where the lens really was at its start and end.
    """

    def __init__(
        self,
        *,
        reach: ActuatorRange | None = None,
        takes_s: float = 0.05,
        play: float = 0.0,
        latency_frames: int = 0,
        tells_position: bool = False,
        temperature_c: float | None = None,
        size: tuple[int, int] = (64, 48),
        picture: Callable[[float], Image] | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.reach = reach or ActuatorRange(0.0, 250.0, 1.0, "steps")
        self.takes_s, self.half_play = takes_s, 0.5 * play
        self.latency_frames, self.tells_position = latency_frames, tells_position
        self.temperature_c = temperature_c
        self.size, self.picture = size, picture
        self.commands: list[float] = []
        self.truth: list[tuple[float, float]] = []
        self.opened = self.closed = self.metered = 0
        self.lost = False
        self.stuck = False
        self._open = False
        self._moves: list[tuple[float, float, float]] = []
        self._next_start_s = self.clock.time_s

    @property
    def focus_range(self) -> ActuatorRange:
        assert self._open
        return self.reach

    def move_to(self, position: float) -> None:
        self._need()
        assert position == self.reach.nearest(position), "a position that the actuator cannot take"
        self.commands.append(position)
        here = self.actuator(self.clock.time_s)
        if not self.stuck:
            self._moves.append((self.clock.time_s, here, position))

    def actuator(self, time_s: float) -> float:
        """Where the actuator is at a time."""
        for start, here, there in reversed(self._moves):
            if time_s >= start:
                done = min(1.0, (time_s - start) / self.takes_s) if self.takes_s else 1.0
                return here + done * (there - here)
        return self._moves[0][1] if self._moves else 0.5 * (self.reach.low + self.reach.high)

    def lens(self, time_s: float) -> float:
        """Where the lens is at a time: it follows when the actuator pushes it. A walk over all of history."""
        times = sorted({*(t for m in self._moves for t in (m[0], m[0] + self.takes_s) if t < time_s), time_s})
        at = self.actuator(times[0]) + self.half_play
        for t in times:
            u = self.actuator(t)
            at = min(max(at, u - self.half_play), u + self.half_play)
        return at

    def read(self, timeout_s: float) -> DeviceFrame:
        self._need()
        start = self._next_start_s
        self._next_start_s = start + PERIOD_S
        # It is handed out some frames after its exposure.
        self.clock.time_s = max(self.clock.time_s, start + EXPOSURE_S + self.latency_frames * PERIOD_S)
        end = start + EXPOSURE_S
        self.truth.append((self.lens(start), self.lens(end)))
        image = self.picture(self.lens(start)) if self.picture else np.zeros(self.size[::-1], np.uint8)
        told = self.actuator(end) if self.tells_position else None
        return DeviceFrame(image, "mono8", (start, end), told, temperature_c=self.temperature_c)

    def meter(self) -> bool:
        self._need()
        self.metered += 1
        self.read(1.0)
        return True

    def interrupt(self) -> None:
        pass

    def __enter__(self) -> ScriptedDevice:
        if self.lost:
            raise DeviceError("scripted device is not there")
        self._open = True
        self.opened += 1
        self._next_start_s = self.clock.time_s
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self.closed += 1

    def _need(self) -> None:
        assert self._open, "used while closed"
        if self.lost:
            raise DeviceError("scripted device was lost")
