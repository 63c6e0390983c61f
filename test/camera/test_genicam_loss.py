# SPDX-License-Identifier: Apache-2.0
"""GenICam cameras that vanish, stall or are in use, and the order of calls."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from genicam_rigs import Emulated, Faked, config

from dualfocus_ros.camera.genicam import FAILED, GenicamDevice
from dualfocus_ros.errors import CameraError, DeviceError


@pytest.fixture(params=["emulated", "faked", "faked old"])
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Emulated | Faked:
    if request.param == "emulated":
        return Emulated(monkeypatch)
    return Faked(monkeypatch, old=request.param == "faked old")


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return Faked(monkeypatch)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Emulated:
    return Emulated(monkeypatch)


def test_incomplete_frames_are_dropped_and_counted(rig: Emulated | Faked) -> None:
    device = GenicamDevice(config())
    with device:
        rig.fail_frames(3)
        until = time.monotonic() + 5.0
        while device.counts[FAILED] < 3 and time.monotonic() < until:
            assert device.read(2.0).image.shape == (480, 640)
        assert device.counts[FAILED] == 3
        rig.fail_frames(1024)
        with pytest.raises(DeviceError, match=r"no good frame within 0.1 s, \d+ incomplete"):
            for _ in range(3):
                device.read(0.1)


def test_it_may_vanish_at_every_use_and_come_back(faked: Faked) -> None:
    def run() -> None:
        with device:
            device.move_to(1.0)
            device.read(1.0)

    device = GenicamDevice(config(rate_hz=200.0))
    run()
    uses = faked.world.uses
    assert uses > 150
    for vanish_after in [*range(0, 60), *range(60, uses, 7)]:
        faked.world.uses, faked.world.vanish_after = 0, vanish_after
        try:
            run()
        except DeviceError as error:
            assert "fake camera" in str(error) or "genicam camera" in str(error)
        assert (faked.world.open_cameras, faked.world.devices) == (0, 0), vanish_after
        faked.world.vanish_after, faked.world.removed = None, False
    faked.world.removed = True
    with pytest.raises(DeviceError, match="found none"):
        run()
    faked.world.removed = False
    run()


@pytest.mark.parametrize("how", ["removed", "destroyed"])
def test_an_emulated_camera_that_is_unplugged_is_told(emulated: Emulated, how: str) -> None:
    device = GenicamDevice(config())
    with pytest.raises(DeviceError, match="unplugged|No device attached"), device:
        device.read(1.0)
        if how == "removed":
            emulated.camera.removed = True
        else:
            emulated.camera.DestroyDevice()
        for _ in range(100):
            device.read(1.0)
    with device:
        assert device.read(1.0).image.shape == (480, 640)


def test_no_camera_and_no_such_camera_are_told(emulated: Emulated) -> None:
    with pytest.raises(DeviceError, match=r"serial number 4711, found 0815-0000, 0815-0001"):
        GenicamDevice(config(serial_number="4711")).__enter__()


def test_a_camera_in_use_is_told(faked: Faked) -> None:
    faked.world.in_use = True
    with pytest.raises(DeviceError, match="controlled by another application.*used by another program"):
        GenicamDevice(config()).__enter__()


@pytest.mark.parametrize("where", ["read", "initialize"])
def test_an_interruption_ends_waiting(rig: Emulated | Faked, where: str) -> None:
    # pylon's emulator ends its grabbing with a frame.
    device = GenicamDevice(config(rate_hz=1.0 if where == "read" else 100.0, frame_timeout_s=60.0))
    failed: list[str] = []
    if where == "initialize":
        rig.lens.told_state = lambda: "Busy" if rig.lens.state == "Ready" else rig.lens.state  # type: ignore[method-assign]

    def wait() -> None:
        try:
            with device:
                device.read(60.0)
        except DeviceError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    device.interrupt()
    thread.join(10.0)
    assert not thread.is_alive()
    assert "interrupted" in failed[0]


def test_the_order_of_calls_is_checked(rig: Emulated | Faked) -> None:
    device = GenicamDevice(config())
    for call in (lambda: device.read(0.1), lambda: device.move_to(1.0), lambda: device.focus_range):
        with pytest.raises(CameraError, match="expected an open camera"):
            call()
    device.__exit__(None, None, None)
    with device, pytest.raises(CameraError, match="open already"):
        device.__enter__()
    with pytest.raises(CameraError, match="expected an open camera"):
        device.read(0.1)
    assert device.focus_range.high == 5.0


def test_opening_again_and_again_leaks_nothing(rig: Emulated | Faked) -> None:
    device = GenicamDevice(config(width=64, height=48, rate_hz=200.0))

    def cycle() -> None:
        with device:
            device.read(2.0)

    cycle()
    before = len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))
    for _ in range(20):
        cycle()
    after = len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))
    assert after == before


def test_without_pypylon_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypylon", None)
    monkeypatch.delitem(sys.modules, "pypylon.pylon", raising=False)
    with pytest.raises(CameraError, match="pip install pypylon") as raised:
        GenicamDevice(config()).__enter__()
    assert not isinstance(raised.value, DeviceError)
