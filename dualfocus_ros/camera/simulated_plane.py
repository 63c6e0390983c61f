# SPDX-License-Identifier: Apache-2.0
"""Pictures that a thin lens takes of one plane: a calibration board or a textured wall, also tilted.

Nothing hides anything, so a picture is the pinhole picture, each pixel averaged over a disc of the diameter
A f_px |w - 1/s|: A the pupil, w the inverse depth of the plane in that pixel, s the focus distance. The disc is
exact but for the change of w within it (the product of its diameter with the slope of the plane, 1e-3 of it).
Pictures of a set of discs are made once; those of a focus position are mixed of the two next to each pixel's disc
so that the variance of the blur is right, and scaled by the field of view of that focus position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.target_board import Board
from dualfocus_ros.camera.textures import fractal
from dualfocus_ros.types import FloatImage

Vector = npt.NDArray[np.float64]

# Samples of the pinhole picture along a pixel; odd, so that one is in its middle.
_FINE = 3
# Discs up to this diameter (pixels) are drawn on the fine grid, wider ones pixel by pixel.
_FINE_UP_TO_PX = 4.0
# Distances of the discs: evenly, then by a factor.
_STEP_PX, _FACTOR = 0.4, 1.12
# Smaller discs (in samples) are of their variance, but of another shape.
_SMALL_DISC = 2.5
_SQUARE_PX = 160
# Side of the textured surface, in texels, and its light.
_TEXELS = 2048
_PAPER, _INK, _GREY, _CONTRAST = 0.80, 0.04, 0.30, 0.13


@dataclass(frozen=True)
class Placement:
    """Where a target stands: the z-distance of its middle from the lens, and how it is turned.

    Attributes:
        distance_m: from the centre of the lens along the axis.
        tilt_x_deg: turn about the x axis of the camera (the top leans back).
        tilt_y_deg: turn about its y axis.
        roll_deg: turn about its z axis.
        shift_x_m: of its middle to the right.
        shift_y_m: of its middle down.
    """

    distance_m: float
    tilt_x_deg: float = 0.0
    tilt_y_deg: float = 0.0
    roll_deg: float = 0.0
    shift_x_m: float = 0.0
    shift_y_m: float = 0.0

    def rotation(self) -> Vector:
        """Return the rotation (3, 3) from the target to the camera."""
        turns = np.radians([self.tilt_x_deg, self.tilt_y_deg, self.roll_deg])
        x, y, z = (cv2.Rodrigues(turn * axis)[0] for turn, axis in zip(turns, np.eye(3), strict=True))
        return np.asarray(x @ y @ z, np.float64)

    def middle(self) -> Vector:
        """Return where its middle is in the frame of the camera, metres (3,)."""
        return np.array([self.shift_x_m, self.shift_y_m, self.distance_m])


@dataclass(frozen=True)
class Surface:
    """What is on the plane: linear light (h, w) float32, its middle at the middle of the placement."""

    light: FloatImage
    texel_m: float


def board_surface(board: Board, seed: int) -> Surface:
    """Return a board on white paper on a textured wall."""
    drawn = board.draw(_SQUARE_PX)
    page = np.pad(drawn, _SQUARE_PX // 2, constant_values=255)
    light = np.where(page > 127, np.float32(_PAPER), np.float32(_INK))
    wall = textured_surface(1.0, seed).light
    height, width = (max(a + 2 * _SQUARE_PX, b) for a, b in zip(light.shape, wall.shape, strict=True))
    canvas = cv2.copyMakeBorder(
        wall, 0, max(height - wall.shape[0], 0), 0, max(width - wall.shape[1], 0), cv2.BORDER_REFLECT
    )
    top, left = (canvas.shape[0] - light.shape[0]) // 2, (canvas.shape[1] - light.shape[1]) // 2
    # The same number of texels on both sides: the middle of the board is that of the plane.
    canvas = canvas[: 2 * top + light.shape[0], : 2 * left + light.shape[1]].copy()
    canvas[top : top + light.shape[0], left : left + light.shape[1]] = light
    return Surface(canvas, board.square_m / _SQUARE_PX)


def textured_surface(texel_m: float, seed: int) -> Surface:
    """Return a wall of strong texture at all scales."""
    noise = fractal(np.random.default_rng([seed, 5]), _TEXELS, _TEXELS, cells=16, decay=0.8)
    return Surface(np.clip(np.float32(_GREY) + np.float32(_CONTRAST) * noise, 0.02, 0.95), texel_m)


class PlanePictures:
    """The pictures of one placement of a surface."""

    def __init__(
        self,
        surface: Surface,
        placement: Placement,
        size: tuple[int, int],
        centre_px: tuple[float, float],
        least_f_px: float,
        aperture_m: float,
        radial: tuple[float, float],
    ) -> None:
        """Take the pinhole picture.

        Args:
            surface: what is seen.
            placement: where it is.
            size: width and height of the pictures.
            centre_px: cx and cy.
            least_f_px: the smallest focal length that will be asked for: the widest field of view.
            aperture_m: diameter of the pupil.
            radial: k1 and k2 of the distortion.
        """
        self._size, self._centre, self._radial = size, centre_px, radial
        self._gain_px = aperture_m * least_f_px
        self._f_px = least_f_px
        grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float64) - centre_px
        self._pixels = grid
        self._radius_px = np.hypot(grid[..., 0], grid[..., 1])
        self._undistortion = _undistortion(radial, 1.05 * float(self._radius_px.max()) / least_f_px)
        slopes = self._slopes(least_f_px)
        self._margin = math.ceil(max(0.0, float((np.abs(slopes) * least_f_px - np.abs(grid)).max()))) + 24
        normal = placement.rotation()[:, 2]
        self._plane = normal / float(normal @ placement.middle())
        self._sharp = self._pinhole(surface, placement)
        coarse = self._sharp[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
        self._coarse: FloatImage = np.ascontiguousarray(coarse)
        self._diameters = _diameters(self._gain_px * 30.0)
        self._discs: dict[int, FloatImage] = {}

    def inverse_depth(self, f_px: float) -> FloatImage:
        """Return 1/z (H, W) of the plane in every pixel, dioptres."""
        s = self._slopes(f_px)
        depth = s[..., 0] * self._plane[0] + s[..., 1] * self._plane[1] + self._plane[2]
        return np.asarray(depth, np.float32)

    def picture(self, focus_dpt: float | FloatImage, f_px: float) -> FloatImage:
        """Return the noise-free picture (H, W) in linear light 0..1, focused at dioptres (of each pixel)."""
        slopes = self._slopes(f_px)
        w = slopes[..., 0] * self._plane[0] + slopes[..., 1] * self._plane[1] + self._plane[2]
        blur = self._gain_px * np.abs(w - focus_dpt)
        level = np.interp(blur**2, self._diameters**2, np.arange(self._diameters.size)).astype(np.float32)
        at = (slopes * self._f_px + self._centre).astype(np.float32) + np.float32(self._margin)
        fine = at * np.float32(_FINE) + np.float32(_FINE // 2)
        total = np.zeros(level.shape, np.float32)
        for k in range(int(level.min()), int(math.ceil(level.max())) + 1):
            weight = np.maximum(np.float32(1.0) - np.abs(level - np.float32(k)), np.float32(0.0))
            grid = fine if self._diameters[k] <= _FINE_UP_TO_PX else at
            total += weight * cv2.remap(
                self._disc(k), grid, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
        return np.clip(total, 0.0, 1.0, out=total)

    def _slopes(self, f_px: float) -> Vector:
        """Return x/z and y/z (H, W, 2) of every pixel."""
        slopes = self._pixels / f_px
        if self._radial == (0.0, 0.0):
            return slopes
        distorted, undone = self._undistortion
        return np.asarray(slopes * np.interp(self._radius_px / f_px, distorted, undone)[..., None])

    def _pinhole(self, surface: Surface, placement: Placement) -> FloatImage:
        """Return the pinhole picture on the fine grid, each sample averaged over a pixel."""
        fine_f = self._f_px * _FINE
        size = [(n + 2 * self._margin) * _FINE for n in self._size]
        centre = [(c + self._margin) * _FINE + _FINE // 2 for c in self._centre]
        # Texels as large as samples, or larger: no aliasing.
        shrink = min(1.0, surface.texel_m * fine_f / placement.distance_m)
        light = surface.light
        if shrink < 1.0:
            # By its size: given a factor, OpenCV would round the size and keep the factor.
            shrunk = [max(1, round(n * shrink)) for n in light.shape[::-1]]
            light = cv2.resize(light, shrunk, interpolation=cv2.INTER_AREA)
        texel = [
            surface.texel_m * a / b for a, b in zip(surface.light.shape[::-1], light.shape[::-1], strict=True)
        ]
        to_plane = np.array(
            [
                [texel[0], 0.0, -0.5 * (light.shape[1] - 1) * texel[0]],
                [0.0, texel[1], -0.5 * (light.shape[0] - 1) * texel[1]],
                [0.0, 0.0, 1.0],
            ]
        )
        r = placement.rotation()
        to_camera = np.column_stack([r[:, 0], r[:, 1], placement.middle()])
        k = np.array([[fine_f, 0.0, centre[0]], [0.0, fine_f, centre[1]], [0.0, 0.0, 1.0]])
        seen = cv2.warpPerspective(
            light, k @ to_camera @ to_plane, tuple(size), flags=cv2.INTER_LINEAR, borderValue=_GREY
        )
        return np.asarray(cv2.blur(seen, (_FINE, _FINE)), np.float32)

    def _disc(self, k: int) -> FloatImage:
        if k not in self._discs:
            diameter = float(self._diameters[k])
            fine = diameter <= _FINE_UP_TO_PX
            kernel = disc_kernel(diameter * (_FINE if fine else 1))
            picture = self._sharp if fine else self._coarse
            self._discs[k] = (
                picture
                if diameter == 0.0
                else cv2.filter2D(picture, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
            )
        return self._discs[k]


def disc_kernel(diameter: float) -> FloatImage:
    """Return a disc of that diameter in samples, its edge smooth, its sum 1, its variance that of the disc."""
    if diameter < _SMALL_DISC:
        part = diameter**2 / 32.0
        row = np.array([part, 1.0 - 2.0 * part, part], np.float32)
        return np.asarray(np.outer(row, row), np.float32)
    inner, over = 0.5 * diameter, 8
    reach = math.ceil(inner + 0.5)
    at = (np.arange((2 * reach + 1) * over) + 0.5) / over - reach - 0.5
    inside = (at[:, None] ** 2 + at[None, :] ** 2 <= inner**2).astype(np.float32)
    side = 2 * reach + 1
    kernel = inside.reshape(side, over, side, over).sum(axis=(1, 3))
    return np.asarray(kernel / max(float(kernel.sum()), 1.0), np.float32)


def _undistortion(radial: tuple[float, float], reach: float) -> tuple[Vector, Vector]:
    """Return distorted radii up to `reach` or more, ascending, and by what they are to be multiplied."""
    radius = np.linspace(1e-6, 2.0 * reach, 4001)
    factor = 1.0 + radius**2 * (radial[0] + radius**2 * radial[1])
    distorted = radius * factor
    falls = np.flatnonzero(np.diff(distorted) <= 0.0)
    end = int(falls[0]) + 1 if falls.size else radius.size
    return distorted[:end], 1.0 / factor[:end]


def _diameters(largest_px: float) -> Vector:
    found = list(np.arange(0.0, _FINE_UP_TO_PX + 1e-9, _STEP_PX))
    while found[-1] < largest_px:
        found.append(found[-1] * _FACTOR)
    return np.array(found)
