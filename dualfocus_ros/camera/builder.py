# SPDX-License-Identifier: Apache-2.0
"""Builds the scenes of the simulated camera: objects on a table in front of a wall, with their shadows.

World frame: x right, y down, z forward along the table, metres, origin in the pupil of the camera, which
looks down by `PITCH_DEG`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from dualfocus_ros.camera import textures
from dualfocus_ros.camera.surfaces import Cylinder, Plane, ShadeMap, Sphere, Surface, Vector, lambert
from dualfocus_ros.camera.textures import Colour, Painter, Texture
from dualfocus_ros.types import FloatImage

PITCH_DEG = 6.5
# Texels per radian: a little finer than the pixels of the default camera, so that detail goes down to one.
TEXELS_PER_RAD = 1500.0

_WALL_Z_M = 3.4  # of the room whose textures are not scaled
_PICTURES = (
    (-0.62, -0.20, (0.42, 0.34)),
    (-0.02, -0.20, (0.32, 0.28)),
    (0.66, -0.22, (0.34, 0.36)),
)
_ROOM_M = 4.0  # half the width of table and wall, and the height of the wall
_TABLE_AREA_M = (-1.6, 0.3, 3.2, 3.2)  # x0, z0, width, depth of the shadow map
_SHADOW_CELL_M = 0.006
_WORLD_LIGHT = np.array([-0.42, -0.78, -0.46]) / np.linalg.norm([-0.42, -0.78, -0.46])
_DOWN = np.array([0.0, 1.0, 0.0])
# How light falls for shadows: steeper than the shading light, which keeps shadows short and scenes readable.
_FALL = np.array([0.30, 1.0, 0.22])


class SceneBuilder:
    """Puts objects on the table, in world coordinates, and collects their surfaces and shadows.

    `base_y_m`, how far below the camera objects stand, is the table, but for what stands on something else.
    """

    def __init__(self, rng: np.random.Generator, table_y_m: float, wall_z_m: float) -> None:
        """Take the randomness, how far below the camera the table is, and how far away the wall."""
        self.rng = rng
        self.table_y_m, self.wall_z_m = table_y_m, wall_z_m
        self.base_y_m = table_y_m
        self.surfaces: list[Surface] = []
        self._shadows: list[Vector] = []
        sin, cos = math.sin(math.radians(PITCH_DEG)), math.cos(math.radians(PITCH_DEG))
        self._camera_r_world = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
        self._light = self._camera_r_world @ _WORLD_LIGHT

    def colours(self) -> list[Colour]:
        """Return the palette in an order of its own."""
        return [textures.PALETTE[i] for i in self.rng.permutation(len(textures.PALETTE))]

    def ball(
        self, x: float, z: float, radius: float, paint: Painter, colour: Colour, above_m: float = 0.0
    ) -> None:
        """Put a ball on the table, or `above_m` over it."""
        if above_m == 0.0:
            x, z = self._near(x, z)
        self._ball(np.array([x, self.base_y_m - above_m - radius, z]), radius, paint, colour)

    def pendulum(self, x: float, z: float, y: float, radius: float) -> None:
        """Hang a ball on a rod from above the picture; `y` is down from eye level per metre of distance."""
        x, z = self._near(x, z)
        top = -0.36 * z
        centre_y = y * z
        self._ball(np.array([x, centre_y, z]), radius, self._rich(), self._colour())
        self._side(np.array([x, top, z]), _DOWN, centre_y - radius - top, 0.0016 + 0.0006 * z, textures.plain, 0.5)

    def can(self, x: float, z: float, radius: float, height: float, paint: Painter, colour: Colour) -> None:
        """Stand a cylinder on the table."""
        x, z = self._near(x, z)
        base = np.array([x, self.base_y_m - height, z])
        self._side(base, _DOWN, height, radius, paint, 1.0, colour)
        rim = base - np.array([radius, 0.0, -radius])
        axes = (np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
        self._face(rim, *axes, (2 * radius, 2 * radius), textures.grain, colour, disc=True)
        around = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
        ring = np.column_stack([radius * np.cos(around), np.zeros(16), radius * np.sin(around)])
        self._shadows.append(np.concatenate([base + ring, base + ring + _DOWN * height]))

    def rod(self, x: float, z: float, radius: float, height: float, lean_deg: float) -> None:
        """Stand a thin rod on the table, leaning to the right by `lean_deg`."""
        x, z = self._near(x, z)
        lean = math.radians(lean_deg + self.rng.uniform(-1.5, 1.5))
        axis = np.array([math.sin(lean), -math.cos(lean), 0.0])
        self._side(np.array([x, self.base_y_m, z]), axis, height * z, radius, textures.stripes, 1.0)

    def box(
        self, x: float, z: float, size: tuple[float, float, float], yaw_deg: float, paint: Painter, colour: Colour
    ) -> None:
        """Put a box of (width, height, depth) on the table, turned by `yaw_deg`."""
        width, height, depth = size
        yaw = math.radians(yaw_deg + self.rng.uniform(-6.0, 6.0))
        right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        back = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
        front = np.array([x, self.base_y_m - height, z]) - 0.5 * (width * right + depth * back)
        self._face(front, right, _DOWN, (width, height), paint, colour)
        self._face(front + depth * back, -back, _DOWN, (depth, height), paint, colour)
        self._face(front + width * right, back, _DOWN, (depth, height), paint, colour)
        self._face(front + depth * back, right, -back, (width, depth), paint, colour)
        base = [front + i * width * right + j * depth * back for i in (0, 1) for j in (0, 1)]
        self._shadows.append(np.concatenate([base, np.array(base) + _DOWN * height]))

    def panel(
        self,
        x: float,
        z: float,
        size: tuple[float, float],
        yaw_deg: float,
        lean_deg: float,
        paint: Painter,
        colour: Colour,
    ) -> None:
        """Stand a slanted panel of (width, height) on the table, turned and leaning back."""
        yaw, lean = math.radians(yaw_deg + self.rng.uniform(-5.0, 5.0)), math.radians(lean_deg)
        right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        back = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
        down = _DOWN * math.cos(lean) - back * math.sin(lean)
        top = np.array([x, self.base_y_m, z]) - size[1] * down - 0.5 * size[0] * right
        self._face(top, right, down, size, paint, colour)
        foot = top + size[1] * down
        self._shadows.append(np.stack([top, top + size[0] * right, foot, foot + size[0] * right]))

    def add_room(self) -> None:
        """Add the table with the shadows of all objects, the wall, and pictures on it.

        The nearer the wall, the smaller are textures and pictures, so that they look the same.
        """
        scale = self.wall_z_m / _WALL_Z_M
        table = self._texture(textures.planks, (1152, 1152), (186, 140, 98))
        origin = np.array([-_ROOM_M, self.table_y_m, self.wall_z_m])
        axes = (np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
        size = (2.0 * _ROOM_M, self.wall_z_m - 0.2)
        self._add_plane(table, origin, axes, size, scale / 1152, self._table_shade())
        for x, y, (width, height) in _PICTURES:
            across = (scale * width, scale * height)
            at = np.array([scale * x - 0.5 * across[0], scale * y - 0.5 * across[1], self.wall_z_m - 0.02])
            self._face(at, np.array([1.0, 0.0, 0.0]), _DOWN, across, textures.painting, self._colour())
        wall = self._texture(textures.bricks, (560, 560), (176, 156, 140))
        origin = np.array([-_ROOM_M, self.table_y_m - _ROOM_M, self.wall_z_m])
        axes = (np.array([1.0, 0.0, 0.0]), _DOWN)
        self._add_plane(wall, origin, axes, (2.0 * _ROOM_M, _ROOM_M), scale / 560, _wall_shade())

    def _near(self, x: float, z: float) -> tuple[float, float]:
        return x + 0.012 * z * self.rng.uniform(-1, 1), z * (1.0 + 0.03 * self.rng.uniform(-1, 1))

    def _colour(self) -> Colour:
        return textures.PALETTE[self.rng.integers(len(textures.PALETTE))]

    def _rich(self) -> Painter:
        return textures.RICH[self.rng.integers(len(textures.RICH))]

    def _texture(self, paint: Painter, shape: tuple[int, int], colour: Colour) -> Texture:
        return paint(self.rng, max(shape[0], 8), max(shape[1], 8), colour)

    def _to_camera(self, point: Vector) -> Vector:
        rotated: Vector = self._camera_r_world @ point
        return rotated

    def _ball(self, centre: Vector, radius: float, paint: Painter, colour: Colour) -> None:
        across = int(2.0 * math.sqrt(2.0) * radius / centre[2] * TEXELS_PER_RAD)
        texture = self._texture(paint, (across, across), colour)
        self.surfaces.append(Sphere(texture, self._to_camera(centre), radius, self._light))
        turn = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        # The outline that throws the shadow: the circle across the direction of the light.
        fall = _FALL / np.linalg.norm(_FALL)
        e1 = np.cross(fall, [1.0, 0.0, 0.0])
        e1 /= np.linalg.norm(e1)
        ring = np.outer(np.cos(turn), e1) + np.outer(np.sin(turn), np.cross(fall, e1))
        self._shadows.append(centre + radius * ring)

    def _side(
        self,
        base: Vector,
        axis: Vector,
        height: float,
        radius: float,
        paint: Painter,
        tone: float,
        colour: Colour | None = None,
    ) -> None:
        texel = float(base[2]) / TEXELS_PER_RAD
        shade = colour or self._colour()
        shade = (int(shade[0] * tone), int(shade[1] * tone), int(shade[2] * tone))
        shape = (min(int(height / texel), 1024), int(2.0 * math.pi * radius / texel))
        texture = self._texture(paint, shape, shade)
        ends = self._to_camera(base), self._to_camera(axis)
        self.surfaces.append(Cylinder(texture, *ends, height, radius, texel, self._light))

    def _face(
        self,
        origin: Vector,
        u_axis: Vector,
        v_axis: Vector,
        size: tuple[float, float],
        paint: Painter,
        colour: Colour,
        disc: bool = False,
    ) -> None:
        normal = np.asarray(np.cross(v_axis, u_axis), np.float64)  # outwards
        if normal @ origin > 0.02:  # turned away, for every point of the pupil
            return
        texel = float(origin[2]) / TEXELS_PER_RAD
        texture = self._texture(paint, (int(size[1] / texel), int(size[0] / texel)), colour)
        lit = cv2.convertScaleAbs(texture, alpha=lambert(normal, _WORLD_LIGHT))
        self._add_plane(lit, origin, (u_axis, v_axis), size, texel, disc=disc)

    def _add_plane(
        self,
        texture: Texture,
        origin: Vector,
        axes: tuple[Vector, Vector],
        size: tuple[float, float] | None,
        texel: float,
        shade: ShadeMap | None = None,
        disc: bool = False,
    ) -> None:
        at, u_axis, v_axis = self._to_camera(origin), self._to_camera(axes[0]), self._to_camera(axes[1])
        self.surfaces.append(Plane(texture, at, u_axis, v_axis, size, texel, shade, disc))

    def _table_shade(self) -> ShadeMap:
        """Return the light on the table, with soft shadows of all objects; u along x, v towards the camera."""
        x0, z0, width, depth = _TABLE_AREA_M
        shape = (int(depth / _SHADOW_CELL_M), int(width / _SHADOW_CELL_M))
        light = np.ones(shape, np.float32)
        for points in self._shadows:
            fallen = points + np.outer((self.table_y_m - points[:, 1]) / _FALL[1], _FALL)
            cells = np.column_stack([fallen[:, 0] - x0, (z0 + depth) - fallen[:, 2]]) / _SHADOW_CELL_M
            hull = cv2.convexHull(np.round(cells).astype(np.int32))
            # Things high above the table throw a wide, faint shadow.
            gap = max(0.0, self.table_y_m - float(points[:, 1].max()))
            cast = cv2.fillConvexPoly(np.zeros(shape, np.float32), hull, 1.0)
            cast = cv2.GaussianBlur(cast, (0, 0), (0.008 + 0.10 * gap) / _SHADOW_CELL_M)
            light *= 1.0 - 0.50 * cast
        return ShadeMap(light, (x0 + _ROOM_M, self.wall_z_m - (z0 + depth)), _SHADOW_CELL_M)


def _wall_shade() -> ShadeMap:
    """Return light from the upper left and the dark corner along the table, over 4 x 2 m of the wall."""
    y, x = np.mgrid[0:100, 0:200].astype(np.float32)
    spot = np.exp(-(((x - 85) / 45) ** 2 + ((y - 82) / 25) ** 2))
    corner = 1.0 - 0.35 * np.exp(-np.maximum(0.0, 99.0 - y) / 4.0)
    light: FloatImage = ((0.62 + 0.40 * spot) * corner).astype(np.float32)
    return ShadeMap(light, (_ROOM_M - 2.0, _ROOM_M - 2.0), 0.02)
