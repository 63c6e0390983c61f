# SPDX-License-Identifier: Apache-2.0
"""What the V4L2 camera says of devices that are in use, not allowed, absent, or no cameras."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import config, grey_camera  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import FakeCamera, uvc_controls, vcm_controls  # noqa: E402

from dualfocus_ros.camera import v4l2_find, v4l2_node  # noqa: E402
from dualfocus_ros.camera.v4l2 import V4l2Config, V4l2Device  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError  # noqa: E402


@pytest.fixture
def camera() -> FakeCamera:
    return grey_camera()


@pytest.fixture
def v4l2(camera: FakeCamera) -> Iterator[FakeV4l2]:
    with FakeV4l2(camera) as fake:
        yield fake
    assert fake.open_fds() == 0
    assert fake.mappings() == 0


@pytest.mark.parametrize("call", ["S_FMT", "REQBUFS", "STREAMON", "OPEN"])
def test_a_camera_in_use_elsewhere_may_become_free(v4l2: FakeV4l2, call: str) -> None:
    v4l2.errors[call] = errno.EBUSY
    with pytest.raises(DeviceError, match="/dev/video0.*used by another program"), V4l2Device(config()):
        pass
    v4l2.errors.clear()
    with V4l2Device(config()) as device:
        device.read(2.0)
        with pytest.raises(DeviceError, match="used by another program"), V4l2Device(config()):
            pass
        device.read(2.0)


def test_too_little_usb_bandwidth_is_told(v4l2: FakeV4l2) -> None:
    v4l2.errors["STREAMON"] = errno.ENOSPC
    with pytest.raises(DeviceError, match="USB bandwidth"), V4l2Device(config()):
        pass


def test_permission_names_the_group_unless_the_node_is_new(
    v4l2: FakeV4l2, monkeypatch: pytest.MonkeyPatch
) -> None:
    v4l2.errors["OPEN"] = errno.EACCES
    with pytest.raises(CameraError, match="group video") as told, V4l2Device(config()):
        pass
    assert not isinstance(told.value, DeviceError)
    # udev gives it to the group a moment after the kernel made it.
    monkeypatch.setattr(v4l2_node, "node_age_s", lambda path: 0.1)
    with pytest.raises(DeviceError, match="plugged in"), V4l2Device(config()):
        pass


def test_what_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, kind, words in (
        (tmp_path / "absent", DeviceError, "is the camera plugged in"),
        (tmp_path, CameraError, "got a folder"),
        (tmp_path / "file", CameraError, "not a V4L2 device"),
    ):
        with pytest.raises(CameraError, match=words) as told, V4l2Device(config(device=str(path))):
            pass
        assert type(told.value) is kind


def test_linuxpy_is_asked_for_on_entering_only(v4l2: FakeV4l2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "linuxpy.video.raw", None)
    device = V4l2Device(config())
    with pytest.raises(CameraError, match="pip install linuxpy") as told, device:
        pass
    assert not isinstance(told.value, DeviceError)


def sys_tree(root: Path) -> Path:
    """Write what /sys says of a camera with video0 and video1, and of a lens."""
    for name in ("video0", "video1"):
        (root / "card" / "video4linux" / name).mkdir(parents=True)
        (root / name).mkdir()
        (root / name / "device").symlink_to(root / "card")
    (root / "v4l-subdev0").mkdir()
    (root / "v4l-subdev0" / "name").write_text("dw9714 4-000c\n")
    return root


def test_a_metadata_node_names_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v4l2_find, "SYS_CLASS", sys_tree(tmp_path))
    with FakeV4l2(FakeCamera(), meta_path="/dev/video1") as fake:
        with (
            pytest.raises(CameraError, match=r"/dev/video1 \(Fake Camera\).*try device /dev/video0") as told,
            V4l2Device(config(device="/dev/video1")),
        ):
            pass
        assert not isinstance(told.value, DeviceError)
        assert fake.open_fds() == 0


def test_devices_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    video, meta, lens = (str(dev / n) for n in ("video0", "video1", "v4l-subdev0"))
    for path in (video, meta, lens):
        Path(path).touch()
    monkeypatch.setattr(v4l2_find, "DEV", dev)
    monkeypatch.setattr(v4l2_find, "SYS_CLASS", sys_tree(tmp_path / "sys"))
    camera = FakeCamera(uvc_controls(without=("FOCUS_ABSOLUTE", "FOCUS_AUTO")))
    camera.lens_controls = vcm_controls()
    with FakeV4l2(camera, path=video, meta_path=meta, lens_path=lens) as fake:
        found = v4l2_find.find_devices()
        assert fake.open_fds() == 0
    assert [(f.path, f.card, f.captures, f.focus) for f in found] == [
        (video, "Fake Camera", True, None),
        (lens, "dw9714 4-000c", False, (0, 1023, 1)),
    ]


def test_settings_are_checked() -> None:
    with pytest.raises(ParameterError, match="pixel_format"):
        V4l2Config(pixel_format="H264")
    with pytest.raises(ParameterError, match="device"):
        V4l2Config(device="")
    with pytest.raises(ParameterError, match="rate_hz"):
        V4l2Config(rate_hz=0.0)
