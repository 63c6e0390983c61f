# SPDX-License-Identifier: Apache-2.0
"""The modules picamera2 and libcamera, as far as the driver uses them, with a Raspberry Pi camera behind them.

Signatures and behaviour are those of picamera2 0.3.38 and of libcamera's Raspberry Pi code: controls reach the
sensor with a request that was queued before, so frames later; the lens goes to its target at a limited speed, and
the position in the metadata is where it is told to be after that exposure; requests that are not released starve
the camera. What the real one would not survive, or silently ignore, is a `Misuse` here.

    pi = FakeRaspberryPi()
    pi.install(monkeypatch)
    ... use the driver ...
    pi.check()   # all closed, all requests released, no thread left, nothing misused
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fake_motor import Bgr, Misuse, Truths
from fake_picamera2_requests import FakeJob, FakeRequest
from fake_picamera2_sensor import AfModeEnum, Sensor

if TYPE_CHECKING:
    import pytest


class FakeRaspberryPi:
    """What is plugged in, and how it behaves; change it while it runs.

    Attributes:
        cameras: models that libcamera finds, by number.
        lens: least, greatest and default LensPosition, or None without a motor.
        slew_dpt: how far the lens goes from frame to frame.
        settles: whether the lens ever comes to its target.
        tells_position: whether metadata have LensPosition.
        metadata: what to add to the metadata of every frame.
        stalled: whether frames do not come any more, as with a loose cable.
        late_s: time from the readout to the completed request.
        lose: says by its number whether a frame is lost.
        fail: errors to raise, by the name of the call.
        clock_offset_s: of the clock of SensorTimestamp against CLOCK_MONOTONIC.
        limits_us: of the frame period of the sensor's mode.
        adjusts_to: size that configure changes the image to.
        mode: size of the sensor mode.
        light: on the scene, by which automatic exposure is shorter.
        picture: makes the image of a lens position.
    """

    def __init__(self, **behaviour: Any) -> None:
        self.cameras = ["imx708"]
        self.lens: tuple[float, float, float] | None = (0.0, 15.0, 1.0)
        self.slew_dpt = 1.5
        self.motor_dpt_per_s = float("inf")
        self.settles = True
        self.tells_position = True
        self.metadata: dict[str, Any] = {}
        self.stalled = False
        self.late_s = 0.0
        self.lose: Callable[[int], bool] = lambda number: False
        self.fail: dict[str, Exception] = {}
        self.clock_offset_s = 0.0
        self.limits_us = (2000, 1_000_000)
        self.adjusts_to: tuple[int, int] | None = None
        self.mode = (2304, 1296)
        self.light = 1.0
        self.picture: Callable[[float], Bgr] | None = None
        for name, value in behaviour.items():
            if not hasattr(self, name):
                raise TypeError(f"a FakeRaspberryPi has no {name!r}")
            setattr(self, name, value)
        self.truths = Truths()
        self.opened: list[FakePicamera2] = []
        self.misused: list[str] = []
        self.in_use: set[int] = set()

    @property
    def camera(self) -> FakePicamera2:
        """The camera that was opened last."""
        return self.opened[-1]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeRaspberryPi:
        """Put the modules where an import finds them, for the time of a test."""
        picamera2, libcamera = ModuleType("picamera2"), ModuleType("libcamera")
        picamera2.Picamera2 = type("Picamera2", (FakePicamera2,), {"pi": self})  # type: ignore[attr-defined]
        libcamera.controls = ModuleType("controls")  # type: ignore[attr-defined]
        libcamera.controls.AfModeEnum = AfModeEnum  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "picamera2", picamera2)
        monkeypatch.setitem(sys.modules, "libcamera", libcamera)
        return self

    def misuse(self, what: str) -> Misuse:
        self.misused.append(what)
        return Misuse(what)

    def called(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def check(self) -> None:
        """Assert that nothing was misused or is left open."""
        assert not self.misused
        for camera in self.opened:
            assert not camera.is_open, "a camera was not closed"
            assert camera.held == 0, f"{camera.held} requests were not released"
            assert camera.thread is None or not camera.thread.is_alive(), "a thread is left"


class FakePicamera2:
    """picamera2.Picamera2 with its event loop; the sensor is a thread."""

    pi: FakeRaspberryPi

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        cls.pi.called("global_camera_info")
        return [
            {"Model": m, "Location": 2, "Rotation": 180, "Id": m, "Num": n} for n, m in enumerate(cls.pi.cameras)
        ]

    def __init__(
        self, camera_num: int = 0, verbose_console: Any = None, tuning: Any = None, allocator: Any = None
    ) -> None:
        pi = self.pi
        if camera_num >= len(pi.cameras):
            # Real ones leave two file descriptors open.
            raise pi.misuse("a camera was opened that does not exist")
        pi.called("Picamera2")
        if camera_num in pi.in_use:
            raise RuntimeError("Camera __init__ sequence did not complete.")
        pi.in_use.add(camera_num)
        self.number = camera_num
        self.is_open, self.started, self.held = True, False, 0
        self.config: dict[str, Any] | None = None
        self.applied: dict[str, Any] = {}
        self.lock = threading.RLock()
        self.thread: threading.Thread | None = None
        self._controls: dict[str, Any] = {}
        self._queued: deque[dict[str, Any]] = deque()
        self._completed: list[FakeRequest] = []
        self._jobs: list[FakeJob] = []
        self._stopping = threading.Event()
        pi.opened.append(self)

    @property
    def camera_controls(self) -> dict[str, tuple[Any, Any, Any]]:
        low_us, high_us = self.pi.limits_us
        found: dict[str, tuple[Any, Any, Any]] = {
            "AeEnable": (False, True, True),
            "AwbEnable": (False, True, None),
            "ColourGains": (0.0, 32.0, None),
            "ExposureTime": (1, high_us, 20000),
            "AnalogueGain": (1.0, 16.0, 1.0),
            # Before a mode is configured, limits are those of no mode in particular.
            "FrameDurationLimits": (low_us, high_us, None) if self.config else (33333, 120000, None),
        }
        if self.pi.lens is not None:
            found |= {"AfMode": (0, 2, 0), "LensPosition": self.pi.lens}
        return found

    def create_video_configuration(
        self,
        main: dict[str, Any] = {},  # noqa: B006
        lores: Any = None,
        raw: Any = {},  # noqa: B006
        transform: Any = None,
        colour_space: Any = None,
        buffer_count: int = 6,
        controls: dict[str, Any] = {},  # noqa: B006
        display: str = "main",
        encode: str = "main",
        queue: bool = True,
        sensor: dict[str, Any] | None = {},  # noqa: B006
        use_case: str = "video",
    ) -> dict[str, Any]:
        self._need_open("create_video_configuration")
        for key in main:
            if key not in ("format", "size", "stride", "preserve_ar"):
                raise ValueError(f"Bad key {key!r}")
        made = {"format": "XBGR8888", "size": (1280, 720)} | main
        if made["format"] not in ("RGB888", "BGR888"):
            raise self.pi.misuse("a format that the fake does not have")
        return {"main": made, "raw": raw, "buffer_count": buffer_count, "queue": queue, "sensor": sensor}

    def configure(self, camera_config: Any = None) -> None:
        self._need_open("configure")
        if self.started:
            raise self.pi.misuse("configured while started")
        width, height = camera_config["main"]["size"]
        if width % 2 or height % 2:
            raise RuntimeError("width and height should be even")
        if set(camera_config["sensor"] or {}) - {"bit_depth", "output_size"}:
            raise RuntimeError("Unexpected keys in sensor configuration")
        config = dict(camera_config)
        config["main"] = {**camera_config["main"], "size": self.pi.adjusts_to or (width, height)}
        config["sensor"] = {"bit_depth": 10, "output_size": self.pi.mode}
        self.config, self._controls = config, {}

    def camera_configuration(self) -> dict[str, Any]:
        self._need_open("camera_configuration")
        return self.config or {}

    def set_controls(self, controls: dict[str, Any]) -> None:
        self._need_open("set_controls")
        if self.config is None:
            raise self.pi.misuse("controls before configure, which forgets them")
        for name, value in controls.items():
            if name not in self.camera_controls:
                raise RuntimeError(f"Control {name} is not advertised by libcamera")
            self._check_type(name, value)
        with self.lock:
            self._controls |= controls

    def start(self, config: Any = None, show_preview: Any = False) -> None:
        self._need_open("start")
        if self.config is None or self.started:
            raise self.pi.misuse("started twice, or without a configuration")
        self.started = True
        self._stopping.clear()
        self._sensor = Sensor(self.pi, self.config["main"]["size"])
        self._sensor.apply(self._controls, time.monotonic())
        self._controls = {}
        self._queued = deque({} for _ in range(self.config["buffer_count"]))
        self.thread = threading.Thread(target=self._run, name="fake picamera2", daemon=True)
        self.thread.start()

    def capture_request(
        self, wait: Any = None, signal_function: Callable[[Any], None] | None = None, flush: Any = None
    ) -> Any:
        self._need_open("capture_request")
        if not self.started:
            raise self.pi.misuse("a capture while stopped waits for ever")
        job = FakeJob(signal_function)
        with self.lock:
            self._jobs.append(job)
            self._work()
        if wait is None:
            wait = signal_function is None
        return job.get_result(None if wait is True else wait) if wait else job

    def cancel_all_and_flush(self) -> None:
        with self.lock:
            for job in self._jobs:
                job.cancel()
            self._jobs = []

    def stop(self) -> None:
        if not self.started:
            return
        if self._jobs:
            raise self.pi.misuse("stopped while a capture is pending: hangs if no frame comes")
        self._stopping.set()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()
        self.started = False
        with self.lock:
            for request in self._completed:
                request.ref_count = 0
            self._completed = []

    def close(self) -> None:
        if not self.is_open:
            return
        self.stop()
        self.is_open = False
        self.pi.in_use.discard(self.number)
        self.pi.called("close")

    def queue_again(self) -> None:
        """A request was released: it goes back to libcamera with the controls that were set meanwhile."""
        if self.started and not self._stopping.is_set():
            self._queued.append(self._controls)
            self._controls = {}

    def _need_open(self, what: str) -> None:
        if not self.is_open:
            raise self.pi.misuse(f"{what} of a closed camera")
        self.pi.called(what)

    def _check_type(self, name: str, value: Any) -> None:
        kinds: dict[str, Any] = {"AeEnable": bool, "AwbEnable": bool, "ExposureTime": int, "AfMode": AfModeEnum}
        kind = kinds.get(name, (float, tuple))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.pi.misuse(f"libcamera cannot take {value!r} as {name}")

    def _run(self) -> None:
        number, stamp_s = 0, time.monotonic()
        while True:
            stamp_s += self._sensor.period_s
            done_s = stamp_s + self._sensor.readout_s + self.pi.late_s
            if self._stopping.wait(max(0.0, done_s - time.monotonic())):
                return
            number += 1
            if not self.pi.stalled and not self.pi.lose(number):
                with self.lock:
                    self._frame(number, stamp_s)

    def _frame(self, number: int, stamp_s: float) -> None:
        if not self._queued:
            return  # no buffer: the frame is lost
        controls = self._queued.popleft()
        metadata, image = self._sensor.expose(number, stamp_s, controls)
        if self.config is not None and self.config["main"]["format"] == "BGR888":
            image = image[..., ::-1]  # libcamera names formats by words of memory, not by bytes
        self._completed.append(FakeRequest(self, metadata, image))
        self._work()
        while len(self._completed) > 1:
            self._completed.pop(0).release()

    def _work(self) -> None:
        while self._jobs and self._completed:
            request = self._completed.pop(0)
            request.handed_out = True
            self.held += 1
            self._jobs.pop(0).finish(request)
