# SPDX-License-Identifier: Apache-2.0
"""The network that relates two slices for residual alignment.

It is least squares after Lucas and Kanade (IJCAI 1981) on three octaves, with the change of blur taken out as in
`alignment.classical`, in cells of 4 x 4 pixels. What is learnt is how far each cell and octave can be trusted, and
what must be added where the linear model is wrong: at edges of occlusion, in strong blur, in noise, in clipped
light. The displacement of the image is then found as Won and Jeon do (ECCV 2022): as three coefficients of fixed
basis flows, here by average pooling of weighted normal equations, so that no resolution is built in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CELL = 4  # pixels a side; images are to be multiples of it
OCTAVES = 3  # bands compared, each at half the resolution of the one before
POOLS = (2, 2, 1)  # pixels that an octave's filters leave of a cell's side
WINDOWS = (3, 3, 5)  # cells a side over which blur is taken to change evenly, for each octave
FINE_SIGMA_PX, COARSE_SIGMA_PX = 1.0, 2.5  # of the band, in pixels of its octave
KERNEL = 11  # side of the filters: band of 7 x 7, derivatives of 5 x 5
CONTRAST_FLOOR = 1e-5  # mean square gradient of images of mean 1: less is noise
BLUR_FLOOR = 0.02  # of the normalised Laplacian's mean square, see `alignment.classical`
RIDGE = 0.02  # of normalised gradients: what is less gives no displacement of a cell
RESIDUAL_FLOOR_PX2 = 0.01  # a cell is not trusted more for differing by less
BORDER = 1  # cells left out: filters see beyond the image there
CLUES = 13  # maps that an octave tells the trunk
ODD = 3  # products that change their sign with the difference: of gx, gy and the Laplacian
FAR = 4.0  # what the trunk is told is limited to that: where gradients end, normalised fields have no bounds
MOST_TRUST = 6.0  # largest change of the logarithm of a weight


@dataclass(frozen=True)
class AlignConfig:
    """Size of the network.

    Attributes:
        width: channels of the trunk.
        features: channels learnt from the filtered images.
    """

    width: int = 32
    features: int = 16


def filters() -> Tensor:
    """Return filters (4, 1, KERNEL, KERNEL): a band, its derivatives along x and y, its Laplacian, per pixel."""
    x = torch.arange(-3.0, 4.0)
    fine, coarse = (torch.exp(-0.5 * (x / s) ** 2) for s in (FINE_SIGMA_PX, COARSE_SIGMA_PX))
    fine, coarse = fine / fine.sum(), coarse / coarse.sum()
    band = fine[:, None] * fine - coarse[:, None] * coarse
    parts = torch.zeros(4, 1, 5, 5)
    parts[0, 0, 2, 2] = 1.0
    parts[1, 0, 2] = parts[2, 0, :, 2] = torch.tensor([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
    parts[3, 0, 1:4, 1:4] = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    # Filtering correlates: of two filters in a row the second is turned round to convolve.
    return functional.conv2d(functional.pad(band[None, None], (4, 4, 4, 4)), parts.flip(-1, -2)).transpose(0, 1)


@dataclass(frozen=True)
class Octave:
    """What one octave says of every cell, all (B, ..., h / CELL, w / CELL).

    Attributes:
        matrix: (B, 3, ...) xx, xy and yy of the normal equations of a cell's displacement, normalised.
        right: (B, 2, ...) their right side, pixels.
        odd: (B, ODD, ...) products with the difference, as they are before blur is taken out.
        trust: (B, 1, ...) logarithm of the inverse of what the fit leaves, pixels ** -2.
        clues: (B, CLUES, ...) all that, in numbers of about 1.
    """

    matrix: Tensor
    right: Tensor
    odd: Tensor
    trust: Tensor
    clues: Tensor


class AlignNet(nn.Module):
    """Normal equations of the displacement between two images."""

    bank: Tensor

    def __init__(self, config: AlignConfig | None = None):
        """Make a network whose first answer is that of least squares alone."""
        super().__init__()
        self.config = config = AlignConfig() if config is None else config
        width = config.width
        # Not learnt: filters that are no derivatives of each other any more make displacement of blur.
        self.register_buffer("bank", filters(), persistent=False)
        self.look = nn.Conv2d(16, config.features, 3, stride=2, padding=1)
        self.enter = nn.Conv2d(OCTAVES * CLUES + config.features, width, 1)
        self.whole = nn.Conv2d(width, width, 1)
        self.coarser = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.around = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 1))
        self.tell = nn.Conv2d(width, OCTAVES * (1 + 2 * ODD), 1)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, pairs: Tensor, grid: Tensor) -> Tensor:
        """Return normal equations (B, 3, 4), [A | b], of the second image's displacement from the first.

        Args:
            pairs: (B, 2, h, w) linear light of mean 1; h and w multiples of CELL, at least 4 CELL.
            grid: (2, h, w) radial basis flow along x and y, see `alignment.base.Grid`.

        A p = b gives p: radial displacement at the corner, x and y shift, all in pixels. A is the inverse
        covariance of p. Two equal images give b = 0 whatever the weights are.
        """
        found = [octave.unflatten(0, (len(pairs), 2)) for octave in self.filtered(pairs.flatten(0, 1))]
        return self.related([octave[:, 0] for octave in found], [octave[:, 1] for octave in found], grid)

    def filtered(self, images: Tensor) -> list[Tensor]:
        """Return images (N, h, w) filtered in each octave: (N, 4, ...), smaller by 2, 2 and 4 a side."""
        images, found = images[:, None], []
        for level in range(OCTAVES):
            unit = torch.tensor([1.0, *3 * [0.5**level]], device=images.device)[:, None, None, None]
            padded = functional.pad(images, 4 * [KERNEL // 2], mode="replicate")
            found.append(functional.conv2d(padded, self.bank * unit, stride=2 if level == 0 else 1))
            images = functional.avg_pool2d(images, 2)
        return found

    def related(self, first: list[Tensor], second: list[Tensor], grid: Tensor) -> Tensor:
        """Return normal equations (B, 3, 4) as `forward` does, of what `filtered` gave of two images each."""
        octaves, seen = [], []
        for a, b, pool, window in zip(first, second, POOLS, WINDOWS, strict=True):
            fields, log_contrast = normalised(a, b)
            octaves.append(octave(fields, log_contrast, pool, window))
            seen.append(fields)
        look = functional.relu(self.look(torch.cat(seen[:2], 1).clamp(-FAR, FAR)))
        x = functional.relu(self.enter(torch.cat([*(o.clues for o in octaves), look], 1)))
        wide = functional.relu(self.coarser(x))
        wide = wide + self.whole(wide.mean((2, 3), keepdim=True))  # noise is the same everywhere
        for layer in self.around:
            wide = wide + functional.relu(layer(wide))
        x = x + functional.interpolate(wide, x.shape[-2:], mode="nearest")
        matrix, right = fused(octaves, self.tell(x))
        return pooled(matrix, right, grid)


def normalised(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and difference (B, 8, h, w) of two filtered images (B, 4, h, w), of equal contrast everywhere.

    And the logarithm of the contrast, (B, 1, h, w): mean square gradient.
    """
    mean, difference = 0.5 * (first + second), first - second
    energy = mean[:, 1:3].square().sum(1, keepdim=True)
    contrast = functional.avg_pool2d(energy, 5, 1, 2, count_include_pad=False) + CONTRAST_FLOOR
    return torch.cat([mean, difference], 1) * contrast.rsqrt(), contrast.log()


def octave(fields: Tensor, log_contrast: Tensor, pool: int, window: int) -> Octave:
    """Return what an octave says, from its `normalised` fields (B, 8, h, w); a cell has `pool` pixels a side."""
    gx, gy, laplacian, difference = fields[:, 1:5].split(1, 1)  # the difference of the bands comes fifth
    g, ggl, ggld = fields[:, 1:3], fields[:, 1:4], fields[:, 1:5]
    sharper = (g * fields[:, 5:7]).sum(1, keepdim=True)  # which of the two has more contrast
    maps = torch.cat([gx * g, gy * gy, laplacian * ggl, difference * ggld, sharper, log_contrast], 1)
    maps = functional.avg_pool2d(maps, pool) if pool > 1 else maps
    maps = functional.avg_pool2d(maps, window, 1, window // 2, count_include_pad=False)
    gg, gl, ll, gd, ld, dd, more, log_contrast = maps.split((3, 2, 1, 2, 1, 1, 1, 1), 1)
    gain = gl / (ll + BLUR_FLOOR)
    matrix = gg - torch.cat([gain[:, :1] * gl, gain[:, 1:] * gl[:, 1:]], 1)  # theorem of Frisch, Waugh, Lovell
    right = gd - gain * ld
    xx, xy, yy = matrix.split(1, 1)
    xx, yy = xx + RIDGE, yy + RIDGE
    own = torch.cat([yy * right[:, :1] - xy * right[:, 1:], xx * right[:, 1:] - xy * right[:, :1]], 1)
    own = own / (xx * yy - xy * xy)  # displacement of the cell, pixels
    left = dd - ld * ld / (ll + BLUR_FLOOR) - (own * right).sum(1, keepdim=True)
    trust = -(left.clamp(min=0.0) + RESIDUAL_FLOOR_PX2).log()
    blur = ld / (ll + BLUR_FLOOR)
    clues = torch.cat(
        [matrix, own, right, 0.5 * trust, 0.3 * log_contrast + 1.5, blur, ll, more]
        + [0.5 * (dd + RESIDUAL_FLOOR_PX2).log()],
        1,
    )
    return Octave(matrix, right, torch.cat([gd, ld], 1), trust, clues.clamp(-FAR, FAR))


def fused(octaves: list[Octave], told: Tensor) -> tuple[Tensor, Tensor]:
    """Return normal equations of every cell: matrix (B, 3, ...) as xx, xy, yy and right side (B, 2, ...).

    Args:
        octaves: what they say.
        told: (B, OCTAVES (1 + 2 ODD), ...) by the trunk, for each octave: the logarithm of its weight, and what is
            to be added to its right side x and y, linear in its odd products, so that it ends where the difference
            of the images does. Both are bounded: nothing that was never seen may take over the image.
    """
    matrix, right = torch.zeros_like(octaves[0].matrix), torch.zeros_like(octaves[0].right)
    for said, words in zip(octaves, told.split(1 + 2 * ODD, 1), strict=True):
        weight = (said.trust + MOST_TRUST * (words[:, :1] / MOST_TRUST).tanh()).exp()
        added = [(c * said.odd).sum(1, keepdim=True) for c in words[:, 1:].tanh().split(ODD, 1)]
        matrix = matrix + weight * said.matrix
        right = right + weight * (said.right + torch.cat(added, 1))
    return matrix, right


def pooled(matrix: Tensor, right: Tensor, grid: Tensor) -> Tensor:
    """Return normal equations (B, 3, 4) of the three coefficients: the average over the cells of the image.

    Args:
        matrix: (B, 3, rows, columns) xx, xy and yy of the cells.
        right: (B, 2, rows, columns) pixels.
        grid: (2, CELL rows, CELL columns).
    """
    x, y = functional.avg_pool2d(grid[None], CELL)[:, :, BORDER:-BORDER, BORDER:-BORDER].unbind(1)
    xx, xy, yy = matrix[:, :, BORDER:-BORDER, BORDER:-BORDER].unbind(1)
    bx, by = right[:, :, BORDER:-BORDER, BORDER:-BORDER].unbind(1)
    rx, ry = xx * x + xy * y, xy * x + yy * y
    rows = [rx * x + ry * y, rx, ry, bx * x + by * y, rx, xx, xy, bx, ry, xy, yy, by]
    return torch.stack(rows, 1).mean((2, 3)).unflatten(1, (3, 4))
