# SPDX-License-Identifier: Apache-2.0
"""What goes into an exported network beside the images, and what is made of what comes out, whoever runs it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.engine.manifest import ModelManifest
from dualfocus_ros.errors import EngineError, StackError
from dualfocus_ros.types import AlignedStack, FloatImage


def check_slices(stack: AlignedStack, manifest: ModelManifest) -> None:
    """Raise EngineError if a stack has fewer slices than a network takes."""
    if len(stack.images) < manifest.min_slices:
        raise EngineError(f"expected at least {manifest.min_slices} slices, got {len(stack.images)}")


def lens_inputs(stack: AlignedStack) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return focus positions (N,) in dioptres and blur gain (1,) in px/dpt; raise StackError if not usable."""
    focus_dpt = np.asarray(stack.focus_dpt, dtype=np.float32)
    if not (np.all(np.isfinite(focus_dpt)) and np.all(np.diff(focus_dpt) < 0.0) and focus_dpt[-1] >= 0.0):
        raise StackError(f"expected focus positions that fall from slice to slice, got {focus_dpt} dpt")
    blur_gain = np.array([stack.blur_gain_px_per_dpt], np.float32)
    if not (np.isfinite(blur_gain[0]) and blur_gain[0] > 0.0):
        raise StackError(f"expected a blur gain above 0 px/dpt, got {blur_gain[0]}: check the lens data")
    return focus_dpt, blur_gain


def to_metres(inverse_depth: FloatImage) -> FloatImage:
    """Return metres, +inf for 0 dioptres and below."""
    dpt = np.maximum(inverse_depth, np.float32(0.0))
    dpt += np.float32(0.0)  # turns -0 into 0, whose inverse is +inf
    with np.errstate(divide="ignore", over="ignore"):
        return np.divide(np.float32(1.0), dpt, out=dpt)


def to_8_bit(planes: FloatImage) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3) RGB of 8 bits from (3, H, W) in 0..1."""
    merged = cv2.merge([cv2.convertScaleAbs(plane, alpha=255.0) for plane in planes])
    return np.asarray(merged, dtype=np.uint8)
