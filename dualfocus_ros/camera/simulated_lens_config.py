# SPDX-License-Identifier: Apache-2.0
"""Settings of the simulated lens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dualfocus_ros.camera.common import VIRTUAL_RATE_HZ, setting
from dualfocus_ros.camera.device import DeviceConfig
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.types import LensModel

TEXTURE = "texture"
MOTION_CHOICES = ("slew", "ring")
# Exposure of a row where it is automatic: that of a bright room, and no more than this part of the frame period.
_AUTO_EXPOSURE_S, _AUTO_PART = 0.008, 0.4


@dataclass(frozen=True)
class SimulatedLensConfig(DeviceConfig):
    """The simulated lens: 8 mm f/1.6 on a sensor 6.4 mm wide, its blur 4 pixels per dioptre at 640 x 480."""

    rate_hz: float = setting(
        0.0, "Frame rate; 0: as fast as possible, in simulated time.", unit="Hz", min=0.0, max=1000.0
    )
    exposure_s: float = setting(
        0.0, "Exposure time of a row; 0: automatic, 8 ms or less.", unit="s", min=0.0, max=10.0, live=True
    )
    meter_again: float = setting(0.0, "No effect: its light never changes.", min=0.0, max=255.0)
    readout_s: float = setting(
        0.008, "Time from the first to the last row of the rolling shutter.", unit="s", min=0.0, max=1.0
    )
    focal_length_m: float = setting(0.008, "Focal length of the lens.", unit="m", min=0.001, max=0.2)
    f_number: float = setting(1.6, "F-number; the pupil has the diameter f / N.", min=0.5, max=64.0)
    sensor_width_m: float = setting(0.0064, "Width of the sensor.", unit="m", min=1e-4, max=0.1)
    axis_shift_px: float = setting(
        0.0, "How far right and down of the middle the axis is.", unit="px", min=-200.0, max=200.0
    )
    k1: float = setting(0.0, "Radial distortion, first coefficient of plumb_bob.", min=-0.5, max=0.5)
    k2: float = setting(0.0, "Radial distortion, second coefficient.", min=-0.5, max=0.5)
    field_curvature_dpt: float = setting(
        0.0, "How much nearer the corners of the picture are focused.", unit="dpt", min=-2.0, max=2.0
    )
    low: float = setting(0.0, "Lowest position of the actuator.", min=-1e6, max=1e6)
    high: float = setting(1023.0, "Highest position of the actuator.", min=-1e6, max=1e6)
    step: float = setting(1.0, "Steps of the actuator; 0: any position.", min=0.0)
    far_dpt: float = setting(0.4, "Focus at the low end.", unit="dpt", min=0.0, max=50.0)
    near_dpt: float = setting(6.0, "Focus at the high end.", unit="dpt", min=0.0, max=50.0)
    dead_zone: float = setting(
        0.1, "Part of the range, from the low end, in which the lens does not move.", min=0.0, max=0.8
    )
    lens_seed: int = setting(1, "Seed of the shape of the actuator curve.", min=0, max=2**31 - 1)
    hysteresis: float = setting(16.0, "Play of the actuator, in its unit.", min=0.0)
    ambient_c: float = setting(22.0, "Temperature when the camera opens.", unit="degC", min=-50.0, max=100.0)
    warmup_k: float = setting(12.0, "By how much it gets warmer.", unit="K", min=-50.0, max=100.0)
    warmup_s: float = setting(120.0, "Time constant of that.", unit="s", min=0.1, max=1e5)
    dpt_per_k: float = setting(0.012, "Drift of the focus with temperature.", unit="dpt/K", min=-1.0, max=1.0)
    tells_temperature: bool = setting(True, "Whether frames carry the temperature of the module.")
    motion: str = setting("slew", "How the lens moves: slew and brake, or ring.", choices=MOTION_CHOICES)
    slew_dpt_per_s: float = setting(60.0, "With slew, speed of the focus.", unit="dpt/s", min=0.01, max=1e4)
    settle_s: float = setting(0.03, "With slew, time the focus brakes for.", unit="s", min=0.0, max=10.0)
    ring_hz: float = setting(70.0, "With ring, frequency of the swing.", unit="Hz", min=1.0, max=1000.0)
    ring_damping: float = setting(0.12, "With ring, damping ratio.", min=0.01, max=0.99)
    dead_time_s: float = setting(
        0.005, "Time from a command until the lens begins to move.", unit="s", min=0.0, max=1.0
    )
    target: str = setting(
        "charuco:9x6:0.025:0.018",
        "What is in front of the camera: a calibration board, as in calibrate lens --board, or texture.",
    )
    distance_m: float = setting(0.4, "Distance of its middle.", unit="m", min=0.02, max=1000.0)
    tilt_x_deg: float = setting(0.0, "Turn of the target about the x axis.", unit="deg", min=-80.0, max=80.0)
    tilt_y_deg: float = setting(30.0, "Turn of the target about the y axis.", unit="deg", min=-80.0, max=80.0)
    full_scale_electrons: float = setting(
        10000.0, "Electrons at full scale, for shot noise; inf: no noise at all.", min=10.0, max=math.inf
    )
    read_noise_electrons: float = setting(3.0, "Read noise, standard deviation in electrons.", min=0.0, max=1e4)
    seed: int = setting(1, "Seed of the noise and the texture.", min=0, max=2**31 - 1)

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        super().__post_init__()
        if self.motion not in MOTION_CHOICES:
            raise ParameterError(f"expected motion to be one of {list(MOTION_CHOICES)}, got {self.motion!r}")
        if self.far_dpt == self.near_dpt:
            raise ParameterError(
                f"expected two different ends of the focus, got far_dpt = near_dpt = {self.far_dpt}"
            )
        if not self.low < self.high or not self.step + self.hysteresis < self.high - self.low:
            raise ParameterError(
                f"expected a range from low to high wider than step and hysteresis, got {self.low} to {self.high}"
            )
        if max(self.near_dpt, self.far_dpt) >= 0.5 / self.focal_length_m:
            raise ParameterError(
                f"expected focus positions farther than twice the focal length of {self.focal_length_m} m, got "
                f"{max(self.near_dpt, self.far_dpt)} dpt"
            )
        period_s = 1.0 / (self.rate_hz or VIRTUAL_RATE_HZ)
        if self.row_exposure_s + self.readout_s > period_s:
            raise ParameterError(
                f"expected exposure_s + readout_s of at most the frame period of {period_s:.4g} s, got "
                f"{self.row_exposure_s + self.readout_s:.4g}"
            )
        if self.target != TEXTURE:
            parse_board(self.target)

    @property
    def row_exposure_s(self) -> float:
        """Exposure time of a row."""
        period_s = 1.0 / (self.rate_hz or VIRTUAL_RATE_HZ)
        return self.exposure_s or min(_AUTO_EXPOSURE_S, _AUTO_PART * period_s)

    @property
    def lens_model(self) -> LensModel:
        """What a data sheet would tell."""
        return LensModel(self.focal_length_m, self.f_number, self.sensor_width_m / self.width)
