# SPDX-License-Identifier: Apache-2.0
"""What calibrations are judged by: that the truth told of the simulated lens is that of its pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dualfocus_ros.camera.device import DeviceFrame
from dualfocus_ros.camera.sensor import srgb_to_linear
from dualfocus_ros.camera.simulated_lens import SimulatedLensConfig, SimulatedLensDevice
from dualfocus_ros.camera.simulated_plane import Placement
from dualfocus_ros.camera.target_board import charuco_board, parse_board

BOARD = "charuco:9x6:0.04:0.03"
# A common 16 mm f/1.4 machine vision lens, as of the simulated camera: 13.9 pixels of blur per dioptre.
LENS = {
    "width": 640,
    "height": 480,
    "focal_length_m": 0.016,
    "f_number": 1.4,
    "sensor_width_m": 640 * 13.75e-6,
    "far_dpt": 0.1,
    "near_dpt": 3.2,
    "dead_zone": 0.05,
    "k1": -0.05,
    "axis_shift_px": 4.0,
    "target": BOARD,
    "distance_m": 1.0,
    "tilt_y_deg": 0.0,
}
SMALL = {**LENS, "width": 160, "height": 120, "target": "texture"}


def rested(device: SimulatedLensDevice, position: float) -> DeviceFrame:
    device.move_to(position)
    device.clock.sleep(1.0)
    device.read(1.0)
    return device.read(1.0)


def position_of(device: SimulatedLensDevice, focus_dpt: float, temperature_c: float) -> float:
    """Return the position that has that focus when reached from below."""
    positions = np.arange(1024.0)
    return float(
        np.searchsorted([device.true_focus_dpt(float(u), temperature_c, 1) for u in positions], focus_dpt)
    )


@pytest.mark.skipif(not hasattr(cv2.aruco, "CharucoDetector"), reason="needs OpenCV 4.7")
@pytest.mark.parametrize("defocus_dpt", [0.0, 0.15])
@pytest.mark.parametrize("place", [Placement(1.0), Placement(1.0, 15.0, 20.0, 5.0, 0.02, -0.01)])
def test_a_detector_finds_the_corners_where_the_true_intrinsics_project_them(
    place: Placement, defocus_dpt: float
) -> None:
    board = parse_board(BOARD)
    with SimulatedLensDevice(SimulatedLensConfig(**LENS)) as device:
        device.place(place)
        rested(device, 0.0)
        ambient = device.config.ambient_c
        position = position_of(device, 1.0 / place.distance_m + defocus_dpt, ambient)
        frame = rested(device, position)
        truth = device.true_intrinsics(device.true_focus_dpt(position, ambient, 1))
    pixels, ids, _, _ = cv2.aruco.CharucoDetector(charuco_board(board)).detectBoard(frame.image)
    corners = board.corners_m - 0.5 * (board.corners_m[0] + board.corners_m[-1])
    turn = cv2.Rodrigues(place.rotation())[0]
    distortion = np.array(truth.distortion)
    expected, _ = cv2.projectPoints(corners, turn, place.middle(), truth.matrix(), distortion)
    assert len(ids) >= 30
    off = pixels.reshape(-1, 2) - expected.reshape(-1, 2)[ids.ravel()]
    assert float(np.sqrt((off**2).sum(axis=1).mean())) < (0.2 if defocus_dpt else 0.1)
    assert np.abs(off.mean(axis=0)).max() < 0.04  # half a texel or pixel of shift would be more


@pytest.mark.parametrize("dead_zone", [0.0, 0.05, 0.3])
def test_every_lens_rises_and_differs_from_the_others(dead_zone: float) -> None:
    curves = []
    for seed in range(25):
        config = SimulatedLensConfig(**{**SMALL, "lens_seed": seed, "dead_zone": dead_zone})
        device = SimulatedLensDevice(config)
        cold = config.ambient_c
        curve = np.array([device.true_focus_dpt(float(u), cold) for u in range(0, 1024, 3)])
        assert np.diff(curve).min() > 0.0
        assert (curve[0], curve[-1]) == pytest.approx((0.1, 3.2), abs=0.03)
        assert float(np.interp(0.6 * dead_zone * 1023, np.arange(0, 1024, 3), curve)) < 0.15
        curves.append(curve)
    apart = [np.abs(a - b).max() for i, a in enumerate(curves) for b in curves[:i]]
    assert min(apart) > 0.001
    assert max(apart) > 0.2


def test_one_seed_is_one_lens_and_one_run() -> None:
    def run(**changed: int) -> list[np.ndarray]:
        with SimulatedLensDevice(SimulatedLensConfig(**{**SMALL, **changed})) as device:
            device.move_to(500.0)
            return [device.read(1.0).image for _ in range(3)]

    first = run()
    assert all((a == b).all() for a, b in zip(first, run(), strict=True))
    assert (first[-1] != run(lens_seed=2)[-1]).any()
    assert (first[-1] != run(seed=2)[-1]).any()


def test_the_noise_is_that_of_the_electrons() -> None:
    config = SimulatedLensConfig(**{**SMALL, "full_scale_electrons": 4000.0, "dpt_per_k": 0.0})
    with SimulatedLensDevice(config) as device:
        rested(device, 500.0)
        codes = np.stack([device.read(1.0).image for _ in range(60)])
    light = srgb_to_linear(codes / 255.0)
    mean, variance = light.mean(axis=0), light.var(axis=0, ddof=1)
    expected = mean / 4000.0 + (config.read_noise_electrons / 4000.0) ** 2
    # In the middle of the scale, where a code is a small part of the noise: a twelfth of its width squared.
    inside = (mean > 0.1) & (mean < 0.8)
    code = (1.055 / 2.4 * mean ** (1.0 / 2.4 - 1.0) * 255.0) ** -1
    assert inside.mean() > 0.5
    assert variance[inside].mean() == pytest.approx((expected + code**2 / 12.0)[inside].mean(), rel=0.03)


def test_scale_of_the_picture_follows_the_true_focal_length() -> None:
    far_dpt, near_dpt = 0.85, 1.15
    with SimulatedLensDevice(SimulatedLensConfig(**{**LENS, "full_scale_electrons": np.inf, "k1": 0.0})) as device:
        cold = device.config.ambient_c
        at = [position_of(device, dpt, cold) for dpt in (far_dpt, near_dpt)]
        rested(device, 0.0)
        pictures = [rested(device, u).image for u in at]
        truth = [device.true_intrinsics(device.true_focus_dpt(u, cold, 1)) for u in at]
    board = parse_board(BOARD)
    centred = board.corners_m - 0.5 * (board.corners_m[0] + board.corners_m[-1])
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.001)
    radii = []
    for picture, k in zip(pictures, truth, strict=True):
        guess = (centred[:, :2] * k.fx_px + (k.cx_px, k.cy_px)).astype(np.float32).reshape(-1, 1, 2)
        found = cv2.cornerSubPix(picture, guess, (6, 6), (-1, -1), stop).reshape(-1, 2)
        radii.append(float(np.hypot(*(found - found.mean(axis=0)).T).mean()))
    breathing = truth[1].fx_px / truth[0].fx_px
    assert breathing > 1.004
    assert radii[1] / radii[0] == pytest.approx(breathing, abs=0.0008)
