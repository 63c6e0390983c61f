# SPDX-License-Identifier: Apache-2.0
"""The sensor of the simulated camera: linear light to noisy, sRGB coded, 8 bit frames."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import FloatImage

# Noise-free pictures in linear light, (H, W, 3), full scale at FULL_LEVEL.
Levels = npt.NDArray[np.uint16]
FULL_LEVEL = 65535


def srgb_to_linear(coded: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Decode sRGB values in 0..1 to linear light in 0..1 (IEC 61966-2-1)."""
    c = np.asarray(coded, np.float64)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Encode linear light in 0..1 as sRGB in 0..1 (IEC 61966-2-1)."""
    x = np.clip(np.asarray(light, np.float64), 0.0, 1.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1.0 / 2.4) - 0.055)


def to_levels(light: FloatImage) -> Levels:
    """Return linear light in 0..1 as levels of the sensor."""
    levels = np.clip(light * FULL_LEVEL + 0.5, 0.0, FULL_LEVEL)
    return np.asarray(levels, np.uint16)


class Sensor:
    """Adds shot and read noise in linear light and encodes sRGB, 8 bit.

    Shot noise is Gaussian of the variance of the Poisson distribution. The noise comes from a pool drawn
    once, read from a random place for every frame: drawing it anew would cost ten times as much.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        full_scale_electrons: float,
        read_noise_electrons: float,
        rng: np.random.Generator,
    ) -> None:
        """Draw the pool.

        Args:
            shape: height and width.
            full_scale_electrons: electrons at full scale; inf is no noise at all.
            read_noise_electrons: standard deviation.
            rng: source of the noise.
        """
        size = shape[0] * shape[1] * 3
        self._rng = rng
        self._noisy = math.isfinite(full_scale_electrons)
        self._pool = rng.standard_normal(3 * size if self._noisy else 0, dtype=np.float32)
        # Variance in levels: mean * shot + read.
        self._shot = np.float32(FULL_LEVEL / full_scale_electrons)
        self._read = np.float32((FULL_LEVEL * read_noise_electrons / full_scale_electrons) ** 2)
        self._work = np.empty((*shape, 3), np.float32)
        coded = linear_to_srgb(np.arange(FULL_LEVEL + 1) / FULL_LEVEL)
        self._encode = np.floor(coded * 255.0 + 0.5).astype(np.uint8)

    def expose(self, picture: Levels) -> npt.NDArray[np.uint8]:
        """Return a fresh frame (H, W, 3) uint8 of a picture in linear light."""
        levels = picture
        if self._noisy:
            work = self._work
            np.multiply(picture, self._shot, out=work)
            work += self._read
            np.sqrt(work, out=work)
            start = int(self._rng.integers(self._pool.size - picture.size))
            work *= self._pool[start : start + picture.size].reshape(picture.shape)
            work += picture
            work += np.float32(0.5)
            np.clip(work, 0.0, FULL_LEVEL, out=work)
            levels = work.astype(np.uint16)
        return np.asarray(self._encode.take(levels, mode="clip"))
