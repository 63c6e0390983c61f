# SPDX-License-Identifier: Apache-2.0
"""The protocol of Optotune's lens driver, with one at a pseudo terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optotune_helpers import device_of, feed_image
from optotune_stand_in import OptotuneStandIn, crc_of_the_sheet

from dualfocus_ros.camera import optotune_lens
from dualfocus_ros.camera.optotune_lens import OptotuneLens, crc16, find_answer, with_crc
from dualfocus_ros.errors import CameraError, DeviceError, LensError

# From Optotune's manual (5.2, 5.7) and its protocol sheet. Of the 41 examples of the sheet one, MMA, has
# another checksum: a slip, public drivers send the computed one too.
PUBLISHED = [
    "50774441 07d00000 31fd",  # focal power 5 dpt, firmware type A
    "50774441 04b00000 31a7",  # focal power 1 dpt
    "50724441 00000000 6470",
    "50775441 02d00140 33c1",  # temperature limits 45 and 20 degrees
    "4177 04b2 2693",
    "4177 057a 2695",
    "4172 0000 b427",
    "48 0036",
    "544341 b0d0",
    "5372 bcd5",
    "4d774341 5676",
    "4d774441 5446",
]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OptotuneStandIn]:
    pytest.importorskip("serial")
    made = OptotuneStandIn(tmp_path)
    yield made
    made.unplug()


@pytest.mark.parametrize("line", PUBLISHED)
def test_the_checksum_is_that_of_the_published_commands(line: str) -> None:
    sent = bytes.fromhex(line)
    assert with_crc(sent[:-2]) == sent
    assert crc16(sent) == 0
    assert crc_of_the_sheet(sent[:-2]) == sent[-2:]


def test_the_checksum_is_crc_16_arc_and_not_that_of_modbus() -> None:
    assert crc16(b"123456789") == 0xBB3D  # check value of CRC-16/ARC; Modbus' is 0x4B37


def test_an_answer_is_found_though_its_numbers_hold_line_ends_or_noise_surrounds_it() -> None:
    answer = b"PD\r\n"
    whole = with_crc(answer) + b"\r\n"
    for end in range(len(whole)):
        assert find_answer(whole[:end], b"PD", 4) is None
    assert find_answer(whole, b"PD", 4) == (0, answer)
    assert find_answer(b"\xffPD\r\nE\r" + whole + b"xyz", b"PD", 4) == (0, answer)
    assert find_answer(with_crc(b"E\x02") + b"\r\n", b"PD", 4) == (2, b"")
    assert find_answer(b"PD\r\n\0\0\r\n", b"PD", 4) is None


@pytest.mark.parametrize("firmware", ["A", "B", "C", "E"])
def test_the_lens_takes_the_focal_power_that_it_is_told(driver: OptotuneStandIn, firmware: str) -> None:
    driver.firmware = firmware
    with device_of(driver) as device:
        reach = device.focus_range
        assert (reach.low, reach.high, reach.unit) == pytest.approx((-1.5, 3.5, "dpt"))
        assert driver.mode == 5
        for power_dpt in (-1.5, 0.0, 1.005, 3.5):
            device.move_to(reach.nearest(power_dpt))
            assert driver.power_dpt == pytest.approx(power_dpt, abs=1e-9)
        for outside in (-1.51, 3.51, float("nan")):
            with pytest.raises(LensError, match=r"-1.5 .. 3.5 dpt"):
                device.move_to(outside)
    assert driver.mode == 1


def test_bytes_on_the_wire_are_those_of_the_manual(driver: OptotuneStandIn) -> None:
    driver.reach_dpt = (-2.0, 6.0)
    with device_of(driver) as device:
        device.move_to(5.0)
    assert bytes.fromhex("50774441 07d00000") in driver.commands
    assert driver.commands[0] == b"Start"


@pytest.mark.parametrize(("mode", "current", "encoded"), [(1, 700, 0), (5, 0, 1234), (2, 0, 0), (7, 0, 0)])
def test_mode_and_value_are_put_back(driver: OptotuneStandIn, mode: int, current: int, encoded: int) -> None:
    driver.mode, driver.encoded_power = mode, encoded
    with device_of(driver) as device:
        device.move_to(2.0)
    # The handshake sets the current to 0; of a mode without a way back (7) it stays in focal power mode.
    assert (driver.mode, driver.current) == ({7: 5}.get(mode, mode), 0)
    if mode == 5:
        assert driver.encoded_power == encoded


def test_temperature_limits_are_set_only_where_the_driver_has_none(driver: OptotuneStandIn) -> None:
    with device_of(driver):
        assert driver.limits is None
    driver.has_limits = False
    with device_of(driver) as device:
        assert driver.limits == (45 * 16, 20 * 16)
        assert device.focus_range.high == pytest.approx(3.5)
        assert driver.mode == 5


@pytest.mark.parametrize(
    "trouble", ["byte_by_byte", "slow", "garbage", "damaged answers", "damaged commands", "nack"]
)
def test_a_bad_line_does_not_keep_the_lens_from_where_it_is_told(driver: OptotuneStandIn, trouble: str) -> None:
    device = device_of(driver)
    with device:
        driver.byte_by_byte = trouble == "byte_by_byte"
        driver.delay_s = 0.06 if trouble == "slow" else 0.0
        driver.garbage = b"\x00E\r\nTCA\xff" if trouble == "garbage" else b""
        driver.old_nack = trouble == "nack"
        for power_dpt in (0.5, 2.5):
            driver.damage_sent = 2 if trouble == "damaged answers" else 0
            # The command that is not acknowledged is the first to suffer.
            driver.damage_received = 1 if trouble in ("damaged commands", "nack") else 0
            device.move_to(power_dpt)
            assert driver.power_dpt == pytest.approx(power_dpt)


def test_what_came_before_a_command_is_not_its_answer(driver: OptotuneStandIn) -> None:
    lens = OptotuneLens(driver.path, lambda: False)
    stale = b"TCA\x00\xa0"  # 10 degrees
    driver.trailing = stale + crc_of_the_sheet(stale) + b"\r\n"
    for temperature_c in (20.0, 30.0):
        driver.temperature_c = temperature_c
        assert lens.set_focal_power(1.0) == temperature_c
        end_s = time.monotonic() + 5.0
        while lens._port._port.in_waiting < len(driver.trailing) and time.monotonic() < end_s:
            time.sleep(0.005)
    lens.close()


def test_an_interruption_while_taking_over_puts_the_mode_back(driver: OptotuneStandIn) -> None:
    driver.has_limits = False  # one command more after the mode was switched
    driver.mode = 2
    with pytest.raises(DeviceError, match="interrupted"):
        OptotuneLens(driver.path, lambda: driver.limits is not None)
    assert driver.mode == 2


def test_a_command_that_stays_refused_is_an_error(driver: OptotuneStandIn) -> None:
    with device_of(driver) as device:
        driver.damage_received = 100
        with pytest.raises(DeviceError, match=r"did not take b'PwDA': the checksum was wrong"):
            device.move_to(1.0)
        driver.damage_received = 0
        device.move_to(1.0)
        assert driver.power_dpt == pytest.approx(1.0)


def test_a_silent_port_is_told_from_a_lens_driver(driver: OptotuneStandIn) -> None:
    driver.silent = True
    with pytest.raises(DeviceError, match="does not answer; is an Optotune lens driver at this port"):
        device_of(driver).__enter__()


def test_no_lens_and_no_range_are_told(driver: OptotuneStandIn) -> None:
    driver.status = 0b10
    with pytest.raises(DeviceError, match="connect the lens"):
        device_of(driver).__enter__()
    driver.status = 0b1_0000
    with pytest.raises(CameraError, match="expected a range of focal power") as raised:
        device_of(driver).__enter__()
    assert not isinstance(raised.value, DeviceError)
    driver.status = 0b10_0000
    with device_of(driver) as device:
        assert any("temperature of the lens is outside its specification" in note for note in device.notes)
    assert driver.mode == 1


def test_firmware_without_a_status_command_works(driver: OptotuneStandIn) -> None:
    driver.has_status_command = False
    driver.temperature_c = None
    with device_of(driver) as device:
        feed_image(device)
        assert device.read(1.0).temperature_c is None


def test_what_may_take_long_is_bounded() -> None:
    """A driver that never answers must not keep the node's shutdown waiting."""
    assert optotune_lens.ANSWER_S * optotune_lens.TRIES < 1.0
