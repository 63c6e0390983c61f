# SPDX-License-Identifier: Apache-2.0
"""What every engine does alike with the pixels that go in and come out."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.image_encodings import bits_used
from dualfocus_ros.types import MIN_SLICES, AlignedStack, FloatImage, Image

MOST_ROWS = 32767  # of an image that OpenCV remaps


def colour_planes(stack: AlignedStack, buffer: FloatImage) -> FloatImage:
    """Return the slices as a network takes them: (N, 3, H, W) in 0..1; grey goes into all three planes.

    It is of the images `without_gaps`.

    Args:
        stack: any.
        buffer: reused for the result, if it is of the right shape.
    """
    height, width = stack.images[0].shape[:2]
    shape = (len(stack.images), 3, height, width)
    if buffer.shape != shape:
        buffer = np.empty(shape, np.float32)
    images = without_gaps(stack)
    bits = bits_used(images)
    for planes, image in zip(buffer, images, strict=True):
        fill_planes(image, bits, planes)
    return buffer


def fill_planes(image: Image, bits: int, planes: FloatImage) -> None:
    """Write an image (H, W, 3) or (H, W) that uses so many bits into planes (3, H', W'), 0..1.

    H' and W' may be larger: the last row and column are repeated.
    """
    height, width = image.shape[:2]
    channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    np.multiply(channels, np.float32(1.0 / (2**bits - 1)), out=planes[:, :height, :width], dtype=np.float32)
    repeat_border(planes, height, width)


def repeat_border(planes: FloatImage, height: int, width: int) -> None:
    """Fill planes (C, H', W') beyond a height and width with the row and column before, in place."""
    planes[:, :height, width:] = planes[:, :height, width - 1 : width]
    planes[:, height:] = planes[:, height - 1 : height]


def all_in_focus(stack: AlignedStack, inverse_depth: FloatImage) -> npt.NDArray[np.uint8]:
    """Return the sharp composite (H, W, 3), 8 bits: of each pixel the two slices around its depth, in dioptres.

    Args:
        stack: any.
        inverse_depth: (H, W) dioptres; beyond the focus range the end slice is taken.
    """
    focus_dpt = stack.focus_dpt.astype(np.float32)
    place = np.zeros_like(inverse_depth)  # index of the slice
    part = np.empty_like(inverse_depth)
    for near, far in zip(focus_dpt, focus_dpt[1:], strict=False):
        np.subtract(near, inverse_depth, out=part)
        part *= np.float32(1.0) / max(near - far, np.float32(1e-6))
        np.clip(part, 0.0, 1.0, out=part)
        place += part
    nearer = np.clip(np.floor(place), 0.0, len(focus_dpt) - 2, out=part)
    place -= nearer  # what is left is the share of the farther one
    height, width = inverse_depth.shape
    count, scale = len(stack.images), 255.0 / (2 ** bits_used(stack.images) - 1)
    sharp = np.empty((height, width, 3), np.uint8)
    columns = np.broadcast_to(np.arange(width, dtype=np.float32), (height, width))
    # Rows of all slices in turn: row y N + i is row y of slice i.
    rows = max(1, MOST_ROWS // count)
    for top in range(0, height, rows):
        part_of = slice(top, min(top + rows, height))
        turns = np.stack([image[part_of] for image in stack.images], axis=1)
        lines = turns.reshape(-1, *turns.shape[2:])
        down = np.arange(lines.shape[0] // count, dtype=np.float32)[:, None] * count + nearer[part_of]
        near, far = (cv2.remap(lines, columns[part_of], down + k, cv2.INTER_NEAREST) for k in (0, 1))
        if lines.dtype != np.uint8:
            near, far = near.astype(np.float32), far.astype(np.float32)
        found = cv2.blendLinear(near, far, 1.0 - place[part_of], place[part_of])
        if found.dtype != np.uint8:
            found = cv2.convertScaleAbs(found, alpha=scale)
        sharp[part_of] = found[..., None] if found.ndim == 2 else found
    return sharp


def without_gaps(stack: AlignedStack) -> tuple[Image, ...]:
    """Return the images; what a slice does not see is taken from the nearest slice in the stack that does.

    Equal pixels in two slices carry no cue of where the focus is. Where no slice sees, all is left as it is.
    """
    if stack.valid is None:
        return stack.images
    seen, count = stack.valid, len(stack.images)
    images = [image if valid.all() else image.copy() for image, valid in zip(stack.images, seen, strict=True)]
    for n in range(count):
        empty = ~seen[n]
        # By distance in the stack, the nearer focus first.
        for m in sorted((m for m in range(count) if m != n), key=lambda m: abs(m - n)):
            if not empty.any():
                break
            taken = empty & seen[m]
            images[n][taken] = images[m][taken]
            empty &= ~seen[m]
    return tuple(images)


def hide_unseen(stack: AlignedStack, depth_m: FloatImage, confidence: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return depth (NaN) and confidence (0), each (H, W), without the pixels that fewer than 3 slices see."""
    if stack.valid is None:
        return depth_m, confidence
    unseen = stack.valid.sum(axis=0) < MIN_SLICES
    return np.where(unseen, np.float32(np.nan), depth_m), np.where(unseen, np.float32(0.0), confidence)
