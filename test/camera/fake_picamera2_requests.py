# SPDX-License-Identifier: Apache-2.0
"""Jobs and completed requests of `fake_picamera2`."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fake_motor import Bgr

if TYPE_CHECKING:
    from fake_picamera2 import FakePicamera2


class FakeJob:
    """picamera2.job.Job of a capture_request."""

    def __init__(self, signal_function: Callable[[FakeJob], None] | None) -> None:
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.signal_function = signal_function

    def finish(self, result: Any = None, error: Exception | None = None) -> None:
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
        if self.signal_function is not None:
            self.signal_function(self)

    def get_result(self, timeout: float | None = None) -> Any:
        return self.future.result(timeout=timeout)

    def cancel(self) -> None:
        self.future.set_exception(concurrent.futures.CancelledError())


class FakeRequest:
    """picamera2.request.CompletedRequest."""

    def __init__(self, camera: FakePicamera2, metadata: dict[str, Any], image: Bgr) -> None:
        self.camera, self._metadata, self._image = camera, metadata, image
        self.handed_out = False
        self.ref_count = 1

    def get_metadata(self) -> dict[str, Any]:
        self._need()
        self.camera.pi.called("get_metadata")
        return dict(self._metadata)

    def make_array(self, name: str) -> Bgr:
        self._need()
        self.camera.pi.called("make_array")
        if name != "main":
            raise RuntimeError(f"Stream {name!r} is not defined")
        return self._image.copy()

    def release(self) -> None:
        self._need()
        with self.camera.lock:
            self.ref_count -= 1
            self.camera.held -= self.handed_out
            self.camera.queue_again()

    def _need(self) -> None:
        if self.ref_count < 1:
            raise self.camera.pi.misuse("a request was used after its release")
