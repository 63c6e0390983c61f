# SPDX-License-Identifier: Apache-2.0
"""What follows from focus positions alone. B stacks, N slices nearest first, H x W pixels; dioptres."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FOCUS_CODES = 6


def focus_codes(focus_dpt: Tensor, blur_gain: Tensor) -> Tensor:
    """Return (B, N, FOCUS_CODES): what the network knows of the focus positions, all in pixels of blur.

    Defocus between slice n and a point of inverse depth w is kappa |w - w_n| pixels whatever the lens: these
    numbers say all of it that matters. Logarithms, since steps range from a third of a pixel to many.
    """
    blur_px = blur_gain[:, None] * focus_dpt
    step = (blur_px[:, :-1] - blur_px[:, 1:]).clamp(min=1e-3).log2()
    to_nearer, to_farther = torch.cat([step[:, :1], step], dim=1), torch.cat([step, step[:, -1:]], dim=1)
    from_first, to_last = blur_px[:, :1] - blur_px, blur_px - blur_px[:, -1:]
    # How much of the distance lies between this slice and infinity: relative depth errors depend on it.
    ratio = (focus_dpt / focus_dpt[:, :1].clamp(min=1e-6)).clamp(min=0.02).log2()
    whole = (blur_px[:, :1] - blur_px[:, -1:]).clamp(min=1e-3).log2().expand_as(ratio)
    first, last = ((d + 0.1).log2() for d in (from_first, to_last))
    return torch.stack([to_nearer, to_farther, first, last, whole, ratio], dim=2) * 0.3


def narrow_probability(inverse_depth: Tensor, focus_dpt: Tensor) -> Tensor:
    """Return the narrowest probability (B, N, H, W) of the slices whose mean focus is the inverse depth (B, H, W).

    It lies on the two slices around the depth; outside of the focus range (B, N) all of it is on the end slice.
    """
    focus = focus_dpt[:, :, None, None]
    gap = (focus[:, :-1] - focus[:, 1:]).clamp(min=1e-6)
    share = ((focus[:, :-1] - inverse_depth[:, None]) / gap).clamp(0.0, 1.0)  # 0: nearer slice, 1: farther one
    return functional.pad(share, (0, 0, 0, 0, 1, 0), value=1.0) - functional.pad(share, (0, 0, 0, 0, 0, 1))


def all_in_focus(images: Tensor, focus_dpt: Tensor, inverse_depth: Tensor) -> Tensor:
    """Return the sharp composite (B, 3, H, W): sum_n p_n I_n of images (B, N, 3, H, W), with the narrow p."""
    return (narrow_probability(inverse_depth, focus_dpt)[:, :, None] * images).sum(dim=1)
