# SPDX-License-Identifier: Apache-2.0
"""The V4L2 camera on a stand-in for the kernel: order of calls, frames and their exposure, waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("linuxpy.video.raw")

from v4l2_helpers import PERIOD_S, config, grey_camera  # noqa: E402
from v4l2_stand_in import FakeV4l2  # noqa: E402
from v4l2_stand_in_camera import FakeCamera, uvc_controls  # noqa: E402

from dualfocus_ros.camera import v4l2_stream  # noqa: E402
from dualfocus_ros.camera.v4l2 import V4l2Device  # noqa: E402
from dualfocus_ros.errors import CameraError, DeviceError, LensError  # noqa: E402


@pytest.fixture
def camera() -> FakeCamera:
    return grey_camera()


@pytest.fixture
def v4l2(camera: FakeCamera) -> Iterator[FakeV4l2]:
    with FakeV4l2(camera) as fake:
        yield fake
    assert fake.open_fds() == 0
    assert fake.mappings() == 0


def test_nothing_is_touched_before_it_is_entered(v4l2: FakeV4l2) -> None:
    device = V4l2Device(config())
    assert v4l2.calls == []
    for use in (lambda: device.focus_range, lambda: device.read(0.1), lambda: device.move_to(0.0)):
        with pytest.raises(CameraError, match="expected an open camera"):
            use()


def test_autofocus_is_off_and_the_stream_runs_before_the_lens_is_moved(v4l2: FakeV4l2, camera: FakeCamera) -> None:
    with V4l2Device(config()) as device:
        device.move_to(100)
        moves = list(camera.focus_log)
    order = [
        v4l2.calls.index(c) for c in ("STREAMON", "DQBUF", "S_CTRL FOCUS_AUTO=0", "S_CTRL FOCUS_ABSOLUTE=100")
    ]
    assert order == sorted(order)
    assert [(position, obeyed) for _, position, obeyed in moves] == [(100.0, True)]


def test_frames_show_the_lens_at_their_exposure(v4l2: FakeV4l2, camera: FakeCamera) -> None:
    camera.render = lambda shot: np.full((48, 64, 3), round(shot.position), np.uint8)
    camera.lens_lag_s = 0.02
    with V4l2Device(config()) as device:
        assert (device.focus_range.low, device.focus_range.high, device.focus_range.step) == (0.0, 250.0, 5.0)
        assert device.focus_range.unit == "focus_absolute"
        device.move_to(30)
        while device.read(2.0).image[0, 0] != 30:
            pass
        device.move_to(210)
        commanded_s = camera.focus_log[-1][0]
        seen = []
        while not seen or seen[-1][0][0] < commanded_s + 12 * camera.lens_lag_s:
            frame = device.read(2.0)
            assert frame.encoding == "mono8" and frame.image.shape == (48, 64)
            seen.append((frame.exposure, int(frame.image[0, 0])))
    for (start, end), grey in seen:
        if end <= commanded_s:
            assert grey == 30
        elif start > commanded_s + 12 * camera.lens_lag_s:
            assert grey == 210
    assert [grey for _, grey in seen] == sorted(grey for _, grey in seen)
    assert any(30 < grey < 210 for _, grey in seen), "the lag of the lens must show"


def test_positions_out_of_range_are_refused_and_others_rounded_to_a_step(
    v4l2: FakeV4l2, camera: FakeCamera
) -> None:
    with V4l2Device(config()) as device:
        for wrong in (-5.0, 255.0, float("nan"), float("inf")):
            with pytest.raises(LensError, match="within 0 .. 250 focus_absolute"):
                device.move_to(wrong)
        for position in (0.0, 250.0, 101.0):
            device.move_to(position)
        assert [position for _, position, _ in camera.focus_log] == [0.0, 250.0, 100.0]


def test_a_late_reader_gets_a_new_frame_and_not_the_oldest(v4l2: FakeV4l2, camera: FakeCamera) -> None:
    with V4l2Device(config()) as device:
        for waits in (2, 3, 40):
            device.read(2.0)
            time.sleep(waits * PERIOD_S)
            before_s = time.monotonic()
            frame = device.read(2.0)
            # Frames are sent 0.3 periods after their exposure; the newest is that of the last period or so.
            assert frame.exposure[1] > before_s - 2.0 * PERIOD_S
        stamps = [device.read(2.0).exposure[0] for _ in range(10)]
        assert stamps == sorted(set(stamps))


def test_an_image_stays_as_it_is_when_its_buffer_is_used_again(v4l2: FakeV4l2) -> None:
    with V4l2Device(config()) as device:
        first = device.read(2.0)
        kept = first.image.copy()
        for _ in range(8):
            device.read(2.0)
        assert np.array_equal(first.image, kept)


@pytest.mark.parametrize(
    ("stamps", "driver", "hardware", "periods", "rate_hz"),
    [
        ("soe", "other", "0", 1.0, 200.0),
        ("soe", "uvcvideo", "1", 1.0, 200.0),
        ("packet", "uvcvideo", "0", 2.0, 200.0),
        ("eof", "other", "0", 1.0, 200.0),
        # A busy computer takes frames late, which only stamps would tell.
        ("unknown", "other", "0", 3.0, 20.0),
        ("wild", "uvcvideo", "1", 3.0, 20.0),
    ],
)
def test_the_exposure_told_covers_the_true_one(
    stamps: str,
    driver: str,
    hardware: str,
    periods: float,
    rate_hz: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "hwtimestamps").write_text(hardware + "\n")
    monkeypatch.setattr(v4l2_stream, "HW_TIMESTAMPS", tmp_path / "hwtimestamps")
    camera = grey_camera()
    camera.formats = {"GREY": {(64, 48): (rate_hz,)}}
    camera.stamps, camera.driver = stamps, driver
    with FakeV4l2(camera), V4l2Device(config(exposure_s=0.002, rate_hz=rate_hz)) as device:
        covered = 0
        for _ in range(8):
            frame = device.read(2.0)
            shot = next(s for q, s in reversed(camera.shots.items()) if q % 256 == frame.image[0, 0])
            start, end = frame.exposure
            assert end - start == pytest.approx(0.002 + periods / rate_hz, abs=1e-6)
            covered += start <= shot.start_s + 1e-6 and end >= shot.end_s - 1e-6
        assert covered == 8 if periods < 3.0 else covered > 0
        assert any("CLOCK_MONOTONIC" in note for note in device.notes) == (periods == 3.0)


def test_without_a_known_exposure_time_a_frame_period_is_its_bound() -> None:
    camera = grey_camera()
    camera.controls = uvc_controls(without=("EXPOSURE_ABSOLUTE",))
    camera.stamps = "eof"
    with FakeV4l2(camera), V4l2Device(config()) as device:
        start, end = device.read(2.0).exposure
        assert end - start >= 2 * PERIOD_S - 1e-9
        assert any("exposure time is not known" in note for note in device.notes)


def test_lost_frames_are_counted_by_their_numbers(v4l2: FakeV4l2, camera: FakeCamera) -> None:
    camera.fate = lambda q: "lost" if q in (12, 13, 20) else "good"
    with V4l2Device(config(auto_time_s=0.0)) as device:
        while max(camera.shots) < 30:
            device.read(2.0)
        last = max(camera.shots)
        device.read(2.0)
        first, last = min(camera.shots), max(camera.shots)
        never_filled = set(range(first, last + 1)) - set(camera.shots)
        assert {12, 13, 20} <= never_filled
        assert device.frames_lost == len(never_filled)


def test_sequence_numbers_may_wrap_or_stand_still() -> None:
    for sequences, lost in (((5, 6, 9), 2), ((2**32 - 2, 1), 2), ((0, 0, 0), 0), ((900, 0, 1), 0)):
        counter = v4l2_stream.LossCounter()
        for q in sequences:
            counter.saw(q)
        assert counter.lost == lost, sequences


@pytest.mark.parametrize(
    ("pixel_format", "harm"),
    [("GREY", "error"), ("GREY", "short"), ("MJPG", "error"), ("MJPG", "truncated"), ("MJPG", "garbage")],
)
def test_damaged_frames_are_dropped_and_counted(pixel_format: str, harm: str) -> None:
    camera = grey_camera(lambda shot: np.full((48, 64, 3), 250 if shot.sequence % 3 else 0, np.uint8))
    camera.formats = {pixel_format: {(64, 48): (200.0,)}}
    camera.power_up()
    camera.fate = lambda q: "good" if q % 3 else harm
    with FakeV4l2(camera), V4l2Device(config(auto_time_s=0.0)) as device:
        frames = [device.read(2.0).image for _ in range(12)]
        assert all(image.min() > 240 for image in frames), "a damaged frame was handed out"
        assert device.frames_damaged >= 3
        camera.fate = lambda q: harm
        with pytest.raises(DeviceError, match=r"no frame within 0.2 s, only [1-9]\d* damaged"):
            for _ in range(8):  # those that were ready before
                device.read(0.2)


def test_a_stalled_camera_is_told_after_the_time(v4l2: FakeV4l2) -> None:
    with V4l2Device(config()) as device:
        v4l2.stall()
        started = time.monotonic()
        with pytest.raises(DeviceError, match="stalled"):
            for _ in range(6):
                device.read(0.1)
        assert time.monotonic() - started > 0.1


@pytest.mark.parametrize("entering", [False, True])
def test_interrupt_ends_what_another_thread_waits_for(v4l2: FakeV4l2, entering: bool) -> None:
    device = V4l2Device(config())
    errors: list[BaseException] = []
    waits = threading.Event()

    def use() -> None:
        try:
            if entering:
                v4l2.stalled_at_s = 0.0
                waits.set()
            with device:
                v4l2.stall()
                waits.set()
                while True:
                    device.read(60.0)
        except CameraError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    assert waits.wait(10.0)
    time.sleep(0.1)
    device.interrupt()
    thread.join(4.0)
    assert not thread.is_alive()
    assert isinstance(errors[0], DeviceError) and "interrupted" in str(errors[0])
    v4l2.stalled_at_s = float("inf")
    with device:  # and it can be used again
        device.read(2.0)
    device.interrupt()  # of a closed device
