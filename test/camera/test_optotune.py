# SPDX-License-Identifier: Apache-2.0
"""The device made of an Optotune lens and images of another camera, with a lens driver at a pseudo terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from optotune_helpers import IMAGE, device_of, feed_image
from optotune_stand_in import OptotuneStandIn

from dualfocus_ros.camera.hardware import HardwareCamera
from dualfocus_ros.camera.optotune import OptotuneConfig, OptotuneDevice
from dualfocus_ros.errors import CameraError, DeviceError, ParameterError
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.types import LensModel


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OptotuneStandIn]:
    pytest.importorskip("serial")
    made = OptotuneStandIn(tmp_path)
    yield made
    made.unplug()


def test_a_lens_pulled_off_its_driver_is_noticed_while_it_stands_still(
    driver: OptotuneStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualfocus_ros.camera.optotune.CHECK_PERIOD_S", 0.0)
    with device_of(driver) as device:
        feed_image(device)
        device.read(1.0)
        driver.status = 1
        feed_image(device)
        with pytest.raises(DeviceError, match="connect the lens"):
            device.read(1.0)


def test_a_frame_counts_as_settled_only_if_its_exposure_began_when_the_lens_stood(driver: OptotuneStandIn) -> None:
    settle_s, done = 0.03, threading.Event()
    calibration = LensCalibration(
        name="liquid",
        lens=LensModel(0.016, 2.8, 4e-6),
        image_size=(64, 48),
        curve=FocusCurve((-1.5, 3.5), (0.2, 5.2)),
        settle=((0.0, settle_s), (5.0, settle_s)),
    )
    device = device_of(driver, exposure_s=0.01)

    def publish() -> None:
        while not done.wait(0.008):
            feed_image(device, age_s=0.012)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with HardwareCamera(device, calibration, device.config) as camera:
            for focus_dpt in (0.5, 5.0, 2.0, 2.5, 0.3):
                camera.set_focus(1.0 / focus_dpt)
                while (frame := camera.read()).lens_state.focus_speed_mps != 0.0:
                    pass
                assert (
                    frame.lens_state.focus_dpt == pytest.approx(driver.power_dpt + 1.7) == pytest.approx(focus_dpt)
                )
                began_s = time.monotonic() - (time.time_ns() - frame.stamp_ns) * 1e-9
                assert began_s >= driver.power_set_at_s + settle_s - 1e-3
    finally:
        done.set()
        publisher.join()


@pytest.mark.parametrize(("stamp_is", "before"), [("start", 0.0), ("middle", 0.5), ("end", 1.0)])
def test_frames_tell_when_they_were_exposed(driver: OptotuneStandIn, stamp_is: str, before: float) -> None:
    with device_of(driver, stamp_is=stamp_is, exposure_s=0.02) as device:
        age = device.clock.now()
        stamp_ns = feed_image(device, age_s=0.3)
        frame = device.read(1.0)
        assert frame.stamp_ns == stamp_ns
        start, end = frame.exposure
        assert end - start == pytest.approx(0.02)
        assert start + before * 0.02 == pytest.approx(age - 0.3, abs=0.05)
        assert device.clock.stamp_ns(start + before * 0.02) == pytest.approx(stamp_ns, abs=1e6)
        assert frame.temperature_c == 28.25
        assert (frame.position, frame.moving) == (None, None)
        assert np.shares_memory(frame.image, IMAGE)


def test_an_unknown_exposure_counts_as_a_frame_period(driver: OptotuneStandIn) -> None:
    with device_of(driver, rate_hz=20.0) as device:
        feed_image(device)
        start, end = device.read(1.0).exposure
        assert end - start == pytest.approx(0.05)
        assert any("frame period" in note for note in device.notes)


def test_without_images_it_says_where_they_should_come_from(driver: OptotuneStandIn) -> None:
    with device_of(driver) as device:
        with pytest.raises(DeviceError, match=r"no image came within 0.01 s.*image_topic"):
            device.read(0.01)
        feed_image(device, age_s=-5.0)
        with pytest.raises(DeviceError, match=r"1 images stamped in the future refused: is the clock"):
            device.read(0.01)


def test_images_from_before_it_was_opened_are_not_handed_out(driver: OptotuneStandIn) -> None:
    device = device_of(driver)
    feed_image(device)
    device.interrupt()
    with device:
        with pytest.raises(DeviceError, match="no image came"):
            device.read(0.01)
        feed_image(device)
    with device, pytest.raises(DeviceError, match="no image came"):
        device.read(0.01)


STAGES = ["Start", "H", "MMA", "Ar", "MwCA", "Sr", "TCA", "PwDA"]


@pytest.mark.parametrize("stage", range(len(STAGES)), ids=STAGES)
def test_it_may_vanish_at_every_stage_and_come_back(driver: OptotuneStandIn, stage: int) -> None:
    device = device_of(driver)
    driver.vanish_before = stage
    with pytest.raises(DeviceError, match="ttyACM0"), device:
        feed_image(device)
        device.read(1.0)
        for _ in range(3):
            device.move_to(1.0)
    with pytest.raises(DeviceError, match="is it plugged in"):
        device.__enter__()
    driver.unplug()
    driver.plug_in()
    with device:
        device.move_to(2.0)
        assert driver.power_dpt == pytest.approx(2.0)


@pytest.mark.parametrize("where", ["enter", "read"])
def test_an_interruption_ends_waiting(driver: OptotuneStandIn, where: str) -> None:
    device = device_of(driver)
    failed: list[BaseException] = []
    ready = threading.Event()

    def wait() -> None:
        try:
            driver.silent = where == "enter"
            ready.set()
            with device:
                device.read(60.0)
        except DeviceError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    until = time.monotonic() + 10.0
    while (where == "read" and driver.mode != 5) and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(0.05)
    device.interrupt()
    thread.join(10.0)
    assert not thread.is_alive()
    assert "interrupted" in str(failed[0])
    driver.silent = False
    with device:
        device.move_to(1.0)
    assert driver.mode == 1, "an interruption keeps it from putting the mode back"


def test_a_port_in_use_is_told(driver: OptotuneStandIn) -> None:
    with device_of(driver), pytest.raises(DeviceError, match="used by another program"):
        device_of(driver).__enter__()


def test_the_order_of_calls_is_checked(driver: OptotuneStandIn) -> None:
    device = device_of(driver)
    for call in (lambda: device.read(0.1), lambda: device.move_to(1.0), lambda: device.focus_range):
        with pytest.raises(CameraError, match="expected an open camera"):
            call()
    device.__exit__(None, None, None)
    with device, pytest.raises(CameraError, match="open already"):
        device.__enter__()
    assert device.focus_range.high == pytest.approx(3.5)


def test_opening_again_and_again_leaks_nothing(driver: OptotuneStandIn) -> None:
    device = device_of(driver)

    def cycle() -> None:
        with device:
            device.move_to(1.0)
            feed_image(device)
            device.read(1.0)
        driver.status = 2
        with pytest.raises(DeviceError):
            device.__enter__()
        driver.status = 0

    cycle()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        cycle()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_settings_are_checked() -> None:
    with pytest.raises(ParameterError, match="stamp_is"):
        OptotuneConfig(stamp_is="begin")
    with pytest.raises(ParameterError, match="port"):
        OptotuneConfig(port="")


def test_without_pyserial_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(CameraError, match="pip install pyserial") as raised:
        OptotuneDevice(OptotuneConfig()).__enter__()
    assert not isinstance(raised.value, DeviceError)
