# SPDX-License-Identifier: Apache-2.0
"""When automatic exposure has found its value: the brightness of the pictures does not change any more."""

from __future__ import annotations

from collections import deque

from dualfocus_ros.types import Image

# Pictures in a row, and how much their brightness may differ: 1 % of it and half a grey level of 8 bits.
PICTURES, RELATIVE, LEVELS = 6, 0.01, 0.5
# Every so many pixels along both axes are looked at.
STRIDE = 8


class SteadyBrightness:
    """Takes picture after picture and says when the last few were equally bright."""

    def __init__(self) -> None:
        """Start with no picture."""
        self._means: deque[float] = deque(maxlen=PICTURES)

    def add(self, image: Image) -> bool:
        """Add a picture (H, W[, C]) of any encoding; say whether brightness is steady by now."""
        self._means.append(float(image[::STRIDE, ::STRIDE].mean()))
        if len(self._means) < PICTURES:
            return False
        level = LEVELS * (257.0 if image.dtype.itemsize == 2 else 1.0)
        return max(self._means) - min(self._means) <= RELATIVE * max(self._means) + level
