# SPDX-License-Identifier: Apache-2.0
"""Endless training stacks: thin-lens focal stacks of random scenes, on the CPU or a GPU.

A scene is rendered once from many pinhole positions spread over the pupil. Every focus setting is then a
shift-and-add of these views in linear light: a view from pupil position `a` (in units of the pupil's radius)
shows a point of inverse depth w at a parallax of kappa / 2 * a * (w - w_n) pixels when focused at w_n, so that
the sum is the disc of the thin lens, with exact occlusion. A smaller aperture is a subset of the views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dualfocus_ros.camera.lightfield import pupil_points
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.learning.pictures import Layer
from dualfocus_ros.learning.scenes import SceneLimits, Surface, random_scene
from dualfocus_ros.optics import blur_gain_px_per_dpt
from dualfocus_ros.types import MIN_SLICES

# Smallest and largest blur from slice to slice, on average over a stack, and largest over all of it; pixels.
BLUR_STEP_PX = (0.3, 6.0)
MOST_BLUR_PX = 36.0
# Fixed-point steps that find where a ray of a side view meets a surface; each leaves slope * parallax of the
# error.
INTERSECTION_STEPS = 3
# Distance between neighbouring views in the largest disc of blur, pixels; the views' number follows from it.
VIEW_SPACING_PX = 2.0
MIN_VIEWS, MAX_VIEWS = 36, 128
# Standard deviation of the filter that hides single views where all is blurred, in view distances.
ANTI_GHOST = 0.5
GHOST_LEVELS_PX = (0.7, 1.4)


@dataclass(frozen=True)
class Optics:
    """Lens and focus schedule of one stack.

    Attributes:
        focus_dpt: (N,) focus positions, dioptres, descending (nearest first).
        blur_gain: kappa, diameter of blur in pixels per dioptre.
        breathing: focal length over distance as the thin lens has it: the field of view of slice n is smaller
            by 1 / (1 - breathing * focus_dpt[n]); metres; 0: none.
    """

    focus_dpt: tuple[float, ...]
    blur_gain: float
    breathing: float = 0.0


@dataclass(frozen=True)
class Stack:
    """A focal stack of one scene.

    Attributes:
        light: (N, 3, H, W) float32, linear light, noise-free, registered.
        inverse_depth: (H, W) float32 dioptres.
        optics: lens and focus positions.
    """

    light: Tensor
    inverse_depth: Tensor
    optics: Optics


def random_optics(rng: np.random.Generator, slices: Sequence[int]) -> Optics:
    """Return a random lens and focus schedule with a sensible amount of blur for each number of slices.

    Lenses are drawn from phones (2 mm) to machine vision (50 mm); those whose neighbouring slices differ on
    average by a blur outside of BLUR_STEP_PX, or the first and last by more than MOST_BLUR_PX, are drawn again.
    The schedule is one of the first number of slices.

    Raises:
        ParameterError: if fewer than 3 slices are asked for.
    """
    if min(slices) < MIN_SLICES:
        raise ParameterError(f"expected at least {MIN_SLICES} slices, got {min(slices)}")
    least, most = BLUR_STEP_PX[0] * (max(slices) - 1), BLUR_STEP_PX[1] * (min(slices) - 1)
    while True:
        focal_m = math.exp(rng.uniform(math.log(0.002), math.log(0.05)))
        f_number = math.exp(rng.uniform(math.log(0.8), math.log(5.6)))
        pitch_m = math.exp(rng.uniform(math.log(2e-6), math.log(3e-5)))
        nearest_m = math.exp(rng.uniform(math.log(max(0.05, 6 * focal_m)), math.log(2.5)))
        near_dpt = 1.0 / nearest_m
        far_dpt = 0.0 if rng.random() < 0.08 else near_dpt * rng.uniform(0.04, 0.5)
        gain = blur_gain_px_per_dpt(focal_m, f_number, pitch_m, nearest_m)
        total_px = gain * (near_dpt - far_dpt)
        if max(least, 1.5) <= total_px <= min(most, MOST_BLUR_PX):
            break
    breathing = focal_m if rng.random() < 0.35 else 0.0
    return Optics(_schedule(rng, near_dpt, far_dpt, slices[0]), gain, breathing)


def _schedule(rng: np.random.Generator, near_dpt: float, far_dpt: float, slices: int) -> tuple[float, ...]:
    """Return focus positions: uniform in dioptres, geometric, as a lens dial has them, or jittered."""
    t = np.linspace(0.0, 1.0, slices)
    kind = rng.random()
    if kind < 0.25 and far_dpt > 0:
        power = near_dpt * (far_dpt / near_dpt) ** t
    else:
        if kind > 0.6:
            step = 1.0 / (slices - 1)
            t[1:-1] += rng.uniform(-0.35, 0.35, slices - 2) * step
        power = near_dpt + t * (far_dpt - near_dpt)
    return tuple(float(p) for p in power)


def pupil(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Return about `count` points (V, 2) of a random pupil in the unit disc, the central ones first.

    Half of the pupils are round, the rest polygons of blades or cat's eyes. Vogel's spiral spreads evenly, and its
    first points are an evenly filled smaller pupil.
    """
    kind, turn = rng.random(), rng.uniform(0, 2 * np.pi)
    if kind < 0.5:
        return pupil_points(count, 2.0)
    if kind < 0.75:  # polygon of 5 to 9 blades
        blades = int(rng.integers(5, 10))
        points = pupil_points(round(count * 1.25), 2.0)
        angle = np.arctan2(points[:, 1], points[:, 0]) + turn
        edge = math.cos(np.pi / blades) / np.cos((angle % (2 * np.pi / blades)) - np.pi / blades)
        return points[np.hypot(*points.T) <= edge]
    shift = rng.uniform(0.1, 0.7) * np.array([np.cos(turn), np.sin(turn)])  # cat's eye: two discs
    points = pupil_points(round(count * 1.4), 2.0)
    return points[np.hypot(*(points - shift).T) <= 1.0]


class LightField:
    """The views of one scene through one pupil."""

    def __init__(
        self,
        surfaces: Sequence[Surface | Layer],
        bank: Tensor,
        size_px: tuple[int, int],
        points: npt.NDArray[np.float64],
        blur_gain: float,
        focus_range_dpt: tuple[float, float],
    ) -> None:
        """Render all views.

        Args:
            surfaces: the scene; the nearest wins.
            bank: (T, 3, S, S) textures in linear light; its device is where all is computed.
            size_px: width and height of the stack.
            points: (V, 2) pupil positions in the unit disc, x right and y down.
            blur_gain: kappa of the whole pupil, pixels per dioptre.
            focus_range_dpt: smallest and largest focus position that will be asked for.
        """
        self._device = bank.device
        self._width, self._height = size_px
        self._points = points
        self._gain = blur_gain
        self._middle_dpt = 0.5 * (focus_range_dpt[0] + focus_range_dpt[1])
        reach = 0.25 * blur_gain * abs(focus_range_dpt[1] - focus_range_dpt[0])
        self._margin = math.ceil(reach) + 2
        k = np.arange(len(points))[:, None]
        # Each view samples its pixels at its own sub-pixel offset (sequence R2 of Roberts, 2018), so that rounding
        # the shifts to whole pixels integrates over the area of a pixel, as a sensor does.
        self._jitter = np.mod(0.5 + (k + 1) * np.array([0.7548776662466927, 0.5698402909980532]), 1.0) - 0.5
        self._views = self._render(surfaces, bank, points, self._jitter, self._margin)[0]
        centre = np.zeros((1, 2))
        self.inverse_depth = self._render(surfaces, bank, centre, centre, 0)[1][0]

    def refocus(self, focus_dpt: float, aperture: float = 1.0) -> Tensor:
        """Return the noise-free slice (3, H, W), linear light, through a pupil of `aperture` times the radius."""
        radii = np.hypot(*self._points.T)
        chosen = np.flatnonzero(radii <= aperture * max(radii.max(), 1e-9))
        shift = 0.5 * self._gain * self._points * (focus_dpt - self._middle_dpt)
        start = np.rint(-shift - self._jitter).astype(int) + self._margin
        total = torch.zeros((3, self._height, self._width), device=self._device)
        for i in chosen:
            x, y = start[i]
            total += self._views[i, :, y : y + self._height, x : x + self._width]
        return self._without_ghosts(total / len(chosen), focus_dpt, aperture, len(chosen))

    def _render(
        self,
        surfaces: Sequence[Surface | Layer],
        bank: Tensor,
        points: npt.NDArray[np.float64],
        jitter: npt.NDArray[np.float64],
        margin: int,
    ) -> tuple[Tensor, Tensor]:
        """Return colours (V, 3, h, w) and inverse depths (V, h, w) of the views."""
        count, height, width = len(points), self._height + 2 * margin, self._width + 2 * margin
        depth = torch.full((count, height, width), -math.inf, device=self._device)
        colour = torch.zeros((count, 3, height, width), device=self._device)
        shift = torch.tensor(0.5 * self._gain * points, dtype=torch.float32, device=self._device)
        offset = torch.tensor(jitter - margin, dtype=torch.float32, device=self._device)
        # Nearest first, so that most of what is hidden is never painted.
        for surface in sorted(surfaces, key=lambda s: -s.inverse_depth_dpt):
            top, bottom, left, right = self._window(surface, height, width, margin)
            if bottom <= top or right <= left:
                continue
            y = torch.arange(top, bottom, device=self._device)[None, :, None] + offset[:, 1, None, None]
            x = torch.arange(left, right, device=self._device)[None, None, :] + offset[:, 0, None, None]
            u, v, w = self._intersect(surface, x, y, shift)
            seen = w > depth[:, top:bottom, left:right]
            covers = surface.covers(u, v)
            if covers is not None:
                seen &= covers
            view, row, column = seen.nonzero(as_tuple=True)
            depth[view, row + top, column + left] = w[view, row, column]
            paint = self._shaded(surface, u[view, row, column], v[view, row, column], bank, shift[view])
            colour.view(count, 3, -1).transpose(0, 1)[:, view, (row + top) * width + column + left] = paint
        return colour, depth

    def _window(self, surface: Surface | Layer, height: int, width: int, margin: int) -> tuple[int, int, int, int]:
        """Return rows and columns that the surface can reach in any view."""
        if isinstance(surface, Layer) or surface.outline == "everywhere":
            return 0, height, 0, width
        (hu, hv), angle = surface.half_size_px, surface.angle_rad
        half_x = abs(hu * math.cos(angle)) + abs(hv * math.sin(angle))
        half_y = abs(hu * math.sin(angle)) + abs(hv * math.cos(angle))
        relief = abs(surface.relief_dpt) + abs(surface.slope_dpt[0]) + abs(surface.slope_dpt[1])
        reach = 0.5 * self._gain * (abs(surface.inverse_depth_dpt - self._middle_dpt) + relief) + 2.0
        cx, cy = (c + margin for c in surface.centre_px)
        top, bottom = max(0, math.floor(cy - half_y - reach)), min(height, math.ceil(cy + half_y + reach) + 1)
        left, right = max(0, math.floor(cx - half_x - reach)), min(width, math.ceil(cx + half_x + reach) + 1)
        return top, bottom, left, right

    def _intersect(
        self, surface: Surface | Layer, x: Tensor, y: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return local coordinates and inverse depth (V, h, w) where the rays of the views meet the surface."""
        sx, sy = shift[:, 0, None, None], shift[:, 1, None, None]
        flat = isinstance(surface, Surface) and surface.relief == "flat" and surface.slope_dpt == (0.0, 0.0)
        inverse_depth = torch.full((), surface.inverse_depth_dpt, device=self._device)
        for _ in range(INTERSECTION_STEPS):
            parallax = inverse_depth - self._middle_dpt
            u, v = surface.local(x + sx * parallax, y + sy * parallax)
            inverse_depth = surface.inverse_depth(u, v)
            if flat:
                break
        return u, v, inverse_depth.expand_as(u)

    def _shaded(self, surface: Surface | Layer, u: Tensor, v: Tensor, bank: Tensor, shift: Tensor) -> Tensor:
        """Return the colour (3, P) with shading and a specular spot at points (P,) of views shifted by (P, 2)."""
        colour = surface.colour(u, v, bank)
        if isinstance(surface, Layer):
            return colour
        if surface.relief != "flat" and surface.shade > 0.0:
            side = u * math.cos(surface.phase) + v * math.sin(surface.phase)
            colour = colour * (1.0 - surface.shade * (0.5 + 0.5 * side.clamp(-1.0, 1.0)))
        if surface.highlight > 0.0:
            # A mirror image lies as far behind the surface as its source is away: it moves with the view.
            behind = 0.3 * surface.inverse_depth_dpt / max(surface.half_size_px)
            cu = u - 0.4 * math.cos(surface.phase) - shift[:, 0] * behind
            cv = v - 0.4 * math.sin(surface.phase) - shift[:, 1] * behind
            colour = colour + surface.highlight * torch.exp(-60.0 * (cu * cu + cv * cv))
        return colour.clamp(min=0.0)

    def _without_ghosts(self, picture: Tensor, focus_dpt: float, aperture: float, views: int) -> Tensor:
        """Smooth where all that reaches a pixel is so blurred that the single views would show."""
        blur = self._gain * aperture * (self.inverse_depth - focus_dpt).abs()
        largest = float(blur.max())
        spacing = math.sqrt(math.pi / 4.0 / views)
        if ANTI_GHOST * spacing * largest < 0.5 * GHOST_LEVELS_PX[0]:
            return picture
        reach = 2 * math.ceil(0.25 * largest) + 1
        least = -functional.max_pool2d(-blur[None], reach, 1, reach // 2)
        sigma = ANTI_GHOST * spacing * least
        result, below = picture, 0.0
        for level in GHOST_LEVELS_PX:
            weight = ((sigma**2 - below**2) / (level**2 - below**2)).clamp(0.0, 1.0)  # variances add
            result = torch.lerp(result, gaussian_blur(picture[None], level)[0], weight)
            below = level
        return result


def gaussian_blur(images: Tensor, sigma_px: float) -> Tensor:
    """Blur images (B, C, H, W) with a Gaussian; the border is repeated."""
    radius = max(1, math.ceil(3.0 * sigma_px))
    t = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (t / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = functional.pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def focal_stack(layers: Sequence[Layer], optics: Optics, points: npt.NDArray[np.float64]) -> Stack:
    """Return the focal stack of an RGB-D image cut into `layers` (`pictures.picture_scene`).

    Args:
        layers: at least one.
        optics: lens and focus positions.
        points: (V, 2) pupil positions in the unit disc, see `pupil`.
    """
    height, width = layers[0].depth_map.shape
    focus_range = (optics.focus_dpt[-1], optics.focus_dpt[0])
    bank = layers[0].colour_map[None]  # not used, but for its device
    views = LightField(layers, bank, (width, height), points, optics.blur_gain, focus_range)
    light = torch.stack([views.refocus(p) for p in optics.focus_dpt])
    return Stack(light, views.inverse_depth, optics)


def simulate(
    rng: np.random.Generator,
    bank: Tensor,
    size_px: tuple[int, int],
    slices: list[int],
) -> list[Stack]:
    """Return one stack of a random scene for each number in `slices`, each with a focus schedule of its own.

    All share the views; from the second on, the aperture may be stopped down.
    """
    first = random_optics(rng, slices)
    near, far = first.focus_dpt[0], first.focus_dpt[-1]
    blur_px = first.blur_gain * (near - far)
    count = int(np.clip(0.8 * (blur_px / VIEW_SPACING_PX) ** 2, MIN_VIEWS, MAX_VIEWS))
    surfaces = random_scene(rng, SceneLimits(size_px, near, far), len(bank))
    points = pupil(rng, count)
    field = LightField(surfaces, bank, size_px, points, first.blur_gain, (far, near))
    sharpness_px = float(rng.uniform(0.2, 0.6))
    stacks = []
    for i, number in enumerate(slices):
        optics, aperture = first, 1.0
        if i > 0:
            if rng.random() < 0.5:
                needed = BLUR_STEP_PX[0] * (number - 1) / blur_px
                least = min(max(0.6, math.sqrt(MIN_VIEWS / len(points)), needed), 1.0)
                aperture = float(rng.uniform(least, 1.0))
            schedule = _schedule(rng, near, far, number)
            optics = Optics(schedule, first.blur_gain * aperture, first.breathing)
        light = torch.stack([field.refocus(p, aperture) for p in optics.focus_dpt])
        stacks.append(Stack(gaussian_blur(light, sharpness_px), field.inverse_depth, optics))
    return stacks
