# SPDX-License-Identifier: Apache-2.0
"""What a real camera adds to a noise-free focal stack, drawn anew for every use of a stack.

In the order in which it happens: breathing and mechanical error, vignetting, exposure flicker, noise of the
sensor, response curve, JPEG, 8 bits, and the warp that an alignment from metadata does afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dualfocus_ros.align import SHARPEN, SPREAD_PX

# Bicubic kernel parameter of OpenCV and of torch alike: -0.75.
CUBIC = "bicubic"
# Quantisation of luminance in JPEG at quality 50 (ITU-T T.81, annex K).
JPEG_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@dataclass(frozen=True)
class Effects:
    """One draw of a camera's imperfections, for a stack of N slices.

    Attributes:
        gain: of the exposure.
        flicker: (N,) relative exposure of each slice.
        vignetting: loss of light in the corners, 0..1.
        magnification: (N,) scale of each slice's picture relative to the reference, as the metadata says.
        residual: (N, 3) what they do not say: relative scale, x and y shift in pixels.
        full_well: electrons at full scale; inf: no noise.
        read_noise: electrons rms.
        response: "srgb" or the exponent of a power law.
        jpeg_quality: 1..100, or 0: none.
    """

    gain: float
    flicker: npt.NDArray[np.float64]
    vignetting: float
    magnification: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float64]
    full_well: float
    read_noise: float
    response: float | str
    jpeg_quality: int


def random_effects(rng: np.random.Generator, focus_dpt: npt.NDArray[np.float64], breathing: float) -> Effects:
    """Draw a camera for a stack at `focus_dpt` (N,) whose thin lens breathes with `breathing` metres (0: not)."""
    count = len(focus_dpt)
    flicker = np.exp(rng.normal(0, 0.02, count)) if rng.random() < 0.3 else np.ones(count)
    magnification, residual = np.ones(count), np.zeros((count, 3))
    if breathing > 0.0 and rng.random() < 0.7:
        distance = 1.0 / (1.0 - breathing * focus_dpt)
        magnification = np.clip(distance / distance[0], 0.9, 1.0)
    if rng.random() < 0.4:  # mechanics; the reference has none
        strength = rng.uniform(0.2, 1.0)
        residual[1:, 0] = strength * rng.uniform(-0.005, 0.005, count - 1)
        residual[1:, 1:] = strength * rng.uniform(-1.0, 1.0, (count - 1, 2))
    noisy = rng.random() < 0.65
    return Effects(
        gain=float(np.exp(rng.normal(0.0, 0.35))),
        flicker=flicker,
        vignetting=float(rng.uniform(0, 0.5)) if rng.random() < 0.3 else 0.0,
        magnification=magnification,
        residual=residual,
        full_well=float(np.exp(rng.uniform(np.log(800), np.log(60000)))) if noisy else math.inf,
        read_noise=float(np.exp(rng.uniform(np.log(0.7), np.log(12)))),
        response="srgb" if rng.random() < 0.65 else float(rng.uniform(1.6, 2.6)),
        jpeg_quality=int(rng.integers(70, 98)) if rng.random() < 0.15 else 0,
    )


def expose(light: Tensor, effects: Effects, generator: torch.Generator) -> Tensor:
    """Return the pictures (N, 3, H, W), 0..1 in 256 levels, that the camera takes of linear light (N, 3, H, W)."""
    flicker = torch.as_tensor(effects.flicker, dtype=light.dtype, device=light.device)
    magnification = torch.as_tensor(effects.magnification, dtype=light.dtype, device=light.device)
    residual = torch.as_tensor(effects.residual, dtype=light.dtype, device=light.device)
    warped = bool((effects.magnification != 1.0).any() or (effects.residual != 0.0).any())
    if warped:
        light = _scaled(light, magnification * (1.0 + residual[:, 0]), residual[:, 1:]).clamp(min=0.0)
    light = light * (effects.gain * flicker)[:, None, None, None]
    if effects.vignetting > 0.0:
        light = light * _vignette(light, effects.vignetting)
    if math.isfinite(effects.full_well):
        deviation = (light.clamp(min=0.0) * effects.full_well + effects.read_noise**2).sqrt() / effects.full_well
        noise = torch.randn(light.shape, generator=generator, device=light.device, dtype=light.dtype)
        light = light + noise * deviation
    coded = encode(light.clamp(0.0, 1.0), effects.response)
    if effects.jpeg_quality > 0:
        coded = jpeg(coded, effects.jpeg_quality)
    coded = quantise(coded)
    if warped:  # back, by what the metadata say
        coded = quantise(realigned(coded, 1.0 / magnification))
    return coded


def realigned(coded: Tensor, scale: Tensor) -> Tensor:
    """Return images (N, C, H, W) magnified about their middle by `scale` (N,), by the kernel of `align.align`."""
    padded = functional.pad(coded, (1, 1, 1, 1), mode="replicate")
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], device=coded.device)
    channels = coded.shape[1]
    around = functional.conv2d(padded, cross.expand(channels, 1, 3, 3).contiguous(), groups=channels)
    sharp = quantise((1.0 + 4.0 * SHARPEN) * coded - SHARPEN * around)
    # A shift of the picture by a step is a sample taken a step the other way.
    step = torch.tensor([[SPREAD_PX, -SPREAD_PX]], device=coded.device) * scale[:, None]
    pair = (_scaled(sharp, scale, sign * step, "bilinear") for sign in (1.0, -1.0))
    return 0.5 * sum(pair, torch.zeros_like(coded))


def well_exposed(light: Tensor) -> Tensor:
    """Return linear light (N, 3, H, W) as a camera exposes a scene of any brightness: little is burnt out."""
    level = float(torch.quantile(light.flatten()[::17], 0.98))
    return light * (0.6 / max(level, 1e-3))


def encode(light: Tensor, response: float | str) -> Tensor:
    """Return linear light 0..1 coded by sRGB (IEC 61966-2-1) or the power law 1 / `response`."""
    if isinstance(response, str):
        return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
    return light ** (1.0 / response)


def quantise(coded: Tensor) -> Tensor:
    """Return the nearest of 256 levels in 0..1."""
    return (coded.clamp(0.0, 1.0) * 255.0).round() / 255.0


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Return images (N, 3, H, W), H and W multiples of 8, as JPEG of that quality leaves them.

    Every channel is quantised block by block as luminance is, which is close enough for focus.
    """
    scale = 50.0 / quality if quality < 50 else 2.0 - quality / 50.0
    table = torch.tensor(JPEG_LUMINANCE, dtype=images.dtype, device=images.device).view(8, 8)
    table = (table * scale).round().clamp(min=1.0) / 255.0
    k = torch.arange(8, device=images.device, dtype=images.dtype)
    basis = torch.cos(torch.pi / 8 * (k[None, :] + 0.5) * k[:, None]) * 0.5
    basis[0] *= 0.5**0.5
    count, channels, height, width = images.shape
    blocks = images.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    spectrum = basis @ blocks @ basis.mT
    blocks = basis.mT @ ((spectrum / table).round() * table) @ basis
    return blocks.transpose(3, 4).reshape(images.shape)


def _vignette(light: Tensor, strength: float) -> Tensor:
    height, width = light.shape[-2:]
    y = torch.linspace(-1.0, 1.0, height, device=light.device)[:, None]
    x = torch.linspace(-1.0, 1.0, width, device=light.device)[None, :]
    return 1.0 - 0.5 * strength * (x * x + y * y)


def _scaled(images: Tensor, scale: Tensor, shift_px: Tensor, mode: str = CUBIC) -> Tensor:
    """Return images (N, C, H, W) magnified about their middle by `scale` (N,), then shifted (N, 2) to +x, +y."""
    height, width = images.shape[-2:]
    theta = torch.zeros((len(images), 2, 3), device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / scale
    theta[:, 0, 2] = -2.0 * shift_px[:, 0] / width / scale
    theta[:, 1, 2] = -2.0 * shift_px[:, 1] / height / scale
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
