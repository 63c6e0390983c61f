# SPDX-License-Identifier: Apache-2.0
"""A serial port whose failures are the errors of this package. Needs PyPI pyserial, imported when it is opened."""

from __future__ import annotations

import errno
import importlib
from contextlib import suppress
from typing import Any

from dualfocus_ros.errors import CameraError, DeviceError

BAUD_RATE = 115200
# Granularity of waiting: after this long a wait looks whether it is to end.
SLICE_S = 0.02
WRITE_S = 0.5
READ_SIZE = 256

MEANING = {
    errno.ENOENT: "there is no such device: is it plugged in? `ls /dev/serial/by-id` lists what is",
    errno.ENODEV: "it is not there any more",
    errno.EACCES: "not permitted: `sudo usermod -aG dialout $USER`, then log in anew",
    errno.EBUSY: "it is used by another program",
    errno.EAGAIN: "it is used by another program",
    errno.EIO: "it is not there any more",
}


class SerialPort:
    """A serial port, 115200 baud, 8N1."""

    def __init__(self, path: str) -> None:
        """Open the port, for this program alone.

        Raises:
            CameraError: if pyserial is not installed.
            DeviceError: if the port is absent, used by another program, or not permitted.
        """
        try:
            make = importlib.import_module("serial").Serial
            # The POSIX calls of pyserial let its errors through.
            self._failures: tuple[type[BaseException], ...] = (
                OSError,
                ValueError,
                TypeError,
                importlib.import_module("termios").error,
            )
        except (ImportError, AttributeError) as error:  # PyPI also has another package, called serial
            raise CameraError(
                "the optotune lens needs the Python package pyserial: sudo apt install python3-serial, or "
                "pip install pyserial"
            ) from error
        self._path = path
        try:
            self._port: Any = make(path, BAUD_RATE, timeout=SLICE_S, write_timeout=WRITE_S, exclusive=True)
        except self._failures as error:
            raise self._failure("open it", error) from error

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            DeviceError: if the port is lost, or takes nothing.
        """
        try:
            self._port.write(data)
        except self._failures as error:
            raise self._failure("write to it", error) from error

    def read(self) -> bytes:
        """Return what came, after waiting for a short while; may be empty.

        Raises:
            DeviceError: if the port is lost.
        """
        try:
            # One byte waits; what came with it is there then.
            first: bytes = self._port.read(1)
            return first + self._read_waiting() if first else b""
        except self._failures as error:
            raise self._failure("read from it", error) from error

    def drain(self) -> None:
        """Throw away what came.

        Raises:
            DeviceError: if the port is lost.
        """
        try:
            while self._read_waiting():
                pass
        except self._failures as error:
            raise self._failure("read from it", error) from error

    def close(self) -> None:
        """Close the port."""
        with suppress(*self._failures):
            self._port.close()

    def _read_waiting(self) -> bytes:
        waiting = min(self._port.in_waiting, READ_SIZE)
        came: bytes = self._port.read(waiting) if waiting else b""
        return came

    def _failure(self, doing: str, error: BaseException) -> DeviceError:
        number = getattr(error, "errno", None)
        # pyserial tells a lock by another program only in words, and wraps errors without their number.
        if number is None and isinstance(error.__context__, OSError):
            number = error.__context__.errno
        meaning = MEANING.get(number, str(error)) if number is not None else str(error)
        return DeviceError(f"{self._path}: cannot {doing}: {meaning}")
