# SPDX-License-Identifier: Apache-2.0
"""Refocusing: pinhole views from all over the pupil, shifted and added.

A view from the point `a` of the pupil sees a point at depth d displaced by -fx a / d; focusing at s shifts it
back by fx a / s. The mean of all views is what the thin lens forms: occlusion is exact, because each view
decides by itself what hides what. The shift is to the nearest sample. That costs no sharpness, because every
view samples its pixels at its own sub-pixel offset, so that the remainders, spread over all views, integrate
over the area of the pixel as a sensor does.
"""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.sensor import srgb_to_linear
from dualfocus_ros.camera.surfaces import Surface, trace
from dualfocus_ros.camera.textures import Texture
from dualfocus_ros.errors import CameraError
from dualfocus_ros.types import FloatImage, Intrinsics

Vector = npt.NDArray[np.float64]

GOLDEN_ANGLE_RAD = math.pi * (3.0 - math.sqrt(5.0))
# Generators of the two-dimensional low-discrepancy sequence R2 (Roberts, 2018).
_R2 = (0.7548776662466927, 0.5698402909980532)
# Standard deviation of the filter against ghosts, in distances between neighbouring views.
_ANTI_GHOST = 0.5
# Below this the filter would change nothing.
_LEAST_SIGMA_PX = 0.35


def pupil_points(count: int, diameter_m: float) -> Vector:
    """Return points (count, 2) in metres spread evenly over a disc (Vogel's spiral)."""
    k = np.arange(count)
    radius = 0.5 * diameter_m * np.sqrt((k + 0.5) / count)
    return np.column_stack([radius * np.cos(k * GOLDEN_ANGLE_RAD), radius * np.sin(k * GOLDEN_ANGLE_RAD)])


@dataclass(frozen=True)
class Framing:
    """How a slice lies on the sensor: true intrinsics, including what the driver does not know."""

    f_px: float
    cx_px: float
    cy_px: float


class LightField:
    """All views of a scene through one pupil, and the pictures that a thin lens makes of them.

    Safe to use from several threads once made; `close` ends its own.
    """

    def __init__(
        self,
        surfaces: tuple[Surface, ...],
        reference: Intrinsics,
        aperture_m: float,
        focus_dpt: tuple[float, float],
        views: int,
        margin_px: float,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Prepare; `render` then makes the views.

        Args:
            surfaces: the scene in the camera frame.
            reference: grid of the ground truth; the views have its pixel size.
            aperture_m: diameter of the pupil.
            focus_dpt: smallest and largest focus position that will be asked for, dioptres.
            views: number of views.
            margin_px: how much farther than the reference the widest slice sees, on either side.
            interrupted: once set, `render` and `refocus` end with CameraError.
        """
        self._reference = reference
        self._aperture_m = aperture_m
        # The views are focused in the middle of the range, which halves the shifts to come.
        self._middle_dpt = 0.5 * (focus_dpt[0] + focus_dpt[1])
        shift = 0.25 * aperture_m * reference.fx_px * abs(focus_dpt[1] - focus_dpt[0])
        self._margin = math.ceil(margin_px + shift) + 2
        self._points = pupil_points(views, aperture_m)
        k = np.arange(views)[:, None]
        self._jitter = np.mod(0.5 + (k + 1) * np.array(_R2), 1.0) - 0.5
        self._light_table = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)
        self._workers = min(max(os.cpu_count() or 1, 1), 8)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="light_field")
        self._surfaces = surfaces
        central = (self._axis(0.0, 0, 0, 0.0), self._axis(0.0, 1, 0, 0.0))
        _, self.inverse_depth = trace(surfaces, central[0], central[1], np.zeros(3))
        self._views: list[Texture] = []
        self._interrupted = interrupted or threading.Event()

    def render(self) -> None:
        """Render the views.

        Raises:
            CameraError: if interrupted.
        """
        self._views = list(self._pool.map(self._view, range(len(self._points))))

    def refocus(self, focus_dpt: float, framing: Framing) -> FloatImage:
        """Return the noise-free picture (H, W, 3) float32, linear light in 0..1, focused at `focus_dpt`.

        Raises:
            CameraError: if interrupted.
        """
        groups = np.array_split(np.arange(len(self._views)), self._workers)
        sums = self._pool.map(lambda group: self._sum(group, focus_dpt, framing), groups)
        total = sum(sums, np.zeros((self._reference.height, self._reference.width, 3), np.float32))
        picture = total / np.float32(len(self._views))
        return self._without_ghosts(picture, focus_dpt, framing)

    def close(self) -> None:
        """End the worker threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _axis(self, pupil_m: float, axis: int, margin: int, jitter: float) -> FloatImage:
        """Return the ray slopes of one image axis: x' as (1, W) for axis 0, y' as (H, 1) for axis 1."""
        k = self._reference
        size, centre, f = ((k.width, k.cx_px, k.fx_px), (k.height, k.cy_px, k.fy_px))[axis]
        at = np.arange(-margin, size + margin) + jitter
        slopes = ((at - centre) / f - pupil_m * self._middle_dpt).astype(np.float32)
        return slopes[None, :] if axis == 0 else slopes[:, None]

    def _go_on(self) -> None:
        if self._interrupted.is_set():
            raise CameraError("the simulated camera was interrupted")

    def _view(self, index: int) -> Texture:
        self._go_on()
        (ax, ay), (jx, jy) = self._points[index], self._jitter[index]
        xs, ys = self._axis(ax, 0, self._margin, jx), self._axis(ay, 1, self._margin, jy)
        image, _ = trace(self._surfaces, xs, ys, np.array([ax, ay, 0.0]))
        return image

    def _sum(self, views: npt.NDArray[np.int64], focus_dpt: float, framing: Framing) -> FloatImage:
        k = self._reference
        total = np.zeros((k.height, k.width, 3), np.float32)
        nearest = np.empty((k.height, k.width, 2), np.int16)
        for i in views:
            self._go_on()
            shift = self._points[i] * k.fx_px * (focus_dpt - self._middle_dpt)
            nearest[..., 0] = self._lookup(0, framing.cx_px, framing.f_px, shift[0], self._jitter[i, 0])
            nearest[..., 1] = self._lookup(1, framing.cy_px, framing.f_px, shift[1], self._jitter[i, 1])[:, None]
            coded = cv2.remap(self._views[i], nearest, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
            cv2.accumulate(cv2.LUT(coded, self._light_table), total)
        return total

    def _lookup(
        self, axis: int, centre_px: float, f_px: float, shift_px: float, jitter_px: float
    ) -> npt.NDArray[np.int16]:
        """Return for every column (axis 0) or row (axis 1) of the slice that of the view, nearest sample."""
        k = self._reference
        size, ref_centre, ref_f = ((k.width, k.cx_px, k.fx_px), (k.height, k.cy_px, k.fy_px))[axis]
        at = (np.arange(size) - centre_px) * (ref_f / f_px) + ref_centre - shift_px
        nearest = np.floor(at - jitter_px + 0.5) + self._margin
        return np.asarray(nearest, np.int16)

    def _without_ghosts(self, picture: FloatImage, focus_dpt: float, framing: Framing) -> FloatImage:
        """Smooth where the disc of blur is so wide that the single views would show in it.

        Only where all that reaches a pixel is that much defocused, so that nothing sharp is touched: hence
        the minimum over a neighbourhood as wide as the largest disc.
        """
        gain = self._aperture_m * framing.f_px
        blur = gain * np.abs(self.inverse_depth - np.float32(focus_dpt))
        reach = 2 * math.ceil(0.5 * float(blur.max()) + 1.0) + 1
        least = cv2.erode(blur, np.ones((reach, reach), np.uint8), borderType=cv2.BORDER_REPLICATE)
        # Views lie sqrt(area / count) apart.
        sigma = least * np.float32(_ANTI_GHOST * math.sqrt(math.pi / 4.0 / len(self._views)))
        result, below, previous = picture, 0.0, picture
        for level in np.arange(_LEAST_SIGMA_PX, float(sigma.max()) + _LEAST_SIGMA_PX, _LEAST_SIGMA_PX):
            smooth = cv2.GaussianBlur(picture, (0, 0), float(level), borderType=cv2.BORDER_REPLICATE)
            weight = np.clip((sigma - np.float32(below)) / np.float32(level - below), 0.0, 1.0)[..., None]
            result = np.where(weight > 0.0, previous + weight * (smooth - previous), result)
            previous, below = smooth, float(level)
        return result
