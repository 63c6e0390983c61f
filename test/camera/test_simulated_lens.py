# SPDX-License-Identifier: Apache-2.0
"""The simulated lens: its pictures against independent optics, its actuator against what is said of it."""

from __future__ import annotations

import math
import threading
import time

import cv2
import numpy as np
import pytest

from dualfocus_ros.camera.device import DeviceFrame
from dualfocus_ros.camera.simulated_actuator import settle_s
from dualfocus_ros.camera.simulated_lens import SimulatedLensConfig, SimulatedLensDevice
from dualfocus_ros.camera.simulated_plane import Placement, PlanePictures, Surface, disc_kernel, textured_surface
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.errors import CameraError, DeviceError, LensError, ParameterError

SIZE = (160, 120)
# Fast, exact and steady unless a test wants otherwise.
STEADY = {
    "width": SIZE[0],
    "height": SIZE[1],
    "full_scale_electrons": math.inf,
    "dpt_per_k": 0.0,
    "hysteresis": 0.0,
    "target": "texture",
    "tilt_y_deg": 0.0,
    "f_number": 0.6,
}


def settled(device: SimulatedLensDevice, position: float) -> DeviceFrame:
    device.move_to(position)
    told_s = device.clock.now()
    while True:
        frame = device.read(1.0)
        if frame.exposure[0] >= told_s + 0.3:
            return frame


def sharpness(frame: DeviceFrame) -> float:
    return float((cv2.Laplacian(frame.image.astype(np.float32), cv2.CV_32F) ** 2).mean())


def sharpest(device: SimulatedLensDevice, positions: np.ndarray) -> float:
    """Return the position of the highest sharpness, by the parabola through 1 / sharpness around it."""
    values = np.array([1.0 / sharpness(settled(device, float(u))) for u in positions])
    top = int(values.argmin())
    near = slice(max(top - 3, 0), top + 4)
    bend, slope, _ = np.polyfit(positions[near], values[near], 2)
    return float(-0.5 * slope / bend)


def by_brute_force(surface: Surface, placement: Placement, f_px: float, aperture_m: float, focus_dpt: float):
    """Return a thin lens's picture: each pixel the mean over rays through the pupil, each traced to the plane."""
    height, width = SIZE[1], SIZE[0]
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    r, middle = placement.rotation(), placement.middle()
    total = np.zeros((height, width))
    rng = np.random.default_rng(0)
    count = 600
    for k in range(count):
        radius, angle = 0.5 * aperture_m * math.sqrt((k + 0.5) / count), k * 2.399963
        eye = np.array([radius * math.cos(angle), radius * math.sin(angle), 0.0])
        inside = rng.uniform(-0.5, 0.5, 2)
        slopes = np.stack(
            [(x + inside[0] - (width - 1) / 2) / f_px, (y + inside[1] - (height - 1) / 2) / f_px, np.ones_like(x)],
            -1,
        )
        slopes[..., :2] -= eye[:2] * focus_dpt  # all meet where the focus is
        z = float(r[:, 2] @ (middle - eye)) / (slopes @ r[:, 2])
        at = (eye + z[..., None] * slopes - middle) @ r[:, :2] / surface.texel_m
        at += np.array([surface.light.shape[1] - 1, surface.light.shape[0] - 1]) / 2
        total += cv2.remap(surface.light, at.astype(np.float32), None, cv2.INTER_LINEAR)
    return total / count


@pytest.mark.parametrize("focus_dpt", [2.0, 2.6, 4.5])
def test_pictures_of_a_tilted_plane_are_those_of_traced_rays(focus_dpt: float) -> None:
    f_px, aperture_m = 200.0, 0.01
    placement = Placement(0.45, 10.0, 40.0, 5.0, 0.01, -0.01)
    noise = textured_surface(0.45 / f_px / 2.0, 3)
    surface = Surface(cv2.GaussianBlur(noise.light, (0, 0), 1.5), noise.texel_m)
    centre = ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
    pictures = PlanePictures(surface, placement, SIZE, centre, 0.97 * f_px, aperture_m, (0.0, 0.0))
    drawn = pictures.picture(focus_dpt, f_px)
    traced = by_brute_force(surface, placement, f_px, aperture_m, focus_dpt)
    inside = (slice(12, -12), slice(12, -12))
    off = float(np.sqrt(np.mean((drawn - traced)[inside] ** 2)))
    assert off < 0.04 * float(traced[inside].std())
    # The comparison tells a focus that is off by a little.
    wrong = pictures.picture(focus_dpt + 0.5, f_px)
    assert float(np.sqrt(np.mean((wrong - traced)[inside] ** 2))) > 2.0 * off


@pytest.mark.parametrize("diameter", [0.7, 3.0, 11.3])
def test_discs_have_the_variance_of_discs(diameter: float) -> None:
    kernel = disc_kernel(diameter)
    at = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert float((kernel.sum(axis=0) * at**2).sum()) == pytest.approx(diameter**2 / 16, rel=0.04)


def test_it_is_sharpest_where_the_truth_says() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY, distance_m=0.4)) as device:
        found = sharpest(device, np.arange(250.0, 700.0, 15.0))
        assert device.true_focus_dpt(found, 22.0) == pytest.approx(2.5, abs=0.03)


def test_temperature_moves_the_focus_and_is_told_where_it_is_said_to_be() -> None:
    config = SimulatedLensConfig(**{**STEADY, "dpt_per_k": 0.05}, distance_m=0.4, warmup_s=1.0, warmup_k=10.0)
    with SimulatedLensDevice(config) as device:
        cold = device.true_focus_dpt(400.0, config.ambient_c)
        for _ in range(150):
            frame = device.read(1.0)
        assert frame.temperature_c == pytest.approx(32.0, abs=0.05)
        assert device.true_focus_dpt(400.0, 32.0) - cold == pytest.approx(0.5)
        found = sharpest(device, np.arange(250.0, 700.0, 15.0))
        assert device.true_focus_dpt(found, 32.0) == pytest.approx(2.5, abs=0.03)
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY, tells_temperature=False)) as device:
        assert device.read(1.0).temperature_c is None


def test_the_lens_lags_by_half_of_the_play_from_either_side() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**{**STEADY, "hysteresis": 60.0}, distance_m=0.4)) as device:
        positions = np.arange(250.0, 700.0, 15.0)
        device.move_to(100.0)
        up = sharpest(device, positions)
        device.move_to(900.0)
        down = sharpest(device, positions[::-1])
        assert up - down == pytest.approx(60.0, abs=6.0)
        assert device.true_focus_dpt(up, 22.0, 1) == pytest.approx(2.5, abs=0.03)
        assert device.true_focus_dpt(down, 22.0, -1) == pytest.approx(2.5, abs=0.03)


def test_within_the_play_nothing_moves() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**{**STEADY, "hysteresis": 60.0})) as device:
        settled(device, 100.0)
        before = settled(device, 600.0)
        after = settled(device, 545.0)
        assert (before.image == after.image).all()
        assert (settled(device, 520.0).image != after.image).any()


@pytest.mark.parametrize("motion", ["slew", "ring"])
def test_pictures_are_at_rest_when_the_truth_says_so(motion: str) -> None:
    config = SimulatedLensConfig(**STEADY, motion=motion, ring_hz=15.0, slew_dpt_per_s=10.0, readout_s=0.0)
    with SimulatedLensDevice(config) as device:
        takes_s = device.true_settle_s(300.0, 700.0, 0.01)
        assert takes_s > 0.15
        settled(device, 100.0)
        settled(device, 300.0)
        told_s = device.clock.now()
        device.move_to(700.0)
        frames = [device.read(1.0) for _ in range(20)]
        late = [f.image for f in frames if f.exposure[0] >= told_s + takes_s]
        early = [f.image for f in frames if f.exposure[1] < told_s + 0.4 * takes_s]
        assert len(late) > 3 and early
        last = frames[-1].image.astype(float)
        assert max(np.abs(picture - last).mean() for picture in late) < 0.3
        assert all(np.abs(picture - last).mean() > 1.0 for picture in early[:1])


def test_a_swing_settles_when_its_envelope_says_so() -> None:
    config = SimulatedLensConfig(**STEADY, motion="ring", ring_hz=50.0, ring_damping=0.1, dead_time_s=0.0)
    device = SimulatedLensDevice(config)
    way = abs(device.true_focus_dpt(700.0, 22.0) - device.true_focus_dpt(300.0, 22.0))
    envelope_s = math.log(way / 0.01) / (0.1 / math.sqrt(0.99) * 2.0 * math.pi * 50.0)
    assert device.true_settle_s(300.0, 700.0, 0.01) == pytest.approx(envelope_s, abs=0.02)
    assert settle_s(device._mover(0.0, 1.0, 1.0), 0.01) == 0.0


def test_the_field_of_view_follows_the_focus() -> None:
    device = SimulatedLensDevice(SimulatedLensConfig(**STEADY))
    far, near = (device.true_intrinsics(dpt).fx_px for dpt in (0.0, 5.0))
    assert far == pytest.approx(0.008 / 0.0064 * SIZE[0])
    # v = f s / (s - f)
    assert near / far == pytest.approx(0.2 / (0.2 - 0.008))


@pytest.mark.parametrize("board", ["charuco:9x6:0.025:0.018", "checkerboard:8x5:0.025"])
def test_corners_are_where_the_truth_says(board: str) -> None:
    config = SimulatedLensConfig(
        width=640, height=480, dpt_per_k=0.0, hysteresis=0.0, target=board, k1=-0.2, k2=0.05, axis_shift_px=9.0
    )
    placement = Placement(0.4, 15.0, 25.0, 4.0, 0.01, 0.005)
    with SimulatedLensDevice(config) as device:
        device.place(placement)
        frame = settled(device, 400.0)
        truth = device.true_intrinsics(device.true_focus_dpt(400.0, 22.0))
        corners = parse_board(board).corners_m
        centred = corners - 0.5 * (corners[0] + corners[-1])
        rotation = cv2.Rodrigues(placement.rotation())[0]
        expected, _ = cv2.projectPoints(
            centred, rotation, placement.middle(), truth.matrix(), np.array(truth.distortion)
        )
        at = expected.reshape(-1, 1, 2).astype(np.float32)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.001)
        found = cv2.cornerSubPix(frame.image, at.copy(), (3, 3), (-1, -1), stop)
        off = np.hypot(*(found - at).reshape(-1, 2).T)
        assert float(np.median(off)) < 0.06
        assert float(off.max()) < 0.5


def test_it_opens_again_and_refuses_to_be_read_closed() -> None:
    device = SimulatedLensDevice(SimulatedLensConfig(**STEADY))
    with pytest.raises(CameraError, match="with SimulatedLensDevice"):
        device.read(1.0)
    for _ in range(2):
        with device:
            first = device.read(1.0)
            assert first.temperature_c == pytest.approx(22.0, abs=0.1)
    with pytest.raises(CameraError):
        device.move_to(10.0)


def test_frames_come_in_real_time_where_a_rate_is_set() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY, rate_hz=40.0)) as device:
        starts = [device.read(1.0).exposure[0] for _ in range(3)]
        assert np.diff(starts).min() >= 0.025 - 1e-9


@pytest.mark.parametrize("position", [-1.0, 1024.0, math.nan])
def test_positions_outside_the_range_are_refused(position: float) -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY)) as device, pytest.raises(LensError, match="0 .. 1023"):
        device.move_to(position)


def test_a_frame_that_takes_too_long_and_one_that_is_interrupted_are_errors() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY, rate_hz=0.5)) as device:
        device.read(5.0)
        with pytest.raises(DeviceError, match="0.05 s"):
            device.read(0.05)
        threading.Timer(0.1, device.interrupt).start()
        began_s = time.monotonic()
        with pytest.raises(DeviceError, match="interrupted"):
            device.read(30.0)
        assert time.monotonic() - began_s < 1.5


def test_a_lens_that_swings_for_ever_never_settles() -> None:
    config = SimulatedLensConfig(**STEADY, motion="ring", ring_hz=1.0, ring_damping=0.01)
    assert math.isinf(SimulatedLensDevice(config).true_settle_s(300.0, 700.0, 0.01))


def test_automatic_exposure_fits_into_every_frame_rate() -> None:
    with SimulatedLensDevice(SimulatedLensConfig(**STEADY, rate_hz=60.0)) as device:
        start, end = device.read(1.0).exposure
        assert 0.0 < end - start <= 1.0 / 60.0


def test_moving_pictures_average_over_the_exposure() -> None:
    """The rows of a rolling shutter see the lens one after the other."""
    config = SimulatedLensConfig(
        **STEADY, slew_dpt_per_s=40.0, settle_s=0.0, dead_time_s=0.0, exposure_s=0.002, readout_s=0.06
    )
    with SimulatedLensDevice(config) as device:
        first = settled(device, 300.0).image.astype(float)
        device.move_to(700.0)
        moving = device.read(1.0).image.astype(float)
        last = settled(device, 700.0).image.astype(float)
        top, bottom = slice(0, 12), slice(108, 120)
        assert np.abs(moving - first)[top].mean() < 0.3 * np.abs(moving - last)[top].mean()
        assert np.abs(moving - last)[bottom].mean() < 0.3 * np.abs(moving - first)[bottom].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": "jump"}, "motion"),
        ({"near_dpt": 0.4}, "near_dpt"),
        ({"low": 5.0, "high": 5.0}, "low"),
        ({"exposure_s": 0.07}, "frame period"),
        ({"target": "charuco:9x6:25:18"}, "metres"),
        ({"near_dpt": 49.0, "focal_length_m": 0.02}, "focal length"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SimulatedLensConfig(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("charuco:9x6:0.03", "COLUMNSxROWS"),
        ("circles:9x6:0.03", "COLUMNSxROWS"),
        ("charuco:9x6:0.03:0.04", "smaller"),
        ("charuco:9x6:0.03:0.02:DICT_5X5_251", "did you mean"),
        ("charuco:30x20:0.03:0.02:DICT_4X4_50", "300 markers"),
        ("checkerboard:6x6:0.03", "columns"),
        ("checkerboard:9x6:nan", "finite|squares"),
    ],
)
def test_boards_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_board(text)


@pytest.mark.parametrize("text", ["charuco:9x6:0.03:0.02:DICT_5X5_250", "checkerboard:8x5:0.03"])
def test_boards_tell_how_to_describe_them(text: str) -> None:
    assert str(parse_board(text)) == text
    assert len(parse_board(text).corners_m) == 40
