# SPDX-License-Identifier: Apache-2.0
"""The confidence of the network: the probability that depth is close to the truth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLOSE = 0.1  # relative error of depth; confidence is the probability of a smaller one


class Certainty(nn.Module):
    """How likely depth is close to the truth, told from the features and the spread of the probability.

    It looks on: none of its gradients reaches the network that it judges. What it says of cells is the trust by
    which `propagation` weighs them.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.hidden = nn.Conv2d(channels + 3, 32, 1)
        self.logit = nn.Conv2d(32, 1, 1)
        self.spread = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor, moments: Tensor, focus_dpt: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of the cells.

        Args:
            features: (B, channels, h, w).
            moments: (B, 4, h, w): means of inverse depth and its square, of the slice index and its square.
            focus_dpt: (B, N).
        """
        depth, depth_square, index, index_square = moments.detach().unbind(dim=1)
        floor = 1e-3 * focus_dpt[:, :1, None]
        depth = depth.maximum(floor)
        step = ((focus_dpt[:, 0] - focus_dpt[:, -1]) / (focus_dpt.shape[1] - 1))[:, None, None]
        spread = (depth_square - depth * depth).clamp(min=0.0) / (depth * depth)
        told = [torch.log1p(excess(index, index_square)), 0.2 * torch.log(spread + 1e-6), torch.log(step / depth)]
        seen = torch.cat([features.detach(), torch.stack(told, dim=1).to(features.dtype)], dim=1)
        logit: Tensor = self.logit(functional.relu(self.hidden(seen)))
        return logit.float()

    def confidence(self, logit: Tensor, index: Tensor, index_square: Tensor) -> Tensor:
        """Return 0..1 (B, H, W) from logit and moments of pixels; a mixture of unlike cells is less certain."""
        return torch.sigmoid(logit - self.spread * torch.log1p(excess(index.detach(), index_square.detach())))


def excess(mean: Tensor, mean_square: Tensor) -> Tensor:
    """Return the variance of the slice index beyond that of p on the two neighbouring slices around the mean."""
    part = mean - torch.floor(mean)
    return (mean_square - mean * mean - part * (1.0 - part)).clamp(min=0.0)
