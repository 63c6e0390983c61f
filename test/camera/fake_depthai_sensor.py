# SPDX-License-Identifier: Apache-2.0
"""The sensor, the lens and the algorithms of the OAK cameras of `fake_depthai`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fake_depthai_messages import AutoFocusMode, CameraControl, ImgFrame
from fake_motor import Motor, plain

if TYPE_CHECKING:
    from fake_depthai import FakeOak

# Frames from when the sensor is told an exposure to when it exposes so.
SENSOR_DELAY = 2


class Sensor:
    """Sensor, lens and the camera's algorithms."""

    def __init__(self, oak: FakeOak, size: tuple[int, int], period_s: float) -> None:
        self.oak, self.period_s = oak, period_s
        self._picture = oak.picture or plain(*size)
        self._autofocus = AutoFocusMode.CONTINUOUS_VIDEO
        self.motor = Motor(0.0, oak.units_per_s)
        self._commanded = 0
        self._underway: deque[int] = deque([0] * oak.lens_frames)
        self._told = 0
        self._exposure: tuple[int, int] | None = None
        self._locked = self._white_locked = False
        self._auto = (1000, 200)
        self._white_balance = 5000
        self._exposures: deque[tuple[int, int]] = deque([self._auto] * SENSOR_DELAY)

    def expose(self, number: int, stamp_s: float, sent: list[CameraControl]) -> ImgFrame:
        """Return the frame whose readout began at a time; the lens is moved after it."""
        for control in sent:
            self._apply(control)
        exposure_us, iso = self._exposures.popleft()
        self._exposures.append(self._next_exposure(number))
        truth = self.motor.truth(stamp_s - exposure_us * 1e-6, stamp_s + self.oak.readout_s)
        self.oak.truths.add(truth)
        told = self._told
        self._underway.append(self._wanted(number))
        self._told = self._underway.popleft()
        self.motor.write(stamp_s + self.oak.readout_s, float(self._told))
        if self.oak.lead_frames:
            told = [self._told, *self._underway][self.oak.lead_frames - 1]
        if not self._white_locked:
            self._white_balance = 5000 + 10 * (number % 9)
        return ImgFrame(
            self._picture(truth.positions[0]),
            stamp_s,
            exposure_us,
            iso,
            told if self.oak.tells_position else -1,
            number,
            self._white_balance,
            self.oak.fail,
        )

    def _wanted(self, number: int) -> int:
        if self._autofocus is not AutoFocusMode.OFF:
            return 100 + number % 30  # hunts
        return self._commanded if self.oak.settles else self._commanded + (1 if number % 2 else -1)

    def _apply(self, control: CameraControl) -> None:
        if len(control.commands) > 1:
            raise self.oak.misuse("several commands in a message: their order is the camera's")
        for command, value in control.commands.items():
            if command == "focus":
                self._commanded = value
            elif command == "autofocus":
                self._autofocus = value
            elif command == "exposure":
                self._exposure = min(max(value[0], self.oak.limits_us[0]), self.oak.limits_us[1]), value[1]
            elif command == "automatic exposure":
                self._exposure = None
            elif command == "exposure lock":
                self._locked = value
            else:
                self._white_locked = value

    def _next_exposure(self, number: int) -> tuple[int, int]:
        if self._exposure is not None:
            return self._exposure
        if not self._locked:
            self._auto = round((1000 + 50 * (number % 7)) / self.oak.light), 200 + 10 * (number % 5)
        return self._auto
