# SPDX-License-Identifier: Apache-2.0
"""What calibration finds of a lens that moves: its focus curve, its field of view, how it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dualfocus_ros import optics
from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.types import Intrinsics, LensModel

# Aspect ratios closer than this are one: sizes are whole pixels.
SAME_ASPECT = 0.01
# Two knots of the curve are at least this far apart, dioptres: the curve must be invertible.
LEAST_RISE_DPT = 1e-6


@dataclass(frozen=True)
class FocusCurve:
    """Actuator positions, ascending, and the focus there in dioptres, strictly monotone; linear in between."""

    positions: tuple[float, ...]
    focus_dpt: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check it; raise CalibrationError."""
        u, d = np.asarray(self.positions, float), np.asarray(self.focus_dpt, float)
        if u.size < 2 or u.shape != d.shape or not (np.isfinite(u).all() and np.isfinite(d).all()):
            raise CalibrationError(
                f"expected a focus curve of 2 or more points, got {list(zip(u, d, strict=False))}"
            )
        rises = np.diff(d)
        if not (np.diff(u) > 0.0).all() or not ((rises > LEAST_RISE_DPT).all() or (rises < -LEAST_RISE_DPT).all()):
            raise CalibrationError(
                f"expected a focus curve with ascending positions and dioptres that only rise or only fall, got "
                f"positions {list(self.positions)} and dioptres {list(self.focus_dpt)}"
            )

    def dioptres_at(self, position: float) -> float:
        """Return the focus in dioptres at an actuator position; beyond the ends, that of the ends."""
        return float(np.interp(position, self.positions, self.focus_dpt))

    def position_at(self, focus_dpt: float) -> float:
        """Return the actuator position that focuses at these dioptres; beyond the ends, the end."""
        d, u = np.asarray(self.focus_dpt), np.asarray(self.positions)
        if d[0] > d[-1]:
            d, u = d[::-1], u[::-1]
        return float(np.interp(focus_dpt, d, u))


@dataclass(frozen=True)
class LensCalibration:
    """One lens, as its lens file has it (see `lens_file`).

    Attributes:
        name: by which it is found.
        lens: focal length, f-number and pixel pitch, of images of `image_size`.
        image_size: width and height in pixels that pitch and intrinsics are for.
        curve: actuator position to dioptres, at the reference temperature, free of hysteresis.
        unit: of the actuator.
        calibrated: whether a calibration made it; else it is a starting point.
        date: of the calibration, ISO 8601.
        module: what the lens is, free text.
        method: how it was calibrated, free text.
        hysteresis: play between actuator and lens in the actuator's unit: coming from below the lens is half of it
            behind the actuator, coming from above half of it ahead.
        temperature_c: reference temperature of the curve, degrees Celsius; None: not known.
        dpt_per_k: change of the focus in dioptres per kelvin above it.
        settle: (length of the move in the actuator's unit, seconds until the image is settled), ascending;
            empty: not measured.
        focus_dpt: (K,) focus positions of `intrinsics`, ascending; may be empty.
        intrinsics: (K, 4) fx, fy, cx, cy in pixels at those.
        distortion_model: as in sensor_msgs/CameraInfo.
        distortion: coefficients.
        residuals: what the calibration left, by name.
    """

    name: str
    lens: LensModel
    image_size: tuple[int, int]
    curve: FocusCurve
    unit: str = ""
    calibrated: bool = False
    date: str = ""
    module: str = ""
    method: str = ""
    hysteresis: float = 0.0
    temperature_c: float | None = None
    dpt_per_k: float = 0.0
    settle: tuple[tuple[float, float], ...] = ()
    focus_dpt: tuple[float, ...] = ()
    intrinsics: tuple[tuple[float, float, float, float], ...] = ()
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()
    residuals: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check it; raise CalibrationError."""
        if min(self.image_size) < 1:
            raise CalibrationError(f"expected a positive image_size, got {list(self.image_size)}")
        if not 0.0 <= self.hysteresis < self.curve.positions[-1] - self.curve.positions[0]:
            raise CalibrationError(f"expected a hysteresis smaller than the range, got {self.hysteresis}")
        steps = [step for step, _ in self.settle]
        if steps != sorted(set(steps)) or any(s < 0.0 or not t >= 0.0 for s, t in self.settle):
            raise CalibrationError(
                "expected settle as [move, seconds] with ascending moves, both at least 0, "
                f"got {list(self.settle)}"
            )
        if len(self.focus_dpt) != len(self.intrinsics) or list(self.focus_dpt) != sorted(set(self.focus_dpt)):
            raise CalibrationError(f"expected intrinsics at ascending focus_dpt, got {list(self.focus_dpt)}")
        for values in self.intrinsics:
            Intrinsics(*self.image_size, *values)
        if self.distortion and not self.distortion_model:
            raise CalibrationError("expected a distortion_model where there is distortion, such as plumb_bob")

    def settle_s(self, move: float) -> float | None:
        """Return how long a move of that length takes until the image is settled; None: it was not measured."""
        if not self.settle:
            return None
        moves, times = zip(*self.settle, strict=True)
        return float(np.interp(abs(move), moves, times))

    def temperature_offset_dpt(self, temperature_c: float | None) -> float:
        """Return what the temperature adds to the curve, dioptres; 0 where one of both is not known."""
        if temperature_c is None or self.temperature_c is None:
            return 0.0
        return self.dpt_per_k * (temperature_c - self.temperature_c)

    def lens_for(self, width: int, height: int) -> LensModel:
        """Return the lens with the pixel pitch of images of this size.

        Raises:
            CalibrationError: if the lens file is for images of another shape.
        """
        self._check_shape(width, height)
        pitch_m = self.lens.pixel_pitch_m * self.image_size[0] / width
        return LensModel(self.lens.focal_length_m, self.lens.f_number, pitch_m)

    def intrinsics_at(self, focus_dpt: float, width: int, height: int) -> Intrinsics | None:
        """Return the calibrated intrinsics at a focus position for images of this size; None: there are none.

        Raises:
            CalibrationError: if the lens file is for images of another shape.
        """
        if not self.intrinsics:
            return None
        self._check_shape(width, height)
        fx, fy, cx, cy = (
            float(np.interp(focus_dpt, self.focus_dpt, column)) for column in zip(*self.intrinsics, strict=True)
        )
        model = self.distortion_model if self.distortion else ""
        return Intrinsics(*self.image_size, fx, fy, cx, cy, model, self.distortion).resized(width, height)

    def thin_lens_intrinsics(self, focus_dpt: float, width: int, height: int) -> Intrinsics:
        """Return what a thin lens of this focal length has at a focus position, with the axis in the middle."""
        distance_m = 1.0 / focus_dpt if focus_dpt > 0.0 else math.inf
        lens = self.lens_for(width, height)
        f_px = optics.focal_length_px(lens.focal_length_m, lens.pixel_pitch_m, distance_m)
        return Intrinsics(width, height, f_px, f_px, (width - 1) / 2, (height - 1) / 2)

    def _check_shape(self, width: int, height: int) -> None:
        """Refuse images of another aspect: which part of the sensor they show is not known.

        A starting point is for a module, not for a mode of it: its width of the view is taken to be the same.
        """
        own_width, own_height = self.image_size
        if self.calibrated and abs(width * own_height / (height * own_width) - 1.0) > SAME_ASPECT:
            raise CalibrationError(
                f"lens file {self.name!r} was calibrated with images of {own_width} x {own_height}, these have "
                f"{width} x {height}, of another shape: set width and height, or calibrate anew"
            )
