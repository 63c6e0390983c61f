# SPDX-License-Identifier: Apache-2.0
"""The losses of DualFocus, each a function of tensors, each with its own weight (0 switches it off).

Inverse depths are in dioptres. Masks and weights select by multiplication, so that every loss is differentiable
and of fixed shape. B stacks, N slices, H x W pixels, h x w cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.certainty import CLOSE
from dualfocus_ros.learning.focus import narrow_probability
from dualfocus_ros.learning.integration import forward_differences
from dualfocus_ros.learning.layers import CELL
from dualfocus_ros.learning.network import Prediction

SURFACE_CELL = 8  # pixels a side of the cells on which surfaces live
# Below this, in dioptres over the range's largest, depth counts as this: infinity has no logarithm.
FARTHEST = 0.02
GRADIENT_PX = (1, 2, 4)
SHARPNESS = ("q", "none", "inverse")
# A plane is in focus where the surface lies within this many pixels of blur of it, or is nearest to it.
IN_FOCUS_PX = 1.0
# Share of the brightest gradients of a stack that counts as fully sharp.
SHARP_QUANTILE = 0.9
# Gradients beyond this, in pixels of blur a cell, are jumps between objects, not slopes.
STEEPEST_PX = 2.0
# Below this error, in pixels of blur a cell, the spatial loss is quadratic. Most cells of most scenes are nearly
# flat: the absolute error alone is least for no gradient at all, and theta_grad times Gamma then stays at zero.
SLIGHT_PX = 0.25


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; 0 switches it off.

    Attributes:
        depth: depth loss.
        confidence: whether confidence is the probability of a close depth; it teaches that output alone.
        gradient: how much the error of depth changes from pixel to pixel.
        probability: cross entropy of the focus probability.
        spatial: spatial variational loss L_SV.
        focal: focal variational loss L_FV.
        supervise_gamma: put the spatial loss on Gamma itself, not on theta_grad (ablation).
        sharpness: q as it is ("q"), without it ("none"), or reversed ("inverse", ablation).
    """

    depth: float = 1.0
    confidence: float = 0.1
    gradient: float = 1.0
    probability: float = 0.3
    spatial: float = 0.5
    focal: float = 0.3
    supervise_gamma: bool = False
    sharpness: str = "q"

    def __post_init__(self) -> None:
        """Check the values; raise InputError."""
        if self.sharpness not in SHARPNESS:
            raise InputError(f"expected sharpness to be one of {list(SHARPNESS)}, got {self.sharpness!r}")


def depth_loss(predicted: Tensor, truth: Tensor, valid: Tensor, focus_dpt: Tensor) -> Tensor:
    """Return the depth loss: relative error of depth, and a quarter of the (logarithm of the) error in slices.

    |log d - log d'| is what AbsRel measures and treats every lens alike; the error in mean slice distances keeps
    the near end of the range sharp, where a relative error is many slices.

    Args:
        predicted: (B, H, W) inverse depth.
        truth: likewise.
        valid: (B, H, W), 1 where the truth counts, else 0.
        focus_dpt: (B, N) descending.
    """
    floor = FARTHEST * focus_dpt[:, :1, None]
    relative = (predicted.maximum(floor).log() - truth.maximum(floor).log()).abs()
    step = (focus_dpt[:, 0] - focus_dpt[:, -1])[:, None, None] / (focus_dpt.shape[1] - 1)
    slices = (predicted - truth).abs() / step
    # A straight line through the small errors that matter, flatter for large ones that may be beyond help.
    return _mean(relative + 0.25 * torch.log1p(slices), valid)


def confidence_loss(confidence: Tensor, predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Return the cross entropy of confidence to whether depth is within CLOSE of the truth; all are (B, H, W).

    It is least where the confidence is the probability of that: it calibrates.
    """
    close = ((truth - predicted).abs() <= CLOSE * predicted).to(confidence.dtype)  # |1/w - 1/w'| <= CLOSE / w'
    c = confidence.clamp(1e-6, 1.0 - 1e-6)
    return _mean(-(close * c.log() + (1.0 - close) * (1.0 - c).log()), valid)


def gradient_loss(predicted: Tensor, truth: Tensor, valid: Tensor, focus_dpt: Tensor) -> Tensor:
    """Return the gradient loss: log(1 + |change of the error in slices|) between pixels 1, 2 and 4 apart.

    It asks for smooth surfaces and for edges in their place, whatever the depth (after the gradient loss of Li and
    Snavely, "MegaDepth", CVPR 2018).

    Args:
        predicted: (B, H, W) inverse depth.
        truth: likewise.
        valid: (B, H, W), 1 where the truth counts, else 0.
        focus_dpt: (B, N) descending.
    """
    step = (focus_dpt[:, 0] - focus_dpt[:, -1])[:, None, None] / (focus_dpt.shape[1] - 1)
    error = (predicted - truth) / step
    total = torch.zeros((), device=truth.device)
    for apart in GRADIENT_PX:
        for dim in (-1, -2):
            length = error.shape[dim] - apart
            if length < 1:
                continue
            change = error.narrow(dim, apart, length) - error.narrow(dim, 0, length)
            both = valid.narrow(dim, apart, length) * valid.narrow(dim, 0, length)
            total = total + _mean(torch.log1p(change.abs()), both)
    return total / (2 * len(GRADIENT_PX))


def probability_loss(probability: Tensor, truth: Tensor, valid: Tensor, focus_dpt: Tensor) -> Tensor:
    """Return the cross entropy of the probability (B, N, H, W) to that of the truth (B, H, W)."""
    target = narrow_probability(truth, focus_dpt)
    return _mean(-(target * probability.clamp(min=1e-6).log()).sum(dim=1), valid)


def focal_variational_loss(probability: Tensor, truth: Tensor, valid: Tensor, focus_dpt: Tensor) -> Tensor:
    """Return L_FV: what the probability falls on its way up to the in-focus slice, and rises after it.

    The in-focus slice is that nearest to the truth in dioptres; 0 for a probability that is unimodal about it.

    Args:
        probability: (B, N, H, W).
        truth: (B, H, W) inverse depth.
        valid: (B, H, W).
        focus_dpt: (B, N).
    """
    nearest = (focus_dpt[:, :, None, None] - truth[:, None]).abs().argmin(dim=1, keepdim=True)
    rise = probability[:, 1:] - probability[:, :-1]
    index = torch.arange(rise.shape[1], device=rise.device)[None, :, None, None]
    wrong = torch.where(index < nearest, -rise, rise)
    return _mean(wrong.clamp(min=0.0).sum(dim=1), valid)


def sharpness_weight(images: Tensor) -> Tensor:
    """Return q (B, N, h, w), 0..1: gradient energy of each slice in each cell, relative to the sharpest.

    Args:
        images: (B, N, 3, H, W), H and W multiples of the surfaces' cell.
    """
    grey = images.mean(dim=2)
    dx = functional.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1))
    dy = functional.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(), (0, 0, 0, 1))
    energy = functional.avg_pool2d(dx + dy, SURFACE_CELL)
    # Where every slice is a little sharp the object is faint, not out of focus: half of q is relative to the
    # pixel.
    whole = torch.quantile(energy.flatten(1), SHARP_QUANTILE, dim=1)[:, None, None, None]
    here = energy.amax(dim=1, keepdim=True)
    absolute, relative = energy / whole.clamp(min=1e-6), energy / here.clamp(min=1e-6)
    return (absolute.clamp(max=1.0) * relative.clamp(max=1.0)).sqrt()


def in_focus(truth: Tensor, focus_dpt: Tensor, blur_gain: Tensor) -> Tensor:
    """Return (B, N, h, w), 1 where plane n is in focus on the inverse depths (B, h, w), else 0."""
    defocus = blur_gain[:, None, None, None] * (focus_dpt[:, :, None, None] - truth[:, None]).abs()
    nearest = defocus <= defocus.amin(dim=1, keepdim=True)
    return (nearest | (defocus < IN_FOCUS_PX)).to(truth.dtype)


def spatial_variational_loss(gradient: Tensor, truth: Tensor, weight: Tensor, blur_gain: Tensor) -> Tensor:
    """Return L_SV: the weighted mean error of the gradient, in pixels of blur a cell (Huber, see SLIGHT_PX).

    The last column of x and the last row of y point out of the picture: nothing is known of them.

    Args:
        gradient: (B, N, 2, h, w) of each plane's surface.
        truth: (B, h, w) inverse depth of the cells.
        weight: (B, N, h, w): in focus times sharpness weight q.
        blur_gain: (B,).
    """
    true_gradient = forward_differences(blur_gain[:, None, None] * truth).clamp(-STEEPEST_PX, STEEPEST_PX)
    true_gradient = true_gradient[:, None].expand_as(gradient)
    error = functional.smooth_l1_loss(gradient, true_gradient, reduction="none", beta=SLIGHT_PX)
    inside_x, inside_y = torch.ones_like(weight), torch.ones_like(weight)
    inside_x[..., -1], inside_y[..., -1, :] = 0.0, 0.0
    return _mean(error[:, :, 0], weight * inside_x) + _mean(error[:, :, 1], weight * inside_y)


def total_loss(
    prediction: Prediction,
    images: Tensor,
    truth: Tensor,
    focus_dpt: Tensor,
    blur_gain: Tensor,
    weights: LossWeights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum and its terms, each unweighted; terms of weight 0 are left out.

    Args:
        prediction: of the network.
        images: (B, N, 3, H, W), H and W multiples of the network's stride.
        truth: (B, H, W) inverse depth.
        focus_dpt: (B, N).
        blur_gain: (B,).
        weights: of the terms.
    """
    first, last = focus_dpt[:, 0, None, None], focus_dpt[:, -1, None, None]
    slack = 0.25 * (first - last) / (focus_dpt.shape[1] - 1)
    # Truth outside of the focus range would pull the ends of the range together; a little is within reach.
    valid = ((truth <= first + slack) & (truth >= last - slack)).to(truth.dtype)
    # Holes may be NaN, which no weight of 0 removes.
    truth = torch.where(valid > 0.0, truth, last.expand_as(truth))
    terms = {}
    if weights.depth > 0.0:
        terms["depth"] = depth_loss(prediction.inverse_depth, truth, valid, focus_dpt)
    if weights.confidence > 0.0:
        depth = prediction.inverse_depth.detach()
        terms["confidence"] = confidence_loss(prediction.confidence, depth, truth, valid)
    if weights.gradient > 0.0:
        terms["gradient"] = gradient_loss(prediction.inverse_depth, truth, valid, focus_dpt)
    centre = slice(CELL // 2, None, CELL)
    cell_truth, cell_valid = truth[:, centre, centre], valid[:, centre, centre]
    if weights.probability > 0.0:
        terms["probability"] = probability_loss(prediction.probability, cell_truth, cell_valid, focus_dpt)
    if weights.focal > 0.0:
        terms["focal"] = focal_variational_loss(prediction.probability, cell_truth, cell_valid, focus_dpt)
    field = prediction.gamma if weights.supervise_gamma else prediction.gradient
    if weights.spatial > 0.0 and field is not None:
        surface = functional.avg_pool2d(truth, SURFACE_CELL)
        weight = in_focus(surface, focus_dpt, blur_gain) * -functional.max_pool2d(-valid, SURFACE_CELL)[:, None]
        if weights.sharpness != "none":
            q = sharpness_weight(images)
            weight = weight * (q if weights.sharpness == "q" else 1.0 - q)
        terms["spatial"] = spatial_variational_loss(field, surface, weight, blur_gain)
    total = sum(
        (getattr(weights, name) * term for name, term in terms.items()), torch.zeros((), device=truth.device)
    )
    return total, terms


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean, 0 where no weight is."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
