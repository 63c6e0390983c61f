# SPDX-License-Identifier: Apache-2.0
"""Carries depth from where the network is sure of it to where it is not, along surfaces of one look."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualfocus_ros.learning.layers import DARKEST, like

LEARNT = 5  # channels of the embedding beside colour
# At first, the likeness of cells falls with colour (of full scale) and depth (in slices) as Gaussians of these
# standard deviations.
COLOUR_APART, SLICES_APART = 0.05, 1.5
LEAST_LOG, MOST_LOG = -12.0, 12.0
HALF = ((0, 1), (1, -1), (1, 0), (1, 1))  # neighbours (down, right) of a cell; the others are opposite to them
MOST_STAY = 40.0  # of either sign: shares of 4e-18 are none; features of a black picture ask for exp(100), too
USUAL_BRIGHTNESS = 0.45  # of a picture, of full scale


class Propagation(nn.Module):
    """Replaces what each cell says by a mean over the cells around it, weighted by trust and by likeness.

    A normalised convolution (Knutsson and Westin, CVPR 1993) whose kernel follows the picture, as in the spatial
    propagation of Cheng et al. (CSPN, ECCV 2018): trust and trust times value diffuse over the 3 x 3 cells at each
    dilation, and are divided at the end. Every result is a convex mean of what went in.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...], stay: float):
        """Take the number of channels of the features.

        Args:
            channels: of the features.
            dilations: of the 3 x 3 cells, one after the other; those of one size share their kernel.
            stay: a cell takes from each of the others up to exp(-stay) times what it keeps, at first.
        """
        super().__init__()
        self._dilations = dilations
        neighbours = [k for k in range(9) if k != 4]
        shift = torch.eye(9)[neighbours].reshape(8, 1, 3, 3)
        step = torch.zeros(len(HALF), 1, 2, 3)
        step[:, :, 0, 1] = -1.0
        for kernel, (down, right) in zip(step, HALF, strict=True):
            kernel[0, down, 1 + right] = 1.0
        self.register_buffer("shift", shift, persistent=False)  # to each neighbour
        self.register_buffer("step", step, persistent=False)  # neighbours of HALF less the cell
        self.embed = nn.Conv2d(channels, LEARNT, 1)
        self.stay = nn.Conv2d(channels, len(set(dilations)), 1)
        self.trust = nn.Conv2d(channels, 1, 1)
        for layer in (self.stay, self.trust):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.stay.bias, stay)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.colour = nn.Parameter(torch.full((1,), 0.5**0.5 / COLOUR_APART))
        self.level = nn.Parameter(torch.full((1,), 0.5**0.5 / SLICES_APART))
        self.sure = nn.Parameter(torch.full((1,), 2.0))
        self.lift = nn.Parameter(torch.zeros(1))

    def forward(
        self, features: Tensor, colour: Tensor, index: Tensor, logit: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the values after propagation, (B, K, h, w), and the logit of their confidence, (B, 1, h, w).

        Args:
            features: (B, channels, h, w).
            colour: (B, 3, h, w) of each cell, 0..1.
            index: (B, 1, h, w) mean slice index.
            logit: (B, 1, h, w) of the confidence of the values; nothing of what is learnt here reaches it.
            values: (B, K, h, w).
        """
        embedding, stay, trust = (layer(features).float() for layer in (self.embed, self.stay, self.trust))
        # Relative to the brightness of the picture: a dark one has colours that differ as much.
        brightness = colour.float().mean(dim=(1, 2, 3), keepdim=True).clamp(min=DARKEST)
        likeness = self.colour * USUAL_BRIGHTNESS * (colour.float() / brightness)
        embedding = torch.cat([likeness, self.level * index.detach(), embedding], dim=1)
        log_trust = (self.sure * functional.logsigmoid(logit.detach()) + trust).clamp(LEAST_LOG, MOST_LOG)
        weight = torch.exp(log_trust)
        sizes = dict.fromkeys(self._dilations)
        kernels = {d: self._kernel(embedding, stay[:, i : i + 1], d) for i, d in enumerate(sizes)}
        carried = torch.cat([weight, weight * values], dim=1)
        for dilation in self._dilations:
            own, others = kernels[dilation]
            moved = _taken(functional.pad(carried, (dilation,) * 4, mode="replicate"), self.shift, dilation)
            carried = own * carried + (others * moved).sum(dim=2)
        found = carried[:, 1:] / carried[:, :1]
        gained = torch.log(carried[:, :1]) - log_trust
        return found, logit + self.lift * gained.detach()

    def _kernel(self, embedding: Tensor, stay: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
        """Return the share of the cell (B, 1, h, w) and of its eight neighbours (B, 1, 8, h, w); they sum to 1.

        It is a softmax written out, which runs several times faster than the operator along this axis.
        """
        height, width = embedding.shape[-2:]
        # Two cells are as like from either side: half of the neighbours tell all, of cells around the picture too.
        padded = functional.pad(embedding, (2 * dilation, 2 * dilation, dilation, dilation), mode="replicate")
        apart = _taken(padded, self.step, dilation)
        alike = torch.exp(-(apart * apart).sum(dim=1))

        def at(neighbour: int, down: int, right: int) -> Tensor:
            top, left = (1 + down) * dilation, (1 + right) * dilation
            return alike[:, neighbour, top : top + height, left : left + width]

        opposite = [at(k, -down, -right) for k, (down, right) in enumerate(HALF)]
        likeness = torch.stack([*reversed(opposite), *(at(k, 0, 0) for k in range(len(HALF)))], dim=1)
        leave = torch.exp(-stay.clamp(-MOST_STAY, MOST_STAY))
        own = 1.0 / (1.0 + leave * likeness.sum(dim=1, keepdim=True))
        return own, (own * leave * likeness)[:, None]


def _taken(padded: Tensor, kernels: Tensor, dilation: int) -> Tensor:
    """Return (B, C, K, h, w): what kernels (K, 1, i, j) take of each channel of padded (B, C, ...).

    Convolutions, though they only move or subtract: slices of a picture of any size, several hundred of them, make
    TensorRT-RTX 1.7 build ten times as long a plan ten times as large.
    """
    with torch.autocast(padded.device.type, enabled=False):
        found = functional.conv2d(padded.flatten(0, 1)[:, None], like(kernels, padded), dilation=dilation)
    return found.unflatten(0, padded.shape[:2])
