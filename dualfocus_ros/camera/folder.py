# SPDX-License-Identifier: Apache-2.0
"""Plays a focal stack on disk as a live camera: its lens takes the focus distances of the slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2

from dualfocus_ros.camera.common import FrameClock, check_settings, setting
from dualfocus_ros.errors import CameraError, LensError, StackError
from dualfocus_ros.image_encodings import encoding_of
from dualfocus_ros.stackio import load_stack
from dualfocus_ros.types import (
    CameraFrame,
    FloatImage,
    FocalSlice,
    FocalStack,
    Intrinsics,
    LensModel,
    LensState,
)


@dataclass(frozen=True)
class FolderConfig:
    """The folder camera."""

    path: str = setting("", "Folder of the focal stack: slice_00.png ... and meta.json.")
    rate_hz: float = setting(
        15.0, "Frame rate; 0: as fast as possible, in simulated time.", unit="Hz", min=0.0, max=1000.0
    )
    max_width: int = setting(
        0, "Wider images are scaled down to this width, intrinsics with them; 0: as they are.", unit="px", min=0
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        check_settings(self)


class FolderCamera:
    """Implements `FocusCamera`: `set_focus` goes to the nearest slice at once, `read` gives that slice."""

    def __init__(self, config: FolderConfig) -> None:
        """Read the stack.

        Raises:
            CameraError: if the folder does not hold a usable focal stack. The message names the file.
        """
        if not config.path:
            raise CameraError("expected the folder of a focal stack, got none: set path")
        try:
            stored = load_stack(Path(config.path))
        except StackError as error:
            raise CameraError(f"cannot play the folder as a camera: {error}") from error
        self.config = config
        stack = stored.stack
        width, height = _fitting_size(stack.slices[0].intrinsics, config.max_width)
        pitch_scale = stack.slices[0].intrinsics.width / width
        # Scaling down binns pixels: the pitch grows, so that blur in pixels stays right.
        self._lens = LensModel(
            stack.lens.focal_length_m, stack.lens.f_number, stack.lens.pixel_pitch_m * pitch_scale
        )
        self._slices = tuple(_scaled_slice(s, width, height) for s in stack.slices)
        # The depth node takes the smallest field of view; a truth of another frame would be compared with it.
        default = FocalStack.from_slices(stack.slices, stack.lens).reference
        of_reference = stack.slices[stack.reference].intrinsics == stack.slices[default].intrinsics
        self._truth_m = _scaled_depth(stored.ground_truth_m if of_reference else None, width, height)
        self._index = 0
        self._clock: FrameClock | None = None
        self._not_before_s = 0.0

    @property
    def lens(self) -> LensModel:
        """Focal length, f-number and pixel pitch."""
        return self._lens

    @property
    def focus_range_m(self) -> tuple[float, float]:
        """Nearest and farthest focus distance of the slices, metres."""
        return self._slices[0].focus_distance_m, self._slices[-1].focus_distance_m

    @property
    def focus_positions_m(self) -> tuple[float, ...]:
        """Focus distances of the slices, metres, nearest first."""
        return tuple(s.focus_distance_m for s in self._slices)

    def nearest_focus_m(self, focus_distance_m: float) -> float:
        """Return the focus distance of the slice whose focus is nearest in dioptres.

        Raises:
            LensError: if the distance is not above 0.
        """
        return self._slices[self._nearest(focus_distance_m)].focus_distance_m

    def set_focus(self, focus_distance_m: float) -> None:
        """Go to the slice whose focus is nearest in dioptres.

        Raises:
            LensError: if the distance is not above 0.
        """
        self._index = self._nearest(focus_distance_m)
        if self._clock is not None:
            self._not_before_s = self._clock.now()

    def read(self) -> CameraFrame:
        """Wait for the next frame and return the slice that is in focus.

        Raises:
            CameraError: if the camera is not open.
        """
        if self._clock is None:
            raise CameraError("expected an open camera: use it as `with FolderCamera(...) as camera:`")
        exposure = self._clock.next_exposure(self._not_before_s)
        self._clock.wait_for(exposure)
        stamp_ns = self._clock.stamp_ns(exposure[0])
        s = self._slices[self._index]
        return CameraFrame(
            image=s.image,
            encoding=encoding_of(s.image),
            stamp_ns=stamp_ns,
            lens_state=LensState(stamp_ns, s.focus_distance_m, self._lens),
            intrinsics=s.intrinsics,
            ground_truth_m=self._truth_m,
        )

    def prepare_sweep(self) -> bool:
        """Do nothing: exposure and white balance are always the same."""
        return False

    def interrupt(self) -> None:
        """Nothing to do: no call takes longer than a frame."""

    def _nearest(self, focus_distance_m: float) -> int:
        if not focus_distance_m > 0.0:
            raise LensError(f"expected a focus distance above 0 m, got {focus_distance_m} m")
        far = [abs(s.focus_dpt - 1.0 / focus_distance_m) for s in self._slices]
        return far.index(min(far))

    def __enter__(self) -> FolderCamera:
        """Start playing."""
        self._clock = FrameClock(self.config.rate_hz, exposure_s=0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop playing."""
        self._clock = None


def _fitting_size(k: Intrinsics, max_width: int) -> tuple[int, int]:
    if max_width == 0 or k.width <= max_width:
        return k.width, k.height
    return max_width, max(1, round(k.height * max_width / k.width))


def _scaled_slice(s: FocalSlice, width: int, height: int) -> FocalSlice:
    k = s.intrinsics
    if (k.width, k.height) == (width, height):
        return s
    image = cv2.resize(s.image, (width, height), interpolation=cv2.INTER_AREA)
    return FocalSlice(image, s.stamp_ns, s.focus_distance_m, k.resized(width, height))


def _scaled_depth(depth_m: FloatImage | None, width: int, height: int) -> FloatImage | None:
    if depth_m is None or depth_m.shape == (height, width):
        return depth_m
    # Never a mean across a depth edge: the nearest sample.
    scaled: FloatImage = cv2.resize(depth_m, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return scaled
