# SPDX-License-Identifier: Apache-2.0
"""What an estimator of residual alignment must do, and what it works on.

The residual of a slice against the reference slice is three coefficients: radial displacement at the corner of the
image, x shift and y shift, all in pixels, after the warp by metadata. A point at x0 of the reference is seen at
x0 + p[0] (x0 - c) / r + p[1:] in the slice, with c the principal point and r the distance of the corner (Won and
Jeon, ECCV 2022, use the same three basis flows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import FloatImage

Pair = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """The radial basis flow of a pyramid level: (x - c) / r at every pixel, two arrays (h, w)."""

    x: FloatImage
    y: FloatImage

    @classmethod
    def of(cls, width: int, height: int, cx_px: float, cy_px: float) -> Grid:
        """Return the grid of an image with that principal point; all in pixels of the level."""
        radius = corner_radius_px(width, height, cx_px, cy_px)
        x = ((np.arange(width) - cx_px) / radius).astype(np.float32)
        y = ((np.arange(height) - cy_px) / radius).astype(np.float32)
        return cls(
            np.ascontiguousarray(np.broadcast_to(x, (height, width))),
            np.ascontiguousarray(np.broadcast_to(y[:, None], (height, width))),
        )


class ResidualEstimator(Protocol):
    """Relates slices to each other. Estimators are context managers, as engines are."""

    @property
    def name(self) -> str:
        """Name as in the `residual` parameter, e.g. `classical`; never `auto`."""

    def relate(self, images: Sequence[FloatImage], pairs: Sequence[Pair], grid: Grid) -> npt.NDArray[np.float64]:
        """Return normal equations (P, 3, 4) of the displacement of the second image of every pair from the first.

        Args:
            images: slices (h, w) in one grid, linear light, of mean 1.
            pairs: indices of two images each.
            grid: of these images.

        Each result is [A | b] with A p = b the least-squares solution for p, in pixels of these images; A is
        its information (the inverse covariance of p).

        Raises:
            EngineError: if the estimator fails.
        """

    def __enter__(self) -> ResidualEstimator:
        """Load it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free what it holds."""


def corner_radius_px(width: int, height: int, cx_px: float, cy_px: float) -> float:
    """Return the distance in pixels from the principal point to the farthest corner of the image."""
    return float(np.hypot(max(cx_px, width - 1 - cx_px), max(cy_px, height - 1 - cy_px)))
