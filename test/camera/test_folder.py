# SPDX-License-Identifier: Apache-2.0
"""The folder camera, on stacks that the tests write themselves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros.camera.folder import FolderCamera, FolderConfig
from dualfocus_ros.camera.pick import CAMERA_CHOICES, config_class, make_camera
from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.errors import CameraError, LensError, ParameterError

DISTANCES_M = [2.0, 0.5, 1.0]  # not in order, on purpose
FOCAL_M, PITCH_M = 0.01, 2e-5
SHARED = Path(__file__).parents[3] / "shared" / "real_stacks" / "balls"


def write_stack(folder: Path, **meta: object) -> Path:
    """Write three slices of one colour each, (10 i, 20, 200) in RGB, 40 x 30, and their depth."""
    folder.mkdir()
    for i in range(3):
        rgb = np.full((30, 40, 3), (10 * i, 20, 200), np.uint8)
        cv2.imwrite(str(folder / f"slice_{i:02d}.png"), rgb[..., ::-1])
    depth = np.full((30, 40), 7000, np.uint16)
    depth[:, 20:] = 15000
    depth[0, 0] = 0
    cv2.imwrite(str(folder / "depth.png"), depth)
    told = {
        "focal_length_m": FOCAL_M,
        "f_number": 2.0,
        "pixel_pitch_m": PITCH_M,
        "focus_distance_m": DISTANCES_M,
        "depth_unit_m": 1e-4,
        **meta,
    }
    (folder / "meta.json").write_text(json.dumps(told))
    return folder


def test_it_goes_to_the_nearest_slice_and_plays_that(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "stack")
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0)) as camera:
        assert camera.focus_positions_m == (0.5, 1.0, 2.0)
        assert camera.focus_range_m == (0.5, 2.0)
        seen = {}
        # 1.3 m is 0.77 dpt, nearer to 1 dpt than to 0.5 dpt; 1.35 m is nearer to 1 m, in dioptres too.
        for asked, expected in ((2.0, 2.0), (0.5, 0.5), (1.3, 1.0), (1.35, 2.0), (9.0, 2.0)):
            camera.set_focus(asked)
            frame = camera.read()
            assert frame.lens_state.focus_distance_m == expected
            assert frame.lens_state.focus_speed_mps == 0.0
            assert frame.lens_state.stamp_ns == frame.stamp_ns
            assert frame.encoding == "rgb8"
            seen[expected] = frame.image[3, 4].tolist()
        assert seen == {2.0: [0, 20, 200], 0.5: [10, 20, 200], 1.0: [20, 20, 200]}
        stamps = [camera.read().stamp_ns for _ in range(4)]
    assert np.diff(stamps).tolist() == pytest.approx([1e9 / 15] * 3, abs=2)


def test_intrinsics_by_what_the_metadata_says(tmp_path: Path) -> None:
    given = [{"fx": 500.0 + i, "fy": 490.0, "cx": 19.0, "cy": 14.0} for i in range(3)]
    stacks = {
        "constant": write_stack(tmp_path / "constant"),
        "thin": write_stack(tmp_path / "thin", focal_breathing=True),
        "given": write_stack(tmp_path / "given", K=given, focal_breathing=True),
    }
    fx = {}
    for name, folder in stacks.items():
        with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0)) as camera:
            fx[name] = []
            for s in DISTANCES_M:
                camera.set_focus(s)
                fx[name].append(camera.read().intrinsics.fx_px)
    assert fx["constant"] == [pytest.approx(FOCAL_M / PITCH_M)] * 3
    assert fx["thin"] == [pytest.approx(FOCAL_M * s / (s - FOCAL_M) / PITCH_M) for s in DISTANCES_M]
    assert fx["given"] == [500.0, 501.0, 502.0]


def test_true_depth_comes_with_every_frame(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "stack")
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0)) as camera:
        truth = camera.read().ground_truth_m
    assert truth is not None
    assert truth[5, 5] == pytest.approx(0.7)
    assert truth[5, 30] == pytest.approx(1.5)
    assert np.isnan(truth[0, 0])
    (folder / "depth.png").unlink()
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0)) as camera:
        assert camera.read().ground_truth_m is None


def test_wide_images_are_scaled_with_their_intrinsics(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "stack")
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0, max_width=20)) as camera:
        frame = camera.read()
        lens = camera.lens
    k = frame.intrinsics
    assert frame.image.shape == (15, 20, 3)
    assert (k.width, k.height) == (20, 15)
    # A ray keeps its direction: two pixels 2 i, 2 i + 1 have their common edge where pixel i has its centre.
    for small, large in ((3.0, 6.5), (12.0, 24.5)):
        assert (small - k.cx_px) / k.fx_px == pytest.approx((large - 19.5) / (FOCAL_M / PITCH_M))
    assert lens.pixel_pitch_m == pytest.approx(2 * PITCH_M)
    assert frame.ground_truth_m is not None
    assert set(np.unique(frame.ground_truth_m[1:])) == {np.float32(0.7), np.float32(1.5)}
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=0.0, max_width=100)) as camera:
        assert camera.read().image.shape == (30, 40, 3)


def test_it_keeps_the_rate(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "stack")
    with FolderCamera(FolderConfig(path=str(folder), rate_hz=50.0)) as camera:
        camera.read()
        start = time.perf_counter()
        stamps = [camera.read().stamp_ns for _ in range(15)]
        assert 0.25 < time.perf_counter() - start < 2.0
        assert abs(stamps[-1] - time.time_ns()) < 0.1e9
    assert np.median(np.diff(stamps)) == pytest.approx(20e6, abs=1e6)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the stack of real photographs is not beside the checkout")
def test_it_plays_real_photographs() -> None:
    with FolderCamera(FolderConfig(path=str(SHARED), rate_hz=0.0, max_width=640)) as camera:
        assert len(camera.focus_positions_m) == 10
        assert camera.focus_range_m == pytest.approx((0.185, 133.63523))
        camera.set_focus(0.185)
        frame = camera.read()
    assert frame.image.shape == (360, 640, 3)
    assert frame.intrinsics.fx_px == pytest.approx(0.0037 * 0.185 / (0.185 - 0.0037) / 3.55e-6 / 2)
    assert frame.ground_truth_m is None


def test_unusable_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="set path"):
        FolderCamera(FolderConfig())
    with pytest.raises(CameraError, match="nowhere"):
        FolderCamera(FolderConfig(path=str(tmp_path / "nowhere")))
    folder = write_stack(tmp_path / "stack")
    (folder / "slice_01.png").unlink()
    with pytest.raises(CameraError, match=r"slice_01\.png"):
        FolderCamera(FolderConfig(path=str(folder)))
    (folder / "meta.json").write_text("{ not json")
    with pytest.raises(CameraError, match=r"meta\.json"):
        FolderCamera(FolderConfig(path=str(folder)))
    (folder / "meta.json").write_text(json.dumps({"focal_length_m": 0.01}))
    with pytest.raises(CameraError, match="focus_distance_m"):
        FolderCamera(FolderConfig(path=str(folder)))
    with pytest.raises(ParameterError, match="rate_hz"):
        FolderConfig(rate_hz=-1.0)


def test_misuse_is_refused(tmp_path: Path) -> None:
    camera = FolderCamera(FolderConfig(path=str(write_stack(tmp_path / "stack"))))
    with pytest.raises(CameraError, match="open"):
        camera.read()
    for focus_m in (0.0, -1.0, float("nan")):
        with pytest.raises(LensError, match="above 0"):
            camera.set_focus(focus_m)


def test_cameras_are_picked_by_name(tmp_path: Path) -> None:
    hardware = ("v4l2", "picamera2", "depthai", "genicam", "optotune", "simulated_lens")
    assert ("simulated", "folder", *hardware) == CAMERA_CHOICES
    assert isinstance(make_camera("simulated"), SimulatedCamera)
    config = config_class("folder")(path=str(write_stack(tmp_path / "stack")))
    assert isinstance(make_camera("folder", config), FolderCamera)
    with pytest.raises(CameraError, match="did you mean 'simulated'"):
        make_camera("simulatd")
    with pytest.raises(CameraError, match=r"\['simulated', 'folder', 'v4l2', .*\], got 'webcam'"):
        config_class("webcam")
    with pytest.raises(CameraError, match="FolderConfig"):
        make_camera("folder", SimulatedConfig())
