# SPDX-License-Identifier: Apache-2.0
"""How a placement is measured: which positions, from which side, when, and what is kept."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dualfocus_ros.calibration.placements import PlacementMeter, SweepPlan
from dualfocus_ros.camera.device import ActuatorRange, DeviceFrame
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.errors import CalibrationError, DeviceError

BOARD = parse_board("checkerboard:7x5:0.03")
PERIOD_S = 0.05


class Clock:
    time_s = 5.0

    def now(self) -> float:
        return self.time_s

    def stamp_ns(self, time_s: float) -> int:
        return round(time_s * 1e9)


Look = Callable[[np.ndarray], np.ndarray]


class SweptDevice:
    """Pictures of a board that is sharp at one position; remembers what it was told."""

    def __init__(self, sharp_at: float, look: Look = lambda picture: picture) -> None:
        self.focus_range = ActuatorRange(0.0, 100.0, 2.0, "tick")
        self.clock = Clock()
        self.told: list[float] = [0.0]
        self.told_s = [0.0]
        self.moving = False
        self.metered = 0
        drawn = np.pad(BOARD.draw(20), 30, constant_values=255)
        self._picture = look(np.clip(drawn, 40, 220))
        self._sharp_at = sharp_at
        self._made: dict[float, np.ndarray] = {}

    def move_to(self, position: float) -> None:
        assert self.focus_range.nearest(position) == position
        self.told.append(position)
        self.told_s.append(self.clock.time_s)

    def read(self, timeout_s: float) -> DeviceFrame:
        self.clock.time_s += PERIOD_S
        at = self.told[-1]
        if at not in self._made:
            blur = 0.5 + abs(at - self._sharp_at) / 12.0
            self._made[at] = cv2.GaussianBlur(self._picture, (0, 0), blur)
        exposure = (self.clock.time_s - PERIOD_S, self.clock.time_s - 0.02)
        return DeviceFrame(self._made[at], "mono8", exposure, at, self.moving, 20.0 + self.clock.time_s)

    def meter(self) -> bool:
        self.metered += 1
        return True

    def interrupt(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> SweptDevice:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""


PLAN = SweepPlan(coarse=16, fine=20, settle_s=0.12)


def test_the_light_of_every_placement_is_metered() -> None:
    device = SweptDevice(44.0)
    meter = PlacementMeter(device, BOARD, PLAN)
    for count in (1, 2):
        meter.measure()
        assert device.metered == count


def test_both_sweeps_come_from_one_side_and_wait_for_the_lens() -> None:
    device = SweptDevice(50.0)
    counted: list[None] = []
    meter = PlacementMeter(device, BOARD, PLAN)
    placement = meter.measure(progress=lambda: counted.append(None))
    assert len(counted) == meter.pictures
    up = [s for s in placement.shots if s.direction == 1]
    down = [s for s in placement.shots if s.direction == -1]
    assert [s.position for s in down] == sorted((s.position for s in down), reverse=True)
    fine = [s.position for s in up[-len(down) :]]
    assert fine == sorted(fine)
    # Sharp in the middle: the fine sweep lies around it and not everywhere.
    assert 0.0 < min(fine) < 50.0 < max(fine) < 100.0
    # The lens was led to either end from farther out.
    first_down = device.told.index(max(fine), device.told.index(max(fine)) + 1)
    assert device.told[first_down - 1] > max(fine)
    for shot in placement.shots:
        told_s = max(s for s, u in zip(device.told_s, device.told, strict=True) if s < shot.time_s)
        assert shot.time_s - 0.5 * (PERIOD_S - 0.02) >= told_s + PLAN.settle_s - 1e-9


@pytest.mark.parametrize("sharp_at", [6.0, 94.0])
def test_near_the_ends_only_the_side_counts_from_which_the_lens_had_room_to_follow(sharp_at: float) -> None:
    placement = PlacementMeter(SweptDevice(sharp_at), BOARD, PLAN).measure()
    up = [s.position for s in placement.shots if s.direction == 1]
    down = [s.position for s in placement.shots if s.direction == -1]
    assert min(up) >= 8.0 and max(down) <= 92.0
    assert placement.windows_in_focus == len(BOARD.corners_m)


def test_a_placement_keeps_what_belongs_together() -> None:
    placement = PlacementMeter(SweptDevice(50.0), BOARD, PLAN).measure()
    count = len(BOARD.corners_m)
    assert placement.ids.tolist() == list(range(count))
    assert placement.sharpness.shape == (len(placement.shots), count)
    assert placement.image_size == (220, 180)
    assert placement.distance_m is None
    assert placement.windows_in_focus == count
    assert all(s.temperature_c == pytest.approx(20.0 + s.time_s, abs=0.1) for s in placement.shots)
    assert placement.centres_px[0] == pytest.approx([49.5, 49.5], abs=0.3)
    # The middle corners are on the axis, the others are not.
    off_axis = placement.off_axis()
    assert off_axis.min() < 0.03 and off_axis[0] == pytest.approx(0.26, abs=0.01)
    sharpest = np.array([s.position for s in placement.shots])[np.nanargmax(placement.sharpness, axis=0)]
    assert np.abs(sharpest - 50.0).max() <= 2.0


def test_windows_follow_the_corners_where_they_are_too_blurred_to_be_found() -> None:
    placement = PlacementMeter(SweptDevice(40.0), BOARD, PLAN).measure()
    found = [s.corners is not None for s in placement.shots]
    assert not all(found)
    assert np.isfinite(placement.sharpness).all()


def test_without_a_board_windows_lie_in_the_middle() -> None:
    placement = PlacementMeter(SweptDevice(50.0), None, PLAN).measure(0.7)
    assert placement.distance_m == 0.7
    assert placement.windows_in_focus > 12
    assert placement.centres_px.min(axis=0) == pytest.approx([64.0, 52.0], abs=5.0)
    assert all(s.corners is None for s in placement.shots)


@pytest.mark.parametrize(
    ("device", "board", "message"),
    [
        (SweptDevice(50.0, lambda p: np.full_like(p, 128)), BOARD, "find the board"),
        (SweptDevice(50.0, lambda p: np.full_like(p, 128)), None, "sharp somewhere"),
        (SweptDevice(50.0, lambda p: p[:, :100]), BOARD, "find the board"),
    ],
)
def test_what_is_not_seen_is_said(device: SweptDevice, board: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        PlacementMeter(device, board, PLAN).measure()


def test_a_lens_that_never_stops_is_a_failing_device() -> None:
    device = SweptDevice(50.0)
    device.moving = True
    with pytest.raises(DeviceError, match="settle at 0 tick"):
        PlacementMeter(device, BOARD, PLAN).measure()
