# SPDX-License-Identifier: Apache-2.0
"""Scenes from RGB-D images: a photograph with known depth as surfaces that the simulator can render.

The picture is cut into layers of inverse depth. Each layer goes on a little behind nearer ones, with the colour
and depth of its nearest known pixel, so that the views from the side of the pupil see something there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dualfocus_ros.errors import InputError

# How far a layer goes on behind nearer ones: no side view looks farther behind an edge.
BEHIND_PX = 24.0


@dataclass(frozen=True)
class Layer:
    """One layer of a picture; it takes the place of a `scenes.Surface`.

    Attributes:
        colour_map: (3, H, W) linear light.
        depth_map: (H, W) inverse depth, dioptres.
        mask: (H, W), 1 where the layer is or goes on behind a nearer one, else 0; 1 everywhere for the last one.
        inverse_depth_dpt: mean, which sorts the layers.
    """

    colour_map: Tensor
    depth_map: Tensor
    mask: Tensor
    inverse_depth_dpt: float

    def local(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates -1..1 across the picture."""
        height, width = self.depth_map.shape
        return (2.0 * x + 1.0) / width - 1.0 + 0.0 * y, (2.0 * y + 1.0) / height - 1.0 + 0.0 * x

    def inverse_depth(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the inverse depth in dioptres at local coordinates."""
        return self._look_up(self.depth_map[None], u, v)[0]

    def covers(self, u: Tensor, v: Tensor) -> Tensor:
        """Return where the layer is."""
        return self._look_up(self.mask[None], u, v)[0] > 0.5

    def colour(self, u: Tensor, v: Tensor, bank: Tensor) -> Tensor:
        """Return linear light (3, ...) at local coordinates; the bank of textures is not used."""
        return self._look_up(self.colour_map, u, v)

    def _look_up(self, maps: Tensor, u: Tensor, v: Tensor) -> Tensor:
        grid = torch.stack([u, v], dim=-1).reshape(1, -1, 1, 2)
        found = functional.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)
        return found.reshape(len(maps), *u.shape)


def picture_scene(
    light: npt.NDArray[np.float32], depth_m: npt.NDArray[np.float32], layers: int = 12, device: str = "cpu"
) -> list[Layer]:
    """Return the layers of an RGB-D image, nearest first, for `simulator.focal_stack`.

    Args:
        light: (H, W, 3) linear light, 0..1.
        depth_m: (H, W) metres; NaN, inf and values not above 0 are unknown: the nearest known pixel's is taken.
        layers: most layers, equally thick in dioptres; empty ones are left out.
        device: for the tensors.

    Raises:
        InputError: if the sizes differ or no depth is known.
    """
    if light.shape != (*depth_m.shape, 3):
        raise InputError(
            f"expected light (H, W, 3) of the size of the depth, got {light.shape} and {depth_m.shape}"
        )
    known = np.isfinite(depth_m) & (depth_m > 0.0)
    if not known.any():
        raise InputError("expected an RGB-D image with known depth, got none")
    inverse = np.zeros(depth_m.shape, np.float32)
    np.divide(1.0, depth_m, out=inverse, where=known)
    inverse = _spread(inverse, known)
    edges = np.linspace(inverse.min(), inverse.max(), layers + 1)
    number = np.clip(np.digitize(inverse, edges[1:-1]), 0, layers - 1)
    found = []
    for k in sorted(set(number.ravel().tolist()), reverse=True):
        here = number == k
        away_px = cv2.distanceTransform((~here).astype(np.uint8), cv2.DIST_L2, 5)
        mask = here | ((number > k) & (away_px < BEHIND_PX)) | (k == number.min())
        maps = (_spread(light, here).transpose(2, 0, 1).copy(), _spread(inverse, here), mask)
        colour_map, depth_map, mask_map = (torch.from_numpy(m.astype(np.float32)).to(device) for m in maps)
        found.append(Layer(colour_map, depth_map, mask_map, float(inverse[here].mean())))
    return found


def _spread(values: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return values (H, W) or (H, W, C), where unknown those of the nearest known pixel."""
    if known.all():
        return values
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros((int(labels.max()) + 1, *values.shape[2:]), values.dtype)
    table[labels[known]] = values[known]
    return table[labels]
