# SPDX-License-Identifier: Apache-2.0
"""Pixel formats of V4L2: what a camera offers, which one is taken, and buffers turned into images."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.v4l2_node import LOST, Node, telling
from dualfocus_ros.errors import CameraError
from dualfocus_ros.image_encodings import ENCODINGS
from dualfocus_ros.types import Image

# V4L2's four characters -> encoding, in order of preference: colour before grey before mosaics of colour.
UNCOMPRESSED = {
    "RGB3": "rgb8",
    "BGR3": "bgr8",
    "YUYV": "yuv422_yuy2",
    "UYVY": "yuv422",
    "NV12": "nv12",
    "NV21": "nv21",
    "GREY": "mono8",
    "Y16": "mono16",
    "Y12": "mono16",
    "Y10": "mono16",
    "RGGB": "bayer_rggb8",
    "BA81": "bayer_bggr8",
    "GBRG": "bayer_gbrg8",
    "GRBG": "bayer_grbg8",
}
COMPRESSED = {"MJPG": "bgr8", "JPEG": "bgr8"}
PIXEL_FORMATS = {**UNCOMPRESSED, **COMPRESSED}
PIXEL_FORMAT_CHOICES = ("auto", *PIXEL_FORMATS)
# 29.97 Hz is 30 Hz.
SAME_RATE = 0.98
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Mode:
    """What the camera was set to: `row_bytes` from row to row; 0 Hz: the rate is not known."""

    pixel_format: str
    width: int
    height: int
    row_bytes: int
    rate_hz: float

    @property
    def encoding(self) -> str:
        """Name of sensor_msgs/image_encodings of the images."""
        return PIXEL_FORMATS[self.pixel_format]


@dataclass(frozen=True)
class _Sizes:
    """Sizes of one pixel format: discrete ones, or a (low, high, step) of width and of height."""

    discrete: tuple[tuple[int, int], ...] = ()
    steps: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None

    def has(self, width: int, height: int) -> bool:
        """Say whether the size can be had; where the driver lists none, that only trying shows."""
        if self.steps is not None:
            return all(
                low <= v <= high and (v - low) % max(1, step) == 0
                for v, (low, high, step) in zip((width, height), self.steps, strict=True)
            )
        return not self.discrete or (width, height) in self.discrete


def negotiate(node: Node, wanted: str, width: int, height: int, rate_hz: float) -> Mode:
    """Set pixel format, size and rate.

    Args:
        node: of a capture device, not streaming.
        wanted: one of `PIXEL_FORMAT_CHOICES`.
        width: of the image, pixels.
        height: of the image, pixels.
        rate_hz: the rate to ask for; the nearest that the camera has is taken.

    Raises:
        CameraError: if the camera does not have the format or the size; the message lists what it has.
        DeviceError: if another program uses the camera, or it is lost.
    """
    with telling(node.path, "read the pixel formats"):
        known = [name for name in _pixel_formats(node) if name in PIXEL_FORMATS]
        fits = [name for name in known if _sizes(node, name).has(width, height)]
        rates = {name: max(_rates(node, name, width, height), default=0.0) for name in fits}
    if wanted != "auto":
        fits = [name for name in fits if name == wanted]
    if not fits:
        raise _not_offered(node, wanted, width, height)
    chosen = _best(rates, fits, rate_hz)
    with telling(node.path, "set the pixel format"):
        pix = _set_format(node, chosen, width, height)
    if (pix.width, pix.height, _name(pix.pixelformat)) != (width, height, chosen):
        raise _not_offered(node, chosen, width, height)
    with telling(node.path, "set the frame rate"):
        got_hz = _set_rate(node, rate_hz)
    tight = 0 if chosen in COMPRESSED else width * ENCODINGS[PIXEL_FORMATS[chosen]].bytes_per_pixel
    return Mode(chosen, width, height, max(tight, int(pix.bytesperline)), got_hz or rates[chosen])


def image_of(data: Any, used: int, mode: Mode) -> Image | None:
    """Return a copy of the image in a buffer; None where it is cut short or damaged.

    Args:
        data: the mapped buffer.
        used: bytes of it that the camera filled.
        mode: what the camera was set to.

    Returns:
        Laid out as `image_encodings.check_layout` wants it for `mode.encoding`.
    """
    if mode.pixel_format in COMPRESSED:
        return _decoded(data, used, mode)
    layout = ENCODINGS[mode.encoding]
    rows, row = mode.height * layout.half_rows // 2, mode.width * layout.bytes_per_pixel
    if used < mode.row_bytes * (rows - 1) + row or used > len(data):
        return None
    view: npt.NDArray[np.uint8] = np.ndarray((rows, row), np.uint8, data, 0, (mode.row_bytes, 1))
    shape = (rows, mode.width) if layout.channels == 1 else (rows, mode.width, layout.channels)
    copied: Image = view.copy().view(layout.dtype).reshape(shape)
    return copied


def offered(node: Node) -> str:
    """Return what a camera offers, for people: pixel formats, their sizes and highest rates."""
    told = []
    for name in _pixel_formats(node):
        sizes = _sizes(node, name)
        if sizes.steps is not None:
            (w, w_max, _), (h, h_max, _) = sizes.steps
            told.append(f"{name} {w}x{h} to {w_max}x{h_max}")
            continue
        listed = []
        for w, h in sizes.discrete:
            fastest = max(_rates(node, name, w, h), default=0.0)
            listed.append(f"{w}x{h}" + (f" at {fastest:.3g} Hz" if fastest else ""))
        told.append(f"{name} {', '.join(listed)}".strip())
    return "; ".join(told) or "no pixel formats"


def _not_offered(node: Node, wanted: str, width: int, height: int) -> CameraError:
    with telling(node.path, "read the pixel formats"):
        has = offered(node)
    asked = "" if wanted == "auto" else f" in {wanted}"
    return CameraError(
        f"{node.path}: expected a camera that gives {width}x{height}{asked}, it has {has}: "
        "set width, height and pixel_format"
    )


def _best(rates: dict[str, float], fits: list[str], rate_hz: float) -> str:
    """Return the best uncompressed format that reaches the rate, else JPEG, else the fastest."""
    order = [name for name in PIXEL_FORMATS if name in fits]
    # A rate of 0 is one that the driver does not tell: take it to be reached.
    fast = [name for name in order if rates[name] == 0.0 or rates[name] >= SAME_RATE * rate_hz]
    return fast[0] if fast else max(order, key=lambda name: rates[name])


def _decoded(data: Any, used: int, mode: Mode) -> Image | None:
    # OpenCV fills up a picture that was cut off, and says so on stderr only: look for the end marker. Some cameras
    # pad after it. The copy of the compressed bytes is small.
    jpeg = bytes(memoryview(data)[:used]).rstrip(b"\0")
    end = jpeg.rfind(JPEG_END)
    if not jpeg.startswith(JPEG_START) or end < 0:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8, end + 2), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if image is None or image.shape != (mode.height, mode.width, 3):
        return None
    decoded: Image = image
    return decoded


def _listed(node: Node, request: str, make: Callable[[int], Any]) -> Iterator[Any]:
    """Yield what an enumerating ioctl tells, as long as it tells anything."""
    for index in range(256):
        try:
            yield node.call(request, make(index))
        except OSError as error:
            if error.errno in LOST or error.errno in (errno.EBUSY, errno.EIO):
                raise
            return


def _pixel_formats(node: Node) -> list[str]:
    raw = node.raw
    kind = int(raw.BufType.VIDEO_CAPTURE)
    found = _listed(node, "ENUM_FMT", lambda i: raw.v4l2_fmtdesc(index=i, type=kind))
    return [_name(f.pixelformat) for f in found]


def _sizes(node: Node, name: str) -> _Sizes:
    raw, code = node.raw, _code(name)
    discrete = []
    for told in _listed(node, "ENUM_FRAMESIZES", lambda i: raw.v4l2_frmsizeenum(index=i, pixel_format=code)):
        if told.type != raw.Frmsizetypes.DISCRETE:
            s = told.stepwise
            return _Sizes(
                steps=(
                    (s.min_width, s.max_width, s.step_width),
                    (s.min_height, s.max_height, s.step_height),
                )
            )
        discrete.append((int(told.discrete.width), int(told.discrete.height)))
    return _Sizes(tuple(discrete))


def _rates(node: Node, name: str, width: int, height: int) -> list[float]:
    """Return the rates at a size, Hz: all, or the highest of a range; empty where the driver tells none."""
    raw, code, found = node.raw, _code(name), []
    for told in _listed(
        node,
        "ENUM_FRAMEINTERVALS",
        lambda i: raw.v4l2_frmivalenum(index=i, pixel_format=code, width=width, height=height),
    ):
        discrete = told.type == raw.Frmivaltypes.DISCRETE
        shortest = told.discrete if discrete else told.stepwise.min
        if shortest.numerator:
            found.append(shortest.denominator / shortest.numerator)
        if not discrete:
            break
    return found


def _set_format(node: Node, name: str, width: int, height: int) -> Any:
    """Set the format; return the v4l2_pix_format that the driver made of it."""
    raw = node.raw
    fmt = raw.v4l2_format(type=int(raw.BufType.VIDEO_CAPTURE))
    pix = fmt.fmt.pix
    pix.width, pix.height, pix.pixelformat, pix.field = width, height, _code(name), int(raw.Field.ANY)
    return node.call("S_FMT", fmt).fmt.pix


def _set_rate(node: Node, rate_hz: float) -> float:
    """Ask for a rate; return the one that the camera took, Hz, 0 where its driver cannot tell."""
    raw = node.raw
    parm = raw.v4l2_streamparm(type=int(raw.BufType.VIDEO_CAPTURE))
    every = parm.parm.capture.timeperframe
    every.numerator, every.denominator = 1000, max(1, round(rate_hz * 1000))
    try:
        took = node.call("S_PARM", parm).parm.capture.timeperframe
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return 0.0
        raise
    return took.denominator / took.numerator if took.numerator and took.denominator else 0.0


def _code(name: str) -> int:
    return int.from_bytes(name.ljust(4).encode("ascii"), "little")


def _name(code: int) -> str:
    return int(code).to_bytes(4, "little").decode("ascii", "replace").rstrip()
