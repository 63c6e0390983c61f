# SPDX-License-Identifier: Apache-2.0
"""Thin-lens optics: dioptres, image distance, field of view and blur.

Distances are z-distances in metres from the centre of the lens along the optical axis; `inf` is legal.
Focus positions are compared in dioptres (1/m), where blur is linear.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import LensError

FloatArray = npt.NDArray[np.float64]


def metres_to_dioptres(distance_m: npt.ArrayLike) -> FloatArray:
    """Return 1 / distance in dioptres; infinity gives 0.

    Raises:
        LensError: if a distance is not above zero, or NaN.
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    if not np.all(distance > 0.0):
        raise LensError(f"expected distances above 0 m (inf is legal), got {_show(distance)}")
    return 1.0 / distance


def dioptres_to_metres(power_dpt: npt.ArrayLike) -> FloatArray:
    """Return 1 / power in metres; 0 dioptres gives infinity.

    Raises:
        LensError: if a power is negative, infinite or NaN.
    """
    power = np.asarray(power_dpt, dtype=np.float64)
    if not np.all((power >= 0.0) & np.isfinite(power)):
        raise LensError(f"expected finite dioptres of at least 0, got {_show(power)}")
    with np.errstate(divide="ignore"):
        return 1.0 / power


def image_distance_m(focal_length_m: float, focus_distance_m: float) -> float:
    """Return the lens-to-sensor distance v = f s / (s - f) that focuses on distance s (thin lens).

    Raises:
        LensError: if the focus distance is not beyond the focal length: no real image exists.
    """
    if not focus_distance_m > focal_length_m > 0.0:
        raise LensError(
            f"expected a focus distance beyond the focal length of {focal_length_m} m, "
            f"got {focus_distance_m} m: check the units (metres) of the lens state"
        )
    if math.isinf(focus_distance_m):
        return focal_length_m
    return focal_length_m * focus_distance_m / (focus_distance_m - focal_length_m)


def blur_gain_px_per_dpt(
    focal_length_m: float, f_number: float, pixel_pitch_m: float, focus_distance_m: float
) -> float:
    """Return kappa = A v / pitch, the blur diameter in pixels per dioptre of defocus.

    A = f / N is the aperture diameter and v the image distance: the circle of confusion of a point at
    distance d is c = A f / (s - f) |d - s| / d = A v |1/d - 1/s|.

    Raises:
        LensError: as `image_distance_m`.
    """
    v_m = image_distance_m(focal_length_m, focus_distance_m)
    return focal_length_m / f_number * v_m / pixel_pitch_m


def blur_diameter_px(
    focal_length_m: float,
    f_number: float,
    pixel_pitch_m: float,
    focus_distance_m: float,
    depth_m: npt.ArrayLike,
) -> FloatArray:
    """Return the diameter of the circle of confusion in pixels, in the shape of `depth_m` (metres).

    Raises:
        LensError: as `image_distance_m` and `metres_to_dioptres`.
    """
    gain = blur_gain_px_per_dpt(focal_length_m, f_number, pixel_pitch_m, focus_distance_m)
    return gain * np.abs(metres_to_dioptres(depth_m) - 1.0 / focus_distance_m)


def focal_length_px(focal_length_m: float, pixel_pitch_m: float, focus_distance_m: float) -> float:
    """Return fx in pixels of a breathing thin lens: v / pitch.

    Raises:
        LensError: as `image_distance_m`.
    """
    return image_distance_m(focal_length_m, focus_distance_m) / pixel_pitch_m


def _show(values: FloatArray) -> str:
    flat = np.atleast_1d(values).ravel()
    return str(flat[0]) if flat.size == 1 else str(flat[:8].tolist()) + (" ..." if flat.size > 8 else "")
