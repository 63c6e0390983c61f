# SPDX-License-Identifier: Apache-2.0
"""One table over all encodings, byte orders and paddings, against buffers that are packed here by hand."""

from __future__ import annotations

import array
import sys
import types

import numpy as np
import pytest
from sensor_msgs.msg import Image

from dualfocus_ros import messages
from dualfocus_ros.errors import MessageError
from dualfocus_ros.image_encodings import ENCODINGS, check_layout, decode_depth, decode_image

HEIGHT, WIDTH = 16, 24
# Four flat areas; no two channels of any are alike, so that every mix-up shows.
AREAS = [[(200, 30, 90), (20, 180, 70)], [(60, 100, 230), (240, 210, 10)]]
CHANNELS = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "rgba": [0, 1, 2, 3], "bgra": [2, 1, 0, 3]}
BAYER = {"rggb": [[0, 1], [1, 2]], "bggr": [[2, 1], [1, 0]], "gbrg": [[1, 2], [0, 1]], "grbg": [[1, 0], [2, 1]]}
BITS_16 = {e for e in ENCODINGS if e.endswith("16") or e == "16UC1"}


def flat_scene() -> np.ndarray:
    return np.array(AREAS, np.uint8).repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def noise_scene(channels: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, channels), dtype=dtype)


def widened(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.uint16) * 200 + 7


def to_yuv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ITU-R BT.601, limited range, as V4L2 defines it for these formats."""
    r, g, b = (rgb[..., i] / 255.0 for i in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    y = 16 + 219 * luma
    u = 128 + 224 * (b - luma) / 1.772
    v = 128 + 224 * (r - luma) / 1.402
    return tuple(np.rint(p).astype(np.uint8) for p in (y, u, v))  # type: ignore[return-value]


def pack_yuv(rgb: np.ndarray, encoding: str) -> np.ndarray:
    y, u, v = to_yuv(rgb)
    if encoding.startswith("nv"):
        pair = (u, v) if encoding == "nv12" else (v, u)
        chroma = np.stack([p[::2, ::2] for p in pair], axis=-1).reshape(HEIGHT // 2, WIDTH)
        return np.concatenate([y, chroma])
    chroma = np.where(np.arange(WIDTH) % 2 == 0, u, v)
    planes = (chroma, y) if encoding in ("yuv422", "uyvy") else (y, chroma)
    return np.stack(planes, axis=-1)


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    colour = np.tile(np.array(BAYER[pattern]), (HEIGHT // 2, WIDTH // 2))
    return np.take_along_axis(rgb, colour[..., None], axis=-1)[..., 0]


def case(encoding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return samples as stored, the image expected, where it counts (H, W), and the tolerance."""
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    dtype = np.uint16 if encoding in BITS_16 else np.uint8
    if encoding.startswith("bayer"):
        rgb = flat_scene() if dtype is np.uint8 else widened(flat_scene())
        inside = everywhere.copy()
        for middle, axis in ((HEIGHT // 2, 0), (WIDTH // 2, 1)):
            edges = [0, 1, middle - 2, middle - 1, middle, middle + 1, -2, -1]
            inside[(edges,) if axis == 0 else (slice(None), edges)] = False
        return mosaic(rgb, encoding[6:10]), rgb, inside, 0
    if encoding.startswith(("yuv", "uyvy", "yuyv", "nv")):
        return pack_yuv(flat_scene(), encoding), flat_scene(), everywhere, 3
    if encoding in ("mono8", "mono16", "8UC1", "16UC1"):
        grey = noise_scene(1, dtype)[..., 0]
        return grey, grey, everywhere, 0
    order = CHANNELS["bgr" if encoding == "8UC3" else encoding.rstrip("0123456789")]
    truth = noise_scene(4, dtype)
    return truth[..., order], truth[..., :3], everywhere, 0


def buffer_of(samples: np.ndarray, big_endian: bool, padding: int) -> tuple[bytes, int]:
    stored = samples.astype(samples.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [row.tobytes() + b"\xa5" * padding for row in stored]
    return b"".join(rows), len(rows[0])


def image_message(encoding: str, data: bytes, step: int, big_endian: bool = False) -> Image:
    message = Image(encoding=encoding, height=HEIGHT, width=WIDTH, step=step, is_bigendian=int(big_endian))
    message.data = array.array("B", data)
    return message


@pytest.mark.parametrize("path", ["as installed", "without cv_bridge"])
@pytest.mark.parametrize("padding", [0, 1, 8])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding(
    encoding: str, big_endian: bool, padding: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "without cv_bridge":
        monkeypatch.setattr(messages, "_cv_bridge_converter", lambda: None)
    samples, expected, counts, tolerance = case(encoding)
    data, step = buffer_of(samples, big_endian, padding)
    image = messages.image_from_message(image_message(encoding, data, step, big_endian))
    assert image.shape == expected.shape
    assert image.dtype == expected.dtype
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    difference = np.abs(image.astype(int) - expected.astype(int))[counts]
    assert difference.size > 100
    assert difference.max() <= tolerance


def test_the_table_covers_what_the_package_promises() -> None:
    promised = (
        "rgb8 bgr8 rgba8 bgra8 mono8 mono16 rgb16 bgr16 yuv422 yuv422_yuy2 uyvy yuyv nv12 nv21 8UC1 8UC3 16UC1"
    )
    bayer = {f"bayer_{pattern}{bits}" for pattern in BAYER for bits in (8, 16)}
    assert set(ENCODINGS) == set(promised.split()) | bayer


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "8UC1", "mono16", "16UC1", "rgb16"])
def test_tight_native_rows_are_a_read_only_view(encoding: str) -> None:
    samples, expected, _, _ = case(encoding)
    message = image_message(encoding, *buffer_of(samples, sys.byteorder == "big", 0), sys.byteorder == "big")
    image = messages.image_from_message(message)
    assert np.shares_memory(image, np.frombuffer(message.data, np.uint8))
    assert not image.flags.writeable
    del message
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda d: np.frombuffer(d, np.uint8)])
def test_any_buffer_will_do(wrap: type) -> None:
    samples, expected, _, _ = case("bgr8")
    data, step = buffer_of(samples, False, 3)
    image = decode_image(wrap(data), HEIGHT, WIDTH, "bgr8", False, step)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "32FC1"}, "expected an image encoding of rgb8, .*nv21; got '32FC1'"),
        ({"encoding": ""}, "got ''"),
        ({"step": 3 * WIDTH - 1}, "step of at least 72 bytes .*got 71"),
        ({"encoding": "rgba8"}, "step of at least 96 bytes .*got 72"),
        ({"step": 3 * WIDTH + 1}, f"expected {HEIGHT * 73} bytes .*got {HEIGHT * 72}"),
        ({"height": HEIGHT - 1}, f"expected {(HEIGHT - 1) * 72} bytes .*got {HEIGHT * 72}"),
        ({"data": array.array("B", bytes(HEIGHT * 72 - 1))}, f"got {HEIGHT * 72 - 1}.*cut off"),
        ({"data": array.array("B")}, "got 0"),
        ({"width": 0}, "at least 1 x 1 pixels, got 0 x 16"),
        ({"height": 0}, "at least 1 x 1 pixels, got 24 x 0"),
        ({"encoding": "yuv422", "width": 23}, "even size .*got 23 x 16"),
        ({"encoding": "nv12", "height": 15}, "even size .*got 24 x 15"),
        ({"encoding": "nv12"}, f"expected {72 * 24} bytes"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], says: str) -> None:
    message = image_message("rgb8", bytes(HEIGHT * WIDTH * 3), WIDTH * 3)
    assert messages.image_from_message(message).shape == (HEIGHT, WIDTH, 3)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(MessageError, match=says):
        messages.image_from_message(message)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 5])
def test_depth_is_decoded_to_metres(big_endian: bool, padding: int) -> None:
    metres = np.array([[0.25, np.nan, 3.5], [np.inf, -np.inf, 1e-3]], np.float32)
    data, step = buffer_of(metres, big_endian, padding)
    np.testing.assert_array_equal(decode_depth(data, 2, 3, "32FC1", big_endian, step), metres)
    data, step = buffer_of(np.array([[250, 0, 65535]], np.uint16), big_endian, padding)
    depth = decode_depth(data, 1, 3, "16UC1", big_endian, step)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0.25, np.nan, 65.535]], rtol=1e-6)


def test_depth_of_another_encoding_is_refused() -> None:
    with pytest.raises(MessageError, match="depth encoding of 32FC1, 16UC1; got 'rgb8'"):
        decode_depth(b"\0\0\0", 1, 1, "rgb8", False, 3)
    with pytest.raises(MessageError, match="step of at least 8 bytes"):
        decode_depth(b"\0\0\0\0", 1, 2, "32FC1", False, 4)


@pytest.mark.parametrize(
    ("image", "encoding"),
    [
        (np.zeros((4, 4), np.uint8), "rgb8"),
        (np.zeros((4, 4, 3), np.uint8), "mono8"),
        (np.zeros((4, 4), np.uint8), "mono16"),
        (np.zeros((4, 4, 3), np.uint16), "rgb8"),
        (np.zeros((0, 4), np.uint8), "mono8"),
        (np.zeros((4, 4), np.uint8), "jpeg"),
    ],
)
def test_layout_that_contradicts_the_encoding_is_refused(image: np.ndarray, encoding: str) -> None:
    with pytest.raises(MessageError, match=f"expected .*{encoding}"):
        check_layout(image, encoding)


class TestCvBridge:
    """Which cv_bridge counts as the real one; what it converts is in `test_every_encoding`."""

    @pytest.fixture(autouse=True)
    def _forget(self) -> object:
        messages._cv_bridge_converter.cache_clear()
        yield
        messages._cv_bridge_converter.cache_clear()

    def test_one_without_its_compiled_part_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == "cv_bridge"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "cv_bridge", types.ModuleType("cv_bridge"))
        assert messages._cv_bridge_converter() is None

    def test_the_compiled_one_gets_tight_native_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[np.ndarray, str, str]] = []

        def convert(image: np.ndarray, encoding: str, wanted: str) -> np.ndarray:
            calls.append((image, encoding, wanted))
            return np.full((HEIGHT, WIDTH, 3), 42, image.dtype)

        names = ("cv_bridge", "cv_bridge.boost", "cv_bridge.boost.cv_bridge_boost")
        for name in names:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[names[-1]].cvtColor2 = convert  # type: ignore[attr-defined]
        samples = case("bayer_rggb16")[0]
        data, step = buffer_of(samples, True, 3)
        image = messages.image_from_message(image_message("bayer_rggb16", data, step, True))
        assert (image == 42).all()
        np.testing.assert_array_equal(calls[0][0], samples)
        assert calls[0][1:] == ("bayer_rggb16", "rgb16")
        messages.image_from_message(image_message("8UC3", bytes(HEIGHT * WIDTH * 3), WIDTH * 3))
        assert len(calls) == 1  # cv_bridge refuses to give 8UC3 a colour order
