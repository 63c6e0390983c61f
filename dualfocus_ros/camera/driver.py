# SPDX-License-Identifier: Apache-2.0
"""What all drivers of hardware share: they open once, close whatever happens, and can be interrupted."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TypeVar

from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig, DeviceFrame, MonotonicClock
from dualfocus_ros.camera.steady import LEAST_S, let_settle
from dualfocus_ros.errors import CameraError, LensError

AnyDriver = TypeVar("AnyDriver", bound="Driver")
# Exposure or gain that differ by more from what was asked for are worth a note.
AS_ASKED = 0.05


class Driver:
    """The common part of a `FocusDevice`.

    Subclasses implement `move_to`, `read` and `meter`, and what raises NotImplementedError below.

    Attributes:
        config: the settings.
    """

    config: DeviceConfig

    def __init__(self, config: DeviceConfig) -> None:
        """Take the settings; the device is opened on entering."""
        self.config = config
        self._clock = MonotonicClock()
        self._interrupted = threading.Event()
        self._notes: list[str] = []
        self._range: ActuatorRange | None = None
        self._reset()

    def read(self, timeout_s: float) -> DeviceFrame:
        """See `FocusDevice`."""
        raise NotImplementedError

    def _reset(self) -> None:
        """Be as before opening."""
        raise NotImplementedError

    def _open(self) -> None:
        """Open the device; what was opened by an attempt that fails, `_close` closes."""
        raise NotImplementedError

    def _close(self) -> None:
        """Put back what was changed, and close, as far as the device is there."""
        raise NotImplementedError

    @property
    def _is_open(self) -> bool:
        raise NotImplementedError

    @property
    def clock(self) -> MonotonicClock:
        """The clock of the exposures."""
        return self._clock

    @property
    def focus_range(self) -> ActuatorRange:
        """Positions of the actuator; CameraError unless the device was open once."""
        if self._range is None:
            raise self._not_open()
        return self._range

    @property
    def notes(self) -> tuple[str, ...]:
        """What the device could not do, sentences for people; complete once it is open."""
        return tuple(self._notes)

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon."""
        self._interrupted.set()

    def __enter__(self: AnyDriver) -> AnyDriver:
        """Open the device: see `FocusDevice`.

        Raises:
            CameraError: if a library is missing, or the device cannot do what it must.
            DeviceError: if it is absent, in use, stalled or lost.
        """
        if self._is_open:
            raise CameraError("expected a closed camera, this one is open already")
        self._reset()
        self._interrupted.clear()
        self._notes = []
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back what was changed, as far as the device is there, and close it."""
        self._close()

    def _check_position(self, position: float) -> None:
        """Raise LensError for a position out of the range, by more than half a step."""
        r = self.focus_range
        if not r.low - 0.5 * r.step <= position <= r.high + 0.5 * r.step:
            raise LensError(f"expected a focus position within {r.low:g} .. {r.high:g} {r.unit}, got {position}")

    def _skip(self, frames: int) -> None:
        """Read frames that were exposed with the settings from before."""
        for _ in range(frames):
            self.read(self.config.patience_s)

    def _let_settle(self) -> None:
        """Wait until automatic exposure and white balance have found their values, for as long as they may."""
        s = self.config
        if not let_settle(lambda: self.read(s.patience_s).image, s.auto_time_s) and s.auto_time_s > LEAST_S:
            self._note(
                f"exposure or white balance did not come to rest within auto_time_s, {s.auto_time_s:g} s, and is "
                "held as it was then: is it dark or glaring, or does the picture move?"
            )

    def _note(self, text: str) -> None:
        """Note something for people, once."""
        if text not in self._notes:
            self._notes.append(text)

    def _not_open(self) -> CameraError:
        return CameraError(f"expected an open camera: use it as `with {type(self).__name__}(...) as device:`")
