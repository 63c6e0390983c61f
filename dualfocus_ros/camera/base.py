# SPDX-License-Identifier: Apache-2.0
"""What a focus-sweeping camera driver must do."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from dualfocus_ros.types import CameraFrame, LensModel


class FocusCamera(Protocol):
    """A camera whose focus can be moved. Drivers are context managers; leaving closes the device.

    One thread uses a camera at a time, but any may call `interrupt`. All methods raise CameraError where the
    device fails (DeviceError where it may come back), and LensError where a focus distance cannot be reached.
    """

    @property
    def lens(self) -> LensModel:
        """Focal length, f-number and pixel pitch."""

    @property
    def focus_range_m(self) -> tuple[float, float]:
        """Nearest and farthest focus distance that the lens can take, metres; the farthest may be inf."""

    @property
    def focus_positions_m(self) -> tuple[float, ...] | None:
        """The only focus distances (m) that exist, where a camera has fixed ones (recordings), else None."""

    def nearest_focus_m(self, focus_distance_m: float) -> float:
        """Return the focus distance in metres that the lens takes when told this one: actuators move in steps."""

    def set_focus(self, focus_distance_m: float) -> None:
        """Command a focus distance in metres; returns at once, the lens then moves."""

    def read(self) -> CameraFrame:
        """Wait for the next exposure and return it with the lens state of that very exposure.

        Its `focus_speed_mps` is 0 only if the lens stood still during the whole exposure: the sweep goes on
        at the first such frame. A driver that knows no more than the commanded position has to mark the
        frames exposed within the settle time of its lens as moving (speed inf where it is not known).
        """

    def prepare_sweep(self) -> bool:
        """Do what must not happen within a sweep, such as finding the exposure anew; may take seconds.

        Returns:
            Whether pictures are others now, so that none from before belongs to the sweep to come.
        """

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon, with CameraError or a frame."""

    def __enter__(self) -> FocusCamera:
        """Open the device."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the device and put back what was changed on it."""
