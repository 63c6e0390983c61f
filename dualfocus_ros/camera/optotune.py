# SPDX-License-Identifier: Apache-2.0
"""A focus-tunable lens of Optotune at its serial driver (Lens Driver 4 or 4i), and the images of any other camera.

Needs PyPI pyserial, imported when the device is opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.device import DeviceConfig, DeviceFrame
from dualfocus_ros.camera.driver import Driver
from dualfocus_ros.camera.feed import FrameFeed
from dualfocus_ros.camera.optotune_lens import OptotuneLens
from dualfocus_ros.errors import DeviceError, ParameterError

STAMP_CHOICES = ("start", "middle", "end")
# How much of the exposure lies before the stamp.
_BEFORE_STAMP = {"start": 0.0, "middle": 0.5, "end": 1.0}
# How often the lens is looked after while it is not moved: temperature, status, and whether it is there at all.
CHECK_PERIOD_S = 1.0


_NO_EFFECT = (
    "No effect: exposure, gain and white balance of the images are set, and held, at the camera's own node."
)


@dataclass(frozen=True)
class OptotuneConfig(DeviceConfig):
    """A lens at a serial port. Exposure, gain and white balance are set, and held, at the camera's own node."""

    gain: float = setting(0.0, _NO_EFFECT, min=0.0)
    hold_exposure: bool = setting(True, _NO_EFFECT)
    meter_again: float = setting(0.0, _NO_EFFECT, min=0.0, max=255.0)
    auto_time_s: float = setting(3.0, _NO_EFFECT, unit="s", min=0.0, max=60.0)

    exposure_s: float = setting(
        0.0,
        "Exposure time of the images, of a rolling shutter with its readout time; 0: not known, a frame period is "
        "taken. The camera's own node sets it.",
        unit="s",
        min=0.0,
        max=10.0,
        live=True,
    )
    port: str = setting(
        "/dev/ttyACM0", "Serial port of the lens driver; its link in /dev/serial/by-id stays the same."
    )
    image_topic: str = setting("", "Topic on which the camera's own node publishes images (sensor_msgs/Image).")
    camera_info_topic: str = setting(
        "", "Topic of the intrinsics of these images (sensor_msgs/CameraInfo); empty: none."
    )
    stamp_is: str = setting(
        "start", "What part of the exposure the stamps of the images tell.", choices=STAMP_CHOICES
    )

    def __post_init__(self) -> None:
        """Check ranges and choices; raise ParameterError."""
        super().__post_init__()
        if not self.port:
            raise ParameterError("expected port to name the serial port, such as /dev/ttyACM0, got none")
        if self.stamp_is not in STAMP_CHOICES:
            raise ParameterError(f"expected stamp_is to be one of {list(STAMP_CHOICES)}, got {self.stamp_is!r}")


class OptotuneDevice(Driver):
    """Implements `FocusDevice`. Positions are focal powers of the liquid lens, dioptres.

    The driver knows only what it was told: `DeviceFrame.position` and `moving` are None.

    Attributes:
        config: the settings.
        feed: where the images are put.
    """

    config: OptotuneConfig

    def __init__(self, config: OptotuneConfig) -> None:
        """Take the settings; the port is opened on entering."""
        self.feed = FrameFeed()
        super().__init__(config)

    def _reset(self) -> None:
        self._lens: OptotuneLens | None = None
        self._temperature_c: float | None = None
        self._checked_s = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it should be with lens or images, sentences for people."""
        found = list(self._lens.notes) if self._lens is not None else []
        if self.config.exposure_s == 0.0:
            found.append("exposure_s is 0, not known: a frame period is taken as the exposure time of the images")
        return (*found, *self.feed.notes)

    def move_to(self, position: float) -> None:
        """Command a focal power, dioptres; returns when the driver has it, the lens then moves.

        Raises:
            LensError: if it is not within the range.
            DeviceError: if the driver refuses, is silent or lost.
        """
        self._temperature_c = self._opened().set_focal_power(position)

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the newest image that was put into the feed since the last, waiting for one where there is none.

        Raises:
            DeviceError: if none came within the time, the lens is lost, or `interrupt` was called.
        """
        lens = self._opened()
        if self._clock.now() >= self._checked_s + CHECK_PERIOD_S:
            lens.check()
            self._temperature_c = lens.temperature_c()
            self._checked_s = self._clock.now()
        fed = self.feed.take(timeout_s)
        takes_s = self.config.exposure_s or 1.0 / self.config.rate_hz
        start_s = fed.time_s - _BEFORE_STAMP[self.config.stamp_is] * takes_s
        return DeviceFrame(
            image=fed.image,
            encoding=fed.encoding,
            exposure=(start_s, start_s + takes_s),
            temperature_c=self._temperature_c,
            intrinsics=fed.intrinsics,
            stamp_ns=fed.stamp_ns,
        )

    def meter(self) -> bool:
        """Do nothing, and say so: the images are another node's, and so is their exposure."""
        return False

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon."""
        super().interrupt()
        self.feed.interrupt()

    @property
    def _is_open(self) -> bool:
        return self._lens is not None

    def _open(self) -> None:
        """Open the port and switch the lens to focal power mode; DeviceError too where no lens is connected."""
        self.feed.restart()
        lens = OptotuneLens(self.config.port, self._interrupted.is_set)
        self._lens, self._range = lens, lens.reach
        self._checked_s = self._clock.now() - CHECK_PERIOD_S

    def _close(self) -> None:
        lens, self._lens = self._lens, None
        # An interruption was of what is over; putting back takes a few answers of the driver.
        self._interrupted.clear()
        if lens is not None:
            lens.close()

    def _opened(self) -> OptotuneLens:
        if self._lens is None:
            raise self._not_open()
        if self._interrupted.is_set():
            raise DeviceError(f"{self.config.port}: interrupted")
        return self._lens
