# SPDX-License-Identifier: Apache-2.0
"""Moves the lens of a device and reads the sharpness of what it then sees, with the times of the exposures."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualfocus_ros.calibration.settle_signal import (
    FloatArray,
    StaticSweep,
    block_energies,
    log_energies,
    middle,
    noise_of,
)
from dualfocus_ros.camera.device import DeviceFrame, FocusDevice
from dualfocus_ros.errors import CalibrationError, DeviceError

# Frames that may fail to come in a row: lost ones. A device that is gone fails for longer.
MAX_FAILURES = 3
# An exposure may end this long after it was read: estimates of when rows were read out are no better.
FUTURE_SLACK_S = 0.02
# Frames that come later than this after they were exposed are of no use to a sweep.
MAX_LAG_S = 2.0
# Where the clock of a device does not go on, so many frames tell it.
MAX_READS = 20_000
# A picture is at rest when the features of this many frames stay within so many deviations of their noise ...
REST_FRAMES = 5
REST_NOISES = 5.0
# ... or within this, which flickering light alone brings about (a hundredth in sharpness).
REST_CHANGE = 0.006


@dataclass(frozen=True)
class Picture:
    """One exposure: its times in seconds of the device's clock, and its block energies (octaves, blocks)."""

    start_s: float
    end_s: float
    energies: FloatArray


@dataclass(frozen=True)
class Rest:
    """What the pictures of a lens at rest are like.

    Attributes:
        features: (octaves,) mean.
        noise: (octaves,) of one picture.
        texture: part of the energy, in the most telling octave, that two pictures have in common.
        came: whether the picture came to rest at all.
    """

    features: FloatArray
    noise: FloatArray
    texture: float
    came: bool


class Recorder:
    """Reads an open device. What is lost or late is counted, not used."""

    def __init__(self, device: FocusDevice, frame_timeout_s: float) -> None:
        """Take an open device."""
        self.device = device
        self.failures = 0
        self._timeout_s = frame_timeout_s
        self._last: Picture | None = None
        self._grey: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self._latest: npt.NDArray[np.float32] | None = None

    def move(self, position: float) -> tuple[float, float]:
        """Move the lens; return the times before and after the command was given."""
        before = self.device.clock.now()
        self.device.move_to(position)
        return before, self.device.clock.now()

    def wait(self, duration_s: float) -> None:
        """Let time pass without reading: so commands fall at any time between two frames."""
        # Simulated time goes on only when it is told to.
        getattr(self.device.clock, "sleep", time.sleep)(duration_s)

    def read(self) -> Picture:
        """Return the next frame that is newer than the last.

        Raises:
            CalibrationError: if its times cannot be right.
            DeviceError: if none comes.
        """
        for _ in range(MAX_READS):
            frame = self._frame()
            start_s, end_s = frame.exposure
            ahead_s = end_s - self.device.clock.now()
            if ahead_s > FUTURE_SLACK_S or end_s < start_s:
                raise CalibrationError(
                    f"expected exposures that are over when they are read, got one that ends {ahead_s:.3f} s "
                    f"later and takes {end_s - start_s:.3f} s: the time stamps of the camera are wrong"
                )
            if self._last is not None and start_s <= self._last.start_s:
                continue
            grey = middle(frame)
            self._grey = None if self._latest is None else (self._latest, grey)
            self._latest = grey
            self._last = Picture(start_s, end_s, block_energies(grey))
            return self._last
        raise CalibrationError("expected frames one after the other, their time stamps do not go on")

    def record(self, told_s: float, duration_s: float) -> list[Picture]:
        """Return all frames up to the first that is exposed `duration_s` after a time.

        Raises:
            CalibrationError: if frames come far too late, or with stamps that lag.
        """
        pictures: list[Picture] = []
        until_s = told_s + duration_s
        while not pictures or pictures[-1].start_s < until_s:
            pictures.append(self.read())
            lag_s = self.device.clock.now() - pictures[-1].end_s
            if lag_s > MAX_LAG_S or len(pictures) > MAX_READS:
                raise CalibrationError(
                    f"expected frames soon after their exposure, by their time stamps they lag by {lag_s:.2f} s: "
                    "correct the time stamps of the camera, or read it with less delay"
                )
        return pictures

    def rest(self, told_s: float, least_s: float, most_s: float, frames: int = REST_FRAMES) -> Rest:
        """Wait until the picture is at rest, at least and at most so long after a command; return what it is."""
        pictures = self.record(told_s, least_s)[-frames:]
        texture = [self._common_part()]
        while True:
            while len(pictures) < frames:
                pictures.append(self.read())
                texture.append(self._common_part())
            energies = np.stack([p.energies for p in pictures])
            features, noise = log_energies(energies), noise_of(energies)
            change = features.max(axis=0) - features.min(axis=0)
            came = bool((change < np.maximum(REST_NOISES * noise, REST_CHANGE)).all())
            if came or pictures[-1].start_s > told_s + most_s:
                return Rest(features.mean(axis=0), noise, float(np.max(texture)), came)
            pictures = pictures[1:]

    def _common_part(self) -> float:
        """Return the part of the energy that the last two pictures have in common: the rest is noise."""
        if self._grey is None or self._last is None:
            return 0.0
        before, after = self._grey
        if before.shape != after.shape:
            raise CalibrationError(f"expected pictures of one size, got {before.shape} and {after.shape}")
        mean = float(after.mean())
        noise = 0.5 * block_energies(after - before, mean).mean(axis=1)
        energy = self._last.energies.mean(axis=1)
        return float(np.max(1.0 - noise / np.maximum(energy, 1e-8)) if energy.max() > 1e-8 else 0.0)

    def _frame(self) -> DeviceFrame:
        for _ in range(MAX_FAILURES - 1):
            try:
                return self.device.read(self._timeout_s)
            except DeviceError:
                self.failures += 1
        return self.device.read(self._timeout_s)


def static_sweep(
    recorder: Recorder, positions: FloatArray, least_s: float, most_s: float, frames: int = REST_FRAMES
) -> tuple[StaticSweep, FloatArray, int]:
    """Visit positions in their order and wait at each for rest.

    Returns:
        The sweep with positions ascending, the texture (P,) seen, and how many positions did not come to rest.

    Raises:
        CalibrationError: if the picture hardly ever comes to rest.
    """
    rests: list[Rest] = []
    for position in positions:
        rests.append(recorder.rest(recorder.move(float(position))[1], least_s, most_s, frames))
        if sum(not r.came for r in rests) > max(4, len(positions) // 3):
            raise CalibrationError(
                f"expected the picture to come to rest within {most_s:g} s after a move, at {len(rests)} "
                f"positions it did not {sum(not r.came for r in rests)} times: is autofocus off, do scene, light "
                "and camera stand still? A lens that never settles cannot be used"
            )
    order = np.argsort(positions)
    sweep = StaticSweep(
        positions[order],
        np.stack([rests[i].features for i in order]),
        np.stack([rests[i].noise for i in order]),
    )
    return sweep, np.array([r.texture for r in rests]), sum(not r.came for r in rests)
