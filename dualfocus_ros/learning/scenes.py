# SPDX-License-Identifier: Apache-2.0
"""Random scenes for training, described in the picture of the central view.

A surface is a region of the picture with an inverse depth (dioptres) and a texture, all functions of the pixel.
Inverse depth is the natural measure: a plane in space is exactly affine in it, and parallax and blur are linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Outlines of surfaces: what (u, v) in -1..1 belongs to them.
OUTLINES = ("everywhere", "ellipse", "box", "rod", "ring", "frame", "blob", "lattice")
# Relief on top of the plane, in units of its height.
RELIEFS = ("flat", "bowl", "cylinder", "roof", "waves")


@dataclass(frozen=True)
class Surface:
    """One surface.

    Attributes:
        outline: one of OUTLINES.
        relief: one of RELIEFS.
        centre_px: x, y of its centre.
        half_size_px: half width and height.
        angle_rad: rotation in the picture.
        inverse_depth_dpt: at its centre.
        slope_dpt: change of inverse depth from the centre to the border along u and v.
        relief_dpt: height of the relief, towards the camera where positive.
        texture: index into the bank.
        texel_per_px: scale of the texture.
        texture_offset: x, y in texels.
        gain: (3,) factor on the texture.
        contrast: 0 plain to 1 as in the bank.
        shade: strength of shading by the relief and slope, 0 none.
        highlight: strength of a specular spot, 0 none; it lies behind the surface, as reflections do.
        phase: free parameter of outline and relief.
    """

    outline: str
    relief: str
    centre_px: tuple[float, float]
    half_size_px: tuple[float, float]
    angle_rad: float
    inverse_depth_dpt: float
    slope_dpt: tuple[float, float]
    relief_dpt: float
    texture: int
    texel_per_px: float
    texture_offset: tuple[float, float]
    gain: tuple[float, float, float]
    contrast: float
    shade: float = 0.0
    highlight: float = 0.0
    phase: float = 0.0

    def local(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return (u, v), -1..1 across the surface, of pixel positions of the central view."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dx, dy = x - self.centre_px[0], y - self.centre_px[1]
        return (dx * cos + dy * sin) / self.half_size_px[0], (dy * cos - dx * sin) / self.half_size_px[1]

    def inverse_depth(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the inverse depth in dioptres at local coordinates; nothing lies beyond infinity."""
        depth = self.inverse_depth_dpt + self.slope_dpt[0] * u + self.slope_dpt[1] * v
        if self.relief != "flat" and self.relief_dpt != 0.0:
            depth = depth + self.relief_dpt * self._height(u, v)
        return depth.clamp(min=0.0)

    def _height(self, u: Tensor, v: Tensor) -> Tensor:
        if self.relief == "bowl":
            return (1.0 - u * u - v * v).clamp(min=0.04).sqrt()
        if self.relief == "cylinder":
            return (1.0 - u * u).clamp(min=0.04).sqrt()
        if self.relief == "roof":
            return 1.0 - (u - 0.4 * math.sin(self.phase)).abs()
        return 0.5 * torch.sin(3.0 * u + self.phase) * torch.cos(2.3 * v + 2.0 * self.phase)

    def covers(self, u: Tensor, v: Tensor) -> Tensor | None:
        """Return where the surface is, bool; None: everywhere."""
        if self.outline == "everywhere":
            return None
        if self.outline == "ellipse":
            return u * u + v * v < 1.0
        inside = torch.maximum(u.abs(), v.abs()) < 1.0
        if self.outline == "ring":
            radius = u * u + v * v
            return (radius < 1.0) & (radius > 0.5)
        if self.outline == "frame":
            return inside & (torch.maximum(u.abs(), v.abs()) > 0.75)
        if self.outline == "blob":
            angle = torch.atan2(v, u)
            edge = 0.7 + 0.2 * torch.sin(3.0 * angle + self.phase) + 0.1 * torch.sin(7.0 * angle - self.phase)
            return u * u + v * v < edge * edge
        if self.outline == "lattice":
            cell = 6.0 + 4.0 * math.sin(self.phase)
            bars = torch.minimum((u * cell).remainder(1.0), (v * cell).remainder(1.0)) < 0.25
            return inside & bars
        return inside

    def colour(self, u: Tensor, v: Tensor, bank: Tensor) -> Tensor:
        """Return linear light (3, P) at local coordinates (P,); bank is (T, 3, S, S)."""
        size = bank.shape[-1]
        scale_u, scale_v = (2.0 * self.texel_per_px * h / size for h in self.half_size_px)
        ox, oy = (2.0 * o / size for o in self.texture_offset)
        grid = torch.stack([u * scale_u + ox, v * scale_v + oy], dim=-1)
        # Tiles mirrored to all sides.
        grid = ((grid + 1.0).remainder(4.0) - 2.0).abs() - 1.0
        texture = bank[self.texture : self.texture + 1]
        texel = functional.grid_sample(texture, grid[None, :, None], padding_mode="border", align_corners=False)
        texel = texel.reshape(3, -1)
        mean = texture.mean(dim=(2, 3)).reshape(3, 1)
        gain = torch.tensor(self.gain, device=u.device).reshape(3, 1)
        return gain * (mean + self.contrast * (texel - mean))


@dataclass(frozen=True)
class SceneLimits:
    """The room that a scene may fill.

    Attributes:
        size_px: width and height of the picture.
        near_dpt: inverse depth of the nearest focus.
        far_dpt: of the farthest.
    """

    size_px: tuple[int, int]
    near_dpt: float
    far_dpt: float


def random_scene(rng: np.random.Generator, limits: SceneLimits, textures: int) -> list[Surface]:
    """Return a random scene: a background that fills the picture, and objects in front of it."""
    # Depth may be uniform in dioptres, or in metres, which crowds things towards the far end.
    in_metres = rng.random() < 0.7
    surfaces = _background(rng, limits, textures, in_metres)
    count = int(rng.choice([0, 1, 2, 3, 5, 8, 12, 20], p=[0.05, 0.06, 0.1, 0.16, 0.2, 0.19, 0.14, 0.1]))
    for _ in range(count):
        surfaces.append(_object(rng, limits, textures, in_metres))
    return surfaces


def _place(rng: np.random.Generator, limits: SceneLimits, in_metres: bool) -> float:
    """Return a random inverse depth, seldom outside of the focus range."""
    t = rng.uniform(-0.03, 1.05)
    near, far = limits.near_dpt, limits.far_dpt
    uniform_dpt = far + t * (near - far)
    if not in_metres:
        return float(max(uniform_dpt, 0.02))
    far_m, near_m = 1.0 / max(far, 0.05 * near), 1.0 / near
    return 1.0 / float(far_m + min(max(t, 0.0), 1.0) * (near_m - far_m))


def _paint(rng: np.random.Generator, textures: int) -> dict[str, object]:
    """Return how a surface looks."""
    tint = rng.uniform(0.6, 1.0, 3) * np.exp(rng.normal(-0.1, 0.35))
    kind = rng.random()
    contrast = 1.0 if kind < 0.77 else float(10.0 ** rng.uniform(-2.0, 0.0))
    return {
        "texture": int(rng.integers(textures)),
        "texel_per_px": float(np.exp(rng.uniform(np.log(0.4), np.log(2.2)))),
        "texture_offset": (float(rng.uniform(0, 256)), float(rng.uniform(0, 256))),
        "gain": (float(tint[0]), float(tint[1]), float(tint[2])),
        "contrast": contrast,
        "shade": float(rng.uniform(0.0, 0.6)),
        "highlight": float(rng.uniform(0.5, 3.0)) if rng.random() < 0.12 else 0.0,
        "phase": float(rng.uniform(0, 2 * np.pi)),
    }


def _background(rng: np.random.Generator, limits: SceneLimits, textures: int, in_metres: bool) -> list[Surface]:
    """Return one to four planes or a wavy sheet over the whole picture; the nearest wins in every pixel."""
    width, height = limits.size_px
    span = limits.near_dpt - limits.far_dpt
    kind = rng.choice(["wall", "slant", "planes", "waves"], p=[0.25, 0.3, 0.3, 0.15])
    count = {"wall": 1, "slant": 1, "planes": int(rng.integers(2, 5)), "waves": 1}[str(kind)]
    surfaces = []
    for i in range(count):
        if in_metres:  # the walls of a room; how oblique they are does not depend on their distance
            base = _place(rng, limits, in_metres)
            steepest = min(0.7 * base, 0.8 * span)
        else:
            base = limits.far_dpt + span * float(rng.beta(1.0, 2.5 if count == 1 else 3.5))
            steepest = 0.8 * span
        slope = 0.0 if kind == "wall" else float(rng.uniform(0.1, 1.0) * steepest)
        if kind == "planes" and i > 0:
            base -= float(rng.uniform(0.0, 0.5)) * slope
        turn = float(rng.uniform(0, 2 * np.pi))  # of the slope; the texture has its own
        surfaces.append(
            Surface(
                outline="everywhere",
                relief="waves" if kind == "waves" else "flat",
                centre_px=(width / 2, height / 2),
                half_size_px=(width / 2, height / 2),
                angle_rad=float(rng.uniform(0, 2 * np.pi)),
                inverse_depth_dpt=max(base, 0.02),
                slope_dpt=(slope * math.cos(turn), slope * math.sin(turn)),
                relief_dpt=float(rng.uniform(0.25, 1.0) * steepest) if kind == "waves" else 0.0,
                **_paint(rng, textures),  # type: ignore[arg-type]
            )
        )
    return surfaces


def _object(rng: np.random.Generator, limits: SceneLimits, textures: int, in_metres: bool) -> Surface:
    width, height = limits.size_px
    span = limits.near_dpt - limits.far_dpt
    outline = str(rng.choice(OUTLINES[1:], p=[0.27, 0.25, 0.2, 0.07, 0.06, 0.1, 0.05]))
    half = np.exp(rng.uniform(np.log(0.035), np.log(0.45), 2)) * min(width, height)
    if outline == "rod":
        half = np.array(
            [rng.uniform(0.2, 0.8) * min(width, height), np.exp(rng.uniform(np.log(0.7), np.log(14.0)))]
        )
    relief = str(rng.choice(RELIEFS, p=[0.35, 0.27, 0.15, 0.15, 0.08]))
    base = _place(rng, limits, in_metres)
    # In space, relief over distance is what its picture is wide, so that far things are flat in dioptres.
    thickest = min(0.4 * base, 0.25 * span) if in_metres else 0.25 * span
    turn, slope = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.32)) * thickest
    return Surface(
        outline=outline,
        relief=relief,
        centre_px=(float(rng.uniform(0, width)), float(rng.uniform(0, height))),
        half_size_px=(float(half[0]), float(half[1])),
        angle_rad=float(rng.uniform(0, np.pi)),
        inverse_depth_dpt=base,
        slope_dpt=(float(slope * np.cos(turn)), float(slope * np.sin(turn))),
        relief_dpt=float(rng.uniform(0.08, 1.0) * thickest),
        **_paint(rng, textures),  # type: ignore[arg-type]
    )
