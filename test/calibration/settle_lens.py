# SPDX-License-Identifier: Apache-2.0
"""A device with a lens whose settling is known exactly; its pictures are a texture, blurred by its position."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from dualfocus_ros.camera.device import ActuatorRange, DeviceFrame
from dualfocus_ros.errors import DeviceError
from dualfocus_ros.lens_calibration import FocusCurve

CURVE = FocusCurve((0.0, 500.0, 1000.0), (0.0, 4.0, 10.0))
BLUR_PX_PER_DPT = 0.45  # standard deviation
SIDE_PX = 128
SIGMA_STEP_PX = 0.05
EXPOSURE_PARTS = 7
NOISE_PICTURES = 61

# (distance to go, time since the lens began to move) -> distance that is left
Dynamics = Callable[[float, float], float]


def creeping(tau_s: float) -> Dynamics:
    return lambda way, t: way * math.exp(-t / tau_s)


def braking(speed: float, brake_s: float) -> Dynamics:
    """Constant speed (units a second), then even braking."""

    def left(way: float, t: float) -> float:
        part = min(abs(way), 0.5 * speed * brake_s)
        end_s = (abs(way) - part) / speed + brake_s
        if t >= end_s:
            return 0.0
        if end_s - t > brake_s:
            return math.copysign(abs(way) - speed * t, way)
        return math.copysign(part * ((end_s - t) / brake_s) ** 2, way)

    return left


def ringing(period_s: float, tau_s: float) -> Dynamics:
    rate, damping = 2.0 * math.pi / period_s, 1.0 / tau_s
    return lambda way, t: way * math.exp(-damping * t) * (math.cos(rate * t) + damping / rate * math.sin(rate * t))


def hunting(period_s: float, amplitude: float) -> Dynamics:
    """Never settles."""
    return lambda way, t: amplitude * math.sin(2.0 * math.pi * t / period_s) if t > 0.1 else way


class Clock:
    """Simulated time, which goes on when frames are read or somebody sleeps."""

    time_s = 10.0

    def now(self) -> float:
        return self.time_s

    def stamp_ns(self, time_s: float) -> int:
        return round(time_s * 1e9)

    def sleep(self, duration_s: float) -> None:
        self.time_s += duration_s


class SettleLens:
    """Implements FocusDevice."""

    def __init__(
        self,
        dynamics: Dynamics,
        *,
        dead_s: float = 0.0,
        sharp_dpt: float = 4.0,
        curve: FocusCurve = CURVE,
        step: float = 1.0,
        rate_hz: float = 30.0,
        exposure_s: float = 0.01,
        noise: float = 1.2,
        contrast: float = 60.0,
        lost: float = 0.0,
        late_s: float = 0.0,
        stuck: bool = False,
        drift_per_s: float = 0.0,
        stamp_error_s: float = 0.0,
        faster_up: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.clock = Clock()
        self.focus_range = ActuatorRange(curve.positions[0], curve.positions[-1], step, "DAC")
        self.curve, self.moves = curve, 0
        self._dynamics, self._dead_s, self._sharp_dpt = dynamics, dead_s, sharp_dpt
        self._period_s, self._exposure_s = 1.0 / rate_hz, exposure_s
        self._lost, self._late_s, self._stuck, self._drift = lost, late_s, stuck, drift_per_s
        self._stamp_error_s, self._faster_up = stamp_error_s, faster_up
        self._rng = np.random.default_rng(seed)
        texture = np.random.default_rng(5).normal(size=(SIDE_PX, SIDE_PX)).astype(np.float32)
        texture = texture + 2.0 * cv2.GaussianBlur(texture, (0, 0), 1.5)
        self._texture = 120.0 + contrast * texture / texture.std()
        self._blurred: dict[int, np.ndarray] = {}
        # Shifted copies of a few are as good as new noise, and far cheaper.
        shape = (NOISE_PICTURES, SIDE_PX, SIDE_PX)
        self._noises = noise * self._rng.standard_normal(shape, dtype=np.float32)
        self._number = -1
        # (time of the command, where the lens was, where it goes)
        self._track = [(0.0, 500.0, 500.0)]

    def __enter__(self) -> SettleLens:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def meter(self) -> bool:
        return False

    def interrupt(self) -> None:
        pass

    def move_to(self, position: float) -> None:
        self.moves += 1
        now = self.clock.now()
        if not self._stuck:
            self._track.append((now, self.position_at(now), position))

    def position_at(self, time_s: float) -> float:
        told_s, start, goal = next(m for m in reversed(self._track) if m[0] <= time_s)
        return goal + self._left(start - goal, time_s - told_s)

    def _left(self, way: float, since_s: float) -> float:
        if since_s <= self._dead_s:
            return way
        scale = self._faster_up if way < 0.0 else 1.0
        return self._dynamics(way, (since_s - self._dead_s) * scale)

    def true_settle_s(self, start: float, target: float, tolerance_dpt: float) -> float:
        """Return the last time at which the lens is farther from where it goes than the tolerance."""
        t = np.arange(0.0, 6.0, 0.0005)
        inner = min(max(target, self.curve.positions[0] + 5.0), self.curve.positions[-1] - 5.0)
        slope = (self.curve.dioptres_at(inner + 5.0) - self.curve.dioptres_at(inner - 5.0)) / 10.0
        left_dpt = np.array([self._left(start - target, float(x)) for x in t]) * slope
        outside = np.flatnonzero(np.abs(left_dpt) > tolerance_dpt)
        return float(t[outside[-1]]) if outside.size else 0.0

    def read(self, timeout_s: float) -> DeviceFrame:
        # A camera exposes at its own pace; who comes late gets the newest.
        newest = math.floor((self.clock.now() - self._exposure_s) / self._period_s)
        self._number = max(self._number + 1, newest)
        while self._rng.random() < self._lost:
            self._number += 1
        if self._lost and self._rng.random() < 0.1 * self._lost:
            raise DeviceError("no frame")
        start_s = self._number * self._period_s
        end_s = start_s + self._exposure_s
        late_s = self._late_s if self._rng.random() < 0.2 else 0.0
        self.clock.time_s = max(self.clock.time_s, end_s + late_s)
        image = self._image(start_s, end_s)
        return DeviceFrame(image, "mono8", (start_s + self._stamp_error_s, end_s + self._stamp_error_s))

    def _image(self, start_s: float, end_s: float) -> np.ndarray:
        times = start_s + (np.arange(EXPOSURE_PARTS) + 0.5) / EXPOSURE_PARTS * (end_s - start_s)
        sigmas = [self._sigma_px(float(t)) for t in times]
        if max(sigmas) - min(sigmas) < 1e-4:
            mean = self._sharp(sigmas[0])
        else:
            mean = sum(self._sharp(sigma) for sigma in sigmas) / np.float32(EXPOSURE_PARTS)
        noise = self._noises[self._rng.integers(NOISE_PICTURES)]
        mean = mean + np.roll(noise, self._rng.integers(SIDE_PX, size=2), axis=(0, 1))
        return np.clip(np.rint(mean), 0, 255).astype(np.uint8)

    def _sigma_px(self, time_s: float) -> float:
        u = min(max(self.position_at(time_s) + self._drift * time_s, -50.0), 1050.0)
        # The curve goes on straight beyond its ends: lenses overshoot.
        dpt = self.curve.dioptres_at(u) + 0.01 * min(u, 0.0) + 0.01 * max(u - 1000.0, 0.0)
        return BLUR_PX_PER_DPT * abs(dpt - self._sharp_dpt)

    def _sharp(self, sigma_px: float) -> np.ndarray:
        i, part = divmod(sigma_px / SIGMA_STEP_PX, 1.0)
        low, high = self._level(int(i)), self._level(int(i) + 1)
        return np.float32(1.0 - part) * low + np.float32(part) * high

    def _level(self, i: int) -> np.ndarray:
        if i not in self._blurred:
            sigma = math.hypot(0.5, i * SIGMA_STEP_PX)
            self._blurred[i] = cv2.GaussianBlur(self._texture, (0, 0), sigma)
        return self._blurred[i]
