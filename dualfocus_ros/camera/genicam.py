# SPDX-License-Identifier: Apache-2.0
"""Industrial cameras with the GenICam interface that move their lens, by Basler's pylon.

Needs PyPI pypylon 3.0 or later, imported when the device is opened.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.camera import genicam_exposure
from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.device import DeviceConfig, DeviceFrame
from dualfocus_ros.camera.driver import Driver
from dualfocus_ros.camera.genicam_image import PIXEL_FORMAT_CHOICES, image_of, set_pixel_format, set_size
from dualfocus_ros.camera.genicam_lens import GenicamLens
from dualfocus_ros.camera.genicam_nodes import Nodes
from dualfocus_ros.camera.genicam_time import Arrival, Exposures
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError

FIRST_FRAME_S = 5.0
# Frames that a camera may expose with the settings from before, after they were changed.
FRAMES_TO_APPLY = 3
# pylon on Linux ends its waits by SIGALRM, whose handler it installs itself: wherever that was replaced since, a
# wait that runs out ends the whole process. So nothing waits inside pylon.
POLL_S = 0.002
# How often to ask whether the camera is still there, which takes pylon a millisecond.
REMOVED_PERIOD_S = 0.05
FAILED = "frames that came incomplete"


@dataclass(frozen=True)
class GenicamConfig(DeviceConfig):
    """A GenICam camera. Its image is binned as far as its size allows, and of that the centre is taken."""

    serial_number: str = setting("", "Serial number of the camera; empty: the first that is found.")
    focus_node: str = setting(
        "auto",
        "Feature that moves the lens, such as FocalPower (dioptres) or FocusStepper (steps); auto: what there is.",
    )
    pixel_format: str = setting(
        "auto",
        "Pixel format of the camera; auto: what it is set to, where that can be used.",
        choices=PIXEL_FORMAT_CHOICES,
    )

    def __post_init__(self) -> None:
        """Check ranges and choices; raise ParameterError."""
        super().__post_init__()
        if not self.focus_node:
            raise ParameterError("expected focus_node to be auto or the name of a feature, got none")
        if self.pixel_format not in PIXEL_FORMAT_CHOICES:
            raise ParameterError(
                f"expected pixel_format to be one of {list(PIXEL_FORMAT_CHOICES)}, got {self.pixel_format!r}"
            )


class GenicamDevice(Driver):
    """Implements `FocusDevice`. Positions are values of the feature that moves the lens.

    Attributes:
        config: the settings.
        counts: frames since opening that were dropped, by reason.
    """

    config: GenicamConfig

    def __init__(self, config: GenicamConfig) -> None:
        """Take the settings; the camera is opened on entering."""
        self.counts: Counter[str] = Counter()
        self._name = "genicam camera"
        super().__init__(config)

    def _reset(self) -> None:
        self.counts.clear()
        self._pylon: Any = None
        self._genicam: Any = None
        self._camera: Any = None
        self._nodes: Nodes | None = None
        self._lens: GenicamLens | None = None
        self._exposures: Exposures | None = None
        self._encoding = ""
        self._looked_s = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the camera could not do, sentences for people; complete once the device is open."""
        return (*self._notes, *(self._nodes.notes if self._nodes is not None else ()))

    def move_to(self, position: float) -> None:
        """Command a position; a lens that takes no command while it moves is waited for.

        Raises:
            LensError: if it is not within the range.
            DeviceError: if the lens refuses, or the camera is lost.
        """
        if self._lens is None:
            raise self._not_open()
        self._lens.move_to(position)

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the newest frame, waiting for one where none is ready; incomplete ones are dropped.

        Raises:
            DeviceError: if none came within the time, the camera is lost, or `interrupt` was called.
        """
        if self._exposures is None or self._lens is None:
            raise self._not_open()
        until = time.monotonic() + timeout_s
        failed = self.counts[FAILED]
        while True:
            taken = self._retrieve(until)
            if taken is None:
                count = self.counts[FAILED] - failed
                raise DeviceError(f"{self._name}: no good frame within {timeout_s:g} s, {count} incomplete")
            buffer, size, padding, count, arrival = taken
            image = image_of(buffer, *size, padding, self._encoding)
            if image is None:
                self.counts[FAILED] += 1
                continue
            return DeviceFrame(
                image=image,
                encoding=self._encoding,
                exposure=self._exposures.of(count, arrival),
                position=self._lens.position(),
                moving=self._lens.moving(),
                temperature_c=self._lens.temperature_c(),
            )

    def meter(self) -> bool:
        """Let the automatics find what the settings leave to them of exposure, gain and white balance; hold it.

        Raises:
            DeviceError: if the camera is lost, no frame comes, or `interrupt` was called.
        """
        if self._nodes is None or self._exposures is None:
            raise self._not_open()
        running = genicam_exposure.prepare(self._nodes, self.config, self._name)
        self._hold(self._nodes, self._exposures, running)
        return running

    @property
    def _is_open(self) -> bool:
        return self._camera is not None

    def _open(self) -> None:
        """Open the camera, take over its lens, wait for frames and hold the exposure."""
        try:
            self._pylon, self._genicam = (importlib.import_module(f"pypylon.{m}") for m in ("pylon", "genicam"))
        except ImportError as error:
            raise CameraError(
                "the genicam camera needs the Python package pypylon: pip install pypylon"
            ) from error
        try:
            self._start()
        except self._genicam.GenericException as error:
            raise self._failure("open the camera", error) from error

    def _start(self) -> None:
        c, pylon = self.config, self._pylon
        factory = pylon.TlFactory.GetInstance()
        info = self._find(factory.EnumerateDevices())
        self._name = f"{info.GetModelName()} {info.GetSerialNumber()}"
        self._camera = camera = pylon.InstantCamera(factory.CreateDevice(info))
        # Its usual one switches triggers off for good.
        camera.RegisterConfiguration(
            pylon.ConfigurationEventHandler(), pylon.RegistrationMode_ReplaceAll, pylon.Cleanup_Delete
        )
        camera.Open()
        self._nodes = nodes = Nodes(camera.GetNodeMap(), self._genicam, self._name, camera.IsCameraDeviceRemoved)
        self._check()
        self._lens = GenicamLens(nodes, c.focus_node, self._name, self._check)
        self._range = self._lens.reach
        self._encoding = set_pixel_format(nodes, c.pixel_format, self._name)
        set_size(nodes, c.width, c.height, self._name)
        genicam_exposure.run_freely(nodes, c.rate_hz)
        running = genicam_exposure.prepare(nodes, c, self._name)
        self._exposures = exposures = Exposures(nodes, c.rate_hz)
        self._note_rate(nodes, 1.0 / exposures.period_s)
        camera.StartGrabbing(pylon.GrabStrategy_LatestImageOnly)
        started_s = time.monotonic()
        self.read(max(FIRST_FRAME_S, c.patience_s))
        self._hold(nodes, exposures, running)
        while not exposures.checked and time.monotonic() < started_s + c.auto_time_s:
            self.read(c.patience_s)

    def _hold(self, nodes: Nodes, exposures: Exposures, running: bool) -> None:
        c = self.config
        if running:
            self._let_settle()
        if genicam_exposure.hold(nodes, c):
            exposures.hold()
        self._skip(FRAMES_TO_APPLY)

    def _find(self, found: Any) -> Any:
        wanted = self.config.serial_number
        fitting = [info for info in found if wanted in ("", info.GetSerialNumber())]
        if not fitting:
            numbers = ", ".join(info.GetSerialNumber() for info in found) or "none"
            what = f"a camera with the serial number {wanted}" if wanted else "a camera that pylon finds"
            raise DeviceError(f"expected {what}, found {numbers}: is it plugged in, powered, and in this network?")
        return fitting[0]

    def _note_rate(self, nodes: Nodes, rate_hz: float) -> None:
        if rate_hz < genicam_exposure.SAME_RATE * self.config.rate_hz:
            nodes.note(f"the camera takes {rate_hz:.4g} Hz, not the {self.config.rate_hz:g} Hz asked for")

    def _retrieve(self, until: float) -> tuple[bytes, tuple[int, int], int, int, Arrival] | None:
        """Return buffer, size, padding, count and arrival of the newest whole frame; None: none came in time."""
        camera, pylon, absent_s = self._camera, self._pylon, None
        while True:
            self._check()
            left_s = until - time.monotonic()
            try:
                if not camera.IsGrabbing():
                    raise DeviceError(f"{self._name}: the camera stopped to give frames: is it unplugged?")
                result = camera.RetrieveResult(0, pylon.TimeoutHandling_Return)
                if result.IsValid():
                    arrival = Arrival(absent_s, time.monotonic())
                    try:
                        if result.GrabSucceeded():
                            size = int(result.GetWidth()), int(result.GetHeight())
                            told = int(result.GetPaddingX()), int(result.GetTimeStamp())
                            return (result.GetBuffer(), size, *told, arrival)
                    finally:
                        result.Release()
                    self.counts[FAILED] += 1
                else:
                    absent_s = time.monotonic()
                    time.sleep(min(POLL_S, max(left_s, 0.0)))
            except self._genicam.GenericException as error:
                raise self._failure("take a frame", error) from error
            if left_s <= 0.0:
                return None

    def _check(self) -> None:
        """Raise DeviceError where the camera is gone, or waiting is to end."""
        if self._interrupted.is_set():
            raise DeviceError(f"{self._name}: interrupted")
        now = time.monotonic()
        if self._camera is not None and now >= self._looked_s + REMOVED_PERIOD_S:
            self._looked_s = now
            if self._camera.IsCameraDeviceRemoved():
                raise DeviceError(f"{self._name}: the camera was unplugged")

    def _failure(self, doing: str, error: BaseException) -> DeviceError:
        if self._nodes is not None:
            return self._nodes.failure(doing, error)
        text = str(error).split(" : ")[0]
        return DeviceError(f"{self._name}: cannot {doing}: {text} (is it used by another program?)")

    def _close(self) -> None:
        camera, nodes = self._camera, self._nodes
        lens, self._camera = self._lens, None
        self._lens = self._exposures = None
        if camera is None:
            return
        failures = self._genicam.GenericException
        # An interruption was of what is over; putting back takes little time.
        self._interrupted.clear()
        if lens is not None:
            lens.come_to_rest()
        with suppress(failures):
            # Sizes cannot be changed while it grabs.
            camera.StopGrabbing()
        if nodes is not None:
            nodes.restore()
        with suppress(failures):
            camera.Close()
        with suppress(failures):
            camera.DestroyDevice()
