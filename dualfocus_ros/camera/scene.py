# SPDX-License-Identifier: Apache-2.0
"""The scenes of the simulated camera.

The default is a table-top still life that fills the depth range 0.5 to 3.5 m; others keep their depth in one or
two parts of the range. A layout is fixed, so that every seed gives a good picture; places, sizes, colours and
textures follow the seed. World frame: see `builder`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.camera import textures
from dualfocus_ros.camera.builder import PITCH_DEG, SceneBuilder
from dualfocus_ros.camera.surfaces import Surface

__all__ = ["PITCH_DEG", "SCENE_CHOICES", "TABLE_Y_M", "WALL_Z_M", "make_scene"]

TABLE_Y_M = 0.205
WALL_Z_M = 3.4
# A floor that low comes into the picture at 2 m.
_FLOOR_Y_M = 0.64
_SHELF_Y_M = 0.112


def make_scene(seed: int, layout: str = "still_life") -> tuple[Surface, ...]:
    """Return the surfaces of the scene of that seed, in the camera frame, roughly nearest first.

    Args:
        seed: of all that is random.
        layout: one of SCENE_CHOICES.
    """
    rng = np.random.default_rng(seed)
    chosen = _LAYOUTS[layout]
    wall_z_m = chosen.wall_z_m if chosen.farthest_wall_m is None else _drawn_wall(rng, chosen)
    builder = SceneBuilder(rng, chosen.table_y_m, wall_z_m)
    chosen.furnish(builder)
    builder.add_room()
    return tuple(builder.surfaces)


@dataclass(frozen=True)
class _Layout:
    """Objects, height of the table below the camera, and distance of the wall, or the range it is drawn from."""

    furnish: Callable[[SceneBuilder], None]
    table_y_m: float
    wall_z_m: float
    farthest_wall_m: float | None = None


def _drawn_wall(rng: np.random.Generator, layout: _Layout) -> float:
    """Return a distance drawn evenly in dioptres."""
    assert layout.farthest_wall_m is not None
    return float(1.0 / rng.uniform(1.0 / layout.farthest_wall_m, 1.0 / layout.wall_z_m))


def _still_life(b: SceneBuilder) -> None:
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


def _far(b: SceneBuilder) -> None:
    """Stand large things on a floor that begins at 2 m, up to the wall."""
    colours = b.colours()
    b.ball(0.10, 2.12, 0.085, textures.checker, colours[3])
    b.box(-0.33, 2.22, (0.26, 0.30, 0.22), 24, textures.printed, colours[0])
    b.can(0.40, 2.30, 0.085, 0.36, textures.stripes, colours[2])
    b.ball(-0.05, 2.42, 0.075, textures.marble, colours[1])
    b.panel(0.13, 2.62, (0.34, 0.46), 24, 12, textures.painting, colours[4])
    b.box(-0.22, 2.72, (0.30, 0.44, 0.24), -32, textures.weave, colours[5])
    b.box(0.56, 2.80, (0.32, 0.52, 0.28), 18, textures.speckle, colours[6])
    b.ball(-0.60, 2.85, 0.15, textures.grain, colours[7])
    b.can(0.05, 3.02, 0.10, 0.62, textures.checker, colours[1])
    b.box(-0.50, 3.12, (0.44, 0.62, 0.22), -12, textures.plain, colours[3])
    b.panel(0.38, 3.16, (0.40, 0.66), -20, 8, textures.printed, colours[0])
    for x, z, lean in ((-0.14, 2.40, 3), (0.30, 2.75, -4), (-0.36, 2.95, 2)):
        b.rod(x, z, 0.0075, 0.3, lean)
    for x, z, drop, radius in ((-0.20, 2.35, -0.02, 0.06), (0.36, 2.60, -0.03, 0.08)):
        b.pendulum(x, z, drop, radius)


def _near(b: SceneBuilder) -> None:
    """Put small things on a table close by, before a wall right behind them."""
    colours = b.colours()
    b.ball(0.012, 0.535, 0.020, textures.checker, colours[3])
    b.box(-0.085, 0.575, (0.052, 0.064, 0.04), 24, textures.printed, colours[0])
    b.ball(0.085, 0.580, 0.026, textures.speckle, colours[1])
    b.can(-0.025, 0.615, 0.019, 0.085, textures.stripes, colours[2])
    b.panel(0.045, 0.660, (0.075, 0.105), 24, 12, textures.painting, colours[4])
    b.box(-0.115, 0.685, (0.07, 0.12, 0.05), -30, textures.weave, colours[5])
    b.can(0.135, 0.690, 0.022, 0.15, textures.checker, colours[6])
    b.ball(-0.045, 0.715, 0.034, textures.grain, colours[7])
    for x, z, lean in ((-0.055, 0.60, 3), (0.105, 0.64, -4)):
        b.rod(x, z, 0.0022, 0.4, lean)
    for x, z, drop, radius in ((-0.03, 0.63, -0.03, 0.017), (0.10, 0.70, -0.03, 0.022)):
        b.pendulum(x, z, drop, radius)


def _two_clusters(b: SceneBuilder) -> None:
    """Put some small things on a shelf at 0.6 m; all else stands at the far end of the room."""
    colours = b.colours()
    b.box(-0.105, 0.615, (0.20, _FLOOR_Y_M - _SHELF_Y_M, 0.15), 4, textures.grain, colours[7])
    b.base_y_m = _SHELF_Y_M
    b.ball(-0.050, 0.565, 0.024, textures.checker, colours[3])
    b.can(-0.110, 0.600, 0.022, 0.095, textures.stripes, colours[2])
    b.box(-0.050, 0.655, (0.05, 0.085, 0.03), 20, textures.printed, colours[0])
    b.base_y_m = _FLOOR_Y_M
    b.pendulum(0.105, 0.66, -0.02, 0.026)
    b.can(0.40, 2.20, 0.085, 0.36, textures.stripes, colours[2])
    b.box(0.10, 2.35, (0.26, 0.34, 0.22), 24, textures.speckle, colours[4])
    b.panel(0.30, 2.55, (0.34, 0.50), 20, 10, textures.painting, colours[5])
    b.box(-0.20, 2.60, (0.30, 0.52, 0.24), -32, textures.weave, colours[6])
    b.ball(0.58, 2.62, 0.13, textures.marble, colours[1])
    b.can(0.08, 2.72, 0.09, 0.60, textures.checker, colours[3])
    b.rod(0.24, 2.40, 0.0070, 0.3, -3)
    b.pendulum(-0.28, 2.45, -0.03, 0.07)


def _nothing(b: SceneBuilder) -> None:
    """Leave the wall alone."""


_LAYOUTS = {
    "still_life": _Layout(_still_life, TABLE_Y_M, WALL_Z_M),
    "far": _Layout(_far, _FLOOR_Y_M, WALL_Z_M),
    "near": _Layout(_near, 0.165, 0.8),
    "two_clusters": _Layout(_two_clusters, _FLOOR_Y_M, 2.9),
    "wall": _Layout(_nothing, 1.5, 0.9, 3.2),
}
SCENE_CHOICES: tuple[str, ...] = tuple(_LAYOUTS)
