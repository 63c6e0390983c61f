# SPDX-License-Identifier: Apache-2.0
"""The serial protocol of Optotune's Electrical Lens Driver 4 and 4i.

Source: Optotune, "Lens Driver 4 manual" (30.3.2016), section 5, and its sheet "Lens Driver V4 Communication
Protocol".

- A command is sent with a CRC-16-IBM (also CRC-16/ARC: reflected polynomial 0xA001, initial value 0, unlike that
  of Modbus), low byte first, and nothing after it. An answer ends with its CRC and CR LF. Numbers are big endian;
  they may hold CR and LF, so answers are found by their length and CRC.
- An error is the answer "E", its number, CRC, CR LF; old firmware answers a wrong CRC with "N", CR, LF.
- Setting the focal power is not acknowledged. A temperature query sent right after it is: the answer to that
  comes after the error, if there is one.
- Focal power is 200 times the dioptres; firmware type A adds 5 dpt first.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dualfocus_ros.camera.device import ActuatorRange
from dualfocus_ros.camera.optotune_port import SerialPort
from dualfocus_ros.errors import CameraError, DeviceError, LensError

ENCODED_PER_DPT = 200.0
OFFSET_DPT = {"A": 5.0}
# The driver answers within a few milliseconds; USB hubs and busy machines take longer.
ANSWER_S = 0.25
TRIES = 3
# Limits of the lens temperature that the range of focal power is to hold for, degrees Celsius: the example of the
# manual. They are sent only where the driver has none yet.
TEMPERATURE_LIMITS_C = (20.0, 45.0)
# The driver's answer where no temperature sensor is connected.
NO_SENSOR = 4095
C_PER_COUNT = 0.0625

ERRORS = {
    1: "the checksum was wrong",
    2: "its firmware type does not have this command",
    3: "it does not know this command",
    4: "the lens is not compatible with its firmware",
}
# Bits of the status byte.
NO_HARDWARE, NO_EEPROM, NO_LIMITS, UNREACHABLE, INVERTED, OVERHEATED, NOT_GUARANTEED, BEYOND_LIMITS = (
    1 << bit for bit in range(8)
)
STATUS_NOTES = {
    UNREACHABLE: "the lens cannot reach the focal power that it was told",
    OVERHEATED: "the temperature of the lens is outside its specification",
    NOT_GUARANTEED: "the focal power is outside the range that holds at all temperatures",
    BEYOND_LIMITS: "the temperature of the lens is outside the limits set in the driver",
}
FOCAL_POWER_MODE, CURRENT_MODE = 5, 1
# Number of a mode in the answer to MMA, and the letter that switches to it.
MODE_LETTERS = {1: b"D", 2: b"S", 3: b"T", 4: b"Q", 5: b"C", 6: b"A"}


def crc16(data: bytes) -> int:
    """Return the CRC-16-IBM of bytes. That of bytes with their own CRC, low byte first, is 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def with_crc(command: bytes) -> bytes:
    """Return a command with its checksum, as it is sent."""
    return command + crc16(command).to_bytes(2, "little")


def find_answer(received: bytes, start: bytes, size: int) -> tuple[int, bytes] | None:
    """Return (number of the error, b"") or (0, the answer without CRC) of what was received; None: neither yet.

    Args:
        received: may begin with anything.
        start: first bytes of the answer.
        size: of the answer without CRC and line end, bytes.
    """
    if received.startswith(b"N\r\n"):
        return 1, b""
    for at in range(len(received)):
        for first, length in ((start, size), (b"E", 2)):
            message = received[at : at + length + 4]
            whole = len(message) == length + 4 and message.endswith(b"\r\n") and message.startswith(first)
            if whole and crc16(message[:-2]) == 0:
                return (0, message[:length]) if first == start else (message[1], b"")
    return None


@dataclass(frozen=True)
class _Before:
    """What a lens did before it was taken over: number of the mode, and its value as the driver encodes it."""

    mode: int
    value: int = 0


class OptotuneLens:
    """A lens at its driver. One thread uses it.

    Attributes:
        reach: focal power that the lens takes, dioptres.
        notes: what the driver complained about, sentences for people.
    """

    def __init__(self, path: str, interrupted: Callable[[], bool]) -> None:
        """Open the port, take the lens over, and switch it to focal power mode.

        Args:
            path: of the serial port.
            interrupted: says whether to give up.

        Raises:
            CameraError: if pyserial is missing, or the driver or its lens cannot do it.
            DeviceError: if the driver is absent, used by another program, silent or lost, or no lens is connected.
        """
        self.notes: list[str] = []
        self._path, self._interrupted = path, interrupted
        self._before: _Before | None = None
        self._has_status = True
        self._port = SerialPort(path)
        try:
            self._exchange(b"Start", b"Ready", 5, crc=False)
            firmware = self._ask(b"H", b"H", 2)[1:].decode("ascii", "replace")
            self._offset_dpt = OFFSET_DPT.get(firmware, 0.0)
            self._before = self._look()
            self.reach = self._take_over()
        except BaseException:
            self.close()
            raise

    def set_focal_power(self, power_dpt: float) -> float | None:
        """Command a focal power; returns when the driver has taken it, the lens then moves for about 15 ms.

        Returns:
            The temperature of the lens, degrees Celsius; None: it has no sensor.

        Raises:
            LensError: if it is not within the range.
            DeviceError: if the driver refuses, is silent or lost.
        """
        reach = self.reach
        if not reach.low - 0.5 * reach.step < power_dpt < reach.high + 0.5 * reach.step:
            raise LensError(f"expected a focal power within {reach.low:g} .. {reach.high:g} dpt, got {power_dpt}")
        encoded = round((power_dpt + self._offset_dpt) * ENCODED_PER_DPT)
        return self._temperature(with_crc(b"PwDA" + struct.pack(">hxx", encoded)))

    def temperature_c(self) -> float | None:
        """Return the temperature of the lens, degrees Celsius; None: it has no sensor.

        Raises:
            DeviceError: if the driver is silent or lost.
        """
        return self._temperature(b"")

    def check(self) -> None:
        """Ask the driver for its status; what it complains about becomes a note.

        Raises:
            DeviceError: if the lens is not connected any more, or the driver is silent or lost.
        """
        if not self._has_status:
            return
        try:
            self._judge(self._ask(b"Sr", b"S", 5)[4])
        except _UnknownCommand:
            self._has_status = False  # firmware before this command

    def close(self) -> None:
        """Put mode and value back, as far as the driver is there, and close the port."""
        before, self._before = self._before, None
        self._interrupted = lambda: False  # what was interrupted is over
        with suppress(CameraError):
            if before is not None:
                self._put_back(before)
        self._port.close()

    def _look(self) -> _Before:
        mode = self._ask(b"MMA", b"MMA", 4)[3]
        if mode == CURRENT_MODE:
            return _Before(mode, *struct.unpack(">h", self._ask(b"Ar\0\0", b"A", 3)[1:]))
        if mode == FOCAL_POWER_MODE:
            return _Before(mode, *struct.unpack(">h", self._ask(b"PrDA\0\0\0\0", b"PD", 4)[2:]))
        return _Before(mode)

    def _take_over(self) -> ActuatorRange:
        status, high, low = self._focal_power_mode()
        if status & NO_LIMITS or high <= low:
            limits = [round(c / C_PER_COUNT) for c in reversed(TEMPERATURE_LIMITS_C)]
            self._ask(b"PwTA" + struct.pack(">hh", *limits), b"PT", 7)
            status, high, low = self._focal_power_mode()
        self._judge(status)
        low_dpt, high_dpt = (v / ENCODED_PER_DPT - self._offset_dpt for v in (low, high))
        if status & INVERTED or high <= low:
            raise CameraError(
                f"{self._path}: expected a range of focal power, got {low_dpt:g} .. {high_dpt:g} dpt: narrow the "
                "driver's temperature limits, or lower its drift compensation (Optotune's Lens Driver Controller)"
            )
        return ActuatorRange(low_dpt, high_dpt, 1.0 / ENCODED_PER_DPT, "dpt")

    def _focal_power_mode(self) -> tuple[int, int, int]:
        """Switch the mode; return status, highest and lowest focal power as they come."""
        answer = self._ask(b"MwCA", b"MCA", 8)
        status, high, low = struct.unpack(">Bhh", answer[3:])
        return status, high, low

    def _judge(self, status: int) -> None:
        if status & (NO_HARDWARE | NO_EEPROM):
            raise DeviceError(
                f"{self._path}: the driver finds no lens, or none with the memory (EEPROM) that focal power mode "
                "needs: connect the lens"
            )
        for bit, note in STATUS_NOTES.items():
            if status & bit and note not in self.notes:
                self.notes.append(note)

    def _put_back(self, before: _Before) -> None:
        letter = MODE_LETTERS.get(before.mode)
        if letter is None:
            return
        self._ask(b"Mw" + letter + b"A", b"M" + letter + b"A", 8 if before.mode == FOCAL_POWER_MODE else 3)
        if before.mode == CURRENT_MODE:
            self._temperature(with_crc(b"Aw" + struct.pack(">h", before.value)))
        elif before.mode == FOCAL_POWER_MODE:
            self._temperature(with_crc(b"PwDA" + struct.pack(">hxx", before.value)))

    def _temperature(self, ahead: bytes) -> float | None:
        """Send a command that is not acknowledged, and after it the temperature query; return its answer."""
        answer = self._exchange(ahead + with_crc(b"TCA"), b"TCA", 5)
        (count,) = struct.unpack(">h", answer[3:])
        return None if count == NO_SENSOR else count * C_PER_COUNT

    def _ask(self, command: bytes, start: bytes, size: int) -> bytes:
        return self._exchange(with_crc(command), start, size)

    def _exchange(self, sent: bytes, start: bytes, size: int, crc: bool = True) -> bytes:
        """Send, and return the answer; damaged or missing ones are asked for again, all commands may be repeated.

        Args:
            sent: one or two commands.
            start: first bytes of the answer.
            size: of the answer without CRC and line end, bytes.
            crc: whether the answer has one.
        """
        problem = ""
        for _ in range(TRIES):
            self._port.drain()
            self._port.write(sent)
            number, answer = self._receive(start, size, crc)
            if number == 0:
                return answer
            problem = "it does not answer" if number is None else ERRORS.get(number, f"error {number}")
            if number in (2, 3, 4):
                break
            self._let_pass()
        doing = f"{self._path}: the lens driver did not take {bytes(sent[:4])!r}: {problem}"
        if number in (2, 3):
            raise _UnknownCommand(f"{doing}; update its firmware")
        if number == 4:
            raise CameraError(f"{doing}; load the firmware that fits the lens")
        raise DeviceError(f"{doing}; is an Optotune lens driver at this port, and powered?")

    def _let_pass(self) -> None:
        """Wait until nothing more comes: what answers this try must not be taken for the answer to the next."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until and self._port.read():
            pass

    def _receive(self, start: bytes, size: int, crc: bool) -> tuple[int | None, bytes]:
        """Return (0, the answer), (number of an error, b"") or (None, b"") where none came."""
        received = b""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            if self._interrupted():
                raise DeviceError(f"{self._path}: interrupted")
            received += self._port.read()
            if not crc:
                if start + b"\r\n" in received:
                    return 0, start
                continue
            found = find_answer(received, start, size)
            if found is not None:
                return found
        return None, b""


class _UnknownCommand(CameraError):
    """The firmware does not have a command."""
