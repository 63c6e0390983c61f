# SPDX-License-Identifier: Apache-2.0
"""From pixels to space: viewing rays, organised points, intrinsics of resized images.

Points are in the optical frame of REP 103: x right, y down, z forward, metres.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import InputError
from dualfocus_ros.types import FloatImage, Intrinsics

FloatArray = npt.NDArray[np.float64]

# Distortion models of sensor_msgs/CameraInfo (REP 107) with the coefficient counts that each may have.
POLYNOMIAL_COUNTS = {"plumb_bob": (4, 5), "rational_polynomial": (8,)}
FISHEYE_COUNTS = {"equidistant": (4,)}
# OpenCV inverts the distortion by iteration; a ray that does not project back onto its pixel this closely
# is outside of what the model describes.
MAX_INVERSION_ERROR_PX = 0.1
INVERSION_STEPS = 50
# Rays this close to the plane of the lens (89.9 degrees off axis) are not usable: z is along the axis.
MAX_RAY = 1e3


@lru_cache(maxsize=4)
def ray_table(intrinsics: Intrinsics) -> FloatImage:
    """Return where the viewing ray of every pixel meets the plane z = 1, distortion removed.

    Args:
        intrinsics: of the image. Without coefficients, or with a polynomial model whose coefficients are
            all zero, it is a pinhole camera. Four zeros of `equidistant` still are a fisheye lens.

    Returns:
        (H, W, 2) float32: x / z and y / z. Each of the two planes is contiguous. NaN where the distortion
        model has no inverse. The table is cached and read-only; the last four are kept.

    Raises:
        InputError: if the distortion model is unknown, or its number of coefficients wrong.
    """
    undistort = _undistortion(intrinsics)
    height, width = intrinsics.height, intrinsics.width
    planes = np.empty((2, height, width), dtype=np.float32)
    if undistort is None:
        planes[0] = (np.arange(width) - intrinsics.cx_px) / intrinsics.fx_px
        planes[1] = ((np.arange(height) - intrinsics.cy_px) / intrinsics.fy_px)[:, None]
    else:
        x_px, y_px = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        rays = undistort(np.stack([x_px, y_px], axis=-1).reshape(-1, 1, 2), intrinsics)
        planes[:] = rays.reshape(height, width, 2).transpose(2, 0, 1)
    planes.setflags(write=False)
    table: FloatImage = planes.transpose(1, 2, 0)
    return table


def depth_to_points(depth_m: FloatImage, intrinsics: Intrinsics) -> FloatImage:
    """Back-project a depth image to organised points.

    Args:
        depth_m: (H, W) metres along z.
        intrinsics: of the depth image.

    Returns:
        (H, W, 3) float32 x, y, z in metres; all three NaN where the depth is not finite.

    Raises:
        InputError: if the sizes differ, or as `ray_table`.
    """
    check_depth_size(depth_m, intrinsics)
    points: FloatImage = np.empty((*depth_m.shape, 3), dtype=np.float32)
    fill_points(points, depth_m, intrinsics)
    return points


def fill_points(points: FloatImage, depth_m: FloatImage, intrinsics: Intrinsics) -> None:
    """Write what `depth_to_points` returns into the first three channels of `points`, a strided view or not.

    Args:
        points: (H, W, 3 or more) float32, written.
        depth_m: (H, W) metres along z.
        intrinsics: of the depth image.
    """
    rays = ray_table(intrinsics)
    z = np.asarray(depth_m, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        # d - d is 0 where d is finite and NaN where it is not: one pass less than a mask.
        z = z + (z - z)
        np.multiply(rays[..., 0], z, out=points[..., 0])
        np.multiply(rays[..., 1], z, out=points[..., 1])
    # A ray without direction (outside of the distortion model) has no point either.
    points[..., 2] = z if _undistortion(intrinsics) is None else np.where(np.isnan(rays[..., 0]), np.nan, z)


def fill_colours(packed: npt.NDArray[np.uint32], rgb: npt.NDArray[np.uint8]) -> None:
    """Write colours as 0x00RRGGBB.

    Args:
        packed: (H, W) uint32, a strided view or not, written.
        rgb: (H, W, 3) RGB.

    Raises:
        InputError: if `rgb` is not (H, W, 3) uint8 in that size.
    """
    if rgb.shape != (*packed.shape, 3) or rgb.dtype != np.uint8:
        raise InputError(
            f"expected colours as uint8 of shape {(*packed.shape, 3)} like the depth, "
            f"got {rgb.dtype} of shape {rgb.shape}"
        )
    # B, G, R, 255 in memory is 0xFFRRGGBB as a little-endian number; OpenCV swaps faster than numpy does.
    np.bitwise_and(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA).view("<u4")[..., 0], 0xFFFFFF, out=packed)


def check_depth_size(depth_m: FloatImage, intrinsics: Intrinsics) -> None:
    """Raise InputError unless `depth_m` is (H, W) of a floating type in the size of the intrinsics."""
    expected = (intrinsics.height, intrinsics.width)
    if depth_m.shape != expected or not np.issubdtype(depth_m.dtype, np.floating):
        raise InputError(
            f"expected depth in metres as floating point of shape {expected} like its intrinsics, "
            f"got {depth_m.dtype} of shape {depth_m.shape}: scale the intrinsics with the image"
        )


def check_distortion(intrinsics: Intrinsics) -> None:
    """Raise InputError unless the distortion of the intrinsics can be undone."""
    _undistortion(intrinsics)


def _undistortion(intrinsics: Intrinsics) -> Callable[[FloatArray, Intrinsics], FloatArray] | None:
    """Return the function that turns pixels (N, 1, 2) into rays (N, 1, 2), None for a pinhole camera."""
    model, coefficients = intrinsics.distortion_model, intrinsics.distortion
    if not coefficients:
        return None
    counts = {**POLYNOMIAL_COUNTS, **FISHEYE_COUNTS}.get(model)
    if counts is None and not any(coefficients):
        return None
    if counts is None:
        raise InputError(
            f"expected a distortion model of {sorted({**POLYNOMIAL_COUNTS, **FISHEYE_COUNTS})}, got {model!r}: "
            "rectify the images first (image_proc) and give their camera info"
        )
    if model in FISHEYE_COUNTS:
        _check_count(model, coefficients, counts)
        return _undistort_fisheye
    if not any(coefficients):
        return None
    _check_count(model, coefficients, counts)
    return _undistort_polynomial


def _check_count(model: str, coefficients: tuple[float, ...], counts: tuple[int, ...]) -> None:
    if len(coefficients) not in counts or not np.all(np.isfinite(coefficients)):
        raise InputError(
            f"expected {' or '.join(map(str, counts))} finite coefficients (D) of {model}, got {coefficients}"
        )


def _undistort_polynomial(pixels: FloatArray, intrinsics: Intrinsics) -> FloatArray:
    k, d = intrinsics.matrix(), np.array(intrinsics.distortion)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, INVERSION_STEPS, 1e-4)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4; merged into undistortPoints by OpenCV 5
        rays = cv2.undistortPointsIter(pixels, k, d, None, None, criteria)
    else:
        rays = cv2.undistortPoints(pixels, k, d, criteria=criteria)  # type: ignore[call-overload]
    return _without_failures(rays, _distort_polynomial(rays, intrinsics.distortion), pixels, intrinsics)


def _undistort_fisheye(pixels: FloatArray, intrinsics: Intrinsics) -> FloatArray:
    d = np.array(intrinsics.distortion)
    rays = cv2.fisheye.undistortPoints(pixels, intrinsics.matrix(), d)
    return _without_failures(rays, cv2.fisheye.distortPoints(rays, np.eye(3), d), pixels, intrinsics)


def _distort_polynomial(rays: FloatArray, coefficients: tuple[float, ...]) -> FloatArray:
    """Apply the Brown-Conrady model with rational radial term, in the order k1 k2 p1 p2 k3 k4 k5 k6."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*coefficients, 0.0, 0.0, 0.0, 0.0)[:8]
    x, y = rays[..., 0], rays[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    tangential = np.stack(
        [2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1
    )
    return rays * radial[..., None] + tangential


def _without_failures(
    rays: FloatArray, distorted: FloatArray, pixels: FloatArray, intrinsics: Intrinsics
) -> FloatArray:
    """Return the rays with NaN for those that do not project back onto their own pixel."""
    back = distorted * (intrinsics.fx_px, intrinsics.fy_px) + (intrinsics.cx_px, intrinsics.cy_px)
    good = np.abs(back - pixels).max(axis=-1, keepdims=True) < MAX_INVERSION_ERROR_PX
    return np.where(good & (np.abs(rays) < MAX_RAY).all(axis=-1, keepdims=True), rays, np.nan)
