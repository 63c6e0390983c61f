# SPDX-License-Identifier: Apache-2.0
"""Handles picamera2: its import, its errors, and its few buffers, of which a wait that ends early loses none."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dualfocus_ros.errors import CameraError, DeviceError

# A job that was cancelled, or had its request already, is over at once.
REAP_S = 1.0


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Raise what picamera2 and libcamera raise, mostly RuntimeError, as DeviceError that says what failed."""
    try:
        yield
    except CameraError:
        raise
    except Exception as error:
        raise DeviceError(f"picamera2 could not {what}: {str(error) or type(error).__name__}") from error


def libraries() -> tuple[Any, Any]:
    """Return the modules picamera2 and libcamera.

    Raises:
        CameraError: if they are missing or too old.
    """
    try:
        # libcamera first: picamera2 needs it, and an error then names what is missing.
        libcamera, picamera2 = importlib.import_module("libcamera"), importlib.import_module("picamera2")
    except ImportError as error:
        raise CameraError(
            f"cannot import picamera2 ({error}): `sudo apt install python3-picamera2`, and make a virtual "
            "environment with `python3 -m venv --system-site-packages`, as PyPI has no libcamera"
        ) from error
    if not hasattr(picamera2.Picamera2, "cancel_all_and_flush"):
        raise CameraError(
            "expected a picamera2 that can give up waiting (July 2024 or newer): `sudo apt update && sudo apt "
            "full-upgrade`"
        )
    return picamera2, libcamera


class _Job:
    """A request that picamera2 was asked for; `done` once it is there, or has failed."""

    def __init__(self, camera: Any, wake: threading.Event) -> None:
        self.done = False
        self._wake = wake
        self._job = camera.capture_request(wait=False, signal_function=self._finished)

    def _finished(self, job: object) -> None:
        # On the thread of picamera2's event loop.
        self.done = True
        self._wake.set()

    def result(self, timeout_s: float) -> Any:
        return self._job.get_result(timeout=timeout_s)


class Requests:
    """Takes completed requests of a Picamera2 that runs. One thread takes them, any may interrupt.

    A wait that ends early must not be forgotten: picamera2 would hand a request, with its buffer, to a job that
    nobody asks any more, and starve when all buffers are gone. The next `take` goes on with it, `close` reaps it.
    """

    def __init__(self, camera: Any, interrupted: threading.Event) -> None:
        """Take the camera, and the event that is set once all waiting has to end."""
        self._camera = camera
        self._interrupted = interrupted
        self._wake = threading.Event()
        self._pending: _Job | None = None

    def take(self, timeout_s: float) -> Any:
        """Return the newest completed request; the caller has to release it.

        Raises:
            DeviceError: if none came within the time, picamera2 failed, or `interrupt` was called.
        """
        until = time.monotonic() + timeout_s
        if self._pending is not None and self._pending.done:
            # It came after its time: there is a newer one.
            self._reap()
        while True:
            self._wake.clear()
            if self._interrupted.is_set():
                raise DeviceError("the camera was interrupted")
            if self._pending is None:
                with telling("ask for a frame"):
                    self._pending = _Job(self._camera, self._wake)
            self._wake.wait(max(0.0, until - time.monotonic()))
            if self._pending.done:
                job, self._pending = self._pending, None
                with telling("capture a frame"):
                    return job.result(REAP_S)
            if not self._interrupted.is_set() and time.monotonic() >= until:
                raise DeviceError(
                    f"the camera gave no frame within {timeout_s:g} s: it is stalled, or its cable came loose"
                )

    def interrupt(self) -> None:
        """End a `take` under way on another thread, once the event is set."""
        self._wake.set()

    def close(self) -> None:
        """Give up a wait under way: without this, picamera2 would wait for its frame before it stops."""
        try:
            self._camera.cancel_all_and_flush()
        finally:
            if self._pending is not None:
                self._reap()

    def _reap(self) -> None:
        job, self._pending = self._pending, None
        if job is None:
            return
        try:
            request = job.result(REAP_S)
        except Exception:  # cancelled, failed, or (TimeoutError) gone with the event loop: there is none
            return
        with telling("give back a frame"):
            request.release()
