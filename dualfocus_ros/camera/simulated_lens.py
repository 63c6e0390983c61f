# SPDX-License-Identifier: Apache-2.0
"""A simulated camera whose lens is driven in units of an actuator, as hardware is: to rehearse a calibration.

Its curve, play, drift and settling are hidden from whoever uses it as a device, and told by `true_...` to tests.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from types import TracebackType

import numpy as np

from dualfocus_ros.camera.common import FrameClock
from dualfocus_ros.camera.device import ActuatorRange, DeviceFrame
from dualfocus_ros.camera.motion import Move
from dualfocus_ros.camera.sensor import FULL_LEVEL, linear_to_srgb
from dualfocus_ros.camera.simulated_actuator import Actuator, AnyMove, HiddenCurve, Ringing, pushed, settle_s
from dualfocus_ros.camera.simulated_lens_config import TEXTURE, SimulatedLensConfig
from dualfocus_ros.camera.simulated_plane import (
    Placement,
    PlanePictures,
    Surface,
    board_surface,
    textured_surface,
)
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.errors import CameraError, DeviceError, LensError
from dualfocus_ros.types import FloatImage, Image, Intrinsics

# Focus positions closer than this share a picture: of a lens at rest, and of one that moves, where those do too
# that are closer than this part of its way during an exposure.
_SAME_DPT, _SAME_MOVING_DPT, _SAME_PART = 2e-3, 8e-3, 0.25
# A moving lens is seen this often during an exposure, and by this many bands of rows one after the other.
_INSTANTS, _BANDS = 4, 6
# Memory for pictures.
_MAX_PICTURES_BYTES = 48_000_000


class SleepingClock(FrameClock):
    """A clock whose simulated time goes on where somebody sleeps."""

    def sleep(self, duration_s: float) -> None:
        """Let time go by."""
        if self._virtual:
            self._virtual_s += duration_s
        else:
            time.sleep(duration_s)


class SimulatedLensDevice:
    """Implements `FocusDevice`."""

    def __init__(self, config: SimulatedLensConfig | None = None) -> None:
        """Take the settings."""
        self.config = c = config or SimulatedLensConfig()
        self.focus_range = ActuatorRange(c.low, c.high, c.step, "step")
        self._curve = HiddenCurve(c.lens_seed, c.low, c.high, c.dead_zone, (c.far_dpt, c.near_dpt))
        self._target = c.target
        self._placement = Placement(c.distance_m, c.tilt_x_deg, c.tilt_y_deg)
        self._surfaces: dict[str, Surface] = {}
        self._pictures: PlanePictures | None = None
        self._kept: OrderedDict[int, FloatImage] = OrderedDict()
        self._noise = np.random.default_rng([c.seed, 3])
        self._warm_since_s = math.nan
        self._clock: SleepingClock | None = None
        self._actuator: Actuator | None = None
        self._position = c.low
        self._interrupted = threading.Event()

    @property
    def clock(self) -> SleepingClock:
        """The clock of the exposures."""
        return self._opened()[0]

    def __enter__(self) -> SimulatedLensDevice:
        """Switch it on: it gets warm from now on."""
        c = self.config
        self._interrupted.clear()
        self._clock = SleepingClock(c.rate_hz, c.row_exposure_s + c.readout_s)
        self._warm_since_s = self._clock.now()
        self._position = c.low
        self._actuator = Actuator(self._curve, c.low, c.hysteresis, c.dead_time_s, self._mover)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch it off."""
        self._clock = self._actuator = self._pictures = None
        self._kept.clear()

    def meter(self) -> bool:
        """Do nothing, and say so: its light never changes."""
        return False

    def interrupt(self) -> None:
        """Make `read`, under way on another thread, end with DeviceError."""
        self._interrupted.set()

    def place(self, placement: Placement, target: str | None = None) -> None:
        """Put the target, or another one (a board or `texture`), somewhere."""
        self._placement, self._target = placement, target or self._target
        self._pictures = None
        self._kept.clear()

    def move_to(self, position: float) -> None:
        """Command a position; the lens then moves.

        Raises:
            LensError: if it is outside the range.
        """
        clock, actuator = self._opened()
        reach = self.focus_range
        if not reach.low <= position <= reach.high:
            raise LensError(f"expected a position within {reach.low:g} .. {reach.high:g}, got {position}")
        self._position = reach.nearest(position)
        actuator.command(clock.now(), self._position)

    def read(self, timeout_s: float) -> DeviceFrame:
        """Return the next frame.

        Raises:
            DeviceError: if it does not come within the time, or `interrupt` was called.
        """
        clock, _ = self._opened()
        exposure = clock.next_exposure(-math.inf)
        # Simulated time goes by at once.
        wait_s = max(0.0, exposure[1] - clock.now()) if self.config.rate_hz else 0.0
        if self._interrupted.wait(min(wait_s, timeout_s)):
            self._interrupted.clear()
            raise DeviceError("the simulated lens was interrupted")
        if wait_s > timeout_s:
            raise DeviceError(f"expected a frame within {timeout_s} s, the next ends in {wait_s:.3f} s")
        clock.wait_for(exposure)
        light = self._exposed(exposure[0])
        told_c = round(self.temperature_c(exposure[1]), 2) if self.config.tells_temperature else None
        return DeviceFrame(self._developed(light), "mono8", exposure, self._position, None, told_c)

    def temperature_c(self, time_s: float) -> float:
        """Return the temperature of the module at a time of its clock."""
        c = self.config
        return c.ambient_c + c.warmup_k * (1.0 - math.exp(-(time_s - self._warm_since_s) / c.warmup_s))

    def true_focus_dpt(self, position: float, temperature_c: float, direction: int = 0) -> float:
        """Return the truth: the focus of an actuator position in dioptres.

        Args:
            position: of the actuator.
            temperature_c: of the module.
            direction: 1: reached from far below; -1: from far above; 0: the lens itself is at the position.
        """
        at = position - 0.5 * direction * self.config.hysteresis
        return self._curve.dioptres_at(at) + self._drift_dpt(temperature_c)

    def true_intrinsics(self, focus_dpt: float) -> Intrinsics:
        """Return the truth: intrinsics at a focus position."""
        c = self.config
        f_px = self._f_px(focus_dpt)
        distortion = (c.k1, c.k2, 0.0, 0.0, 0.0) if c.k1 or c.k2 else ()
        cx, cy = self._centre()
        return Intrinsics(c.width, c.height, f_px, f_px, cx, cy, "plumb_bob" if distortion else "", distortion)

    def true_settle_s(self, start: float, end: float, tolerance_dpt: float) -> float:
        """Return the truth: from the command, how long until the focus stays within a tolerance.

        Args:
            start: position of the actuator where the lens stands, pushed there from far on the other side.
            end: position of the actuator that is commanded.
            tolerance_dpt: of the focus.

        Returns:
            Seconds; inf: it does not settle in any time worth waiting for.
        """
        half = 0.5 * self.config.hysteresis
        lens = start - math.copysign(half, end - start)
        begin, target = (self._curve.dioptres_at(u) for u in (lens, pushed(lens, end, half)))
        settled = settle_s(self._mover(0.0, begin, target), tolerance_dpt)
        return self.config.dead_time_s + settled if settled else 0.0

    def _opened(self) -> tuple[SleepingClock, Actuator]:
        if self._clock is None or self._actuator is None:
            raise CameraError("expected an open device: use it as `with SimulatedLensDevice(...) as device:`")
        return self._clock, self._actuator

    def _mover(self, start_s: float, from_dpt: float, to_dpt: float) -> AnyMove:
        c = self.config
        if c.motion == "ring":
            return Ringing(start_s, from_dpt, to_dpt, c.ring_hz, c.ring_damping)
        return Move(start_s, from_dpt, to_dpt, c.slew_dpt_per_s, c.settle_s)

    def _drift_dpt(self, temperature_c: float) -> float:
        return self.config.dpt_per_k * (temperature_c - self.config.ambient_c)

    def _focus_dpt(self, time_s: float) -> float:
        return self._opened()[1].position_dpt(time_s) + self._drift_dpt(self.temperature_c(time_s))

    def _f_px(self, focus_dpt: float) -> float:
        c = self.config
        # v = 1 / (1/f - 1/s), also for a lens that focuses beyond infinity.
        return c.width / c.sensor_width_m / (1.0 / c.focal_length_m - focus_dpt)

    def _centre(self) -> tuple[float, float]:
        c = self.config
        return (c.width - 1) / 2 + c.axis_shift_px, (c.height - 1) / 2 + c.axis_shift_px

    def _exposed(self, start_s: float) -> FloatImage:
        """Return the light of an exposure: row by row where the focus moves."""
        c = self.config
        span = np.linspace(start_s, start_s + c.row_exposure_s + c.readout_s, 8)
        seen = [self._focus_dpt(float(t)) for t in span]
        if max(seen) - min(seen) < _SAME_DPT:
            return self._picture(seen[4], _SAME_DPT)
        same_dpt = max(_SAME_MOVING_DPT, _SAME_PART * (max(seen) - min(seen)))
        rows = np.array_split(np.arange(c.height), _BANDS)
        light = np.zeros((c.height, c.width), np.float32)
        for band in rows:
            delay_s = c.readout_s * float(band.mean()) / c.height
            for instant in range(_INSTANTS):
                time_s = start_s + delay_s + c.row_exposure_s * (instant + 0.5) / _INSTANTS
                picture = self._picture(self._focus_dpt(time_s), same_dpt)
                light[band] += picture[band] / _INSTANTS
        return light

    def _picture(self, focus_dpt: float, same_dpt: float) -> FloatImage:
        """Return the noise-free picture at a focus position, rounded."""
        steps = max(1, round(same_dpt / _SAME_DPT))
        key = steps * round(focus_dpt / (steps * _SAME_DPT))
        if key not in self._kept:
            self._kept[key] = self._made(key * _SAME_DPT)
            while len(self._kept) * self._kept[key].nbytes > _MAX_PICTURES_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, focus_dpt: float) -> FloatImage:
        c = self.config
        cx, cy = self._centre()
        if self._pictures is None:
            least_f_px = self._f_px(min(c.far_dpt, c.near_dpt, 0.0) - 1.0)
            self._pictures = PlanePictures(
                self._surface(),
                self._placement,
                (c.width, c.height),
                (cx, cy),
                least_f_px,
                self.config.lens_model.aperture_m,
                (c.k1, c.k2),
            )
        where: float | FloatImage = focus_dpt
        if c.field_curvature_dpt:
            x, y = np.arange(c.width, dtype=np.float32) - cx, np.arange(c.height, dtype=np.float32)[:, None] - cy
            part = (x * x + y * y) / (0.25 * (c.width**2 + c.height**2))
            where = np.asarray(focus_dpt + c.field_curvature_dpt * part, np.float32)
        return self._pictures.picture(where, self._f_px(focus_dpt))

    def _surface(self) -> Surface:
        if self._target == TEXTURE:
            # As fine as the pixels, wherever it is.
            return textured_surface(self._placement.distance_m / self._f_px(0.0), self.config.seed)
        if self._target not in self._surfaces:
            self._surfaces[self._target] = board_surface(parse_board(self._target), self.config.seed)
        return self._surfaces[self._target]

    def _developed(self, light: FloatImage) -> Image:
        """Return the picture with noise, sRGB coded, 8 bit."""
        c = self.config
        seen = light
        if math.isfinite(c.full_scale_electrons):
            deviation = np.sqrt(
                light / c.full_scale_electrons + (c.read_noise_electrons / c.full_scale_electrons) ** 2
            )
            seen = light + deviation * self._noise.standard_normal(light.shape, dtype=np.float32)
        levels = np.clip(seen * FULL_LEVEL + 0.5, 0.0, FULL_LEVEL).astype(np.uint16)
        return np.asarray(_CODES.take(levels), np.uint8)


_CODES = np.floor(linear_to_srgb(np.arange(FULL_LEVEL + 1) / FULL_LEVEL) * 255.0 + 0.5).astype(np.uint8)
