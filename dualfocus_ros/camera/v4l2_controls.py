# SPDX-License-Identifier: Apache-2.0
"""Exposure, gain, white balance and focus of a V4L2 camera: held during a sweep, and put back after it.

Controls are found by id, since kernel 5.16 renamed them (exposure_auto became auto_exposure, focus_auto
focus_automatic_continuous, exposure_auto_priority exposure_dynamic_framerate ...) and kept the ids. The value of
an automatic cannot be written while the automatic is on: uvcvideo answers EACCES (uvc_ctrl_is_accessible), older
kernels fail with EIO or ignore it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from dualfocus_ros.camera.v4l2_node import LOST, Control, Node, failure, telling
from dualfocus_ros.errors import CameraError

EXPOSURE_UNIT_S = 1e-4  # V4L2_CID_EXPOSURE_ABSOLUTE
# A camera that answers slowly must not keep the program from ending.
RESTORE_TIME_S = 3.0


@dataclass(frozen=True)
class Automatic:
    """A control that switches an automatic, and the values that it finds. All are keys of linuxpy's ControlID."""

    what: str
    switch: str
    names: str
    on: tuple[int, ...]
    off: tuple[int, ...]
    values: tuple[str, ...]


# enum v4l2_exposure_auto_type: 0 auto, 1 manual, 2 shutter priority (a manual time), 3 aperture priority.
EXPOSURE = Automatic(
    "exposure", "EXPOSURE_AUTO", "auto_exposure (exposure_auto)", (3, 0), (1, 2), ("EXPOSURE_ABSOLUTE",)
)
# UVC cameras have no switch for gain: it follows the exposure's.
GAIN = Automatic("gain", "AUTOGAIN", "gain_automatic (gain_auto)", (1,), (0,), ("GAIN", "ANALOGUE_GAIN"))
WHITE_BALANCE = Automatic(
    "white balance",
    "AUTO_WHITE_BALANCE",
    "white_balance_automatic (white_balance_temperature_auto)",
    (1,),
    (0,),
    ("WHITE_BALANCE_TEMPERATURE", "RED_BALANCE", "BLUE_BALANCE"),
)
FOCUS_SWITCH, FRAME_RATE_SWITCH = "FOCUS_AUTO", "EXPOSURE_AUTO_PRIORITY"


class ControlKeeper:
    """Changes controls of one node and remembers what they were.

    Attributes:
        autofocus_was_on: whether continuous autofocus was on before `focus_manual`.
        notes: what the camera could not do.
    """

    def __init__(self, node: Node, exposure_s: float, gain: float, hold: bool) -> None:
        """Take a node and the settings of `DeviceConfig`; nothing is changed yet."""
        self._node = node
        self._hold = hold
        self._given = {EXPOSURE.what: exposure_s / EXPOSURE_UNIT_S, GAIN.what: gain, WHITE_BALANCE.what: 0.0}
        self._controls: dict[str, Control | None] = {}
        self._found: dict[str, int | None] = {}
        self._before: dict[str, int] = {}
        self.autofocus_was_on = False
        self.notes: list[str] = []

    def control(self, key: str) -> Control | None:
        """Return a control of the node, None where it has none of that key."""
        if key not in self._controls:
            with telling(self._node.path, "read the controls"):
                self._controls[key] = self._node.control(key)
        return self._controls[key]

    def look(self) -> None:
        """Read what may be changed: before the stream starts, and with it the automatics.

        Raises:
            DeviceError: if the camera is lost.
        """
        keys = [key for a in (EXPOSURE, GAIN, WHITE_BALANCE) for key in (a.switch, *a.values)]
        self._found = {key: self._read(key) for key in (*keys, FOCUS_SWITCH, FRAME_RATE_SWITCH)}

    def focus_manual(self) -> None:
        """Turn continuous autofocus off, where there is one.

        Raises:
            CameraError: if the camera refuses.
            DeviceError: if it is lost.
        """
        switch = self.control(FOCUS_SWITCH)
        self.autofocus_was_on = switch is not None and self._found.get(FOCUS_SWITCH) not in (None, 0)
        if switch is not None and not self._switch(switch, (0,)):
            raise CameraError(f"{self._node.path}: the camera does not let its autofocus be turned off")

    def prepare(self) -> bool:
        """Set what the settings give and turn on the automatics that are to find the rest; say whether any runs.

        Raises:
            CameraError: if a given exposure or gain is out of the camera's range.
            DeviceError: if the camera is lost.
        """
        if self._hold or self._given[EXPOSURE.what] > 0.0:
            # Else a dark scene lowers the frame rate.
            self._set_if_there(FRAME_RATE_SWITCH, 0)
        running = False
        for automatic in (EXPOSURE, GAIN, WHITE_BALANCE):
            switch = self.control(automatic.switch)
            if self._given[automatic.what] > 0.0:
                self._set_given(automatic, switch)
            elif self._hold:
                for key in automatic.values:
                    self._remember(key)
                if switch is None:
                    self._note_missing(automatic)
                else:
                    running |= self._switch(switch, automatic.on)
        return running

    def hold(self) -> None:
        """Turn off the automatics that were to find values, and keep what they found.

        Raises:
            DeviceError: if the camera is lost.
        """
        if not self._hold:
            return
        held = [a for a in (EXPOSURE, GAIN, WHITE_BALANCE) if self._given[a.what] == 0.0]
        found = {key: self._read(key) for a in held for key in a.values}
        for automatic in held:
            switch = self.control(automatic.switch)
            if switch is not None and not self._switch(switch, automatic.off):
                self._note(f"{switch.name} cannot be turned off: {automatic.what} is not held")
        # Turning an automatic off brings back the last manual value on some cameras.
        for key, value in found.items():
            if value is not None and self._read(key) != value:
                self._set_if_there(key, value)
        if self._given[GAIN.what] > 0.0:
            # Which automatic exposure has changed on UVC cameras.
            self._set_given(GAIN, self.control(GAIN.switch))

    def exposure_s(self) -> float | None:
        """Return the exposure time where it is known and fixed, seconds."""
        switch = self.control(EXPOSURE.switch)
        if switch is not None and self._read(switch.key) not in EXPOSURE.off:
            return None
        value = self._read("EXPOSURE_ABSOLUTE")
        return value * EXPOSURE_UNIT_S if value else None

    def restore(self) -> None:
        """Put everything back that was changed, as far as the device is there and answers. Raises nothing."""
        until = time.monotonic() + RESTORE_TIME_S
        values = {a.switch: a.off for a in (EXPOSURE, GAIN, WHITE_BALANCE)}
        switches = [key for key in self._before if key in (*values, FOCUS_SWITCH, FRAME_RATE_SWITCH)]
        # Values can be written only while the automatics are off, which an error may have left on.
        steps: list[tuple[str, tuple[int, ...]]] = [(key, values[key]) for key in switches if key in values]
        steps += [(key, (value,)) for key, value in self._before.items() if key not in switches]
        steps += [(key, (self._before[key],)) for key in switches]
        for key, wanted in steps:
            control = self.control(key)
            try:
                if control is not None and self._node.get(control) not in wanted:
                    self._try(control, wanted)
            except OSError as error:
                if error.errno in LOST:
                    break
            if time.monotonic() > until:
                break
        self._before.clear()

    def _set_given(self, automatic: Automatic, switch: Control | None) -> None:
        found = [c for c in map(self.control, automatic.values) if c is not None]
        if not found:
            self._note(f"no control for {automatic.what}: the {automatic.what} asked for is not set")
            return
        control, value = found[0], self._given[automatic.what]
        if not control.minimum <= value <= control.maximum:
            unit = EXPOSURE_UNIT_S if automatic is EXPOSURE else 1.0
            raise CameraError(
                f"{self._node.path}: expected the {automatic.what} within {control.minimum * unit:g} .. "
                f"{control.maximum * unit:g}, the range of {control.name}, got {value * unit:g}"
            )
        self._remember(control.key)
        if switch is not None and not self._switch(switch, automatic.off):
            self._note(f"{switch.name} cannot be turned off: the {automatic.what} asked for may not hold")
        self._set_if_there(control.key, control.nearest(value))

    def _note_missing(self, automatic: Automatic) -> None:
        if automatic is GAIN and self.control(EXPOSURE.switch) is not None:
            return
        if not any(self.control(key) for key in automatic.values):
            self._note(f"no control {automatic.names}: {automatic.what} cannot be held")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _switch(self, switch: Control, wanted: tuple[int, ...]) -> bool:
        """Bring a switch to one of the values; say whether it is there."""
        if self._read(switch.key) in wanted:
            return True
        self._remember(switch.key)
        offered = self._choices(switch)
        return any(self._set_if_there(switch.key, value) for value in wanted if value in offered)

    def _choices(self, control: Control) -> tuple[int, ...]:
        with telling(self._node.path, f"read {control.name}"):
            return self._node.choices(control)

    def _remember(self, key: str) -> None:
        if key not in self._before and (value := self._found.get(key)) is not None:
            self._before[key] = value

    def _read(self, key: str) -> int | None:
        """Return the value of a control, None where there is none or it does not tell."""
        control = self.control(key)
        if control is None:
            return None
        try:
            return self._node.get(control)
        except OSError as error:
            if error.errno in LOST:
                raise failure(self._node.path, f"read {control.name}", error) from error
            return None

    def _set_if_there(self, key: str, value: int) -> bool:
        """Set a control, and say whether the camera took it; DeviceError where it is lost."""
        control = self.control(key)
        if control is None or not control.writable:
            return False
        self._remember(key)
        try:
            self._node.set(control, value)
        except OSError as error:
            if error.errno in LOST:
                raise failure(self._node.path, f"set {control.name}", error) from error
            self._note(f"{control.name} does not take {value}: {error.strerror}")
            return False
        return True

    def _try(self, control: Control, wanted: tuple[int, ...]) -> None:
        """Set the first of the values that the control takes."""
        offered = self._node.choices(control) if control.is_menu else wanted
        for value in wanted:
            if value in offered:
                self._node.set(control, value)
                return
