# SPDX-License-Identifier: Apache-2.0
"""The last look at depth, at half the resolution and once per stack: edges, thin things and even surfaces."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualfocus_ros.learning.certainty import excess
from dualfocus_ros.learning.layers import CELL, Residual, conv_norm, doubled, like
from dualfocus_ros.learning.propagation import Propagation

ENERGIES = 2  # channels of the contrast energy at half the resolution
WIDTH = 32
SNAP = (2, 1)  # cells of 2 x 2 pixels over which edges are drawn to those of the picture


class Told(NamedTuple):
    """What the head says to `Detail`.

    Attributes:
        features: (B, C, H / 4, W / 4).
        sharp: (B, 3, H, W) the sharp composite.
    """

    features: Tensor
    sharp: Tensor


class Detail(nn.Module):
    """Corrects depth pixel by pixel, by what a grid of CELL pixels cannot show.

    It sees the sharp composite, what the head says, and where along focus the contrast of each spot of 2 x 2
    pixels is largest: among all slices, and among those that the head holds for likely.
    """

    def __init__(self, channels: int):
        """Take the number of channels of the head's features."""
        super().__init__()
        self.appearance = nn.Conv2d(5, 16, 4, 2, 1)
        self.told = nn.Conv2d(channels, 16 * (CELL // 2) ** 2, 1)
        self.sharpen = nn.Parameter(torch.full((ENERGIES, 1, 1), 2.0))
        self.enter = conv_norm(16 + 16 + 3 * ENERGIES + 1, WIDTH, 1)
        self.look = Residual(WIDTH)
        self.snap = Propagation(WIDTH, SNAP, stay=1.0)
        # The corrections are silent at first.
        self.correct = nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.doubt = nn.Conv2d(WIDTH, 4, 1)
        for layer in (self.correct, self.doubt):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, told: Told, energies: Tensor, probability: Tensor, fine: Tensor, logit: Tensor, focus_dpt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return inverse depth and the logit of its confidence, (B, H, W) both.

        Args:
            told: by the head.
            energies: (B, N, ENERGIES, H / 2, W / 2) log contrast energies.
            probability: (B, N, H / 4, W / 4).
            fine: (B, 4, H, W): inverse depth, slice index and its square, distance of slices in dioptres.
            logit: (B, H, W) of the confidence so far.
            focus_dpt: (B, N).
        """
        sharp = told.sharp
        depth, index, index_square, step = fine.unbind(dim=1)
        spread = torch.log1p(excess(index, index_square))
        seen = torch.cat([sharp, like(torch.stack([0.2 * index, spread], dim=1), sharp)], dim=1)
        ratio = torch.log(step / depth.maximum(1e-2 * step)).clamp(min=-6.0)
        peaks = self._peaks(energies, probability, functional.avg_pool2d(index[:, None], 2))
        x = torch.cat(
            [
                self.appearance(seen),
                functional.pixel_shuffle(self.told(told.features), CELL // 2),
                like(peaks, sharp),
                like(0.3 * functional.avg_pool2d(ratio[:, None], 2), sharp),
            ],
            dim=1,
        )
        x = self.look(self.enter(x))
        correction = functional.pixel_shuffle(self.correct(x).float(), 2)[:, 0]
        doubt = functional.pixel_shuffle(self.doubt(x.detach()).float(), 2)[:, 0]
        depth, logit = depth + correction * step, logit + doubt
        depth = depth.minimum(focus_dpt[:, :1, None]).maximum(focus_dpt[:, -1:, None])
        colour, level, trust = (
            functional.avg_pool2d(image, 2) for image in (sharp.float(), index[:, None], logit[:, None])
        )
        found, lifted = self.snap(x, colour, level, trust, functional.pixel_unshuffle(depth[:, None], 2))
        logit = logit + doubled(lifted - trust)[:, 0]
        return functional.pixel_shuffle(found, 2)[:, 0], logit

    def _peaks(self, energies: Tensor, probability: Tensor, index: Tensor) -> Tensor:
        """Return (B, 3 * ENERGIES, H / 2, W / 2): mean slices by contrast and by p times it; largest contrast."""
        top = energies.amax(dim=1)
        weight = torch.exp((energies - top[:, None]) * self.sharpen)
        likely = weight * (doubled(probability.float()) + 1e-3)[:, :, None]
        slices = torch.arange(probability.shape[1], device=index.device, dtype=energies.dtype)
        counted = torch.stack([torch.ones_like(slices), slices])
        peaks = []
        with torch.autocast(index.device.type, enabled=False):  # it would round the slices to bfloat16
            for w in (weight, likely):
                total, at = (counted @ w.flatten(2)).unflatten(2, w.shape[2:]).unbind(dim=1)
                peaks.append(at / total - index)
        return torch.cat([0.2 * peaks[0], peaks[1], 0.2 * top + 1.4], dim=1)
