# SPDX-License-Identifier: Apache-2.0
"""The DualFocus network: depth from a focal stack with spatial and focal variational constraints.

After Woo and Lee, "DualFocus: Depth from Focus with Spatio-Focal Dual Variational Constraints" (NeurIPS 2025),
with what one set of weights for every lens needs: slices are described by their focus positions in pixels of blur,
so that neither focal length nor aperture nor the number or spacing of slices is built in.

Shapes: B stacks, N slices, C channels, H x W pixels; h x w at the scale in question. Slices lie in the batch
dimension (B * N) wherever a layer treats each on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualfocus_ros.learning.certainty import Certainty
from dualfocus_ros.learning.detail import Detail, Told
from dualfocus_ros.learning.focus import FOCUS_CODES, focus_codes
from dualfocus_ros.learning.integration import integrate
from dualfocus_ros.learning.layers import (
    CELL,
    DARKEST,
    Residual,
    add_doubled,
    contrast_energies,
    conv_norm,
    each,
    from_neighbours,
    like,
    one_channel,
    over_slices,
    pad_to_stride,
    to_cells,
)
from dualfocus_ros.learning.propagation import Propagation

CARRY = (4, 2, 1, 4, 2, 1)  # cells over which depth is carried, one after the other
REACH = 20.0  # cells over which the surface of the spatial constraint is integrated; training crops are as large
FILTERS = 8  # high-pass filters of each octave of the stem


@dataclass(frozen=True)
class NetworkConfig:
    """Size of the network, and what of it is in use.

    Attributes:
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the resolution.
        blocks: residual blocks a scale in encoder and decoder.
        surfaces: latent surfaces of each focal plane.
        differences: use focal differences, else the focus volume alone.
        spatial: use the surface of the spatial variational constraint.
        conditioned: tell the network the focus positions in pixels of blur.
    """

    widths: tuple[int, int, int, int] = (32, 48, 96, 160)
    blocks: int = 1
    surfaces: int = 4
    differences: bool = True
    spatial: bool = True
    conditioned: bool = True


SMALL = NetworkConfig()
BASE = NetworkConfig(widths=(64, 128, 256, 512), blocks=2, surfaces=8)
SIZES = {"small": SMALL, "base": BASE}


class Prediction(NamedTuple):
    """What the network says of stacks.

    Attributes:
        inverse_depth: (B, H, W) dioptres.
        confidence: (B, H, W) 0..1: how likely depth is within CLOSE of the truth.
        probability: (B, N, H / 4, W / 4) of the padded picture: focus probability, sums to 1 over N.
        gradient: (B, N, 2, H / 8, W / 8) of the padded picture: theta_grad's gradient (x, y) of each plane's
            surface, in pixels of blur per cell; None without the spatial constraint.
        gamma: (B, N, 2, H / 8, W / 8): the first pair of the unconstrained gradients Gamma, likewise.
    """

    inverse_depth: Tensor
    confidence: Tensor
    probability: Tensor
    gradient: Tensor | None
    gamma: Tensor | None


class Encoded(NamedTuple):
    """What is found in slices, each on its own: the first stage of the network.

    The lists are over the scales, finest first, of (B * N, width, h, w). See `Head.enter_slices`.

    Attributes:
        own: what a slice says.
        ahead: what it says to the slice before it, of the nearer focus; empty without focal differences.
        energy: (B * N, ENERGIES, H / 2, W / 2) log contrast energies.
        cells: (B * N, 3 * CELL * CELL, H / 4, W / 4) the slice itself.
    """

    own: list[Tensor]
    ahead: list[Tensor]
    energy: Tensor
    cells: Tensor


class Joined(NamedTuple):
    """Stacks of slices, each with what the one behind it says: what the second stage takes.

    Attributes:
        volume: over the scales, finest first, (B, N, width, h, w).
        energy: (B, N, ENERGIES, H / 2, W / 2) log contrast energies.
        cells: (B, N, 3 * CELL * CELL, H / 4, W / 4) the slices themselves.
    """

    volume: list[Tensor]
    energy: Tensor
    cells: Tensor


def join(encoded: Encoded, batch: int) -> Joined:
    """Return stacks of what was found in their slices; the last is told what comes of going on as before."""
    own, ahead, (energy, cells) = (
        [x.unflatten(0, (batch, -1)) for x in part] for part in (encoded.own, encoded.ahead, encoded[2:])
    )
    if ahead:
        own = [
            x + torch.cat([a[:, 1:], 2.0 * a[:, -1:] - a[:, -2:-1]], dim=1)
            for x, a in zip(own, ahead, strict=True)
        ]
    return Joined(own, energy, cells)


class FocusMix(nn.Module):
    """Mixes slices with their neighbours and with the whole stack, then looks around in the picture.

    A quarter of the channels is taken from the next nearer slice and a quarter from the next farther one (Lin et
    al., "TSM", ICCV 2019): the convolution that follows is then one over the picture and along focus. Mean and
    maximum over all slices tell each slice how it compares.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = conv_norm(channels, channels)
        self.whole = nn.Conv2d(2 * channels, channels, 1)
        self.second = conv_norm(channels, channels)[:2]  # the ReLU comes after the sum

    def forward(self, volume: Tensor) -> Tensor:
        """Return features of the same shape (B, N, C, h, w)."""
        quarter = volume.shape[2] // 4
        nearer, farther, own = volume.split([quarter, quarter, volume.shape[2] - 2 * quarter], dim=2)
        nearer = torch.cat([nearer[:, :1], nearer[:, :-1]], dim=1)
        farther = torch.cat([farther[:, 1:], farther[:, -1:]], dim=1)
        shifted = torch.cat([nearer, farther, own], dim=2)
        x = each(self.first, shifted)
        whole = self.whole(torch.cat([over_slices(x) / x.shape[1], x.amax(dim=1)], dim=1))
        return functional.relu(volume + each(self.second, functional.relu(x + whole[:, None])))


class Encoder(nn.Module):
    """Features of single slices at 1/4, 1/8, 1/16 and 1/32 of the resolution.

    What tells focus is how the contrast of fine detail compares between slices. So the stem measures contrast
    energy by learned high-pass filters in three octaves and takes its logarithm: the contrast of the object
    itself, the same in all slices, drops out of the focal differences that follow.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        widths = config.widths
        self.filters = nn.ParameterList(nn.Parameter(0.3 * torch.randn(FILTERS, 1, 3, 3)) for _ in range(3))
        self.appearance = nn.Conv2d(3, 16, CELL, CELL)
        self.stem = conv_norm(3 * FILTERS + 16, widths[0], 1)
        self.scales = nn.ModuleList()
        for i, width in enumerate(widths):
            down = [conv_norm(widths[i - 1], width, 3, 2)] if i > 0 else []
            self.scales.append(nn.Sequential(*down, *(Residual(width) for _ in range(config.blocks))))

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return features, finest first, and log energies, coarse and fine, of images (B * N, 3, H, W), 0..1.

        H and W are multiples of STRIDE; the energies (B * N, 3 * FILTERS, H / 4, W / 4) and
        (B * N, ENERGIES, H / 2, W / 2) are in single precision.
        """
        grey = images.float().mean(dim=1, keepdim=True)
        brightness = grey.mean(dim=(2, 3), keepdim=True).clamp(min=DARKEST)
        with torch.autocast(images.device.type, enabled=False):  # 8 bits of mantissa would drown faint texture
            energies, fine = contrast_energies(grey / brightness - 1.0, list(self.filters))
        # The layer on images / brightness - 1, with the picture left as it is: it is larger than what comes out.
        layer = self.appearance
        scaled = functional.conv2d(like(images, layer.weight), layer.weight, stride=CELL) / like(
            brightness, layer.weight
        )
        appearance = scaled + (layer.bias - layer.weight.sum(dim=(1, 2, 3)))[:, None, None]
        x = self.stem(torch.cat([like(0.2 * energies + 1.4, appearance), appearance], dim=1))  # about -1 to 1
        features = []
        for scale in self.scales:
            x = scale(x)
            features.append(x)
        return features, energies, fine


class SurfaceConstraint(nn.Module):
    """The spatial variational constraint: surfaces that must have a gradient field.

    Predicts gradients Gamma for each focal plane, replaces them by the surface of limited reach nearest to them,
    and hands that surface and theta_grad's gradient of it on. The loss of theta_grad so reaches Gamma through the
    surface.
    """

    def __init__(self, channels: int, surfaces: int):
        super().__init__()
        self.surfaces = surfaces
        self.gamma = nn.Conv2d(channels, 2 * surfaces, 3, padding=1)
        self.theta_grad = nn.Conv2d(surfaces, 2, 3, padding=1, bias=False)
        self.fuse = nn.Conv2d(surfaces + 2, channels, 1)
        self.start_as_differences()

    def start_as_differences(self) -> None:
        """Let theta_grad start as the forward differences of the first surface, from where it learns the rest."""
        kernel = torch.zeros_like(self.theta_grad.weight)
        kernel[0, 0, 1, 1:], kernel[1, 0, 1:, 1] = torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])
        with torch.no_grad():
            self.theta_grad.weight.copy_(kernel)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the volume with the surfaces fused in, theta_grad's gradient and Gamma (B, N, 2, h, w)."""
        gamma = each(self.gamma, volume)
        with torch.autocast(volume.device.type, enabled=False):
            surfaces = integrate(gamma.float().unflatten(2, (self.surfaces, 2)), REACH)
            surfaces = like(surfaces, self.theta_grad.weight)
            gradient = each(self.theta_grad, surfaces)
        fused = volume + each(self.fuse, torch.cat([0.3 * surfaces, gradient], dim=2))
        return fused, gradient, gamma[:, :, :2]


class Head(nn.Module):
    """From the features of a stack to focus probability and depth."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        ways = 2 if config.differences else 1
        self.enter = nn.ModuleList(nn.Conv2d(ways * width, width, 1) for width in widths)
        # Half a pixel of blur changes the contrast of fine texture by some per cent. The features of single
        # slices, in half precision, hardly hold that; steps of log energies, taken in single precision, do.
        # Silent at first: weights that were trained without it go on as they are.
        self.contrast = nn.ModuleList(
            nn.Conv2d(3 * FILTERS, width, 1, bias=False) for width in widths if config.differences
        )
        for layer in self.contrast:
            nn.init.zeros_(layer.weight)
        self.code = nn.ModuleList(nn.Linear(FOCUS_CODES, width) for width in widths if config.conditioned)
        self.rise = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(3))
        self.mix = nn.ModuleList(
            nn.Sequential(*(FocusMix(width) for _ in range(config.blocks))) for width in widths
        )
        self.constraint = SurfaceConstraint(widths[1], config.surfaces) if config.spatial else None
        self.score = nn.Conv2d(widths[0], 1, 3, padding=1)
        self.guide = conv_norm(3 * CELL * CELL + widths[0] + 1, 64)
        self.spread = nn.Conv2d(64, 9 * CELL * CELL, 1)
        self.certainty = Certainty(64 + widths[0])
        self.propagation = Propagation(64 + widths[0], CARRY, stay=5.0)
        self.detail = Detail(64 + widths[0])

    def enter_slices(self, images: Tensor, features: list[Tensor], energies: tuple[Tensor, Tensor]) -> Encoded:
        """Return what the encoder found in images (B * N, 3, H, W) as this head takes it.

        The focal differences V*_n = [V_n, V_{n+1} - V_n], or [V_N, V_N - V_{N-1}] for the last, go through a layer
        W = [W_v, W_d]; beside them, C takes the same steps of the log energies E. Since all that is linear,
        W V*_n + C (E_{n+1} - E_n) = own_n + ahead_{n+1} with ahead_n = W_d V_n + C E_n, own_n = W_v V_n - ahead_n:
        all that is computed here needs no other slice.
        """
        own, ahead = [], []
        energy = energies[0]
        for i, x in enumerate(features):
            layer = self.enter[i]
            if not self.config.differences:
                own.append(layer(x).float())
                continue
            of_volume, of_steps = layer.weight.chunk(2, dim=1)
            found = functional.conv2d(x, torch.cat([of_volume - of_steps, of_steps])).float()
            # Half a pixel of blur changes log energies by some hundredths of what they are.
            with torch.autocast(x.device.type, enabled=False):
                contrast = self.contrast[i](energy)
            width = layer.out_channels
            own.append(found[:, :width] - contrast + layer.bias.float()[:, None, None])
            ahead.append(found[:, width:] + contrast)
            if i < 3:
                energy = functional.avg_pool2d(energy, 2)
        return Encoded(own, ahead, energies[1], to_cells(images))

    def forward(self, joined: Joined, focus_dpt: Tensor, blur_gain: Tensor) -> Prediction:
        """Return the prediction for stacks (padded), focus_dpt (B, N) and blur_gain (B,)."""
        code = focus_codes(focus_dpt, blur_gain)
        volume, gradient, gamma = None, None, None
        for i in (3, 2, 1, 0):
            x = like(joined.volume[i], self.score.weight)
            lens = self.code[i](like(code, x))[..., None, None] if self.config.conditioned else 0.0
            x = x + lens if volume is None else add_doubled(x, each(self.rise[i], volume) + lens)
            volume = self.mix[i](functional.relu(x))
            if i == 1 and self.constraint is not None:
                volume, gradient, gamma = self.constraint(volume)
        assert volume is not None
        scores = each(partial(one_channel, self.score), volume)[:, :, 0]
        # A softmax, written out: that is several times faster than the operator along this axis.
        probability = torch.exp(scores - scores.amax(dim=1, keepdim=True))
        probability = probability / over_slices(probability)[:, None]
        fine, logit, told = self._refine(probability, volume, joined.cells, focus_dpt)
        depth, logit = self.detail(told, joined.energy, probability, fine, logit, focus_dpt)
        confidence = self.certainty.confidence(logit, fine[:, 1], fine[:, 2])
        return Prediction(depth, confidence, probability, gradient, gamma)

    def _refine(
        self, probability: Tensor, volume: Tensor, cells: Tensor, focus_dpt: Tensor
    ) -> tuple[Tensor, Tensor, Told]:
        """Return (B, 4, H, W), logit of confidence (B, H, W), and what this was told from.

        The four are inverse depth, mean and mean square of the slice index, distance of slices in dioptres.
        Each pixel takes a convex mean of the 3 x 3 cells around it (Teed and Deng, "RAFT", ECCV 2020), guided by
        the sharp composite sum_n p_n I_n. Since that is linear in p, it is the depth sum_n p_n f_n of the refined
        p. Before that, `Propagation` carries it to where the network is less sure.
        """
        index = torch.arange(probability.shape[1], device=probability.device, dtype=probability.dtype)
        index = index.expand_as(focus_dpt)
        gap = focus_dpt[:, :-1] - focus_dpt[:, 1:]
        step = 0.5 * (torch.cat([gap[:, :1], gap], dim=1) + torch.cat([gap, gap[:, -1:]], dim=1))
        powers = torch.stack([focus_dpt, focus_dpt * focus_dpt, index, index * index, step], dim=1)
        with torch.autocast(cells.device.type, enabled=False):  # depth has more than 8 bits
            moments = torch.einsum("bkn,bnhw->bkhw", powers, probability)
        cells = like(cells, volume)
        share = like(probability[:, :, None], volume)
        sharp, context = over_slices(share * cells), over_slices(share * volume)
        position = like(moments[:, 2:3] / probability.shape[1], volume)
        guide = self.guide(torch.cat([sharp, context, position], dim=1))
        features = torch.cat([guide, context], dim=1)
        logit = self.certainty(features, moments[:, :4], focus_dpt)
        colour = sharp.unflatten(1, (3, CELL * CELL)).mean(dim=2)
        carried = torch.cat([moments[:, :1], moments[:, 2:]], dim=1)
        carried, logit = self.propagation(features, colour, moments[:, 2:3], logit, carried)
        weight = self.spread(guide).float().unflatten(1, (9, CELL * CELL))
        # A softmax over the neighbours, written out: that is several times faster than the operator along this
        # axis.
        weight = torch.exp(weight - weight.amax(dim=1, keepdim=True))
        fine = from_neighbours(carried, weight)
        logit = from_neighbours(logit, weight.detach())[:, 0]
        return fine, logit, Told(features, functional.pixel_shuffle(sharp, CELL))


class DualFocusNet(nn.Module):
    """Depth from a focal stack."""

    def __init__(self, config: NetworkConfig = SMALL):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config)

    def forward(self, images: Tensor, focus_dpt: Tensor, blur_gain: Tensor) -> Prediction:
        """Estimate depth.

        Args:
            images: (B, N, 3, H, W), RGB as the camera coded them, 0..1, registered, nearest focus first.
            focus_dpt: (B, N) focus positions in dioptres, descending.
            blur_gain: (B,) kappa, pixels of blur diameter per dioptre of defocus.
        """
        height, width = images.shape[-2:]
        images = pad_to_stride(images)
        joined = join(self.encode(images.flatten(0, 1)), len(images))
        found = self.head(joined, focus_dpt, blur_gain)
        crop = (slice(None), slice(0, height), slice(0, width))
        return found._replace(inverse_depth=found.inverse_depth[crop], confidence=found.confidence[crop])

    def encode(self, images: Tensor) -> Encoded:
        """Return what is found in padded images (B * N, 3, H, W), each on its own."""
        features, energies, fine = self.encoder(images)
        return self.head.enter_slices(images, features, (energies, fine))
