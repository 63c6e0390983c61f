# SPDX-License-Identifier: Apache-2.0
"""Plain building blocks of the network, and the ways between its grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 32  # of the coarsest features: pictures are padded to a multiple of it
# Contrast below this (of the mean brightness, squared) counts as none: a tenth of a grey level of 8 bits.
ENERGY_FLOOR = 1e-6
DARKEST = 1.0 / 255.0  # mean brightness of a picture that is not black
CELL = 4  # pixels a side of the grid on which the focus probability is decided


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions around a shortcut, on slices (B * N, C, h, w), each on its own."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = conv_norm(channels, channels)
        self.second = conv_norm(channels, channels)[:2]  # the ReLU comes after the sum

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return functional.relu(x + self.second(self.first(x)))


def each(layer: Callable[[Tensor], Tensor], volume: Tensor) -> Tensor:
    """Apply a 2D layer to every slice of (B, N, C, h, w)."""
    batch = volume.shape[0]
    flat = layer(volume.flatten(0, 1))
    return flat.unflatten(0, (batch, -1))


def doubled(volume: Tensor) -> Tensor:
    """Return (..., 2h, 2w), every cell four times. TensorRT-RTX 1.7 cannot build `Resize` for a range of sizes."""
    wide = _twice_as_wide(volume)
    return wide[..., None, :].expand(*wide.shape[:-1], 2, wide.shape[-1]).flatten(-3, -2)


def add_doubled(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return fine + doubled(coarse), of (..., 2h, 2w) and (..., h, w), without ever holding the latter."""
    wide = _twice_as_wide(coarse)
    return (fine.unflatten(-2, (coarse.shape[-2], 2)) + wide[..., None, :]).flatten(-3, -2)


def _twice_as_wide(volume: Tensor) -> Tensor:
    """Return (..., h, 2w): as a product, columns are doubled several times faster than by copying numbers."""
    width = volume.shape[-1]
    index = torch.arange(2 * width, device=volume.device)
    twice = (index[None] // 2 == torch.arange(width, device=volume.device)[:, None]).to(volume.dtype)
    with torch.autocast(volume.device.type, enabled=False):
        return volume @ twice


def to_cells(images: Tensor) -> Tensor:
    """Return (B * N, 3 * CELL * CELL, H / CELL, W / CELL), as `pixel_unshuffle`; as a convolution it is faster."""
    kernel = torch.eye(3 * CELL * CELL, device=images.device, dtype=images.dtype)
    with torch.autocast(images.device.type, enabled=False):
        return functional.conv2d(images, kernel.unflatten(1, (3, CELL, CELL)), stride=CELL)


def contrast_energies(grey: Tensor, octaves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return log contrast energies of images: all, and the means of the two finest octaves.

    Args:
        grey: (B, 1, H, W).
        octaves: three of (F, 1, 3, 3) filters, finest first; their means are taken off.

    Returns:
        (B, 3 F, H / 4, W / 4) and (B, 2, H / 2, W / 2).
    """
    found, fine = [], []
    for octave, filters in enumerate(octaves):
        high_pass = filters - filters.mean(dim=(2, 3), keepdim=True)
        padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
        if octave == 0:
            square, mean = pairs_energy(padded, high_pass)
        else:
            square = functional.conv2d(padded, high_pass)
            square = square * square
            mean = square.mean(dim=1, keepdim=True)
        if octave < 2:
            fine.append(mean)
            square, grey = functional.avg_pool2d(square, 2), functional.avg_pool2d(grey, 2)
        found.append(torch.log(square + ENERGY_FLOOR))
    return torch.cat(found, dim=1), torch.log(torch.cat(fine, dim=1) + ENERGY_FLOOR)


def pairs_energy(padded: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Return what F filters find in 2 x 2 pixels: mean squares (B, F, H / 2, W / 2), and their mean (B, 1, ...).

    The four pixels are channels: runtimes pad channels to 16, and the F of a full-size picture would be few.

    Args:
        padded: (B, 1, H + 2, W + 2).
        filters: (F, 1, 3, 3).
    """
    count = len(filters)
    shifted = [functional.pad(filters, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]
    square = functional.conv2d(padded, torch.cat(shifted), stride=2)
    square = square * square
    each_filter = torch.eye(count, device=filters.device, dtype=filters.dtype).repeat(1, 4) / 4.0
    means = torch.cat([each_filter, each_filter.mean(dim=0, keepdim=True)])[:, :, None, None]
    found = functional.conv2d(square, means)
    return found[:, :count], found[:, count:]


def over_slices(volume: Tensor) -> Tensor:
    """Return the sum over slices, (B, ...), of (B, N, ...). As a product it runs several times faster."""
    with torch.autocast(volume.device.type, enabled=False):
        total = volume.new_ones(1, volume.shape[1]) @ volume.flatten(2)
    return total[:, 0].unflatten(1, volume.shape[2:])


def one_channel(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return layer(x), single precision, of a layer of 3 x 3 with one output: the sum of what its nine taps find.

    Runtimes pad channels to 16: a tap more or less costs nothing.
    """
    assert layer.bias is not None
    taps = functional.conv2d(x, layer.weight[0].flatten(1).mT[:, :, None, None]).float()
    height, width = x.shape[-2:]
    padded = functional.pad(taps, (1, 1, 1, 1))
    found = layer.bias.float()[:, None, None]
    for k in range(9):
        found = found + padded[:, k : k + 1, k // 3 : k // 3 + height, k % 3 : k % 3 + width]
    return found


def like(values: Tensor, other: Tensor) -> Tensor:
    """Return values in the type of `other`: half precision beyond this point, where the network is exported so."""
    return values.to(other.dtype)


def from_neighbours(coarse: Tensor, weight: Tensor) -> Tensor:
    """Return (B, C, H, W): the mean of the 3 x 3 cells of (B, C, h, w), by weights (B, 9, CELL * CELL, h, w)."""
    height, width = coarse.shape[-2:]
    padded = functional.pad(coarse, (1, 1, 1, 1), mode="replicate")
    fine = torch.zeros((), dtype=weight.dtype, device=weight.device)
    for k, share in enumerate(weight.unbind(dim=1)):  # slices of it would fill its gradient nine times
        neighbour = padded[:, :, k // 3 : k // 3 + height, k % 3 : k % 3 + width]
        fine = fine + share[:, None] * neighbour[:, :, None]
    fine = fine / weight.sum(dim=1)[:, None]
    return functional.pixel_shuffle(fine.flatten(1, 2), CELL)


def pad_to_stride(images: Tensor) -> Tensor:
    """Return images (..., H, W) with the border repeated below and to the right, H and W multiples of STRIDE."""
    down, right = (-images.shape[-2] % STRIDE, -images.shape[-1] % STRIDE)
    flat = functional.pad(images.flatten(0, -4), (0, right, 0, down), mode="replicate")
    return flat.unflatten(0, images.shape[:-3])
