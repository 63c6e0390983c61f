# SPDX-License-Identifier: Apache-2.0
"""The driver for GenICam cameras: with pylon's emulated camera and a stand-in for the lens, and without pylon."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from genicam_fake import FakeWorld
from genicam_rigs import Emulated, Faked, config
from genicam_stand_in import EMULATED

from dualfocus_ros.camera.genicam import GenicamConfig, GenicamDevice
from dualfocus_ros.camera.genicam_image import PIXEL_ENCODINGS, image_of
from dualfocus_ros.errors import CameraError, DeviceError, LensError, ParameterError
from dualfocus_ros.image_encodings import ENCODINGS, check_layout


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


def test_the_lens_is_initialised_and_goes_where_it_is_told(rig: Emulated | Faked) -> None:
    assert rig.lens.state == "NotInitialized"
    with GenicamDevice(config()) as device:
        assert rig.lens.state == "Ready"
        reach = device.focus_range
        assert (reach.low, reach.high, reach.step, reach.unit) == pytest.approx((-2.0, 5.0, 0.01, "dpt"))
        assert rig.lens.nodes["FocusAuto"].value == "Off"
        for position in (-2.0, 1.23, 5.0):
            device.move_to(position)
            assert rig.lens.node.value == pytest.approx(position)
            frame = device.read(2.0)
            assert frame.position == pytest.approx(position)
            assert (frame.moving, frame.temperature_c) == (False, 31.5)
        for outside in (-2.1, 5.1, float("nan")):
            with pytest.raises(LensError, match=r"-2 .. 5 dpt"):
                device.move_to(outside)
    assert rig.lens.node.value == 0.5
    assert rig.lens.nodes["FocusAuto"].value == "Continuous"


@pytest.mark.parametrize("make", [Emulated, Faked])
def test_a_stepper_moves_in_steps_and_says_when(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make(monkeypatch, "FocusStepper")
    with GenicamDevice(config()) as device:
        reach = device.focus_range
        assert (reach.low, reach.high, reach.step, reach.unit) == (0.0, 1000.0, 4.0, "steps")
        rig.lens.takes_s = 0.25
        device.move_to(reach.nearest(501.0))
        assert rig.lens.node.value == 500
        assert device.read(2.0).moving is True
        # It takes no command while it moves.
        before_s = time.monotonic()
        device.move_to(200.0)
        assert rig.lens.moves[-2:] == [500, 200]
        assert time.monotonic() - before_s > 0.05
        time.sleep(0.3)
        assert device.read(2.0).moving is False
        device.move_to(400.0)
    # The move under way when it was closed did not keep it from being put back.
    assert rig.lens.node.value == 40


@pytest.mark.parametrize("make", [Emulated, Faked])
def test_the_step_of_an_autofocus_is_not_taken_for_a_position(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make(monkeypatch, "LensOpticalPower")
    with GenicamDevice(config()) as device:
        assert rig.lens.connection.value == "Connect"
        assert (device.focus_range.low, device.focus_range.high) == (-3.5, 4.0)
        device.move_to(3.25)
        assert rig.lens.node.value == 3.25
        assert device.read(1.0).moving is None
    assert rig.lens.connection.value == "NotConnect"
    assert rig.lens.nodes["FocusStepper"].value == 0.2


def test_the_step_of_an_autofocus_alone_moves_no_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Faked(monkeypatch, "LensOpticalPower")
    del rig.world.nodes["LensOpticalPower"]
    with pytest.raises(DeviceError, match="FocusStepper cannot be used"):
        GenicamDevice(config()).__enter__()
    assert rig.world.nodes["LensConnection"].value == "NotConnect"


def test_a_feature_can_be_named(faked: Faked) -> None:
    faked.world.nodes["MyFocus"] = faked.lens.node
    with GenicamDevice(config(focus_node="MyFocus")) as device:
        device.move_to(2.0)
        assert (faked.lens.node.value, device.focus_range.unit) == (2.0, "dpt")
    with pytest.raises(CameraError, match="this one has no Nope") as raised:
        GenicamDevice(config(focus_node="Nope")).__enter__()
    assert not isinstance(raised.value, DeviceError)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("NotConnected", DeviceError, "is the lens connected"),
        ("Error", DeviceError, "is the lens connected"),
        ("NotSupported", DeviceError, "is the lens connected"),
    ],
)
def test_a_lens_that_is_not_there_is_told(faked: Faked, state: str, kind: type[Exception], words: str) -> None:
    faked.lens.state = state
    with pytest.raises(kind, match=words):
        GenicamDevice(config()).__enter__()
    assert faked.world.open_cameras == 0
    faked.lens.state = "NotInitialized"
    with GenicamDevice(config()) as device:
        faked.lens.state = "Error"
        with pytest.raises(DeviceError, match="the lens says Error"):
            device.read(1.0)


def test_a_camera_without_lens_features_says_so(emulated: Emulated) -> None:
    emulated.lens.nodes.clear()
    with pytest.raises(CameraError, match="no FocalPower or LensOpticalPower or FocusStepper") as raised:
        GenicamDevice(config()).__enter__()
    assert not isinstance(raised.value, DeviceError)


@pytest.mark.parametrize(
    ("pixel_format", "encoding"),
    [
        ("auto", "mono8"),
        ("RGB8Packed", "rgb8"),
        ("BGR8Packed", "bgr8"),
        ("BayerRG8", "bayer_rggb8"),
        ("Mono12", "mono16"),
    ],
)
def test_emulated_images_come_as_asked(emulated: Emulated, pixel_format: str, encoding: str) -> None:
    with GenicamDevice(config(pixel_format=pixel_format, width=320, height=240)) as device:
        frame = device.read(2.0)
        assert (frame.encoding, frame.image.shape[:2]) == (encoding, (240, 320))
        check_layout(frame.image, encoding)
        # pylon's test image is a ramp that wanders.
        picture = frame.image.reshape(240, 320, -1)[..., 0].astype(int)
        across = np.diff(picture, axis=1)
        assert np.mean(across == np.median(across)) > 0.9
        assert emulated.camera.read("PixelFormat")["PixelFormat"] in (pixel_format, "Mono8")


def test_the_emulated_camera_is_left_as_it_was(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    with GenicamDevice(config()):
        pass
    fresh = emulated.camera.at_close
    device = GenicamDevice(config(serial_number="0815-0001", exposure_s=0.003, gain=6.0))
    with device:
        camera = emulated.camera
        assert camera.GetDeviceInfo().GetSerialNumber() == "0815-0001"
        inside = camera.read(*EMULATED)
        assert (inside["Width"], inside["Height"], inside["ExposureTime"]) == (640, 480, 3000.0)
        assert inside["Gain"] == pytest.approx(6.0, abs=0.1)
        assert (inside["AcquisitionFrameRate"], inside["AcquisitionMode"]) == (100.0, "Continuous")
        # The centre of the emulated 4096 x 4096, which binning does not make smaller.
        assert (inside["OffsetX"], inside["OffsetY"]) == (1728, 1808)
        assert device.read(2.0).image.shape == (480, 640)
    changed = {name for name in EMULATED if inside[name] != fresh[name]}
    assert {"Width", "Height", "OffsetX", "OffsetY", "ExposureTime", "AcquisitionMode"} <= changed
    assert camera.at_close == fresh
    assert fresh["AcquisitionMode"] == "SingleFrame"


def test_settings_of_a_camera_are_put_back_whatever_they_were(faked: Faked) -> None:
    nodes = faked.world.nodes
    nodes["Width"].value, nodes["OffsetX"].value, nodes["BinningHorizontal"].value = 1100, 180, 1
    nodes["Height"].value, nodes["OffsetY"].value, nodes["BinningVertical"].value = 400, 80, 2
    before = faked.world.settings()
    with GenicamDevice(config(width=320, height=240)) as device:
        inside = faked.world.settings()
        assert (inside["BinningHorizontal"], inside["BinningVertical"]) == (4, 4)
        assert (inside["OffsetX"], inside["OffsetY"]) == (0, 0)
        assert inside["TriggerMode"] == {"FrameStart": "Off", "FrameBurstStart": "Off"}
        assert inside["TriggerSelector"] == "FrameStart"
        assert (inside["GainAuto"], inside["ExposureAuto"], inside["BalanceWhiteAuto"]) == ("Off", "Off", "Off")
        frame = device.read(1.0)
        assert (frame.encoding, frame.image.shape) == ("bayer_rggb8", (240, 320))
    after = faked.world.settings()
    # The lens stays initialised, and the automatic gain goes on finding its value.
    assert {name for name in after if after[name] != before[name]} <= {"OpticControllerStatus", "Gain"}


def test_exposure_is_found_by_the_automatic_and_held(faked: Faked) -> None:
    nodes = faked.world.nodes
    seen: list[str] = []
    nodes["ExposureAuto"].check = lambda value: seen.append(value)  # type: ignore[method-assign]
    with GenicamDevice(config()) as device:
        assert seen == ["Continuous", "Off"]
        assert nodes["ExposureTime"].value == FakeWorld.FOUND_EXPOSURE_US
        assert nodes["BalanceRatio"].values["Blue"] == 1.3
        start, end = device.read(1.0).exposure
        assert end - start == pytest.approx(FakeWorld.FOUND_EXPOSURE_US * 1e-6, abs=1e-3)
        nodes["ExposureAuto"].finds = lambda: setattr(nodes["ExposureTime"], "value", 9000.0)  # type: ignore[attr-defined]
        device.read(1.0)
        assert nodes["ExposureTime"].value == FakeWorld.FOUND_EXPOSURE_US
        assert device.meter()
        assert seen == ["Continuous", "Off"] * 2
        assert nodes["ExposureTime"].value == 9000.0
        start, end = device.read(1.0).exposure
        assert end - start == pytest.approx(9e-3, abs=1e-3)
    assert nodes["ExposureTime"].value == 4000.0
    nodes["ExposureAuto"].value = "Continuous"
    with GenicamDevice(config(hold_exposure=False)):
        assert nodes["ExposureAuto"].value == "Continuous"
        assert nodes["GainAuto"].value == "Continuous"


def test_a_setting_out_of_range_is_told_with_the_range(rig: Emulated | Faked) -> None:
    with pytest.raises(CameraError, match=r"exposure time within .* us, the range of ExposureTime, got 0.1"):
        GenicamDevice(config(exposure_s=1e-7)).__enter__()
    with pytest.raises(CameraError, match=r"gain within 0 .. .* dB, the range of Gain, got 1000"):
        GenicamDevice(config(gain=1000.0)).__enter__()


@pytest.mark.parametrize(
    ("width", "height", "words"), [(642, 480, "642; 6"), (2000, 480, "1280"), (640, 961, "960")]
)
def test_a_size_that_the_camera_does_not_have_is_told(faked: Faked, width: int, height: int, words: str) -> None:
    with pytest.raises(CameraError, match=words):
        GenicamDevice(config(width=width, height=height)).__enter__()


@pytest.mark.parametrize("gige", [False, True])
@pytest.mark.parametrize("shutter", ["Global", "Rolling", ""])
def test_frames_tell_when_they_were_exposed(gige: bool, shutter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Faked(monkeypatch, gige=gige, shutter=shutter)
    with GenicamDevice(config(exposure_s=0.004)) as device:
        for _ in range(5):
            start, end = device.read(1.0).exposure
            true_start, true_end = rig.world.exposed[-1]
            assert start == pytest.approx(true_start, abs=0.001)
            assert start <= true_start + 1e-6
            # Without SensorShutterMode there is no SensorReadoutTime here either.
            assert end >= (true_start + 0.004 if shutter == "" else true_end) - 1e-6
            assert end - start < 0.009
        assert not [note for note in device.notes if "arrival" in note]


@pytest.mark.parametrize("trouble", ["no stamps", "wrong rate", "other clock", "no latch"])
def test_without_usable_stamps_the_exposure_lies_within_what_is_told(faked: Faked, trouble: str) -> None:
    world = faked.world
    world.stamps = trouble != "no stamps"
    world.clock_runs = 0.9 if trouble == "wrong rate" else 1.0
    if trouble == "no latch":
        del world.nodes["TimestampLatch"]
    if trouble == "other clock":
        stamped = world.count
        latch = world.nodes["TimestampLatch"]
        latch.run = lambda: setattr(world.nodes["TimestampLatchValue"], "value", stamped(time.monotonic()) // 7)  # type: ignore[attr-defined]
    with GenicamDevice(config(exposure_s=0.004, auto_time_s=0.35)) as device:
        for wait_s in (0.0, 0.0, 0.034, 0.0):
            time.sleep(wait_s)
            start, end = device.read(1.0).exposure
            true_start, true_end = world.exposed[-1]
            assert start <= true_start
            assert end >= true_end
            # A period for the transfer, and one for what may have lain ready.
            assert end - start < 0.004 + 0.002 + 2 * 0.010 + 0.003 + 0.05
        assert [note for note in device.notes if "arrival" in note]


def test_emulated_frames_keep_the_rate_and_lie_in_the_past(emulated: Emulated) -> None:
    with GenicamDevice(config(rate_hz=40.0)) as device:
        device.read(1.0)
        begin = device.clock.now()
        exposures = [device.read(1.0).exposure for _ in range(8)]
        took = device.clock.now() - begin
        assert took == pytest.approx(8 / 40.0, abs=0.06)
        assert all(start < end <= device.clock.now() for start, end in exposures)
        assert [e for _, e in exposures] == sorted(e for _, e in exposures)


def test_pixels_of_padded_rows_and_of_two_bytes() -> None:
    rows = np.arange(2 * 10, dtype=np.uint8).reshape(2, 10)
    image = image_of(rows.tobytes(), 3, 2, 4, "mono16")
    assert image is not None
    np.testing.assert_array_equal(image, rows[:, :6].copy().view("<u2"))
    image = image_of(bytearray(rows.tobytes()), 3, 2, 1, "rgb8")
    assert image is not None
    np.testing.assert_array_equal(image, rows[:, :9].reshape(2, 3, 3))
    assert image_of(rows.tobytes()[:-1], 3, 2, 4, "mono16") is None


def test_every_pixel_format_has_an_encoding() -> None:
    assert set(PIXEL_ENCODINGS.values()) <= set(ENCODINGS)
    assert PIXEL_ENCODINGS["BayerRG8"] == "bayer_rggb8"
    assert PIXEL_ENCODINGS["BayerGB12"] == "bayer_gbrg16"


def test_settings_are_checked() -> None:
    with pytest.raises(ParameterError, match="pixel_format"):
        GenicamConfig(pixel_format="Mono7")
    with pytest.raises(ParameterError, match="focus_node"):
        GenicamConfig(focus_node="")
