# SPDX-License-Identifier: Apache-2.0
"""Frames of a device as the grey pictures that calibration measures in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros import image_encodings
from dualfocus_ros.camera.device import DeviceFrame
from dualfocus_ros.types import Image


def grey_picture(frame: DeviceFrame) -> Image:
    """Return the picture of a frame as grey (H, W), uint8 or uint16.

    Raises:
        MessageError: if it is not laid out as its encoding says.
    """
    image: Any = np.ascontiguousarray(frame.image)
    image_encodings.check_layout(image, frame.encoding)
    half_rows = image_encodings.ENCODINGS[frame.encoding].half_rows
    height, width = image.shape[0] * 2 // half_rows, image.shape[1]
    decoded = image_encodings.decode_image(image.data, height, width, frame.encoding, False, image.strides[0])
    return cv2.cvtColor(decoded, cv2.COLOR_RGB2GRAY) if decoded.ndim == 3 else decoded


def eight_bits(grey: Image) -> npt.NDArray[np.uint8]:
    """Return a grey picture (H, W) as uint8."""
    return np.asarray(grey if grey.dtype == np.uint8 else grey >> 8, np.uint8)
