# SPDX-License-Identifier: Apache-2.0
"""The simulated camera as its users see it: frames, lens states, true depth."""

from __future__ import annotations

import dataclasses
import math
import threading
import time

import numpy as np
import pytest

from dualfocus_ros.camera import scene, simulated
from dualfocus_ros.camera.motion import Mechanics, Move
from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.camera.surfaces import Plane
from dualfocus_ros.errors import CameraError, LensError, ParameterError
from dualfocus_ros.types import CameraFrame

SMALL = SimulatedConfig(width=80, height=60, pixel_pitch_m=110e-6, views=16, rate_hz=0.0)
# The same pixels as the default camera, fewer of them.
SHARP = dataclasses.replace(SMALL, width=160, height=120, pixel_pitch_m=13.75e-6, views=256)
X, Y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def settled(camera: SimulatedCamera, focus_m: float) -> CameraFrame:
    camera.set_focus(focus_m)
    for _ in range(100):
        frame = camera.read()
        if frame.lens_state.focus_speed_mps == 0.0:
            return frame
    raise AssertionError("the lens does not settle")


def linear(codes: np.ndarray) -> np.ndarray:
    c = codes / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def test_a_frame_tells_all_of_its_exposure() -> None:
    with SimulatedCamera(SMALL) as camera:
        frame = settled(camera, 1.25)
    assert frame.image.shape == (60, 80, 3)
    assert frame.image.dtype == np.uint8
    assert frame.encoding == "rgb8"
    assert frame.stamp_ns == frame.lens_state.stamp_ns
    assert frame.lens_state.focus_distance_m == 1.25
    k = frame.intrinsics
    # v / pitch with v = f s / (s - f)
    assert k.fx_px == k.fy_px == pytest.approx(0.016 * 1.25 / (1.25 - 0.016) / 110e-6)
    assert (k.cx_px, k.cy_px) == (39.5, 29.5)
    assert frame.image.std() > 20.0  # a picture, not a grey card


def test_without_breathing_the_field_of_view_is_that_of_the_nearest_focus() -> None:
    with SimulatedCamera(dataclasses.replace(SMALL, breathing=False)) as camera:
        frames = [settled(camera, s) for s in (0.4, 1.0, 5.0)]
    assert [f.intrinsics.fx_px for f in frames] == [pytest.approx(0.016 * 0.4 / (0.4 - 0.016) / 110e-6)] * 3


def test_true_depth_of_the_table_is_analytic() -> None:
    with SimulatedCamera(SMALL) as camera:
        frame = settled(camera, 5.0)
        k = camera.reference_intrinsics
    truth = frame.ground_truth_m
    assert truth is not None
    assert truth.dtype == np.float32
    assert np.isfinite(truth).all()
    # The camera looks down by the pitch on a table at a known height; z of the ray (x', y', 1) that meets it.
    pitch = math.radians(scene.PITCH_DEG)
    y_prime = (np.arange(60) - k.cy_px) / k.fy_px
    z = scene.TABLE_Y_M / (math.cos(pitch) * y_prime + math.sin(pitch))
    table = np.abs(truth - z[:, None]) < 1e-5
    assert table[-1].mean() > 0.6  # the nearest ball hides a quarter
    assert table[40:].mean() > 0.3
    # What is not table stands on it or hangs over it.
    above = z > 0.0
    assert np.all(truth[above] < z[above, None] * (1.0 + 1e-5))
    assert 0.5 < truth.min() < 0.6
    assert 3.2 < truth.max() < 3.6


def test_the_scene_fills_the_depth_range() -> None:
    with SimulatedCamera(SMALL) as camera:
        truth = camera.read().ground_truth_m
    assert truth is not None
    shares = np.histogram(1.0 / truth, bins=np.linspace(1 / 3.5, 1 / 0.6, 7))[0] / truth.size
    assert shares.min() > 0.04


@pytest.fixture
def dots(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, float]:
    """A scene of 12 white dots on black at 1 m, in place of the still life; their x and y in metres."""
    depth_m, size_m = 1.0, 0.002
    grid = np.array([(x, y) for x in (-0.048, -0.02, 0.021, 0.047) for y in (-0.034, 0.003, 0.033)])
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    planes = [
        Plane(white, np.array([x - size_m / 2, y - size_m / 2, depth_m]), X, Y, (size_m, size_m), 1.0)
        for x, y in grid
    ]
    back = Plane(black, np.array([0.0, 0.0, 2.0]), X, Y, None, 1.0)
    monkeypatch.setattr(simulated, "make_scene", lambda seed, layout: (*planes, back))
    return grid, depth_m


def dot_positions(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centroids in pixels of the light around the places `near` (N, 2)."""
    light = linear(image[..., 1])
    found = []
    for x0, y0 in np.rint(near).astype(int):
        rows, columns = np.mgrid[y0 - 8 : y0 + 9, x0 - 8 : x0 + 9]
        inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
        weight = np.where(inside, light[rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)], 0)
        found.append(((weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()))
    return np.array(found)


def test_the_picture_breathes_as_the_intrinsics_say(dots: tuple[np.ndarray, float]) -> None:
    points, depth_m = dots
    config = dataclasses.replace(SHARP, full_scale_electrons=math.inf)
    scales = []
    with SimulatedCamera(config) as camera:
        for focus_m in (0.8, 1.4):
            frame = settled(camera, focus_m)
            k = frame.intrinsics
            expected = k.fx_px * points / depth_m + (k.cx_px, k.cy_px)
            found = dot_positions(frame.image, expected)
            np.testing.assert_allclose(found, expected, atol=0.08)
            scales.append(np.ptp(found[:, 0]) / np.ptp(points[:, 0]))
    # By the thin lens, v / v' = (1 - f / s') / (1 - f / s).
    assert scales[0] / scales[1] == pytest.approx((1 - 0.016 / 1.4) / (1 - 0.016 / 0.8), rel=1.5e-3)


def test_mechanical_error_shows_repeats_and_is_bounded(dots: tuple[np.ndarray, float]) -> None:
    points, depth_m = dots
    config = dataclasses.replace(SHARP, full_scale_electrons=math.inf, scale_error=0.005, shift_error_px=1.5)
    with SimulatedCamera(config) as camera:
        shots = {s: settled(camera, s) for s in (0.8, 0.95, 1.2)}
        again = settled(camera, 0.8)
        errors = {s: camera.mechanical_error(s) for s in shots}
        assert camera.mechanical_error(0.4) == simulated.MechanicalError()  # the reference frame has none
    np.testing.assert_array_equal(again.image, shots[0.8].image)
    off = []
    for focus_m, frame in shots.items():
        k, wrong = frame.intrinsics, errors[focus_m]
        reported = k.fx_px * points / depth_m + (k.cx_px, k.cy_px)
        true = k.fx_px * wrong.scale * points / depth_m + (k.cx_px + wrong.shift_x_px, k.cy_px + wrong.shift_y_px)
        found = dot_positions(frame.image, reported)
        np.testing.assert_allclose(found, true, atol=0.1)
        off.append(np.abs(found - reported).max())
    assert max(off) > 0.4
    with SimulatedCamera(config) as camera:
        assert {s: camera.mechanical_error(s) for s in shots} == errors


def test_mechanical_error_stays_within_its_bounds() -> None:
    mechanics = Mechanics(5, (0.0, 2.5), 0.005, 1.0)
    errors = [mechanics.at(d) for d in np.linspace(0.0, 2.5, 400)]
    values = np.array([(e.scale - 1.0, e.shift_x_px, e.shift_y_px) for e in errors]) / (0.005, 1.0, 1.0)
    assert np.abs(values).max() <= 1.0
    assert np.abs(values).max(axis=0).min() > 0.7
    assert values.std(axis=0).min() > 0.2
    assert mechanics.at(2.5).shift_x_px == 0.0


def test_noise_has_the_variance_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.repeat(np.arange(40, 240, dtype=np.uint8)[None, :, None], 3, 2).repeat(8, 0)
    plane = Plane(ramp, np.array([-0.5, 0.0, 1.0]), X, Y, None, 1.0 / 200)
    monkeypatch.setattr(simulated, "make_scene", lambda seed, layout: (plane,))
    electrons, read = 800.0, 12.0
    config = dataclasses.replace(SMALL, full_scale_electrons=electrons, read_noise_electrons=read)
    with SimulatedCamera(config) as camera:
        shots = np.stack([linear(camera.read().image[..., 0]) for _ in range(200)])
    with SimulatedCamera(dataclasses.replace(config, full_scale_electrons=math.inf)) as camera:
        clean = linear(camera.read().image[..., 0])
        np.testing.assert_array_equal(camera.read().image, camera.read().image)
    usable = (clean > 0.1) & (clean < 0.6)
    assert usable.mean() > 0.4
    variance = shots.var(axis=0)[usable]
    expected = clean[usable] / electrons + (read / electrons) ** 2
    assert (variance / expected).mean() == pytest.approx(1.0, abs=0.03)
    # It follows the light, not only its mean.
    dark, bright = clean[usable] < 0.2, clean[usable] > 0.45
    assert (variance / expected)[dark].mean() == pytest.approx(1.0, abs=0.06)
    assert (variance / expected)[bright].mean() == pytest.approx(1.0, abs=0.06)
    np.testing.assert_allclose(shots.mean(axis=0)[usable].mean(), clean[usable].mean(), rtol=3e-3)
    residual = (shots - shots.mean(axis=0))[:, usable]
    correlation = np.corrcoef(residual[0::2].ravel(), residual[1::2].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_the_seed_decides_everything() -> None:
    def play(seed: int) -> list[CameraFrame]:
        with SimulatedCamera(dataclasses.replace(SMALL, seed=seed, shift_error_px=1.0)) as camera:
            return [settled(camera, s) for s in (0.5, 2.0)]

    first, second, other = play(4), play(4), play(5)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.ground_truth_m, b.ground_truth_m)
        assert a.stamp_ns == b.stamp_ns
    assert np.abs(first[0].image.astype(int) - other[0].image).mean() > 10.0
    assert not np.array_equal(first[0].ground_truth_m, other[0].ground_truth_m)


def test_focus_makes_what_is_at_that_distance_sharp() -> None:
    config = dataclasses.replace(
        SMALL,
        width=320,
        height=240,
        pixel_pitch_m=27.5e-6,
        views=48,
        breathing=False,
        full_scale_electrons=math.inf,
    )
    with SimulatedCamera(config) as camera:
        shots = {s: settled(camera, s) for s in (0.68, 1.2, 3.4)}
    truth = shots[0.68].ground_truth_m
    assert truth is not None
    for focus_m, frame in shots.items():
        at = np.abs(1.0 / truth - 1.0 / focus_m) < 0.05
        assert at.mean() > 0.01
        detail = {
            s: np.abs(np.diff(f.image[..., 1].astype(float), axis=1, append=0.0))[at].mean()
            for s, f in shots.items()
        }
        assert max(detail, key=lambda s: detail[s]) == focus_m
        assert frame.lens_state.focus_distance_m == focus_m


def test_frames_exposed_while_the_lens_moves_say_so() -> None:
    config = dataclasses.replace(SMALL, slew_dpt_per_s=5.0, settle_s=0.1)
    with SimulatedCamera(config) as camera:
        settled(camera, 0.4)
        camera.set_focus(5.0)
        frames = [camera.read() for _ in range(12)]
    states = [f.lens_state for f in frames]
    moving = [s.focus_speed_mps != 0.0 for s in states]
    # 2.3 dpt: 2.05 dpt at 5 dpt/s, then braking for 0.1 s: 0.51 s, 7 or 8 frames.
    assert 7 <= sum(moving) <= 8
    assert moving == sorted(moving, reverse=True)
    dpt = np.array([s.focus_dpt for s in states])
    assert np.all(np.diff(dpt) <= 0.0)
    # At constant speed the position falls by 5 dpt/s / 15 from frame to frame, and the reported speed is that.
    np.testing.assert_allclose(np.diff(dpt[:6]), -5.0 / 15.0, rtol=1e-6)
    np.testing.assert_allclose([s.focus_speed_dpt_per_s for s in states[:6]], 5.0, rtol=1e-6)
    assert all(s.focus_speed_mps > 0.0 for s in states[:6])  # away from the camera
    assert [s.focus_distance_m for s in states[8:]] == [5.0] * 4
    k = frames[3].intrinsics
    s = states[3].focus_distance_m
    assert k.fx_px == pytest.approx(0.016 * s / (s - 0.016) / 110e-6)


def test_a_move_is_continuous_and_ends_exactly() -> None:
    for to_dpt in (0.2, 2.49, 2.5):
        move = Move(10.0, 2.5, to_dpt, 8.0, 0.05)
        times = np.linspace(9.9, 11.0, 4001)
        at = np.array([move.position_dpt(t) for t in times])
        assert at[0] == 2.5
        assert at[-1] == move.position_dpt(move.end_s) == to_dpt
        assert np.abs(np.diff(at)).max() <= 8.0 * (times[1] - times[0]) * (1.0 + 1e-6)
        assert np.all(np.diff(at) <= 0.0)
        assert move.moves_within(9.9, 10.001) == (to_dpt != 2.5)
        assert not move.moves_within(move.end_s, 12.0)


def test_live_frames_keep_the_rate_and_carry_the_time_of_exposure() -> None:
    config = dataclasses.replace(SMALL, rate_hz=40.0, exposure_s=0.004)
    with SimulatedCamera(config) as camera:
        camera.prepare((0.4,))
        camera.read()
        before = time.time_ns()
        start = time.perf_counter()
        frames = [camera.read() for _ in range(20)]
        wall_s = time.perf_counter() - start
        after = time.time_ns()
    # A busy machine may delay a frame, so an upper limit says little; a camera is never early.
    assert 19 / 40.0 - 0.03 < wall_s < 2.0
    stamps = np.array([f.stamp_ns for f in frames])
    assert before - 25e6 < stamps[0]
    assert stamps[-1] < after
    assert np.median(np.diff(stamps)) == pytest.approx(25e6, abs=1e6)
    assert np.diff(stamps).min() > 15e6


def test_infinity_can_be_focused() -> None:
    with SimulatedCamera(dataclasses.replace(SMALL, far_m=math.inf)) as camera:
        assert camera.focus_range_m == (0.4, math.inf)
        frame = settled(camera, math.inf)
        camera.set_focus(1.0)
        moved = camera.read()
    assert frame.lens_state.focus_distance_m == math.inf
    assert frame.intrinsics.fx_px == pytest.approx(0.016 / 110e-6)
    assert moved.lens_state.focus_dpt > 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 4}, "width"),
        ({"f_number": 0.0}, "f_number"),
        ({"f_number": math.nan}, "f_number"),
        ({"near_m": 6.0}, "near_m < far_m"),
        ({"focal_length_m": 0.1, "near_m": 0.05}, "focal_length_m < near_m"),
        ({"rate_hz": -1.0}, "rate_hz within 0"),
        ({"rate_hz": 200.0, "exposure_s": 0.01}, "exposure_s"),
        ({"views": 2}, "views within 16"),
        ({"seed": -1}, "seed"),
    ],
)
def test_unusable_settings_are_named(change: dict[str, float], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]


def test_every_setting_is_described() -> None:
    for f in dataclasses.fields(SimulatedConfig):
        assert f.metadata["doc"].endswith((".", ")"))
        if f.name.endswith(("_m", "_s", "_hz", "_px")):
            assert "unit" in f.metadata


def test_misuse_is_refused() -> None:
    camera = SimulatedCamera(SMALL)
    with pytest.raises(CameraError, match="open"):
        camera.read()
    with camera:
        for focus_m in (0.2, 6.0, math.nan, -1.0):
            with pytest.raises(LensError, match=r"0\.4 \.\. 5\.0 m"):
                camera.set_focus(focus_m)
    with pytest.raises(CameraError, match="open"):
        camera.set_focus(1.0)


def test_opening_can_be_interrupted_and_the_camera_opened_again():
    camera = SimulatedCamera(SimulatedConfig(views=512, rate_hz=0.0))
    threading.Timer(0.3, camera.interrupt).start()
    start = time.monotonic()
    with pytest.raises(CameraError, match="interrupted"), camera:
        pass
    assert time.monotonic() - start < 2.0  # 512 views take many times that
    small = SimulatedCamera(SimulatedConfig(width=64, height=48, views=16, rate_hz=0.0))
    small.interrupt()
    with small:
        assert small.read().image.shape == (48, 64, 3)
