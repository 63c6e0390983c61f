# SPDX-License-Identifier: Apache-2.0
"""Size and pixel format of a GenICam camera."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.genicam_nodes import Nodes
from dualfocus_ros.errors import CameraError
from dualfocus_ros.image_encodings import ENCODINGS
from dualfocus_ros.types import Image

AUTO = "auto"
# Names of the GenICam Pixel Format Naming Convention, and older ones (...Packed), to those of ROS. Formats of 10
# and 12 bits come one sample in two bytes, little endian.
PIXEL_ENCODINGS: dict[str, str] = {
    **{
        f"Bayer{p}8": f"bayer_{ros}8"
        for p, ros in (("RG", "rggb"), ("GR", "grbg"), ("GB", "gbrg"), ("BG", "bggr"))
    },
    "RGB8": "rgb8",
    "RGB8Packed": "rgb8",
    "BGR8": "bgr8",
    "BGR8Packed": "bgr8",
    "YCbCr422_8": "yuv422_yuy2",
    "YUV422_YUYV_Packed": "yuv422_yuy2",
    "Mono8": "mono8",
    **{
        f"Bayer{p}{bits}": f"bayer_{ros}16"
        for bits in (12, 10, 16)
        for p, ros in (("RG", "rggb"), ("GR", "grbg"), ("GB", "gbrg"), ("BG", "bggr"))
    },
    "Mono12": "mono16",
    "Mono10": "mono16",
    "Mono16": "mono16",
}
PIXEL_FORMAT_CHOICES: tuple[str, ...] = (AUTO, *PIXEL_ENCODINGS)


def set_pixel_format(nodes: Nodes, wanted: str, camera: str) -> str:
    """Set the pixel format; return its encoding.

    Args:
        nodes: of the camera, which does not grab.
        wanted: a name of the camera; auto: what it is set to where that can be used, else the first usable one.
        camera: what to call the camera in errors.

    Raises:
        CameraError: if the camera does not have it, or none that can be used.
    """
    current, offered = nodes.read("PixelFormat"), nodes.entries("PixelFormat")
    if wanted == AUTO:
        usable = [f for f in (current, *PIXEL_ENCODINGS) if f in PIXEL_ENCODINGS and f in offered]
        if not usable:
            raise CameraError(
                f"{camera}: expected a pixel format of {', '.join(PIXEL_ENCODINGS)}, it has {offered}"
            )
        wanted = usable[0]
    if wanted not in offered or not nodes.set("PixelFormat", wanted):
        raise CameraError(
            f"{camera}: expected pixel_format to be one that the camera has ({offered}), got {wanted}"
        )
    return PIXEL_ENCODINGS[wanted]


def set_size(nodes: Nodes, width: int, height: int, camera: str) -> None:
    """Set the image size: as much binning as leaves an image of that size, and of it the centre.

    Binning keeps the field of view, as far as the size divides the sensor's; the rest is cropped.

    Raises:
        CameraError: if the camera cannot give that size.
    """
    for name in ("CenterX", "CenterY"):  # older cameras centre by themselves, and refuse offsets then
        if nodes.read(name) is True:
            nodes.set(name, False)
    for offset in ("OffsetX", "OffsetY"):
        nodes.set_nearest(offset, 0.0)
    _bin(nodes, width, height)
    for name, offset, size in (("Width", "OffsetX", width), ("Height", "OffsetY", height)):
        _check_size(nodes, name, size, camera)
        nodes.set_nearest(name, size)
        if nodes.read(name) != size:
            raise CameraError(f"{camera}: the camera does not take {name.lower()} {size}")
        spare = nodes.limits(offset)
        if spare is not None:
            nodes.set_nearest(offset, 0.5 * spare.high)


def image_of(buffer: bytes | bytearray, width: int, height: int, padding: int, encoding: str) -> Image | None:
    """Return the pixels of a buffer, sharing its memory; None where it is too short.

    Args:
        buffer: of a grab result.
        width: of the image in pixels.
        height: of the image in pixels.
        padding: bytes at the end of each row.
        encoding: of the pixels.
    """
    layout = ENCODINGS[encoding]
    used = width * layout.bytes_per_pixel
    step = used + padding
    if len(buffer) < step * height:
        return None
    rows: npt.NDArray[np.uint8] = np.frombuffer(buffer, np.uint8, step * height).reshape(height, step)[:, :used]
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    image: Image = np.ascontiguousarray(rows).view(np.dtype(layout.dtype).newbyteorder("<")).reshape(shape)
    return image.astype(layout.dtype, copy=False)


def _bin(nodes: Nodes, width: int, height: int) -> None:
    names = ("BinningHorizontal", "BinningVertical")
    for name in names:
        nodes.set(name, 1)
    full = nodes.limits("Width"), nodes.limits("Height")
    bins = [nodes.limits(name) for name in names]
    if None in full or None in bins or not all(nodes.writable(name) for name in names):
        return
    most = min(
        *(int(f.high) // size for f, size in zip(full, (width, height), strict=True) if f),
        *(int(b.high) for b in bins if b),
    )
    # Not every number is offered.
    for factor in range(most, 1, -1):
        if all([nodes.set(name, factor) for name in names]):
            return
    for name in names:
        nodes.set(name, 1)


def _check_size(nodes: Nodes, name: str, size: int, camera: str) -> None:
    limits = nodes.limits(name)
    if limits is None:
        return
    nearest = limits.nearest(size)
    if nearest != size:
        raise CameraError(
            f"{camera}: expected {name.lower()} within {limits.low:g} .. {limits.high:g} px in steps of "
            f"{limits.step:g}, got {size}; {nearest:g} is near"
        )
