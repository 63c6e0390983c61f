# SPDX-License-Identifier: Apache-2.0
"""What the messages hold, field by field; image decoding is in test_image_encodings.py."""

from __future__ import annotations

import array
import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, JointState, PointCloud2

from dualfocus_ros import messages
from dualfocus_ros.errors import InputError, MessageError
from dualfocus_ros.messages import Diagnostic, PointCloudWriter
from dualfocus_ros.types import CameraFrame, Intrinsics, LensModel, LensState

STAMP_NS = 1_700_000_123_987_654_321
FRAME = "camera_optical_frame"
HEIGHT, WIDTH = 6, 8
PINHOLE = Intrinsics(WIDTH, HEIGHT, 7.0, 7.5, 3.25, 2.5)
LENS = LensModel(0.004, 2.0, 1.4e-6)


def assert_header(message: object) -> None:
    header = message.header  # type: ignore[attr-defined]
    assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (1_700_000_123, 987_654_321, FRAME)


def depth_image() -> np.ndarray:
    depth = np.random.default_rng(3).uniform(0.3, 4.0, (HEIGHT, WIDTH)).astype(np.float32)
    depth[0, 0], depth[1, 2], depth[2, 3] = np.nan, np.inf, -np.inf
    return depth


def rgb_image() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_000_000_000, STAMP_NS, np.int64(STAMP_NS)])
def test_stamps_survive_the_round_trip(stamp_ns: int) -> None:
    stamp = messages.ns_to_stamp(stamp_ns)
    assert (stamp.sec, stamp.nanosec) == (int(stamp_ns) // 10**9, int(stamp_ns) % 10**9)
    assert messages.stamp_to_ns(stamp) == stamp_ns
    assert messages.stamp_to_ns(Time(sec=3, nanosec=7)) == 3_000_000_007


def test_a_stamp_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="32 bits"):
        messages.ns_to_stamp(2**31 * 10**9)


def test_depth_in_metres_keeps_every_bit() -> None:
    depth = depth_image()
    message = messages.depth_message(depth, STAMP_NS, FRAME)
    assert_header(message)
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", HEIGHT, WIDTH, WIDTH * 4)
    assert message.is_bigendian == (sys.byteorder == "big")
    assert isinstance(message.data, array.array)
    assert message.data.tobytes() == depth.tobytes()
    np.testing.assert_array_equal(messages.depth_from_message(message), depth)


def test_depth_in_millimetres_is_rounded_and_0_where_unknown() -> None:
    row = [1.2344, 1.2346, np.nan, np.inf, -np.inf, -1.0, 65.535, 65.536, 0.0, 1e30]
    depth = np.array([row], np.float32)
    before = depth.copy()
    message = messages.depth_message(depth, STAMP_NS, FRAME, "16UC1")
    assert (message.encoding, message.step) == ("16UC1", 20)
    assert struct.unpack("=10H", message.data.tobytes()) == (1234, 1235, 0, 0, 0, 0, 65535, 0, 0, 0)
    np.testing.assert_array_equal(depth, before)
    metres = messages.depth_from_message(message)
    np.testing.assert_allclose(metres[0, :3], [1.234, 1.235, np.nan], rtol=1e-6)


def test_depth_of_a_strided_or_double_array() -> None:
    wide = np.random.default_rng(0).uniform(1, 2, (4, 10))
    message = messages.depth_message(wide[:, ::2], STAMP_NS, FRAME)
    assert message.data.tobytes() == np.ascontiguousarray(wide[:, ::2], np.float32).tobytes()


@pytest.mark.parametrize("depth", [np.ones((2, 2, 1), np.float32), np.ones((2, 2), np.uint16), np.ones((0, 2))])
def test_depth_that_is_no_depth_is_refused(depth: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected depth as floating point"):
        messages.depth_message(depth, STAMP_NS, FRAME)
    with pytest.raises(InputError, match="expected confidence as floating point"):
        messages.confidence_message(depth, STAMP_NS, FRAME)


def test_an_unknown_depth_encoding_is_refused() -> None:
    with pytest.raises(InputError, match="32FC1 .*16UC1 .*got '64FC1'"):
        messages.depth_message(depth_image(), STAMP_NS, FRAME, "64FC1")


def test_confidence_and_composite() -> None:
    confidence = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    message = messages.confidence_message(confidence, STAMP_NS, FRAME)
    assert_header(message)
    assert (message.encoding, message.data.tobytes()) == ("32FC1", confidence.tobytes())
    rgb = rgb_image()
    message = messages.rgb_message(rgb, STAMP_NS, FRAME)
    assert (message.encoding, message.step, message.data.tobytes()) == ("rgb8", WIDTH * 3, rgb.tobytes())
    with pytest.raises(MessageError, match="3 channels of uint8"):
        messages.rgb_message(rgb[..., 0], STAMP_NS, FRAME)


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype", "step"),
    [
        ("rgb8", (6, 8, 3), np.uint8, 24),
        ("bgr8", (6, 8, 3), np.uint8, 24),
        ("mono16", (6, 8), np.uint16, 16),
        ("bayer_grbg8", (6, 8), np.uint8, 8),
        ("yuv422_yuy2", (6, 8, 2), np.uint8, 16),
        ("nv12", (9, 8), np.uint8, 8),
    ],
)
def test_camera_images_go_out_as_they_are(encoding: str, shape: tuple[int, ...], dtype: type, step: int) -> None:
    image = np.random.default_rng(5).integers(0, 255, shape, dtype=dtype)
    frame = CameraFrame(image, encoding, STAMP_NS, LensState(STAMP_NS, 1.0, LENS), PINHOLE)
    message = messages.camera_image_message(frame, FRAME)
    assert_header(message)
    assert (message.encoding, message.height, message.width, message.step) == (encoding, 6, 8, step)
    assert message.data.tobytes() == image.tobytes()
    assert messages.image_from_message(message).shape[:2] == (6, 8)


def test_camera_info_of_a_pinhole() -> None:
    message = messages.camera_info_message(PINHOLE, STAMP_NS, FRAME)
    assert_header(message)
    assert (message.width, message.height) == (WIDTH, HEIGHT)
    assert list(message.k) == [7.0, 0, 3.25, 0, 7.5, 2.5, 0, 0, 1]
    assert list(message.p) == [7.0, 0, 3.25, 0, 0, 7.5, 2.5, 0, 0, 0, 1, 0]
    assert list(message.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (message.distortion_model, list(message.d)) == ("plumb_bob", [0.0] * 5)
    assert messages.intrinsics_from_message(message) == PINHOLE


@pytest.mark.parametrize(
    ("model", "d"),
    [("rational_polynomial", (0.1,) * 8), ("equidistant", (0.0,) * 4), ("plumb_bob", (0.1, 0, 0, 0, 0))],
)
def test_distortion_survives_the_round_trip(model: str, d: tuple[float, ...]) -> None:
    k = Intrinsics(WIDTH, HEIGHT, 7.0, 7.5, 3.25, 2.5, model, d)
    message = messages.camera_info_message(k, STAMP_NS, FRAME)
    assert (message.distortion_model, tuple(message.d)) == (model, d)
    assert messages.intrinsics_from_message(message) == k


def calibrated() -> CameraInfo:
    return messages.camera_info_message(Intrinsics(640, 480, 500.0, 510.0, 320.0, 240.0), 0, FRAME)


def test_region_of_interest_and_binning_are_applied() -> None:
    message = calibrated()
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 50, 400, 300
    message.binning_x, message.binning_y = 2, 4
    k = messages.intrinsics_from_message(message)
    assert (k.width, k.height, k.fx_px, k.fy_px) == (200, 75, 250.0, 127.5)
    # The principal ray hits full pixel 320.0; columns 320 and 321 are bin 110, whose centre is 320.5.
    assert k.cx_px == pytest.approx(110.0 - 0.5 / 2)
    # Rows 238 to 241 are bin 47, whose centre is 239.5.
    assert k.cy_px == pytest.approx(47.0 + 0.5 / 4)


@pytest.mark.parametrize("binning", [0, 1])
def test_default_binning_and_full_region_change_nothing(binning: int) -> None:
    message = calibrated()
    message.binning_x = message.binning_y = binning
    message.roi.width, message.roi.height = (640, 480) if binning else (0, 0)
    assert messages.intrinsics_from_message(message) == Intrinsics(640, 480, 500.0, 510.0, 320.0, 240.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": [0.0] * 9}, "K is all zero: run camera_calibration"),
        ({"width": 0}, "expected an image size"),
        ({"height": 0}, "expected an image size"),
        ({"binning_x": 1000}, "not usable: expected a positive image size"),
        ({"k": [math.nan, 0, 1, 0, 1, 1, 0, 0, 1.0]}, "not usable: expected finite intrinsics"),
        ({"k": [-5.0, 0, 1, 0, 1, 1, 0, 0, 1.0]}, "fx, fy of 0.01 to 1e.07 pixels"),
    ],
)
def test_unusable_camera_info_is_refused(change: dict[str, object], says: str) -> None:
    message = calibrated()
    for name, value in change.items():
        setattr(message, name, [float(v) for v in value] if isinstance(value, list) else value)
    with pytest.raises(MessageError, match=says):
        messages.intrinsics_from_message(message)


def test_a_region_outside_of_the_image_is_refused() -> None:
    message = calibrated()
    message.roi.x_offset, message.roi.width, message.roi.height = 600, 100, 100
    with pytest.raises(MessageError, match=r"640 x 480 and 100 x 100 at \(600, 0\)"):
        messages.intrinsics_from_message(message)


@pytest.mark.parametrize(("focus_m", "speed_mps"), [(0.5, 0.0), (math.inf, 0.0), (2.0, -0.75)])
def test_lens_state_survives_the_round_trip(focus_m: float, speed_mps: float) -> None:
    state = LensState(STAMP_NS, focus_m, LENS, speed_mps)
    message = messages.lens_message(state, FRAME)
    assert_header(message)
    assert list(message.name) == ["focus_distance", "focal_length", "f_number", "pixel_pitch"]
    assert list(message.position) == [focus_m, 0.004, 2.0, 1.4e-6]
    assert list(message.velocity) == [speed_mps, 0.0, 0.0, 0.0]
    assert list(message.effort) == [0.0] * 4
    assert messages.lens_state_from_message(message) == state


def test_the_number_of_slices_of_a_sweep_survives_the_round_trip() -> None:
    state = LensState(STAMP_NS, 0.5, LENS, 0.25, sweep_slices=7)
    message = messages.lens_message(state, FRAME)
    assert list(message.name)[-1] == "sweep_slices" and list(message.position)[-1] == 7.0
    assert len(message.name) == len(message.position) == len(message.velocity) == len(message.effort) == 5
    assert list(message.velocity) == [0.25, 0.0, 0.0, 0.0, 0.0]
    assert messages.lens_state_from_message(message) == state
    message.velocity = []
    assert messages.lens_state_from_message(message).sweep_slices == 7


@pytest.mark.parametrize("value", [-1.0, 3.5, 2.0, math.nan, math.inf, 1e6])
def test_an_impossible_number_of_slices_is_refused(value: float) -> None:
    message = messages.lens_message(LensState(STAMP_NS, 0.5, LENS, 0.0, sweep_slices=7), FRAME)
    message.position[-1] = value
    with pytest.raises(MessageError, match="lens: expected .*(sweep_slices|focus positions)"):
        messages.lens_state_from_message(message)


def test_a_number_of_slices_that_comes_twice_is_refused() -> None:
    with pytest.raises(MessageError, match="lens: expected sweep_slices once"):
        messages.lens_state_from_message(
            lens_joints(
                name=["sweep_slices", "pixel_pitch", "focus_distance", "f_number", "focal_length", "sweep_slices"],
                position=[3.0, 1.4e-6, 0.8, 2.0, 0.004, 3.0],
                velocity=[],
            )
        )


def lens_joints(**change: object) -> JointState:
    values = {
        "name": ["zoom", "pixel_pitch", "focus_distance", "f_number", "focal_length"],
        "position": [3.0, 1.4e-6, 0.8, 2.0, 0.004],
        "velocity": [9.0, 0.0, 0.25, 0.0, 0.0],
        **change,
    }
    return JointState(**values)


def test_lens_names_come_in_any_order_and_among_others() -> None:
    assert messages.lens_state_from_message(lens_joints()) == LensState(0, 0.8, LENS, 0.25)
    assert messages.lens_state_from_message(lens_joints(velocity=[])) == LensState(0, 0.8, LENS, 0.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ["zoom", "pixel_pitch", "focus", "f_number", "focal_length"]}, "names focus_distance.*got"),
        ({"name": ["f_number", "pixel_pitch", "focus_distance", "f_number", "focal_length"]}, "once each"),
        ({"name": [], "position": [], "velocity": []}, "names focus_distance"),
        ({"position": [3.0, 1.4e-6, 0.8, 2.0]}, "one position for each of the 5 names, got 4"),
        ({"velocity": [0.0]}, "no velocity or one for each of the 5 names, got 1"),
        ({"position": [3.0, 1.4e-6, math.nan, 2.0, 0.004]}, "focus_distance in metres above 0.*got nan"),
        ({"position": [3.0, 1.4e-6, -0.8, 2.0, 0.004]}, "focus_distance in metres above 0.*got -0.8"),
        ({"position": [3.0, 1.4e-6, 0.003, 2.0, 0.004]}, "focus distance in metres beyond the focal length"),
        ({"position": [3.0, 0.0, 0.8, 2.0, 0.004]}, "pixel_pitch_m"),
        ({"position": [3.0, 1.4e-6, 0.8, math.nan, 0.004]}, "f_number"),
        ({"position": [3.0, 1.4e-6, 0.8, 2.0, -0.004]}, "focal_length_m"),
    ],
)
def test_unusable_lens_messages_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(MessageError, match=f"lens: .*{says}"):
        messages.lens_state_from_message(lens_joints(**change))


def read_points(cloud: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Return xyz (H, W, 3) and packed colours (H, W), point by point, by what the message says of itself."""
    order = ">" if cloud.is_bigendian else "<"
    offsets = {f.name: f.offset for f in cloud.fields if f.datatype == 7 and f.count == 1}
    xyz, colour = np.empty((cloud.height, cloud.width, 3)), np.empty((cloud.height, cloud.width), int)
    for row, column in np.ndindex(cloud.height, cloud.width):
        start = row * cloud.row_step + column * cloud.point_step
        xyz[row, column] = [struct.unpack_from(order + "f", cloud.data, start + offsets[n])[0] for n in "xyz"]
        colour[row, column] = struct.unpack_from(order + "I", cloud.data, start + offsets["rgb"])[0]
    return xyz, colour


def assert_is_cloud_of(cloud: PointCloud2, depth: np.ndarray, rgb: np.ndarray) -> None:
    xyz, colour = read_points(cloud)
    for row, column in np.ndindex(depth.shape):
        z = float(depth[row, column])
        expected = ((column - 3.25) / 7.0 * z, (row - 2.5) / 7.5 * z, z)
        if not math.isfinite(z):
            expected = (math.nan,) * 3
        assert xyz[row, column] == pytest.approx(expected, rel=1e-5, nan_ok=True)
        r, g, b = (int(c) for c in rgb[row, column])
        assert colour[row, column] == r << 16 | g << 8 | b


def test_cloud_is_organised_back_projected_and_coloured() -> None:
    cloud = messages.PointCloudWriter().write(depth_image(), rgb_image(), PINHOLE, STAMP_NS, FRAME)
    assert_header(cloud)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (HEIGHT, WIDTH, 16, WIDTH * 16)
    assert len(cloud.data) == HEIGHT * WIDTH * 16
    assert isinstance(cloud.data, array.array)
    assert cloud.is_dense is False
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
    ]
    assert_is_cloud_of(cloud, depth_image(), rgb_image())


def test_cloud_reads_back_with_the_tools_of_ros() -> None:
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2")
    cloud = messages.PointCloudWriter().write(depth_image(), rgb_image(), PINHOLE, STAMP_NS, FRAME)
    points = point_cloud2.read_points(cloud, skip_nans=False)
    xyz, colour = read_points(cloud)
    for i, name in enumerate("xyz"):
        np.testing.assert_array_equal(points[name].reshape(HEIGHT, WIDTH), xyz[..., i].astype(np.float32))
    np.testing.assert_array_equal(points["rgb"].reshape(HEIGHT, WIDTH).view(np.uint32), colour)


def test_writer_reuses_its_message_and_leaves_nothing_behind() -> None:
    writer = PointCloudWriter()
    first = writer.write(np.full((HEIGHT, WIDTH), 9.0, np.float32), 255 - rgb_image(), PINHOLE, 0, "old")
    data = first.data
    second = writer.write(depth_image(), rgb_image(), PINHOLE, STAMP_NS, FRAME)
    assert second is first
    assert second.data is data
    assert_header(second)
    assert_is_cloud_of(second, depth_image(), rgb_image())


def test_writer_follows_a_change_of_resolution() -> None:
    writer = PointCloudWriter()
    small = Intrinsics(3, 2, 7.0, 7.5, 3.25, 2.5)
    writer.write(depth_image(), rgb_image(), PINHOLE, 0, FRAME)
    cloud = writer.write(depth_image()[:2, :3], rgb_image()[:2, :3], small, STAMP_NS, FRAME)
    assert (cloud.height, cloud.width, cloud.row_step, len(cloud.data)) == (2, 3, 48, 96)
    assert_is_cloud_of(cloud, depth_image()[:2, :3], rgb_image()[:2, :3])


def test_cloud_of_contradicting_sizes_is_refused() -> None:
    with pytest.raises(InputError, match="expected colours as uint8"):
        messages.PointCloudWriter().write(depth_image(), rgb_image()[:-1], PINHOLE, 0, FRAME)
    with pytest.raises(InputError, match="expected depth in metres"):
        messages.PointCloudWriter().write(depth_image()[:-1], rgb_image(), PINHOLE, 0, FRAME)


def test_diagnostics_hold_the_plain_data() -> None:
    lines = [
        Diagnostic("dualfocus: rate", 1, "slow", {"rate_hz": 2.5, "drops": 3}, "cam0"),
        Diagnostic("b", 0, "ok"),
    ]
    message = messages.diagnostic_array_message(lines, STAMP_NS)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_123, 987_654_321)
    first, second = message.status
    assert (first.name, first.level, first.message, first.hardware_id) == (
        "dualfocus: rate",
        b"\x01",
        "slow",
        "cam0",
    )
    assert [(v.key, v.value) for v in first.values] == [("rate_hz", "2.5"), ("drops", "3")]
    assert (second.level, list(second.values)) == (b"\x00", [])


FILL_EVERY_MESSAGE = """
import numpy as np
from sensor_msgs.msg import Image
from dualfocus_ros import messages as m
from dualfocus_ros.types import Intrinsics, LensModel, LensState
try:
    Image().height = "high"
except AssertionError:
    pass
else:
    raise SystemExit("the checks are off")
depth, rgb = np.ones((6, 8), np.float32), np.zeros((6, 8, 3), np.uint8)
k = Intrinsics(np.int64(8), np.int64(6), np.float64(7), np.float32(7), 3, np.int64(2))
now = np.int64(10**18)
m.image_from_message(m.rgb_message(rgb, now, "f"))
m.depth_from_message(m.depth_message(depth, now, "f", "16UC1"))
m.confidence_message(depth, now, "f")
m.intrinsics_from_message(m.camera_info_message(k, now, "f"))
lens = LensState(now, np.float64(0.5), LensModel(np.float64(0.004), 2, 1e-6), 0)
m.lens_state_from_message(m.lens_message(lens, "f"))
m.PointCloudWriter().write(depth, rgb, k, now, "f")
m.diagnostic_array_message([m.Diagnostic("a", 2, "b", {"c": np.float32(1)})], now)
print("filled")
"""


def test_every_message_passes_the_field_checks_of_rclpy() -> None:
    environment = {**os.environ, "ROS_PYTHON_CHECK_FIELDS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FILL_EVERY_MESSAGE], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == ("filled", 0), done.stderr
