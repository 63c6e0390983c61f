# SPDX-License-Identifier: Apache-2.0
"""Arrays and plain values to and from ROS messages: pure functions, and the only place that fills messages.

What reads messages is in `decoding`, and can be had from here too.

Bulk data goes into messages as `array.array('B')`: the one type that every rclpy takes without a check of
each element. Messages are untyped here because their Python classes carry no annotations.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, JointState, PointCloud2, PointField
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from dualfocus_ros import decoding, image_encodings
from dualfocus_ros.decoding import (
    LENS_FIELDS,
    NS_PER_S,
    SWEEP_SLICES,
    depth_from_message,
    intrinsics_from_message,
    lens_state_from_message,
    stamp_to_ns,
)
from dualfocus_ros.errors import InputError
from dualfocus_ros.geometry import check_depth_size, fill_colours, fill_points
from dualfocus_ros.image_encodings import Converter
from dualfocus_ros.types import CameraFrame, FloatImage, Image, Intrinsics, LensState

__all__ = [
    "LENS_FIELDS",
    "SWEEP_SLICES",
    "Diagnostic",
    "PointCloudWriter",
    "camera_image_message",
    "camera_info_message",
    "confidence_message",
    "depth_from_message",
    "depth_message",
    "diagnostic_array_message",
    "image_from_message",
    "image_message",
    "intrinsics_from_message",
    "lens_message",
    "lens_state_from_message",
    "ns_to_stamp",
    "rgb_message",
    "stamp_to_ns",
]

MAX_DEPTH_MM = 65535
POINT_DTYPE = np.dtype("<f4")
POINT_BYTES = 16


def ns_to_stamp(stamp_ns: int) -> Any:
    """Return a builtin_interfaces/Time of `stamp_ns` nanoseconds.

    Raises:
        InputError: if it does not fit the message (seconds are an int32).
    """
    sec, nanosec = divmod(int(stamp_ns), NS_PER_S)
    if not -(2**31) <= sec < 2**31:
        raise InputError(f"expected a stamp in nanoseconds whose seconds fit 32 bits, got {stamp_ns}")
    return Time(sec=sec, nanosec=nanosec)


def image_from_message(message: Any) -> Image:
    """Return the pixels of a sensor_msgs/Image, as `decoding.image_from_message`, by cv_bridge where ROS has it.

    Row padding and byte order are always undone by this package, because cv_bridge misplaces rows whose padding is
    not a whole number of pixels.

    Raises:
        MessageError: if the encoding is unknown, or step or data length do not fit.
    """
    return decoding.image_from_message(message, _cv_bridge_converter())


def depth_message(depth_m: FloatImage, stamp_ns: int, frame_id: str, encoding: str = "32FC1") -> Any:
    """Return a depth image (REP 118).

    Args:
        depth_m: (H, W) metres along z; NaN no estimate, -inf too near, +inf too far (REP 117).
        stamp_ns: of the header.
        frame_id: of the header.
        encoding: `32FC1`, metres as they are, or `16UC1`, rounded to millimetres; there 0 says that nothing
            is known, and stands for all that is not finite, negative, or beyond 65.535 m.

    Raises:
        InputError: if the encoding is neither, or the depth not (H, W).
    """
    _check_plane(depth_m, "depth")
    if encoding == "32FC1":
        return _raw_image_message(np.asarray(depth_m, np.float32), encoding, stamp_ns, frame_id)
    if encoding != "16UC1":
        raise InputError(f"expected a depth encoding of 32FC1 (metres) or 16UC1 (millimetres), got {encoding!r}")
    depth_mm = np.asarray(depth_m, np.float32) * np.float32(1e3)
    np.rint(depth_mm, out=depth_mm)
    # Not (in range) rather than (out of range): NaN has to end here too.
    depth_mm[~((depth_mm >= 0) & (depth_mm <= MAX_DEPTH_MM))] = 0
    return _raw_image_message(depth_mm.astype(np.uint16), encoding, stamp_ns, frame_id)


def confidence_message(confidence: FloatImage, stamp_ns: int, frame_id: str) -> Any:
    """Return a 32FC1 image of confidences (H, W) in 0..1.

    Raises:
        InputError: if it is not (H, W).
    """
    _check_plane(confidence, "confidence")
    return _raw_image_message(np.asarray(confidence, np.float32), "32FC1", stamp_ns, frame_id)


def rgb_message(rgb: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
    """Return an rgb8 image of (H, W, 3) uint8 RGB.

    Raises:
        MessageError: if it is not that.
    """
    return image_message(rgb, "rgb8", stamp_ns, frame_id)


def image_message(image: Image, encoding: str, stamp_ns: int, frame_id: str) -> Any:
    """Return an image whose samples are already laid out as `encoding` says (see `check_layout`).

    Raises:
        MessageError: if the encoding is unknown or the array not laid out so.
    """
    image_encodings.check_layout(image, encoding)
    message = _raw_image_message(image, encoding, stamp_ns, frame_id)
    message.height = image.shape[0] * 2 // image_encodings.ENCODINGS[encoding].half_rows
    return message


def camera_image_message(frame: CameraFrame, frame_id: str) -> Any:
    """Return the image of a camera frame in the encoding in which the camera gave it.

    Raises:
        MessageError: if the frame's encoding does not fit its array.
    """
    return image_message(frame.image, frame.encoding, frame.stamp_ns, frame_id)


def camera_info_message(intrinsics: Intrinsics, stamp_ns: int, frame_id: str) -> Any:
    """Return the intrinsics as sensor_msgs/CameraInfo: R is the identity and P is K.

    Without distortion it says `plumb_bob` with five zeros, as consumers of CameraInfo expect.
    """
    k = intrinsics
    message = CameraInfo(header=_header(stamp_ns, frame_id), height=int(k.height), width=int(k.width))
    fx, fy, cx, cy = float(k.fx_px), float(k.fy_px), float(k.cx_px), float(k.cy_px)
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.distortion_model = k.distortion_model if k.distortion else "plumb_bob"
    message.d = [float(d) for d in k.distortion or (0.0,) * 5]
    return message


def lens_message(state: LensState, frame_id: str) -> Any:
    """Return a lens state as sensor_msgs/JointState: names as `LENS_FIELDS`, values in m, m, 1, m.

    The speed of the focus distance (m/s) is the velocity of `focus_distance`. The number of slices of the sweep,
    where it is told, comes last, as `SWEEP_SLICES`. All arrays are filled: some bag tools stumble over empty ones.
    """
    lens = state.lens
    values = dict(
        zip(
            LENS_FIELDS,
            (state.focus_distance_m, lens.focal_length_m, lens.f_number, lens.pixel_pitch_m),
            strict=True,
        )
    )
    if state.sweep_slices:
        values[SWEEP_SLICES] = state.sweep_slices
    return JointState(
        header=_header(state.stamp_ns, frame_id),
        name=list(values),
        position=[float(v) for v in values.values()],
        velocity=[float(state.focus_speed_mps)] + [0.0] * (len(values) - 1),
        effort=[0.0] * len(values),
    )


@dataclass(frozen=True)
class Diagnostic:
    """One line of /diagnostics as plain data; `level` is 0 ok, 1 warning, 2 error, 3 stale."""

    name: str
    level: int
    message: str
    values: Mapping[str, object] = field(default_factory=dict)
    hardware_id: str = ""


def diagnostic_array_message(diagnostics: Sequence[Diagnostic], stamp_ns: int) -> Any:
    """Return diagnostic_msgs/DiagnosticArray; the values are written with `str`."""
    status = [
        DiagnosticStatus(
            level=bytes([d.level]),
            name=d.name,
            message=d.message,
            hardware_id=d.hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in d.values.items()],
        )
        for d in diagnostics
    ]
    return DiagnosticArray(header=_header(stamp_ns, ""), status=status)


class PointCloudWriter:
    """Writes organised clouds into one message that it keeps: for a publisher that sends one per stack.

    The message returned is valid until the next call, which writes into the same buffer. Publishing
    serialises at once, so a node may reuse it. Not thread-safe.
    """

    def __init__(self) -> None:
        self._message = PointCloud2(
            fields=[
                PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                for i, name in enumerate(("x", "y", "z", "rgb"))
            ],
            is_bigendian=False,
            is_dense=False,
            point_step=POINT_BYTES,
        )
        self._points = np.zeros((0, 0, 4), dtype=POINT_DTYPE)

    def write(
        self,
        depth_m: FloatImage,
        rgb: npt.NDArray[np.uint8],
        intrinsics: Intrinsics,
        stamp_ns: int,
        frame_id: str,
    ) -> Any:
        """Return the depth image as sensor_msgs/PointCloud2 in the optical frame (REP 103).

        Args:
            depth_m: (H, W) metres along z; what is not finite becomes a point of NaN that keeps its colour.
            rgb: (H, W, 3) RGB.
            intrinsics: of both.
            stamp_ns: of the header.
            frame_id: of the header, an optical frame.

        Returns:
            Organised cloud of float32 x, y, z and rgb (0x00RRGGBB in the bits of a float32, as PCL and
            RViz read it), 16 bytes a point, little endian.

        Raises:
            InputError: if the sizes or types differ from these.
        """
        check_depth_size(depth_m, intrinsics)
        height, width = depth_m.shape
        if self._points.shape[:2] != (height, width):
            self._resize(height, width)
        fill_colours(self._points[..., 3].view("<u4"), rgb)
        fill_points(self._points[..., :3], depth_m, intrinsics)
        self._message.header = _header(stamp_ns, frame_id)
        return self._message

    def _resize(self, height: int, width: int) -> None:
        self._message.height, self._message.width = height, width
        self._message.row_step = width * POINT_BYTES
        self._message.data = array.array("B", bytes(height * width * POINT_BYTES))
        # rclpy keeps this array or a copy of it, depending on its field checks: look at what it has kept.
        self._points = np.frombuffer(self._message.data, dtype=POINT_DTYPE).reshape(height, width, 4)


def _header(stamp_ns: int, frame_id: str) -> Any:
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)


def _raw_image_message(image: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Any:
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message = ImageMessage(header=_header(stamp_ns, frame_id), encoding=encoding)
    message.height, message.width = image.shape[:2]
    message.step = image.nbytes // image.shape[0]
    message.is_bigendian = int(sys.byteorder == "big")
    message.data = data
    return message


def _check_plane(values: npt.NDArray[Any], what: str) -> None:
    if values.ndim != 2 or 0 in values.shape or not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"expected {what} as floating point of shape (H, W), got {values.dtype} of shape {values.shape}"
        )


@lru_cache(maxsize=1)
def _cv_bridge_converter() -> Converter | None:
    """Return cv_bridge's colour conversion, None where the real cv_bridge is not there.

    The real one has a compiled part. The package of that name on PyPI has not, decodes 16UC1 wrongly and
    knows no yuv. A cv_bridge compiled for another numpy fails to import in one of several ways.
    """
    try:
        from cv_bridge.boost.cv_bridge_boost import cvtColor2
    except (ImportError, AttributeError, SystemError, RuntimeError):
        return None
    convert: Converter = cvtColor2
    return convert
