# SPDX-License-Identifier: Apache-2.0
"""Surfaces from gradients: the exact least-squares solution on a grid with free boundaries, differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def dct_matrix(size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the orthonormal DCT-II matrix (size, size): row k holds the cosine of k half waves."""
    k = torch.arange(size, device=device, dtype=dtype)
    one = torch.ones_like(k)  # a choice between bare numbers would be one in single precision
    scale = torch.where(k > 0, (2.0 / size) ** 0.5 * one, (1.0 / size) ** 0.5 * one)
    return scale[:, None] * torch.cos(torch.pi / size * (k[None, :] + 0.5) * k[:, None])


def integrate(gamma: Tensor, reach: float = math.inf) -> Tensor:
    """Return the surfaces (..., h, w) of zero mean whose forward differences are nearest to `gamma`.

    The least-squares problem min_S sum (S[i, j+1] - S[i, j] - gx[i, j])^2 + (S[i+1, j] - S[i, j] - gy[i, j])^2
    with free boundaries has the normal equations L S = D^T g with the Neumann Laplacian L, which the DCT-II
    diagonalises with eigenvalues 4 sin^2(pi k / 2n) a direction (Frankot and Chellappa 1988; Simchony et al.
    1990). With a finite reach the sum has (S[i, j] / reach)^2 too, which adds 1 / reach^2 to every eigenvalue: the
    screened Poisson equation (Bhat et al., ECCV 2008).

    Args:
        gamma: (..., 2, h, w) gradients along x and y in units a cell; the last column of x and the last row of y
            point out of the grid and are not used.
        reach: cells after which the surface has forgotten a gradient (by a factor e). Without a limit, errors of
            the gradients add up over the whole grid: the larger it is, the farther the surface drifts.
    """
    height, width = gamma.shape[-2:]
    dtype = gamma.dtype
    gx, gy = gamma[..., 0, :, :-1], gamma[..., 1, :-1, :]
    divergence = functional.pad(gx, (1, 0)) - functional.pad(gx, (0, 1))
    divergence = divergence + functional.pad(gy, (0, 0, 1, 0)) - functional.pad(gy, (0, 0, 0, 1))
    rows, columns = (dct_matrix(n, gamma.device, dtype) for n in (height, width))
    row_values, column_values = (
        4.0 * torch.sin(torch.pi / (2 * n) * torch.arange(n, device=gamma.device, dtype=dtype)) ** 2
        for n in (height, width)
    )
    eigenvalues = row_values[:, None] + column_values[None, :] + 1.0 / reach**2
    # The constant may have eigenvalue 0 and has nothing to say: any divisor leaves its zero alone.
    eigenvalues = torch.where(eigenvalues > 0, eigenvalues, torch.ones_like(eigenvalues))
    spectrum = rows @ divergence @ columns.mT / eigenvalues
    return rows.mT @ spectrum @ columns


def forward_differences(surface: Tensor) -> Tensor:
    """Return the gradients (..., 2, h, w) of surfaces (..., h, w) along x and y, 0 where they leave the grid."""
    dx = functional.pad(surface[..., :, 1:] - surface[..., :, :-1], (0, 1))
    dy = functional.pad(surface[..., 1:, :] - surface[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([dx, dy], dim=-3)
