# SPDX-License-Identifier: Apache-2.0
"""What a driver for hardware must do: pictures, and a lens that moves in units of its own.

A device knows nothing of metres and dioptres: `hardware.HardwareCamera` makes a `FocusCamera` of any device and
the lens file that calibration wrote; the commands `calibrate lens` and `calibrate settle` write that file.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from dualfocus_ros.camera.common import check_settings, setting
from dualfocus_ros.errors import LensError, ParameterError
from dualfocus_ros.types import Image, Intrinsics


@dataclass(frozen=True)
class ActuatorRange:
    """The positions that a lens actuator takes: `low` to `high` in steps of `step` (0: any), in `unit`."""

    low: float
    high: float
    step: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        """Check that it is a range; raise LensError."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise LensError(f"expected an actuator range from low to high, got {self.low} to {self.high}")
        if not 0.0 <= self.step <= self.high - self.low:
            raise LensError(
                f"expected a step of the actuator within 0 .. {self.high - self.low} {self.unit}, got {self.step}"
            )

    def nearest(self, position: float) -> float:
        """Return the position that the actuator can take nearest to this one."""
        inside = min(max(position, self.low), self.high)
        if self.step > 0.0:
            last = math.floor((self.high - self.low) / self.step + 1e-9)
            inside = self.low + min(math.floor((inside - self.low) / self.step + 0.5), last) * self.step
        return inside

    def beyond(self, position: float, side: float) -> float:
        """Return the position that the actuator can take next to this one, on that side of it or at it."""
        if self.step <= 0.0 or side == 0.0:
            return self.nearest(position)
        steps = (position - self.low) / self.step
        whole = math.ceil(steps - 1e-9) if side > 0.0 else math.floor(steps + 1e-9)
        return self.nearest(self.low + whole * self.step)


@dataclass(frozen=True)
class DeviceFrame:
    """One exposure as a device gives it.

    Attributes:
        image: pixels in the layout that `encoding` says.
        encoding: a name of sensor_msgs/image_encodings.
        exposure: when the first row began and the last row ended to be exposed, seconds of the device's clock.
        position: where the device says the actuator was, in its units; None: it does not say. Some say only
            where it was told to be.
        moving: whether the device says that the lens moved; None: it does not say.
        temperature_c: of the lens, the sensor or the module, degrees Celsius; None: not known.
        intrinsics: that the source of the images tells; None: not known.
        stamp_ns: of the image where it has one already, nanoseconds of wall time; None: the middle of the
            exposure.
    """

    image: Image
    encoding: str
    exposure: tuple[float, float]
    position: float | None = None
    moving: bool | None = None
    temperature_c: float | None = None
    intrinsics: Intrinsics | None = None
    stamp_ns: int | None = None


class Clock(Protocol):
    """The clock of a device. Simulated devices have one of their own (`common.FrameClock`)."""

    def now(self) -> float:
        """Return the time in seconds."""

    def stamp_ns(self, time_s: float) -> int:
        """Return the stamp, nanoseconds of wall time, of a time of this clock."""


class MonotonicClock:
    """The clock of real devices: CLOCK_MONOTONIC, which the stamps of V4L2 buffers are of too."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def stamp_ns(self, time_s: float) -> int:
        """Return the stamp, nanoseconds of wall time, of a time of this clock."""
        return time.time_ns() - round((time.monotonic() - time_s) * 1e9)


class FocusDevice(Protocol):
    """A camera with a lens that moves. Devices are context managers; leaving closes them.

    Making one imports no library of a vendor and touches no hardware; `__enter__` does. One thread uses a device
    at a time, but any may call `interrupt`. A device can be entered again after it was left, also after an error.

    Errors: CameraError where a library is not installed or the device cannot do what it must (the message says
    what to install or change); DeviceError where it is absent, stalled, lost or failing, so that trying again may
    help.
    """

    @property
    def clock(self) -> Clock:
        """The clock of the exposures."""

    @property
    def focus_range(self) -> ActuatorRange:
        """Positions of the actuator; known once the device is open."""

    def move_to(self, position: float) -> None:
        """Command a position, one that `focus_range.nearest` gives; returns at once, the lens then moves."""

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the next frame; DeviceError where none came within the time.

        Frames come in order, and soon after their exposure: a device hands out the newest where it has several.
        """

    def meter(self) -> bool:
        """Let exposure and white balance find their values for the light of now, and hold them again.

        As on opening: takes up to `auto_time_s`, and the frames of that time. Errors: as above.

        Returns:
            Whether there was anything to find: not where the settings give all or hold nothing, and not where the
            images are another node's.
        """

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon, with DeviceError or a frame."""

    def __enter__(self) -> FocusDevice:
        """Open the device: manual focus, and exposure and white balance as the settings say."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back what was changed on the device, as far as it is still there, and close it."""


@dataclass(frozen=True)
class DeviceConfig:
    """What the drivers for hardware have in common. A live setting that is changed opens the camera anew."""

    lens: str = setting(
        "",
        "Lens file that calibration wrote: its name in config/lenses, or a path. See the command calibrate lens.",
    )
    width: int = setting(640, "Image width.", unit="px", min=16, max=16384)
    height: int = setting(480, "Image height.", unit="px", min=16, max=16384)
    rate_hz: float = setting(30.0, "Frame rate to ask for.", unit="Hz", min=0.1, max=1000.0)
    exposure_s: float = setting(
        0.0,
        "Exposure time; 0: automatic when the camera opens, then held, so that all slices are exposed alike (see "
        "meter_again).",
        unit="s",
        min=0.0,
        max=10.0,
        live=True,
    )
    gain: float = setting(
        0.0, "Gain in the unit of the camera; 0: automatic when the camera opens, then held.", min=0.0, live=True
    )
    hold_exposure: bool = setting(
        True,
        "Hold exposure and white balance during the sweep; false leaves them to the camera's automatics.",
        live=True,
    )
    meter_again: float = setting(
        1.4,
        "Where pictures are brighter or darker than when the exposure was found, by more than this factor in grey "
        "levels, it is found anew between two sweeps; 0: never.",
        min=0.0,
        max=255.0,
        live=True,
    )
    auto_time_s: float = setting(
        3.0,
        "Longest time that automatic exposure and white balance get before they are held; they take less where "
        "brightness and colour come to rest before.",
        unit="s",
        min=0.0,
        max=60.0,
        live=True,
    )
    frame_timeout_s: float = setting(
        1.0,
        "A camera that gives no frame for this long counts as stalled and is opened anew.",
        unit="s",
        min=0.05,
        live=True,
    )

    @property
    def patience_s(self) -> float:
        """How long to wait for a frame: `frame_timeout_s`, and longer where frames need it."""
        period_s = 1.0 / self.rate_hz if self.rate_hz > 0.0 else 0.0
        return max(self.frame_timeout_s, 2.0 * period_s + self.exposure_s)

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        check_settings(self)
        if 0.0 < self.meter_again <= 1.0:
            raise ParameterError(f"expected meter_again above 1, or 0 for never, got {self.meter_again}")
