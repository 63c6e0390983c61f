# SPDX-License-Identifier: Apache-2.0
"""The values that travel through the chain: frozen, validated once when they are made.

Images are RGB (H, W, 3) or grey (H, W), uint8 or uint16. Arrays inside these objects are shared, not
copied: treat them as read-only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualfocus_ros import optics
from dualfocus_ros.errors import InputError, LensError, StackError

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_SLICES = 3
# From endoscopes to telescopes; outside of it a unit is wrong, and the numbers of blur make no sense.
PLAUSIBLE_LENS = {"focal_length_m": (1e-5, 10.0), "f_number": (0.1, 1000.0), "pixel_pitch_m": (1e-8, 0.01)}
PLAUSIBLE_FOCAL_LENGTH_PX = (1e-2, 1e7)
SAME_LENS = 0.01


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels; integer coordinates are pixel centres.

    `distortion` holds the coefficients of `distortion_model` as in sensor_msgs/CameraInfo (empty: none).
    """

    width: int
    height: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges; raise InputError."""
        if self.width < 1 or self.height < 1:
            raise InputError(f"expected a positive image size, got {self.width} x {self.height}")
        values = (self.fx_px, self.fy_px, self.cx_px, self.cy_px)
        low, high = PLAUSIBLE_FOCAL_LENGTH_PX
        if not all(math.isfinite(v) for v in values) or not all(low <= f <= high for f in values[:2]):
            raise InputError(
                f"expected finite intrinsics with fx, fy of {low:g} to {high:g} pixels, got fx={self.fx_px} "
                f"fy={self.fy_px} cx={self.cx_px} cy={self.cy_px}: is the camera calibrated (camera_info K)?"
            )

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the intrinsics of the same image resized to `width` x `height` pixels.

        Integer coordinates are pixel centres, so the image reaches from -0.5 to width - 0.5:
        cx' = (cx + 0.5) sx - 0.5. Distortion coefficients do not depend on the size.

        Raises:
            InputError: if the size is not positive.
        """
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            width,
            height,
            self.fx_px * sx,
            self.fy_px * sy,
            (self.cx_px + 0.5) * sx - 0.5,
            (self.cy_px + 0.5) * sy - 0.5,
            self.distortion_model,
            self.distortion,
        )

    def matrix(self) -> npt.NDArray[np.float64]:
        """Return K, shape (3, 3)."""
        return np.array([[self.fx_px, 0.0, self.cx_px], [0.0, self.fy_px, self.cy_px], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class LensModel:
    """What of a lens does not change with focus: focal length, f-number, pixel pitch of the sensor."""

    focal_length_m: float
    f_number: float
    pixel_pitch_m: float

    def __post_init__(self) -> None:
        """Check that all are plausible; raise LensError."""
        for name, (low, high) in PLAUSIBLE_LENS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise LensError(f"expected {name} of {low:g} to {high:g}, got {value}: check its unit")

    def resembles(self, other: LensModel) -> bool:
        """Say whether both are one lens: within 1 %, since a liquid lens changes its focal length with focus."""
        mine, theirs = ((m.focal_length_m, m.f_number, m.pixel_pitch_m) for m in (self, other))
        return all(math.isclose(a, b, rel_tol=SAME_LENS) for a, b in zip(mine, theirs, strict=True))

    @property
    def aperture_m(self) -> float:
        """Diameter of the entrance pupil in metres, f / N."""
        return self.focal_length_m / self.f_number

    def blur_gain_px_per_dpt(self, focus_distance_m: float) -> float:
        """Return kappa, the blur diameter in pixels per dioptre of defocus (see `optics`)."""
        return optics.blur_gain_px_per_dpt(
            self.focal_length_m, self.f_number, self.pixel_pitch_m, focus_distance_m
        )


@dataclass(frozen=True)
class LensState:
    """The lens at one instant: where it is focused (metres, inf is legal) and how fast that moves (m/s).

    `sweep_slices` is the number of focus positions of the sweep that it is part of, where whoever moves the lens
    tells it; 0: not told.
    """

    stamp_ns: int
    focus_distance_m: float
    lens: LensModel
    focus_speed_mps: float = 0.0
    sweep_slices: int = 0

    def __post_init__(self) -> None:
        """Check focus distance and number of slices; raise LensError."""
        if self.sweep_slices != 0 and self.sweep_slices < MIN_SLICES:
            raise LensError(
                f"expected a sweep of {MIN_SLICES} focus positions or more (0: not told), got {self.sweep_slices}"
            )
        if not self.focus_distance_m > self.lens.focal_length_m:
            raise LensError(
                f"expected a focus distance in metres beyond the focal length "
                f"({self.lens.focal_length_m} m), got {self.focus_distance_m}"
            )

    @property
    def focus_dpt(self) -> float:
        """Focus position in dioptres; 0 is infinity."""
        return 1.0 / self.focus_distance_m

    @property
    def focus_speed_dpt_per_s(self) -> float:
        """Speed of the focus position in dioptres per second, never negative; inf where it is not known.

        d(1/s)/dt = -(ds/dt) / s^2. At infinite focus any speed other than zero counts as infinite.
        """
        if self.focus_speed_mps == 0.0:
            return 0.0
        if not math.isfinite(self.focus_speed_mps) or math.isinf(self.focus_distance_m):
            return math.inf
        return abs(self.focus_speed_mps) * self.focus_dpt * self.focus_dpt


@dataclass(frozen=True)
class CameraFrame:
    """One exposure as a camera driver gives it.

    `image` is in the layout that `encoding` (a sensor_msgs/image_encodings name) says; `ground_truth_m` is
    the true depth (H, W) float32 metres in the stack's reference frame, where a simulator or recording
    knows it.
    """

    image: Image
    encoding: str
    stamp_ns: int
    lens_state: LensState
    intrinsics: Intrinsics
    ground_truth_m: FloatImage | None = None


@dataclass(frozen=True)
class FocalSlice:
    """One image of a focal stack with the focus distance (m) and intrinsics of its own exposure."""

    image: Image
    stamp_ns: int
    focus_distance_m: float
    intrinsics: Intrinsics

    def __post_init__(self) -> None:
        """Check image layout against the intrinsics; raise StackError."""
        shape, dtype = self.image.shape, self.image.dtype
        if dtype not in (np.uint8, np.uint16) or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            raise StackError(
                f"expected an image (H, W) or (H, W, 3) of uint8 or uint16, got shape {shape} of {dtype}"
            )
        if shape[:2] != (self.intrinsics.height, self.intrinsics.width):
            raise StackError(
                f"expected an image of {self.intrinsics.width} x {self.intrinsics.height} as the camera "
                f"info says, got {shape[1]} x {shape[0]}"
            )
        if not self.focus_distance_m > 0.0:
            raise LensError(f"expected a focus distance above 0 m, got {self.focus_distance_m}")

    @property
    def focus_dpt(self) -> float:
        """Focus position in dioptres; 0 is infinity."""
        return 1.0 / self.focus_distance_m


@dataclass(frozen=True)
class FocalStack:
    """A focal stack as captured: slices sorted nearest focus first, not yet aligned.

    `reference` is the index of the slice whose field of view the depth is estimated in; `stamp_ns` is the
    stamp of every output.
    """

    slices: tuple[FocalSlice, ...]
    lens: LensModel
    reference: int = 0
    stamp_ns: int = 0
    frame_id: str = ""

    @classmethod
    def from_slices(
        cls,
        slices: list[FocalSlice] | tuple[FocalSlice, ...],
        lens: LensModel,
        *,
        reference: int | None = None,
        stamp_ns: int | None = None,
        frame_id: str = "",
    ) -> FocalStack:
        """Sort the slices nearest first and check that they form a stack.

        Args:
            slices: at least 3, of one size and type, at distinct focus distances, in any order.
            lens: the lens that took them.
            reference: index into `slices` as given; by default the slice with the smallest field of view,
                which all others see, and of equal ones the nearest focus: there it is if the lens breathes.
            stamp_ns: stamp of the outputs; by default that of the reference slice.
            frame_id: optical frame of the camera.

        Raises:
            StackError: if the slices do not form a stack.
        """
        if len(slices) < MIN_SLICES:
            raise StackError(f"expected at least {MIN_SLICES} slices for depth from focus, got {len(slices)}")
        first = slices[0].image
        for s in slices:
            if s.image.shape != first.shape or s.image.dtype != first.dtype:
                raise StackError(
                    f"expected slices of one size and type, got {first.shape} {first.dtype} and "
                    f"{s.image.shape} {s.image.dtype}"
                )
        chosen = (
            max(slices, key=lambda s: (s.intrinsics.fx_px, s.focus_dpt))
            if reference is None
            else slices[reference]
        )
        ordered = tuple(sorted(slices, key=lambda s: s.focus_distance_m))
        for near, far in zip(ordered, ordered[1:], strict=False):
            if near.focus_distance_m == far.focus_distance_m:
                raise StackError(
                    f"expected distinct focus distances, got {near.focus_distance_m} m twice: "
                    "does the lens move at all?"
                )
        index = next(i for i, s in enumerate(ordered) if s is chosen)
        stamp = ordered[index].stamp_ns if stamp_ns is None else stamp_ns
        return cls(ordered, lens, index, stamp, frame_id)

    @property
    def focus_distance_m(self) -> npt.NDArray[np.float64]:
        """Focus distances (N,) in metres, ascending."""
        return np.array([s.focus_distance_m for s in self.slices])

    @property
    def focus_range_m(self) -> tuple[float, float]:
        """Nearest and farthest focus distance in metres; the farthest may be infinite."""
        focus_m = self.focus_distance_m
        return float(focus_m.min()), float(focus_m.max())


@dataclass(frozen=True)
class AlignedStack:
    """A focal stack in one pixel grid: what an engine gets.

    Attributes:
        images: N images (H, W, 3) or (H, W), uint8 or uint16, nearest focus first.
        valid: (N, H, W) bool, False where a slice does not see the pixel; None where all see all.
        focus_distance_m: (N,) metres, ascending, the last may be inf.
        intrinsics: of the common grid.
        lens: the lens that took the stack.
        stamp_ns: stamp of the outputs.
        frame_id: optical frame of the camera.
        residual_px: (N, 3) what alignment corrected beyond the metadata: radial displacement at the
            image corner, x and y shift, in pixels.
        numbers: of the slices, N or none: slices of one number are the same, so that what an engine found in one
            stack holds for the next.
    """

    images: tuple[Image, ...]
    valid: Mask | None
    focus_distance_m: npt.NDArray[np.float64]
    intrinsics: Intrinsics
    lens: LensModel
    stamp_ns: int = 0
    frame_id: str = ""
    residual_px: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    numbers: tuple[int, ...] = ()

    @property
    def focus_dpt(self) -> npt.NDArray[np.float64]:
        """Focus positions (N,) in dioptres, descending (nearest first)."""
        return 1.0 / self.focus_distance_m

    @property
    def blur_gain_px_per_dpt(self) -> float:
        """Kappa of the common grid in pixels per dioptre: A times fx, since v / pitch is fx."""
        return self.lens.aperture_m * self.intrinsics.fx_px


@dataclass(frozen=True)
class DepthEstimate:
    """Depth of one stack in its reference frame.

    Attributes:
        depth_m: (H, W) float32 metres along z; NaN no estimate, -inf too near, +inf too far (REP 117).
        confidence: (H, W) float32 in 0..1, higher means smaller error.
        all_in_focus: (H, W, 3) uint8 RGB.
        intrinsics: of the depth image.
        stamp_ns: stamp of the reference frame.
        frame_id: optical frame of the camera.
    """

    depth_m: FloatImage
    confidence: FloatImage
    all_in_focus: npt.NDArray[np.uint8]
    intrinsics: Intrinsics
    stamp_ns: int = 0
    frame_id: str = ""
