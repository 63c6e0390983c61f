# SPDX-License-Identifier: Apache-2.0
"""What every engine does alike with the pixels that go in and come out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import MIN_SLICES, AlignedStack, FloatImage, Image


def bits_used(images: Sequence[Image]) -> int:
    """Return how many bits the images really use: 8, or for 16-bit containers what the brightest pixel tells.

    Cameras put 10 or 12 bits into 16; the lower 8 count as used always.
    """
    if images[0].dtype != np.uint16:
        return 8
    return max(8, math.ceil(math.log2(max(int(image.max()) for image in images) + 1)))


def colour_planes(stack: AlignedStack, buffer: FloatImage) -> FloatImage:
    """Return the slices as a network takes them: (N, 3, H, W) in 0..1; grey goes into all three planes.

    Where a slice does not see a pixel, the nearest slice in the stack that does stands in.

    Args:
        stack: any.
        buffer: reused for the result, if it is of the right shape.
    """
    height, width = stack.images[0].shape[:2]
    shape = (len(stack.images), 3, height, width)
    if buffer.shape != shape:
        buffer = np.empty(shape, np.float32)
    scale = np.float32(1.0 / (2 ** bits_used(stack.images) - 1))
    for planes, image in zip(buffer, stack.images, strict=True):
        channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        np.multiply(channels, scale, out=planes, dtype=np.float32)
    if stack.valid is not None:
        _fill_unseen(buffer, stack.valid)
    return buffer


def _fill_unseen(images: FloatImage, seen: npt.NDArray[np.bool_]) -> None:
    """Fill pixels (N, 3, H, W) that a slice does not see from the nearest slice that does, in place.

    Equal pixels in two slices carry no cue of where the focus is. Where no slice sees, all is left as it is.
    """
    count = len(images)
    for n in range(count):
        empty = ~seen[n]
        # By distance in the stack, the nearer focus first.
        for m in sorted((m for m in range(count) if m != n), key=lambda m: abs(m - n)):
            if not empty.any():
                break
            np.copyto(images[n], images[m], where=empty & seen[m])
            empty &= ~seen[m]


def hide_unseen(stack: AlignedStack, depth_m: FloatImage, confidence: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return depth (NaN) and confidence (0), each (H, W), without the pixels that fewer than 3 slices see."""
    if stack.valid is None:
        return depth_m, confidence
    unseen = stack.valid.sum(axis=0) < MIN_SLICES
    return np.where(unseen, np.float32(np.nan), depth_m), np.where(unseen, np.float32(0.0), confidence)
