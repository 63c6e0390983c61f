# SPDX-License-Identifier: Apache-2.0
"""Where a lens is, read from the sharpness of single pictures of a scene that stands still.

The measure is the energy of the Laplacian on octaves of the picture's middle, over the square of its mean. Each
octave is most telling at another blur; around one position they are weighed into one number that follows the
position of the lens with the least noise, and a local static sweep turns that number into units of the actuator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.calibration.pictures import grey_picture
from dualfocus_ros.camera.device import DeviceFrame

FloatArray = npt.NDArray[np.floating[Any]]

OCTAVES = 5
# The picture's middle is cut into this many blocks a side; what they do not have in common is noise.
BLOCKS = 4
LEAST_SIDE_PX = 4 * BLOCKS
# Log energies are not trusted to less than this, however still the picture is: 8-bit pictures repeat themselves.
LEAST_NOISE = 3e-4
# Energies below this part of the squared mean are no texture.
NO_ENERGY = 1e-9
# Of the slope at the target: less than this, and the signal no longer tells where the lens is.
LEAST_SLOPE = 0.2
# Points on each side by which the slope at the target is told, and as how many points a sweep is a local one.
NEIGHBOURS, FEW = 3, 9


def middle(frame: DeviceFrame) -> npt.NDArray[np.float32]:
    """Return the middle half, along each side, of a picture as grey (h, w) float32.

    Raises:
        MessageError: if the picture is not laid out as its encoding says.
    """
    grey = grey_picture(frame)
    height, width = grey.shape
    top, left = (side // 4 if side >= 2 * LEAST_SIDE_PX else 0 for side in (height, width))
    return np.asarray(grey[top : height - top, left : width - left], np.float32)


def block_energies(grey: npt.NDArray[np.float32], mean: float | None = None) -> FloatArray:
    """Return the energies (octaves, blocks) of a grey picture, over its squared mean (or that of `mean`)."""
    scale = max(float(grey.mean()) if mean is None else mean, 1.0) ** 2
    energies: list[FloatArray] = []
    for _ in range(OCTAVES):
        if min(grey.shape) < LEAST_SIDE_PX and energies:
            break
        laplacian = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)
        blocks = cv2.resize(laplacian * laplacian, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
        energies.append(blocks.ravel().astype(np.float64) / scale)
        grey = cv2.pyrDown(grey)
    return np.stack(energies)


def log_energies(energies: FloatArray) -> FloatArray:
    """Return the features (..., octaves) of block energies (..., octaves, blocks)."""
    return np.log(energies.mean(axis=-1) + NO_ENERGY)


def noise_of(energies: FloatArray) -> FloatArray:
    """Return the noise (octaves,) of the features of one picture, from pictures (n, octaves, blocks) in a row.

    Focus changes all blocks alike, noise does not: so a lens that moves is not taken for noise.
    """
    change = np.diff(energies, axis=0)
    total = energies[1:].sum(axis=-1, keepdims=True) + NO_ENERGY
    common = change.sum(axis=-1, keepdims=True) / total
    own = change - common * energies[1:]
    variance = 0.5 * (own**2).sum(axis=-1) / total[..., 0] ** 2
    # The mean of squares of 16 blocks scatters; the median over pictures is not moved by a single event.
    return np.hypot(np.sqrt(np.median(variance, axis=0)), LEAST_NOISE)


@dataclass(frozen=True)
class StaticSweep:
    """Features of pictures taken at rest, the lens having come from one side.

    Attributes:
        positions: (P,) of the actuator, ascending.
        features: (P, octaves).
        noise: (P, octaves) of the features of one picture.
    """

    positions: FloatArray
    features: FloatArray
    noise: FloatArray

    def position_noise(self) -> FloatArray:
        """Return, for every position (P,), the noise in actuator units with which one picture tells it."""
        slope = np.gradient(self.features, self.positions, axis=0)
        return 1.0 / np.sqrt(np.maximum(((slope / self.noise) ** 2).sum(axis=1), 1e-30))


@dataclass(frozen=True)
class Gauge:
    """Turns features into the deviation from a target, in units of the actuator.

    Attributes:
        target: position of the actuator.
        noise: of the deviation that one picture tells.
        centre: (octaves,) features at the target.
        weights: (octaves,).
        signal: (M,) values of weighted features, ascending.
        deviation: (M,) deviations that belong to them, ascending.
    """

    target: float
    noise: float
    centre: FloatArray
    weights: FloatArray
    signal: FloatArray
    deviation: FloatArray

    @property
    def reach(self) -> float:
        """Deviation up to which it can tell, on both sides; farther ones all look alike."""
        return float(min(-self.deviation[0], self.deviation[-1]))

    def deviations(self, features: FloatArray) -> FloatArray:
        """Return the deviations (...,) of features (..., octaves)."""
        return np.interp((features - self.centre) @ self.weights, self.signal, self.deviation)


def make_gauge(sweep: StaticSweep, target: float, weights: FloatArray | None = None) -> Gauge | None:
    """Return the gauge around a target that is one of the positions of a static sweep; None: it tells nothing.

    Args:
        sweep: around the target.
        target: position of the actuator.
        weights: of the octaves; None: those with the least noise, by this sweep. A sweep over a wider range tells
            them better, and noise that is in the weights and in what they weigh is not noise any more.
    """
    at = int(np.argmin(np.abs(sweep.positions - target)))
    u = sweep.positions - sweep.positions[at]
    near = slice(max(at - NEIGHBOURS, 0), at + NEIGHBOURS + 1)
    # A parabola through the neighbours: its slope at the target has less noise than that of two points.
    slope, centre = np.polyfit(u[near], sweep.features[near], 2 if len(u[near]) > 3 else 1)[-2:]
    if weights is None:
        weights = slope / sweep.noise[at] ** 2
    rise = float(slope @ weights)
    if rise <= 0.0:
        return None
    weights = weights / rise
    signal = (sweep.features - centre) @ weights
    first, last = _monotone(u, signal, at)
    if last == first:
        return None
    open_ends = first == 0, last == len(u) - 1
    noise = float(np.sqrt(((weights * sweep.noise[at]) ** 2).sum()))
    u, signal = _smoothed(u[first : last + 1], signal[first : last + 1], noise)
    u, signal = _extended(u, signal, open_ends)
    return Gauge(float(sweep.positions[at]), noise, centre, weights, signal, u)


def _monotone(u: FloatArray, signal: FloatArray, at: int) -> tuple[int, int]:
    """Return the first and last index around `at` between which the signal rises clearly."""
    rising = np.diff(signal) > LEAST_SLOPE * np.diff(u)
    first = last = at
    while first > 0 and rising[first - 1]:
        first -= 1
    while last < len(u) - 1 and rising[last]:
        last += 1
    return first, last


def _smoothed(u: FloatArray, signal: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
    """Return a finer curve through a few points: a parabola, or a cubic where they ask for it, if that rises."""
    if not 4 <= len(u) <= FEW:
        return u, signal
    fine = np.linspace(u[0], u[-1], 61)
    for degree in (2, 3) if len(u) > 4 else (2,):
        fitted = np.polyfit(u, signal, degree)
        curve = np.polyval(fitted, fine)
        left = float(np.sqrt(np.mean((np.polyval(fitted, u) - signal) ** 2)))
        if left < noise and (np.diff(curve) > 0.5 * LEAST_SLOPE * np.diff(fine)).all():
            return fine, curve
    return u, signal


def _extended(u: FloatArray, signal: FloatArray, open_ends: tuple[bool, bool]) -> tuple[FloatArray, FloatArray]:
    """Return the curve with straight ends where the sweep ended, and not where the signal turned round.

    A lens that is sent to the end of its range overshoots it.
    """
    reach = max(-u[0], u[-1])
    if open_ends[0] and u[0] > -0.99 * reach:
        slope = (signal[1] - signal[0]) / (u[1] - u[0])
        signal, u = np.r_[signal[0] - slope * (u[0] + reach), signal], np.r_[-reach, u]
    if open_ends[1] and u[-1] < 0.99 * reach:
        slope = (signal[-1] - signal[-2]) / (u[-1] - u[-2])
        signal, u = np.r_[signal, signal[-1] + slope * (reach - u[-1])], np.r_[u, reach]
    return u, signal
