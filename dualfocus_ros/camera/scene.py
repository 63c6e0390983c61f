# SPDX-License-Identifier: Apache-2.0
"""The scene of the simulated camera: a table-top still life that fills the depth range 0.5 to 3.5 m.

World frame: x right, y down, z forward along the table, metres, origin in the pupil of the camera, which
looks down by `PITCH_DEG`. The layout is fixed, so that every seed gives a good picture; places, sizes,
colours and textures follow the seed.
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
TABLE_Y_M = 0.205
WALL_Z_M = 3.4
# Texels per radian: a little finer than the pixels of the default camera, so that detail goes down to one.
TEXELS_PER_RAD = 1500.0

_ROOM_M = 4.0  # half the width of table and wall, and the height of the wall
_TABLE_AREA_M = (-1.6, 0.3, 3.2, 3.2)  # x0, z0, width, depth of the shadow map
_SHADOW_CELL_M = 0.006
_WORLD_LIGHT = np.array([-0.42, -0.78, -0.46]) / np.linalg.norm([-0.42, -0.78, -0.46])
_DOWN = np.array([0.0, 1.0, 0.0])
# How light falls for shadows: steeper than the shading light, which keeps shadows short and scenes readable.
_FALL = np.array([0.30, 1.0, 0.22])


def make_scene(seed: int) -> tuple[Surface, ...]:
    """Return the surfaces of the scene of that seed, in the camera frame, roughly nearest first."""
    builder = _Builder(np.random.default_rng(seed))
    _furnish(builder)
    builder.add_room()
    return tuple(builder.surfaces)


def _furnish(b: _Builder) -> None:
    """Place the objects: near left and right, a loose diagonal in the middle, hanging things above."""
    near_colour, *colours = b.colours()
    b.ball(0.008, 0.555, 0.034, textures.checker, colours[3])
    b.ball(0.125, 0.70, 0.048, textures.speckle, near_colour)
    b.box(-0.135, 0.74, (0.085, 0.115, 0.07), 24, textures.printed, colours[0])
    b.ball(-0.02, 0.86, 0.026, textures.marble, colours[1])
    b.can(0.035, 1.08, 0.036, 0.135, textures.stripes, colours[2])
    b.panel(0.235, 1.22, (0.17, 0.23), 24, 14, textures.painting, colours[3])
    b.box(-0.20, 1.20, (0.13, 0.17, 0.11), -32, textures.weave, colours[4])
    b.ball(-0.20, 1.20, 0.045, textures.plain, colours[5], above_m=0.17)
    b.box(0.11, 1.56, (0.16, 0.10, 0.15), 38, textures.plain, colours[6])
    b.ball(0.11, 1.54, 0.055, textures.checker, near_colour, above_m=0.10)
    b.can(-0.33, 1.72, 0.05, 0.30, textures.speckle, colours[1])
    b.panel(-0.08, 1.95, (0.26, 0.32), -28, 10, textures.printed, colours[0])
    b.box(0.46, 2.05, (0.24, 0.33, 0.2), 18, textures.speckle, colours[2])
    b.ball(0.22, 2.35, 0.10, textures.stripes, colours[4])
    b.box(-0.62, 2.50, (0.34, 0.40, 0.3), -22, textures.marble, colours[3])
    b.ball(-0.24, 2.75, 0.11, textures.grain, colours[6])
    b.box(0.60, 2.95, (0.38, 0.30, 0.22), -12, textures.weave, colours[5])
    b.can(0.22, 3.0, 0.085, 0.40, textures.checker, colours[1])
    for x, z, lean in ((-0.075, 1.35, 3), (0.33, 1.50, -4), (0.02, 2.05, 2), (-0.43, 2.15, -3), (0.40, 2.60, 3)):
        b.rod(x, z, 0.0028 + 0.0012 * z, 0.75, lean)
    for x, z, drop, radius in (
        (-0.085, 0.98, -0.035, 0.027),
        (0.15, 1.75, -0.075, 0.045),
        (-0.5, 1.95, -0.06, 0.06),
    ):
        b.pendulum(x, z, drop, radius)


class _Builder:
    """Puts objects on the table, in world coordinates, and collects their surfaces and shadows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
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
        self._ball(np.array([x, TABLE_Y_M - above_m - radius, z]), radius, paint, colour)

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
        base = np.array([x, TABLE_Y_M - height, z])
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
        self._side(np.array([x, TABLE_Y_M, z]), axis, height * z, radius, textures.stripes, 1.0)

    def box(
        self, x: float, z: float, size: tuple[float, float, float], yaw_deg: float, paint: Painter, colour: Colour
    ) -> None:
        """Put a box of (width, height, depth) on the table, turned by `yaw_deg`."""
        width, height, depth = size
        yaw = math.radians(yaw_deg + self.rng.uniform(-6.0, 6.0))
        right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        back = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
        front = np.array([x, TABLE_Y_M - height, z]) - 0.5 * (width * right + depth * back)
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
        top = np.array([x, TABLE_Y_M, z]) - size[1] * down - 0.5 * size[0] * right
        self._face(top, right, down, size, paint, colour)
        foot = top + size[1] * down
        self._shadows.append(np.stack([top, top + size[0] * right, foot, foot + size[0] * right]))

    def add_room(self) -> None:
        """Add the table with the shadows of all objects, the wall, and pictures on it."""
        table = self._texture(textures.planks, (1152, 1152), (186, 140, 98))
        origin = np.array([-_ROOM_M, TABLE_Y_M, WALL_Z_M])
        axes = (np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
        size = (2.0 * _ROOM_M, WALL_Z_M - 0.2)
        self._add_plane(table, origin, axes, size, 1.0 / 1152, self._table_shade())
        for x, y, size in (
            (-0.62, -0.20, (0.42, 0.34)),
            (-0.02, -0.20, (0.32, 0.28)),
            (0.66, -0.22, (0.34, 0.36)),
        ):
            at = np.array([x - 0.5 * size[0], y - 0.5 * size[1], WALL_Z_M - 0.02])
            self._face(at, np.array([1.0, 0.0, 0.0]), _DOWN, size, textures.painting, self._colour())
        wall = self._texture(textures.bricks, (560, 560), (176, 156, 140))
        origin = np.array([-_ROOM_M, TABLE_Y_M - _ROOM_M, WALL_Z_M])
        axes = (np.array([1.0, 0.0, 0.0]), _DOWN)
        self._add_plane(wall, origin, axes, (2.0 * _ROOM_M, _ROOM_M), 1.0 / 560, _wall_shade())

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
            fallen = points + np.outer((TABLE_Y_M - points[:, 1]) / _FALL[1], _FALL)
            cells = np.column_stack([fallen[:, 0] - x0, (z0 + depth) - fallen[:, 2]]) / _SHADOW_CELL_M
            hull = cv2.convexHull(np.round(cells).astype(np.int32))
            # Things high above the table throw a wide, faint shadow.
            gap = max(0.0, TABLE_Y_M - float(points[:, 1].max()))
            cast = cv2.fillConvexPoly(np.zeros(shape, np.float32), hull, 1.0)
            cast = cv2.GaussianBlur(cast, (0, 0), (0.008 + 0.10 * gap) / _SHADOW_CELL_M)
            light *= 1.0 - 0.50 * cast
        return ShadeMap(light, (x0 + _ROOM_M, WALL_Z_M - (z0 + depth)), _SHADOW_CELL_M)


def _wall_shade() -> ShadeMap:
    """Return light from the upper left and the dark corner along the table, over 4 x 2 m of the wall."""
    y, x = np.mgrid[0:100, 0:200].astype(np.float32)
    spot = np.exp(-(((x - 85) / 45) ** 2 + ((y - 82) / 25) ** 2))
    corner = 1.0 - 0.35 * np.exp(-np.maximum(0.0, 99.0 - y) / 4.0)
    light: FloatImage = ((0.62 + 0.40 * spot) * corner).astype(np.float32)
    return ShadeMap(light, (_ROOM_M - 2.0, _ROOM_M - 2.0), 0.02)
