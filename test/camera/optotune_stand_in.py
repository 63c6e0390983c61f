# SPDX-License-Identifier: Apache-2.0
"""Optotune's Lens Driver 4i at the other end of a pseudo terminal, as its protocol sheet describes it."""

from __future__ import annotations

import os
import pty
import struct
import threading
import time
import tty
from contextlib import suppress
from pathlib import Path

# Commands and their length without the CRC.
LENGTHS = {
    b"H": 1,
    b"MM": 3,
    b"Mw": 4,
    b"Ar": 4,
    b"Aw": 4,
    b"Pr": 8,
    b"Pw": 8,
    b"TC": 3,
    b"Sr": 2,
}
MODES = {"D": 1, "S": 2, "T": 3, "Q": 4, "C": 5, "A": 6}


def crc_of_the_sheet(data: bytes) -> bytes:
    """CRC-16-IBM the other way round than the driver: polynomial 0x8005, bits of input and output reflected."""
    crc = 0
    for byte in data:
        crc ^= int(f"{byte:08b}"[::-1], 2) << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
    return int(f"{crc:016b}"[::-1], 2).to_bytes(2, "little")


class OptotuneStandIn:
    """A lens driver with a lens.

    `path` is a link to its port and stays the same when it is plugged in anew. Attributes set what it does;
    `commands` are those that it accepted, without CRC.
    """

    def __init__(self, folder: Path, firmware: str = "A", reach_dpt: tuple[float, float] = (-1.5, 3.5)) -> None:
        self.path = str(folder / "ttyACM0")
        self.firmware, self.reach_dpt = firmware, reach_dpt
        self.temperature_c: float | None = 28.25
        self.status, self.has_limits, self.has_status_command = 0, True, True
        self.limits: tuple[int, int] | None = None
        self.mode, self.current, self.encoded_power = 1, 0, 0
        self.silent = self.byte_by_byte = self.old_nack = False
        self.delay_s = 0.0
        self.garbage = self.trailing = b""
        self.damage_received = self.damage_sent = 0
        self.vanish_before: int | None = None
        self.commands: list[bytes] = []
        self.power_set_at_s = 0.0
        self._fds: list[int] = []
        self._wake: tuple[int, int] = (-1, -1)
        self._thread: threading.Thread | None = None
        self.plug_in()

    @property
    def offset_dpt(self) -> float:
        return 5.0 if self.firmware == "A" else 0.0

    @property
    def power_dpt(self) -> float:
        return self.encoded_power / 200.0 - self.offset_dpt

    def plug_in(self) -> None:
        """Appear at the path, in the state of power-up."""
        self.mode, self.current, self.encoded_power = 1, 0, 0
        master, slave = pty.openpty()
        tty.setraw(slave)
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        os.symlink(os.ttyname(slave), self.path)
        # The other end stays open here too, else reading fails while nobody else has it open.
        self._fds = [master, slave]
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(master, self._wake[0]), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Vanish. Returns when it has."""
        if self._thread is not None and self._wake[1] >= 0:
            with suppress(OSError):
                os.write(self._wake[1], b"x")
            self._thread.join()
        self._thread = None
        for fd in self._wake:
            if fd >= 0:
                os.close(fd)
        self._wake = (-1, -1)

    def _run(self, master: int, wake: int) -> None:
        import select

        buffer = b""
        try:
            while True:
                ready, _, _ = select.select([master, wake], [], [])
                if wake in ready:
                    return
                buffer = self._consume(master, buffer + os.read(master, 256))
        except _Unplugged:
            return
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            for fd in self._fds:
                os.close(fd)

    def _consume(self, master: int, buffer: bytes) -> bytes:
        """Carry out whole commands; return what is left."""
        while buffer:
            if b"Start" in buffer:
                buffer = buffer[buffer.index(b"Start") + 5 :]  # it flushes its input
                self._count(b"Start")
                self.current = 0
                self._send(master, b"Ready\r\n")
                continue
            if b"Start".startswith(buffer):
                return buffer
            length = LENGTHS.get(buffer[:2], LENGTHS.get(buffer[:1]))
            if length is None:
                self._answer(master, b"E\x03")
                return b""
            if len(buffer) < length + 2:
                return buffer
            self._command(master, buffer[:length], buffer[length : length + 2])
            buffer = buffer[length + 2 :]
        return b""

    def _count(self, command: bytes) -> None:
        if self.vanish_before is not None and len(self.commands) >= self.vanish_before:
            self.vanish_before = None
            raise _Unplugged
        self.commands.append(command)

    def _command(self, master: int, command: bytes, crc: bytes) -> None:
        if self.damage_received > 0:
            self.damage_received -= 1
            crc = b"\0\0"
        if crc != crc_of_the_sheet(command):
            if self.old_nack:
                self._send(master, b"N\r\n")
            else:
                self._answer(master, b"E\x01")
            return
        self._count(command)
        answer = self._carry_out(command)
        if answer:
            self._answer(master, answer)

    def _carry_out(self, command: bytes) -> bytes:
        power = [round((dpt + self.offset_dpt) * 200) for dpt in reversed(self.reach_dpt)]
        match command[:2]:
            case b"H":
                return b"H" + self.firmware.encode()
            case b"MM":
                return b"MMA" + bytes([self.mode])
            case b"Mw":
                letter = command[2:3].decode()
                if letter != "C":
                    self.mode = MODES[letter]
                    return b"M" + letter.encode() + b"A"
                status = self.status | (0 if self.has_limits else 4)
                self.mode = 5 if self.has_limits else self.mode
                return b"MCA" + struct.pack(">Bhh", status, *(power if self.has_limits else (0, 0)))
            case b"Ar":
                return b"A" + struct.pack(">h", self.current)
            case b"Aw":
                (self.current,) = struct.unpack(">h", command[2:])
                return b""
            case b"TC":
                count = 4095 if self.temperature_c is None else round(self.temperature_c / 0.0625)
                return b"TCA" + struct.pack(">h", count)
            case b"Sr":
                return b"S\0\0\0" + bytes([self.status]) if self.has_status_command else b"E\x03"
        return self._property(command)

    def _property(self, command: bytes) -> bytes:
        if command[:4] == b"PwDA":
            (self.encoded_power,) = struct.unpack(">hxx", command[4:])
            self.power_set_at_s = time.monotonic()
            return b""
        if command[:4] == b"PrDA":
            return b"PD" + struct.pack(">h", self.encoded_power)
        if command[:4] == b"PwTA":
            self.limits = struct.unpack(">hh", command[4:])
            self.has_limits = True
            power = [round((dpt + self.offset_dpt) * 200) for dpt in reversed(self.reach_dpt)]
            return b"PT" + struct.pack(">Bhh", self.status, *power)
        return b"E\x03"

    def _answer(self, master: int, answer: bytes) -> None:
        crc = crc_of_the_sheet(answer)
        if self.damage_sent > 0:
            self.damage_sent -= 1
            crc = bytes([crc[0] ^ 0x10, crc[1]])
        self._send(master, answer + crc + b"\r\n")

    def _send(self, master: int, data: bytes) -> None:
        if self.silent:
            return
        time.sleep(self.delay_s)
        data, trailing = self.garbage + data, self.trailing  # what a test sets once this is read is for the next
        if not self.byte_by_byte:
            os.write(master, data)
            if trailing:
                time.sleep(0.005)
                os.write(master, trailing)
            return
        for i in range(len(data)):
            os.write(master, data[i : i + 1])
            time.sleep(0.0005)


class _Unplugged(Exception):
    """The cable was pulled."""
