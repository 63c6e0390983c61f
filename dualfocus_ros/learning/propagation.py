# SPDX-License-Identifier: Apache-2.0
"""Carries depth from where the network is sure of it to where it is not, along surfaces of one look."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualfocus_ros.learning.layers import DARKEST

AROUND = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))  # rows and columns
LEARNT = 5  # channels of the embedding beside colour
# At first, the likeness of cells falls with colour (of full scale) and depth (in slices) as Gaussians of these
# standard deviations.
COLOUR_APART, SLICES_APART = 0.05, 1.5
LEAST_LOG, MOST_LOG = -12.0, 12.0
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
            own, others, likeness = kernels[dilation]
            near = [like * value for like, value in zip(likeness, _around(carried, dilation), strict=True)]
            carried = own * carried + others * sum(near[1:], near[0])
        found = carried[:, 1:] / carried[:, :1]
        gained = torch.log(carried[:, :1]) - log_trust
        return found, logit + self.lift * gained.detach()

    @staticmethod
    def _kernel(embedding: Tensor, stay: Tensor, dilation: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the share of the cell, the factor on the others, and their likeness, in the order of `_around`.

        All are (B, 1, h, w); the shares, factor times likeness, sum to 1. It is a softmax written out, which runs
        several times faster than the operator along this axis.
        """
        height, width = embedding.shape[-2:]
        padded = functional.pad(embedding, (dilation,) * 4, mode="replicate")
        found: dict[tuple[int, int], Tensor] = {}
        # As far as from here to there it is from there to here.
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            dy, dx = down * dilation, right * dilation
            above = padded[..., : height + 2 * dilation - dy, max(0, -dx) : width + 2 * dilation - max(0, dx)]
            below = padded[..., dy:, max(0, dx) : width + 2 * dilation - max(0, -dx)]
            like = torch.exp(-(below - above).square().sum(dim=1, keepdim=True))
            left = dilation - max(0, -dx)  # column of the first cell in it
            found[down, right] = like[..., dilation : dilation + height, left : left + width]
            top, left = dilation - dy, left - dx
            found[-down, -right] = like[..., top : top + height, left : left + width]
        likeness = [found[offset] for offset in AROUND]
        leave = torch.exp(-stay)
        own = 1.0 / (1.0 + leave * sum(likeness[1:], likeness[0]))
        return own, own * leave, likeness


def _around(values: Tensor, dilation: int) -> list[Tensor]:
    """Return (B, C, h, w) shifted by the eight neighbours at a dilation; the border is repeated."""
    height, width = values.shape[-2:]
    padded = functional.pad(values, (dilation,) * 4, mode="replicate")
    starts = [(dilation * (1 + i), dilation * (1 + j)) for i, j in AROUND]
    return [padded[..., top : top + height, left : left + width] for top, left in starts]
