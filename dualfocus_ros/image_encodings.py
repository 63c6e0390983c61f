# SPDX-License-Identifier: Apache-2.0
"""The pixel layouts of sensor_msgs/Image, decoded to RGB, grey or depth arrays. Knows no ROS.

`8UC3` carries no colour order of its own; it is what cv_bridge writes for an OpenCV image without a
stated encoding, and RViz shows it as such: it is read as BGR.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import MessageError
from dualfocus_ros.types import FloatImage, Image

# (tight native array, its encoding, wanted encoding) -> converted array
Converter = Callable[[Image, str, str], Image]


@dataclass(frozen=True)
class PixelLayout:
    """How one encoding stores pixels.

    Attributes:
        channels: samples per pixel in a row.
        dtype: uint8, uint16 or (depth) float32.
        to_rgb: name of OpenCV's colour conversion to RGB; empty where the samples are RGB or grey already.
        half_rows: rows in the buffer per two image rows (3 for 4:2:0 chroma below the luma).
        even: the width (and for 4:2:0 the height) must be even.
        in_cv_bridge: cv_bridge of every supported distribution converts it.
    """

    channels: int
    dtype: npt.DTypeLike = np.uint8
    to_rgb: str = ""
    half_rows: int = 2
    even: bool = False
    in_cv_bridge: bool = True

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes that a pixel takes in a row."""
        return self.channels * np.dtype(self.dtype).itemsize


# OpenCV names a Bayer pattern by the 2 x 2 block that starts at the second row and column, ROS by that of
# the first: ROS' rggb is OpenCV's BayerBG.
_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}

ENCODINGS: dict[str, PixelLayout] = {
    "rgb8": PixelLayout(3),
    "rgb16": PixelLayout(3, np.uint16),
    "bgr8": PixelLayout(3, np.uint8, "COLOR_BGR2RGB"),
    "bgr16": PixelLayout(3, np.uint16, "COLOR_BGR2RGB"),
    "rgba8": PixelLayout(4, np.uint8, "COLOR_RGBA2RGB"),
    "bgra8": PixelLayout(4, np.uint8, "COLOR_BGRA2RGB"),
    "mono8": PixelLayout(1),
    "mono16": PixelLayout(1, np.uint16),
    "8UC1": PixelLayout(1),
    "8UC3": PixelLayout(3, np.uint8, "COLOR_BGR2RGB", in_cv_bridge=False),
    "16UC1": PixelLayout(1, np.uint16),
    **{f"bayer_{ros}8": PixelLayout(1, np.uint8, f"COLOR_Bayer{own}2RGB") for ros, own in _BAYER.items()},
    **{f"bayer_{ros}16": PixelLayout(1, np.uint16, f"COLOR_Bayer{own}2RGB") for ros, own in _BAYER.items()},
    "yuv422": PixelLayout(2, np.uint8, "COLOR_YUV2RGB_UYVY", even=True),
    "uyvy": PixelLayout(2, np.uint8, "COLOR_YUV2RGB_UYVY", even=True, in_cv_bridge=False),
    "yuv422_yuy2": PixelLayout(2, np.uint8, "COLOR_YUV2RGB_YUY2", even=True),
    "yuyv": PixelLayout(2, np.uint8, "COLOR_YUV2RGB_YUY2", even=True, in_cv_bridge=False),
    "nv12": PixelLayout(1, np.uint8, "COLOR_YUV2RGB_NV12", half_rows=3, even=True, in_cv_bridge=False),
    "nv21": PixelLayout(1, np.uint8, "COLOR_YUV2RGB_NV21", half_rows=3, even=True, in_cv_bridge=False),
}

DEPTH_ENCODINGS: dict[str, PixelLayout] = {"32FC1": PixelLayout(1, np.float32), "16UC1": ENCODINGS["16UC1"]}


def decode_image(
    data: object,
    height: int,
    width: int,
    encoding: str,
    is_bigendian: bool,
    step: int,
    converter: Converter | None = None,
) -> Image:
    """Return an image buffer as an RGB or grey array.

    Args:
        data: anything with the buffer protocol, `step` bytes a row.
        height: of the image in pixels.
        width: of the image in pixels.
        encoding: a key of `ENCODINGS`.
        is_bigendian: byte order of 16-bit samples.
        step: bytes from row to row; rows may be padded.
        converter: does the colour conversions that cv_bridge has; by default OpenCV does all.

    Returns:
        (H, W, 3) RGB or (H, W) grey, uint8 or uint16, contiguous. Where the buffer already holds exactly
        that (rgb8, mono8, 8UC1 and native 16-bit rgb or grey, without padding) it is a read-only view of
        `data`, else a copy.

    Raises:
        MessageError: if the encoding is unknown or the sizes contradict each other.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise MessageError(f"expected an image encoding of {', '.join(ENCODINGS)}; got {encoding!r}")
    raw = np.frombuffer(data, dtype=np.uint8)  # type: ignore[call-overload]
    _check_sizes(raw.size, height, width, encoding, layout, step)
    samples = _tight_native(raw, height, width, layout, is_bigendian, step)
    if not layout.to_rgb:
        samples.setflags(write=False)
        return samples
    if converter is not None and layout.in_cv_bridge:
        return converter(samples, encoding, "rgb16" if layout.dtype == np.uint16 else "rgb8")
    rgb: Image = cv2.cvtColor(samples, getattr(cv2, layout.to_rgb))
    return rgb


def decode_depth(
    data: object, height: int, width: int, encoding: str, is_bigendian: bool, step: int
) -> FloatImage:
    """Return a depth image buffer as metres (REP 118), arguments as `decode_image`.

    Returns:
        (H, W) float32 metres: 32FC1 as it is (a read-only view where `decode_image` would give one), 16UC1
        millimetres with 0 as NaN.

    Raises:
        MessageError: if the encoding is neither, or the sizes contradict each other.
    """
    layout = DEPTH_ENCODINGS.get(encoding)
    if layout is None:
        raise MessageError(f"expected a depth encoding of {', '.join(DEPTH_ENCODINGS)}; got {encoding!r}")
    raw = np.frombuffer(data, dtype=np.uint8)  # type: ignore[call-overload]
    _check_sizes(raw.size, height, width, encoding, layout, step)
    samples = _tight_native(raw, height, width, layout, is_bigendian, step)
    if encoding == "32FC1":
        samples.setflags(write=False)
        return samples
    depth_m: FloatImage = np.where(samples == 0, np.nan, samples * np.float32(1e-3)).astype(np.float32)
    return depth_m


def encoding_of(image: Image) -> str:
    """Return the encoding of a grey (H, W) or RGB (H, W, 3) image of uint8 or uint16."""
    deep = image.dtype == np.uint16
    if image.ndim == 2:
        return "mono16" if deep else "mono8"
    return "rgb16" if deep else "rgb8"


def check_layout(image: Image, encoding: str) -> None:
    """Raise MessageError unless the array is laid out as the encoding says.

    Args:
        image: (H, W) for one sample a pixel, else (H, W, C); 4:2:0 formats are (H * 3 / 2, W).
        encoding: a key of `ENCODINGS`.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise MessageError(f"expected an image encoding of {', '.join(ENCODINGS)}; got {encoding!r}")
    channels = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if channels != layout.channels or image.dtype != layout.dtype or 0 in image.shape:
        raise MessageError(
            f"expected {layout.channels} channels of {np.dtype(layout.dtype)} for encoding {encoding!r}, "
            f"got {image.dtype} of shape {image.shape}: correct the encoding of the camera driver"
        )


def luminance(image: Image, encoding: str) -> Image:
    """Return a view of the samples that carry brightness: without those of YUV encodings that are colour only.

    Args:
        image: (H, W[, C]) in the layout of the encoding; for 4:2:0 the rows of chroma lie below.
        encoding: a name of `ENCODINGS`; of any other, all samples are returned.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        return image
    if layout.half_rows > 2:
        return image[: image.shape[0] * 2 // layout.half_rows]
    luma = {"COLOR_YUV2RGB_YUY2": 0, "COLOR_YUV2RGB_UYVY": 1}.get(layout.to_rgb)
    return image if luma is None else image[..., luma]


def bits_used(images: Sequence[Image]) -> int:
    """Return how many bits the images really use: 8, or for 16-bit containers what the brightest pixel tells.

    Cameras put 10 or 12 bits into 16; the lower 8 count as used always.

    Args:
        images: at least one (H, W) or (H, W, 3), all uint8 or all uint16.
    """
    if images[0].dtype != np.uint16:
        return 8
    return max(8, math.ceil(math.log2(max(int(image.max()) for image in images) + 1)))


def _check_sizes(size: int, height: int, width: int, encoding: str, layout: PixelLayout, step: int) -> None:
    if height < 1 or width < 1:
        raise MessageError(f"expected an image of at least 1 x 1 pixels, got {width} x {height}")
    if layout.even and (width % 2 or (layout.half_rows != 2 and height % 2)):
        raise MessageError(f"expected an even size for encoding {encoding!r}, got {width} x {height}")
    needed = width * layout.bytes_per_pixel
    if step < needed:
        raise MessageError(
            f"expected a step of at least {needed} bytes ({width} pixels of {encoding!r} with "
            f"{layout.bytes_per_pixel} bytes each), got {step}: encoding, width or step is wrong"
        )
    rows = height * layout.half_rows // 2
    if size != step * rows:
        raise MessageError(
            f"expected {step * rows} bytes of image data ({rows} rows of step {step}), got {size}: "
            "the message was cut off, or its height, step or encoding is wrong"
        )


def _tight_native(
    raw: npt.NDArray[np.uint8], height: int, width: int, layout: PixelLayout, is_bigendian: bool, step: int
) -> npt.NDArray[Any]:
    """Return the samples in native byte order without padding: a view where the buffer is like that."""
    rows = height * layout.half_rows // 2
    used = width * layout.bytes_per_pixel
    tight = raw.reshape(rows, step)[:, :used]
    shape = (rows, width) if layout.channels == 1 else (rows, width, layout.channels)
    samples = np.ascontiguousarray(tight).view(layout.dtype).reshape(shape)
    if samples.dtype.itemsize > 1 and is_bigendian != (sys.byteorder == "big"):
        samples = samples.byteswap()
    return samples
