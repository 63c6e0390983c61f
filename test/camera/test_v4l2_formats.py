# SPDX-License-Identifier: Apache-2.0
"""Pixel formats of the V4L2 camera: which one is taken, and that its pixels mean what their encoding says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import config, grey_camera  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import Bgr, FakeCamera, Shot  # noqa: E402

from dualfocus_ros.camera.v4l2 import V4l2Device  # noqa: E402
from dualfocus_ros.camera.v4l2_formats import Mode, image_of  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError  # noqa: E402
from dualfocus_ros.image_encodings import check_layout, decode_image  # noqa: E402

SMALL, LARGE = (64, 48), (128, 96)


def camera_with(formats: dict[str, dict[tuple[int, int], tuple[float, ...]]], render: object = None) -> FakeCamera:
    camera = grey_camera()
    camera.formats = formats
    if render is not None:
        camera.render = render  # type: ignore[assignment]
    camera.power_up()
    return camera


def colours(shot: Shot) -> Bgr:
    """Return red at the left, green in the middle, blue at the right, brighter at the top."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :16, 2] = 200
    image[:, 16:48, 1] = 150
    image[:, 48:, 0] = 220
    image[24:] //= 2
    return image


@pytest.mark.parametrize("padding", [0, 32])
@pytest.mark.parametrize(
    ("pixel_format", "encoding", "tolerance"),
    [
        ("YUYV", "yuv422_yuy2", 3),
        ("UYVY", "yuv422", 3),
        ("NV12", "nv12", 3),
        ("RGB3", "rgb8", 0),
        ("BGR3", "bgr8", 0),
        ("MJPG", "bgr8", 12),
        ("GREY", "mono8", 0),
        ("Y16", "mono16", 0),
    ],
)
def test_pixels_mean_what_their_encoding_says(
    pixel_format: str, encoding: str, tolerance: int, padding: int
) -> None:
    camera = camera_with({pixel_format: {SMALL: (200.0,)}}, colours)
    with FakeV4l2(camera) as v4l2:
        v4l2.padding = padding
        with V4l2Device(config()) as device:
            frame = device.read(2.0)
    assert frame.encoding == encoding
    check_layout(frame.image, frame.encoding)
    assert frame.image.flags.c_contiguous and frame.image.flags.owndata | (frame.image.base is not None)
    seen = decode_image(frame.image.tobytes(), 48, 64, encoding, False, frame.image.strides[0])
    truth = colours(Shot(0, 0.0, 0.0, 0, 0.0, 0.0))[..., ::-1]
    if encoding.startswith("mono"):
        truth = truth[..., 1].astype(np.int64) * (257 if encoding == "mono16" else 1)
    error = np.abs(seen.astype(np.int64) - truth)
    # Away from edges, over which chroma is shared.
    inside = np.ones((48, 64), bool)
    for edge in (16, 48):
        inside[:, edge - 9 : edge + 9] = False
    inside[15:33] = False
    assert error[inside].max() <= tolerance


@pytest.mark.parametrize(
    ("offers", "rate_hz", "taken", "got_hz"),
    [
        ({"MJPG": (30.0,), "YUYV": (30.0, 15.0)}, 30.0, "YUYV", 30.0),
        ({"MJPG": (30.0,), "YUYV": (10.0,)}, 30.0, "MJPG", 30.0),
        ({"MJPG": (60.0,), "YUYV": (10.0,), "NV12": (30.0,)}, 30.0, "NV12", 30.0),
        ({"GREY": (30.0,), "YUYV": (30.0,)}, 30.0, "YUYV", 30.0),
        ({"MJPG": (25.0,), "YUYV": (10.0,)}, 90.0, "MJPG", 25.0),
        ({"MJPG": (29.97,), "YUYV": (29.97,)}, 30.0, "YUYV", 29.97),
        ({"H264": (30.0,), "YUYV": (30.0,)}, 30.0, "YUYV", 30.0),
    ],
)
def test_auto_takes_the_best_uncompressed_format_that_is_fast_enough(
    offers: dict[str, tuple[float, ...]], rate_hz: float, taken: str, got_hz: float
) -> None:
    camera = camera_with({name: {SMALL: rates} for name, rates in offers.items()})
    with FakeV4l2(camera), V4l2Device(config(rate_hz=rate_hz, auto_time_s=0.0)) as device:
        assert camera.pixel_format == taken
        assert camera.rate_hz == got_hz
        slower = [note for note in device.notes if "not the" in note]
        assert bool(slower) == (got_hz < 0.9 * rate_hz)


def test_a_given_format_is_taken_even_where_another_is_better() -> None:
    camera = camera_with({"YUYV": {SMALL: (200.0,)}, "MJPG": {SMALL: (200.0,)}})
    with FakeV4l2(camera), V4l2Device(config(pixel_format="MJPG")) as device:
        assert device.read(2.0).encoding == "bgr8"


@pytest.mark.parametrize(
    "settings", [{"width": 100}, {"pixel_format": "GREY"}, {"pixel_format": "YUYV", "width": 128, "height": 96}]
)
def test_what_the_camera_lacks_is_answered_with_what_it_has(settings: dict[str, object]) -> None:
    camera = camera_with({"YUYV": {SMALL: (30.0, 15.0)}, "MJPG": {SMALL: (30.0,), LARGE: (60.0,)}})
    with FakeV4l2(camera) as v4l2:
        with pytest.raises(CameraError) as told, V4l2Device(config(**settings)):
            pass
        assert "YUYV 64x48 at 30 Hz; MJPG 64x48 at 30 Hz, 128x96 at 60 Hz" in str(told.value)
        assert not isinstance(told.value, DeviceError)
        assert v4l2.open_fds() == 0


def test_a_driver_that_lists_no_sizes_is_tried() -> None:
    camera = camera_with({"YUYV": {SMALL: (200.0,)}})
    with FakeV4l2(camera) as v4l2:
        v4l2.errors.update(ENUM_FRAMESIZES=25, ENUM_FRAMEINTERVALS=25, S_PARM=25)
        with V4l2Device(config()) as device:
            assert device.read(2.0).image.shape == (48, 64, 2)
        # It adjusts what it cannot do, which is no size to go on with.
        with pytest.raises(CameraError, match="expected a camera that gives 66x48"), V4l2Device(config(width=66)):
            pass


def test_a_buffer_that_lacks_a_byte_is_no_image() -> None:
    mode = Mode("YUYV", 4, 2, 12, 30.0)
    data = bytearray(range(24))
    full = image_of(data, 20, mode)  # the padding after the last row may be missing
    assert full is not None and full[..., 0].tolist() == [[0, 2, 4, 6], [12, 14, 16, 18]]
    assert image_of(data, 19, mode) is None
    assert image_of(data, 25, mode) is None
    assert image_of(data, 0, Mode("MJPG", 4, 2, 0, 30.0)) is None
