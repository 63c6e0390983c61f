# SPDX-License-Identifier: Apache-2.0
"""The V4L2 camera pulled out at every stage, plugged in again, opened over and over: errors, leaks, recovery."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import config  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import FakeCamera, uvc_controls  # noqa: E402

from dualfocus_ros.camera.v4l2 import V4l2Device  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError  # noqa: E402

CYCLES = 20


def settled_camera() -> FakeCamera:
    """Return a camera whose automatics have found their values, so that each session does the same calls."""
    return FakeCamera(uvc_controls(EXPOSURE_ABSOLUTE=17, GAIN=64, WHITE_BALANCE_TEMPERATURE=5200))


@pytest.fixture
def v4l2() -> Iterator[FakeV4l2]:
    with FakeV4l2(settled_camera()) as fake:
        yield fake
        assert fake.open_fds() == fake.mappings() == 0


def use(device: V4l2Device) -> None:
    """Do what a sweep does."""
    with device:
        for position in (50.0, 100.0, 150.0):
            device.move_to(position)
            device.read(2.0)


def held() -> tuple[int, int]:
    """Return how many file descriptors and threads this process has."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_opening_over_and_over_leaks_nothing(v4l2: FakeV4l2) -> None:
    device = V4l2Device(config())
    use(device)
    before = held()
    for _ in range(CYCLES):
        use(device)
        assert v4l2.open_fds() == v4l2.mappings() == 0
    assert held() == before


def test_unplugging_over_and_over(v4l2: FakeV4l2) -> None:
    device = V4l2Device(config())
    use(device)
    before = held()
    for cycle in range(CYCLES):
        with pytest.raises(DeviceError, match="/dev/video0"), device:
            device.move_to(10.0 * cycle)
            device.read(2.0)
            v4l2.unplug()
            for _ in range(5):
                device.read(2.0)
        with pytest.raises(DeviceError, match="plugged in"):
            device.__enter__()
        assert v4l2.open_fds() == v4l2.mappings() == 0
        v4l2.plug()
        use(device)
    assert held() == before


def calls_of_a_session() -> Counter[str]:
    with FakeV4l2(settled_camera()) as fake:
        use(V4l2Device(config()))
        return Counter(call.split()[0] for call in fake.calls)


# The first, one in the middle and the last of each kind of call; how many buffers travel is up to the clock, but
# five do while the device is opened.
STAGES = [
    (name, nth)
    for name, count in calls_of_a_session().items()
    for nth in sorted({1, 5} if name in ("QBUF", "DQBUF") else {1, count // 2 + 1, count})
]


@pytest.mark.parametrize(("call", "nth"), STAGES)
def test_unplugging_at_every_stage(v4l2: FakeV4l2, call: str, nth: int) -> None:
    device = V4l2Device(config())
    v4l2.unplug_at(call, nth)
    try:
        use(device)
    except CameraError as error:
        assert type(error) is DeviceError, error
        assert "/dev/video0" in str(error)
    assert not v4l2.plugged, "the stage was never reached"
    assert v4l2.open_fds() == v4l2.mappings() == 0
    v4l2.plug()
    v4l2.camera.focus_log.clear()
    use(device)
    assert [position for _, position, obeyed in v4l2.camera.focus_log if obeyed][:3] == [50.0, 100.0, 150.0]
    assert v4l2.camera.controls["FOCUS_AUTO"].value == 1


def test_unplugging_while_a_read_waits(v4l2: FakeV4l2) -> None:
    device = V4l2Device(config())
    with device:
        v4l2.stall()
        timer = threading.Timer(0.1, v4l2.unplug)
        timer.start()
        with pytest.raises(DeviceError, match="unplugged"):
            for _ in range(6):
                device.read(60.0)
        timer.join()
    v4l2.plug()
    use(device)


def test_moving_the_lens_of_a_lost_camera(v4l2: FakeV4l2) -> None:
    with V4l2Device(config()) as device:
        v4l2.unplug()
        with pytest.raises(DeviceError, match="/dev/video0.*focus_absolute.*unplugged"):
            device.move_to(50.0)


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6])
def test_unplugging_while_controls_are_put_back(v4l2: FakeV4l2, nth: int) -> None:
    device = V4l2Device(config(exposure_s=0.002, gain=9.0))
    with device:
        v4l2.unplug_at("S_CTRL", nth)
    assert not v4l2.plugged
    v4l2.plug()
    use(device)


def test_leaving_a_lost_camera_raises_nothing_of_its_own(v4l2: FakeV4l2) -> None:
    with pytest.raises(RuntimeError, match="of the user"), V4l2Device(config()):
        v4l2.unplug()
        raise RuntimeError("of the user")
    v4l2.plug()
    with V4l2Device(config()):
        v4l2.unplug()


def test_the_stream_that_breaks_off_while_the_node_stays(v4l2: FakeV4l2) -> None:
    with V4l2Device(config()) as device:
        v4l2.errors["DQBUF"] = 5  # EIO
        with pytest.raises(DeviceError, match="take a frame.*unplugged"):
            device.read(2.0)
        v4l2.errors.clear()


def test_a_camera_is_entered_once_at_a_time(v4l2: FakeV4l2) -> None:
    with V4l2Device(config()) as device:
        with pytest.raises(CameraError, match="open already"):
            device.__enter__()
        device.read(2.0)
