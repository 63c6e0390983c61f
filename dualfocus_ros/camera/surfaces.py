# SPDX-License-Identifier: Apache-2.0
"""The surfaces of the simulated scene, and how rays meet them.

Everything is in the frame of the camera: x right, y down, z along the optical axis, metres, origin in the
centre of the entrance pupil. A ray leaves the point `eye` of the pupil in direction (x', y', 1), so its
parameter is the z-depth itself, and depth is kept as inverse depth w = 1/z, larger is nearer. Rays come as
one row of x' (1, W) and one column of y' (H, 1). The radiance of a surface point is the same in all
directions (it is coded sRGB, 8 bit), which is what makes views from different points of the pupil consistent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.textures import Texture
from dualfocus_ros.types import FloatImage

Vector = npt.NDArray[np.float64]

# Rays less inclined to a surface than this count as parallel to it.
_GRAZING = 1e-6
# Light of the scene, in sRGB code units: what a surface keeps in full shade, and how much light adds.
_AMBIENT, _DIRECT = 0.60, 0.42


@dataclass(frozen=True)
class Hit:
    """Where rays meet a surface.

    Attributes:
        inverse_depth: (H, W) float32 in 1/m, 0 where the ray misses.
        u: (H, W) float32, first surface coordinate in texels.
        v: (H, W) float32, second surface coordinate in texels.
        light: (H, W) float32 factor on the texture, or None where the texture has it baked in.
    """

    inverse_depth: FloatImage
    u: FloatImage
    v: FloatImage
    light: FloatImage | None = None


class Surface(Protocol):
    """One object, or one face of an object."""

    @property
    def texture(self) -> Texture:
        """Texture (h, w, 3), sRGB coded, repeated outside its borders."""

    def corners(self) -> Vector | None:
        """Return points (N, 3) whose hull contains the surface; None: it is unbounded."""

    def intersect(self, xs: FloatImage, ys: FloatImage, eye: Vector) -> Hit:
        """Return where the rays (x', y', 1) from `eye` meet the surface."""


@dataclass(frozen=True)
class ShadeMap:
    """A smooth factor over a plane, e.g. cast shadows: `map` (h, w) float32 from `origin_m`, one cell `cell_m`."""

    map: FloatImage
    origin_m: tuple[float, float]
    cell_m: float


@dataclass(frozen=True)
class Plane:
    """A rectangle, a disc, or an unbounded plane.

    `origin`, unit axes `u_axis` and `v_axis`; it covers 0..size_m along both (or, with `disc`, the circle
    of diameter size_m[0] in that square); size_m None is unbounded.
    """

    texture: Texture
    origin: Vector
    u_axis: Vector
    v_axis: Vector
    size_m: tuple[float, float] | None
    texel_m: float
    shade: ShadeMap | None = None
    disc: bool = False

    def corners(self) -> Vector | None:
        """Return the four corners (4, 3)."""
        if self.size_m is None:
            return None
        a, b = self.u_axis * self.size_m[0], self.v_axis * self.size_m[1]
        return np.stack([self.origin, self.origin + a, self.origin + a + b, self.origin + b])

    def intersect(self, xs: FloatImage, ys: FloatImage, eye: Vector) -> Hit:
        """Return where the rays meet the plane: 1/z is affine in the pixel coordinates."""
        normal = np.asarray(np.cross(self.u_axis, self.v_axis), np.float64)
        distance = float(normal @ (self.origin - eye))
        if abs(distance) < _GRAZING:
            nothing = np.zeros((ys.shape[0], xs.shape[1]), np.float32)
            return Hit(nothing, nothing, nothing)
        w = _affine(normal / distance, xs, ys)
        z = np.reciprocal(np.maximum(w, np.float32(_GRAZING)))
        u_m = _affine(self.u_axis, xs, ys) * z + np.float32(self.u_axis @ (eye - self.origin))
        v_m = _affine(self.v_axis, xs, ys) * z + np.float32(self.v_axis @ (eye - self.origin))
        w = np.where(self._inside(u_m, v_m), np.maximum(w, np.float32(0.0)), np.float32(0.0))
        light = None if self.shade is None else _sample_shade(self.shade, u_m, v_m)
        return Hit(w, u_m / np.float32(self.texel_m), v_m / np.float32(self.texel_m), light)

    def _inside(self, u_m: FloatImage, v_m: FloatImage) -> npt.NDArray[np.bool_] | np.bool_:
        if self.size_m is None:
            return np.bool_(True)
        if self.disc:
            radius = np.float32(0.5 * self.size_m[0])
            return np.asarray((u_m - radius) ** 2 + (v_m - radius) ** 2 <= radius * radius)
        return np.asarray((u_m >= 0) & (u_m <= self.size_m[0]) & (v_m >= 0) & (v_m <= self.size_m[1]))


@dataclass(frozen=True)
class Sphere:
    """A ball; the texture is laid over the half that faces the camera, equal areas to equal areas."""

    texture: Texture
    centre: Vector
    radius_m: float
    light_dir: Vector

    def corners(self) -> Vector:
        """Return the corners (8, 3) of the enclosing cube."""
        return self.centre + self.radius_m * _CUBE

    def intersect(self, xs: FloatImage, ys: FloatImage, eye: Vector) -> Hit:
        """Return the nearer intersection: |eye + z r - centre| = radius."""
        to = self.centre - eye
        a = xs * xs + ys * ys + np.float32(1.0)
        b = _affine(to, xs, ys)
        c = np.float32(to @ to - self.radius_m**2)
        z = (b - np.sqrt(np.maximum(b * b - a * c, np.float32(0.0)))) / a
        hit = (b * b > a * c) & (z > np.float32(_GRAZING))
        inverse = np.float32(1.0 / self.radius_m)
        nx, ny = (xs * z - np.float32(to[0])) * inverse, (ys * z - np.float32(to[1])) * inverse
        nz = (z - np.float32(to[2])) * inverse
        # Lambert's azimuthal equal-area map of the half facing the camera (nz = -1 in the middle).
        half = np.float32(0.5 * min(self.texture.shape[:2])) / np.sqrt(np.maximum(1.0 - nz, np.float32(0.5)))
        w = np.where(hit, np.reciprocal(np.where(hit, z, np.float32(1.0))), np.float32(0.0))
        return Hit(w, nx * half, ny * half, _lambert((nx, ny, nz), self.light_dir))


@dataclass(frozen=True)
class Cylinder:
    """The side of a cylinder: from `base` along the unit vector `axis`; the texture is wound around it."""

    texture: Texture
    base: Vector
    axis: Vector
    height_m: float
    radius_m: float
    texel_m: float
    light_dir: Vector

    def corners(self) -> Vector:
        """Return the corners (16, 3) of the cubes around both ends."""
        ends = np.stack([self.base, self.base + self.axis * self.height_m])
        return (ends[:, None] + self.radius_m * _CUBE[None]).reshape(-1, 3)

    def intersect(self, xs: FloatImage, ys: FloatImage, eye: Vector) -> Hit:
        """Return the nearer intersection with the side, a circle in the plane across the axis."""
        across = np.cross(self.axis, [0.0, 0.0, 1.0])
        e1 = np.asarray(across / np.linalg.norm(across), dtype=np.float64)
        e2 = np.asarray(np.cross(e1, self.axis), np.float64)
        e2 = -e2 if e2[2] > 0 else e2  # towards the camera
        to = self.base - eye
        r1, r2, s1, s2 = _affine(e1, xs, ys), _affine(e2, xs, ys), np.float32(to @ e1), np.float32(to @ e2)
        a, b = r1 * r1 + r2 * r2, r1 * s1 + r2 * s2
        c = s1 * s1 + s2 * s2 - np.float32(self.radius_m**2)
        z = (b - np.sqrt(np.maximum(b * b - a * c, np.float32(0.0)))) / a
        along = _affine(self.axis, xs, ys) * z - np.float32(to @ self.axis)
        hit = (b * b > a * c) & (z > np.float32(_GRAZING)) & (along >= 0) & (along <= self.height_m)
        inverse = np.float32(1.0 / self.radius_m)
        n1, n2 = (r1 * z - s1) * inverse, (r2 * z - s2) * inverse
        normal = tuple(n1 * np.float32(e1[i]) + n2 * np.float32(e2[i]) for i in range(3))
        w = np.where(hit, np.reciprocal(np.where(hit, z, np.float32(1.0))), np.float32(0.0))
        wound = np.arctan2(n1, n2) * np.float32(self.radius_m / self.texel_m)
        return Hit(w, wound, along / np.float32(self.texel_m), _lambert(normal, self.light_dir))


def lambert(normal: Vector, light_dir: Vector) -> float:
    """Return the factor of light on a flat face; `light_dir` points towards the light."""
    return _AMBIENT + _DIRECT * max(0.0, float(normal @ light_dir))


def trace(
    surfaces: tuple[Surface, ...], xs: FloatImage, ys: FloatImage, eye: Vector
) -> tuple[Texture, FloatImage]:
    """Render one pinhole view.

    Args:
        surfaces: the scene.
        xs: x' of the rays, shape (1, W) float32, ascending.
        ys: y' of the rays, shape (H, 1) float32, ascending.
        eye: position (3,) of the pinhole in metres.

    Returns:
        The view (H, W, 3) uint8, sRGB coded, and inverse depth (H, W) float32 in 1/m, 0 where nothing is.
    """
    height, width = ys.shape[0], xs.shape[1]
    image = np.zeros((height, width, 3), np.uint8)
    nearest = np.zeros((height, width), np.float32)
    for surface in surfaces:
        roi = _region(surface, xs, ys, eye)
        if roi is None:
            continue
        rows, columns = roi
        hit = surface.intersect(xs[:, columns], ys[rows], eye)
        visible = hit.inverse_depth > nearest[rows, columns]
        if visible.any():
            np.copyto(nearest[rows, columns], hit.inverse_depth, where=visible)
            image[rows, columns] = cv2.copyTo(_paint(surface, hit), visible.view(np.uint8), image[rows, columns])
    return image, nearest


def _region(surface: Surface, xs: FloatImage, ys: FloatImage, eye: Vector) -> tuple[slice, slice] | None:
    """Return rows and columns that can see the surface, None if no ray can."""
    corners = surface.corners()
    if corners is None:
        return slice(0, ys.shape[0]), slice(0, xs.shape[1])
    seen = corners - eye
    if np.any(seen[:, 2] < _GRAZING):
        return slice(0, ys.shape[0]), slice(0, xs.shape[1])
    px, py = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
    left, right = np.searchsorted(xs[0], [px.min(), px.max()])
    top, bottom = np.searchsorted(ys[:, 0], [py.min(), py.max()])
    # One more on either side: the rays are float32.
    rows = slice(max(int(top) - 1, 0), min(int(bottom) + 1, ys.shape[0]))
    columns = slice(max(int(left) - 1, 0), min(int(right) + 1, xs.shape[1]))
    empty = rows.stop <= rows.start or columns.stop <= columns.start
    return None if empty else (rows, columns)


def _paint(surface: Surface, hit: Hit) -> Texture:
    painted: Texture = cv2.remap(surface.texture, hit.u, hit.v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    if hit.light is not None:
        painted = cv2.multiply(painted, cv2.merge([hit.light] * 3), dtype=cv2.CV_8U)
    return painted


def _sample_shade(shade: ShadeMap, u_m: FloatImage, v_m: FloatImage) -> FloatImage:
    u = (u_m - np.float32(shade.origin_m[0])) / np.float32(shade.cell_m)
    v = (v_m - np.float32(shade.origin_m[1])) / np.float32(shade.cell_m)
    sampled: FloatImage = cv2.remap(shade.map, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled


def _affine(direction: Vector, xs: FloatImage, ys: FloatImage) -> FloatImage:
    """Return direction . (x', y', 1), shape (H, W) float32."""
    d = direction.astype(np.float32)
    summed: FloatImage = xs * d[0] + (ys * d[1] + d[2])
    return summed


def _lambert(normal: tuple[FloatImage, ...], light_dir: Vector) -> FloatImage:
    d = light_dir.astype(np.float32)
    cosine = normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]
    lit = np.maximum(cosine, np.float32(0.0))
    # Half the light wraps around the edge, else the shaded side of a ball looks cut off.
    wrapped = np.float32(0.6) * lit + np.float32(0.2) * (cosine + np.float32(1.0))
    shaded: FloatImage = np.float32(_AMBIENT * 0.8) + np.float32(_DIRECT * 1.35) * wrapped
    return shaded


_CUBE = np.array([[i, j, k] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)])
