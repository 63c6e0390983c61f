# SPDX-License-Identifier: Apache-2.0
"""What ROS messages hold, as arrays and plain values: pure functions that know the fields of messages, but no ROS.

So they read the messages that rclpy delivers and those of a recording alike, where there is no ROS, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dualfocus_ros import image_encodings
from dualfocus_ros.errors import DualFocusError, InputError, MessageError
from dualfocus_ros.geometry import FISHEYE_COUNTS, check_distortion
from dualfocus_ros.image_encodings import Converter
from dualfocus_ros.types import FloatImage, Image, Intrinsics, LensModel, LensState

LENS_FIELDS = ("focus_distance", "focal_length", "f_number", "pixel_pitch")
SWEEP_SLICES = "sweep_slices"  # may come besides them
MOST_SWEEP_SLICES = 10_000
NS_PER_S = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def image_from_message(message: Any, converter: Converter | None = None) -> Image:
    """Return the pixels of a sensor_msgs/Image.

    Args:
        message: its data is bytes, an array or a NumPy array of uint8.
        converter: cv_bridge's conversion of colours; None: OpenCV's, which is the code behind it.

    Returns:
        (H, W, 3) RGB or (H, W) grey, uint8 or uint16. rgb8 and mono8 (also 8UC1, and native 16-bit rgb or
        grey) without padding come as a read-only view on the message's own buffer, without a copy: the array keeps
        that buffer alive.

    Raises:
        MessageError: if the encoding is unknown, or step or data length do not fit.
    """
    return image_encodings.decode_image(*_buffer(message), converter)


def depth_from_message(message: Any) -> FloatImage:
    """Return a depth image message (32FC1 metres or 16UC1 millimetres) as (H, W) float32 metres.

    Raises:
        MessageError: as `image_encodings.decode_depth`.
    """
    return image_encodings.decode_depth(*_buffer(message))


def intrinsics_from_message(message: Any) -> Intrinsics:
    """Return the intrinsics of the image that comes with a sensor_msgs/CameraInfo.

    K and D describe the unrectified image at full resolution; region of interest and binning are applied
    in that order. Binning is taken as averaging b x b pixels, so with integer pixel centres
    cx' = (cx - x_offset + 0.5) / b - 0.5. Polynomial distortion of zeros only is returned as none.

    Raises:
        MessageError: if the camera is not calibrated, or the message contradicts itself.
    """
    k = np.asarray(message.k, dtype=np.float64)
    if not k.any():
        raise MessageError(
            "expected a calibrated camera, got a camera_info whose K is all zero: run camera_calibration, or "
            "give the camera driver its calibration file (camera_info_url)"
        )
    roi = message.roi
    full = roi.width == 0 and roi.height == 0
    width, height = (message.width, message.height) if full else (roi.width, roi.height)
    inside = roi.x_offset + width <= message.width and roi.y_offset + height <= message.height
    if width < 1 or height < 1 or not inside:
        raise MessageError(
            f"expected an image size, and a region of interest inside of it, in camera_info; got "
            f"{message.width} x {message.height} and {width} x {height} at ({roi.x_offset}, {roi.y_offset})"
        )
    # A region without a size but with an offset is a driver's leftover: the whole image has no offset.
    x_offset, y_offset = (0, 0) if full else (roi.x_offset, roi.y_offset)
    bx, by = max(message.binning_x, 1), max(message.binning_y, 1)
    distortion = tuple(float(d) for d in message.d)
    plain = message.distortion_model not in FISHEYE_COUNTS and not any(distortion)
    try:
        intrinsics = Intrinsics(
            width // bx,
            height // by,
            float(k[0]) / bx,
            float(k[4]) / by,
            (float(k[2]) - x_offset + 0.5) / bx - 0.5,
            (float(k[5]) - y_offset + 0.5) / by - 0.5,
            "" if plain else message.distortion_model,
            () if plain else distortion,
        )
        check_distortion(intrinsics)
    except InputError as error:
        raise MessageError(f"camera_info is not usable: {error}") from error
    return intrinsics


def lens_state_from_message(message: Any) -> LensState:
    """Return the lens state in a sensor_msgs/JointState as `lens_message` fills it.

    The names may come in any order and among others. Without velocities the focus stands still; without
    `SWEEP_SLICES` it is not told of how many slices the sweep is.

    Raises:
        MessageError: if a name is missing or double, an array has the wrong length, or a value is not physical.
    """
    names, position, velocity = list(message.name), message.position, message.velocity
    if len(position) != len(names):
        raise MessageError(f"lens: expected one position for each of the {len(names)} names, got {len(position)}")
    if len(velocity) not in (0, len(names)):
        raise MessageError(
            f"lens: expected no velocity or one for each of the {len(names)} names, got {len(velocity)}"
        )
    if any(names.count(name) != 1 for name in LENS_FIELDS):
        raise MessageError(f"lens: expected the names {', '.join(LENS_FIELDS)} once each, got {names}")
    focus, focal_length, f_number, pitch = (float(position[names.index(name)]) for name in LENS_FIELDS)
    if not focus > 0.0:
        raise MessageError(f"lens: expected focus_distance in metres above 0 (inf is legal), got {focus}")
    speed = float(velocity[names.index("focus_distance")]) if len(velocity) else 0.0
    try:
        lens = LensModel(focal_length, f_number, pitch)
        return LensState(stamp_to_ns(message.header.stamp), focus, lens, speed, _sweep_slices(names, position))
    except DualFocusError as error:
        raise MessageError(f"lens: {error}") from error


def _sweep_slices(names: list[str], position: Sequence[float]) -> int:
    """Return the number of slices of the sweep; 0: not told."""
    if SWEEP_SLICES not in names:
        return 0
    value = float(position[names.index(SWEEP_SLICES)])
    if names.count(SWEEP_SLICES) != 1 or not 0.0 <= value <= MOST_SWEEP_SLICES or value != int(value):
        raise InputError(
            f"expected {SWEEP_SLICES} once, a whole number of 0 to {MOST_SWEEP_SLICES}, got {value:g} of {names}"
        )
    return int(value)


def _buffer(message: Any) -> tuple[Any, int, int, str, bool, int]:
    """Return what `image_encodings` needs of a sensor_msgs/Image, in its order."""
    return (
        message.data,
        message.height,
        message.width,
        message.encoding,
        bool(message.is_bigendian),
        message.step,
    )
