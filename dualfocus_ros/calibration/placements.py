# SPDX-License-Identifier: Apache-2.0
"""Measures one placement of a calibration target: the lens goes up and down, and pictures are taken on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualfocus_ros.calibration.boards import BoardFinder, Corners
from dualfocus_ros.calibration.pictures import eight_bits, grey_picture
from dualfocus_ros.calibration.sharpness import (
    FloatArray,
    find_peaks,
    sharp_range,
    window_sharpness,
)
from dualfocus_ros.camera.device import DeviceFrame, FocusDevice
from dualfocus_ros.camera.hardware import DEFAULT_SETTLE_S, MAX_STALE_FRAMES
from dualfocus_ros.camera.target_board import Board
from dualfocus_ros.errors import CalibrationError, DeviceError
from dualfocus_ros.types import Image

# Windows reach so far from a corner, in distances to the nearest other one.
WINDOW_PART = 0.45
LEAST_WINDOW_PX, MAX_WINDOW_PX = 5.0, 24.0
# The fine sweep goes over the positions where something is sharp, and this part of the range farther.
MARGIN_PART = 0.06
# A lens with play has followed to the side that it was led to after this part of the range.
RUN_UP_PART = 0.08
# Without a board, so many windows along each axis of the middle half of the picture.
GRID = 6


@dataclass(frozen=True)
class SweepPlan:
    """How a placement is measured.

    Attributes:
        coarse: positions of the first sweep, over the whole range.
        fine: positions of each of the sweeps up and down, over where something is sharp.
        settle_s: time that the lens gets after each move.
        frame_timeout_s: longest time between two frames.
    """

    coarse: int = 24
    fine: int = 28
    settle_s: float = DEFAULT_SETTLE_S
    frame_timeout_s: float = 2.0


@dataclass(frozen=True)
class Shot:
    """One picture of a placement, as far as it is kept.

    Attributes:
        position: of the actuator.
        direction: 1 coming from below, -1 coming from above.
        time_s: of the device's clock.
        temperature_c: None: not told.
        corners: of the board, None: not found.
    """

    position: float
    direction: int
    time_s: float
    temperature_c: float | None
    corners: Corners | None = None


@dataclass(frozen=True)
class Placement:
    """What was measured of one placement.

    Attributes:
        shots: all pictures, in order.
        ids: (K,) of the windows: corners of the board, or numbers without one.
        sharpness: (shots, K) of the windows, NaN: not known.
        distance_m: typed in; None: the board tells.
        image_size: width and height.
        centres_px: (K, 2) where the windows are; (0, 2): not known.
    """

    shots: tuple[Shot, ...]
    ids: FloatArray
    sharpness: FloatArray
    distance_m: float | None = None
    image_size: tuple[int, int] = field(default=(0, 0))
    centres_px: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))

    def off_axis(self) -> FloatArray:
        """Return the square of the distance of windows from the middle of the picture (K,), 1 in its corners."""
        if len(self.centres_px) != len(self.ids):
            return np.zeros(len(self.ids))
        half = 0.5 * (np.array(self.image_size) - 1.0)
        square: FloatArray = ((self.centres_px - half) ** 2).sum(axis=1) / (half**2).sum()
        return square

    @property
    def windows_in_focus(self) -> int:
        """How many windows came into focus, and went out of it, within a sweep."""
        return max(self._in_focus(1), self._in_focus(-1))

    def _in_focus(self, direction: int) -> int:
        order = sorted((s.position, i) for i, s in enumerate(self.shots) if s.direction == direction)
        u = np.array([position for position, _ in order])
        peaks = find_peaks(u, self.sharpness[[i for _, i in order]])
        return int(np.isfinite(peaks.positions).sum())


class PlacementMeter:
    """Takes the pictures of placements with an open device."""

    def __init__(self, device: FocusDevice, board: Board | None, plan: SweepPlan | None = None) -> None:
        """Take a device that is open; without a board, windows lie on a grid in the middle of the picture."""
        self._device = device
        self._finder = BoardFinder(board) if board is not None else None
        self._plan = plan or SweepPlan()

    def measure(self, distance_m: float | None = None, progress: Callable[[], None] = lambda: None) -> Placement:
        """Measure the placement that the target has now.

        Args:
            distance_m: of the target, where it is known; else the board tells.
            progress: called after every picture.

        Raises:
            CalibrationError: if nothing is sharp anywhere, or the board is not found.
            DeviceError: if the device fails.
        """
        reach = self._device.focus_range
        self._device.meter()  # the target has another place, and another light, than the last time
        coarse = self._sweep(_even(reach.low, reach.high, self._plan.coarse), 1, progress)
        low, high = self._sharp_range(coarse)
        margin = MARGIN_PART * (reach.high - reach.low)
        run_up = RUN_UP_PART * (reach.high - reach.low)
        low, high = max(reach.low, low - margin), min(reach.high, high + margin)
        fine = _even(low, high, self._plan.fine)
        # Each starts a little before, so that the lens comes from the same side to all of them.
        self._take(max(reach.low, low - run_up))
        up = self._sweep(fine, 1, progress)
        self._take(min(reach.high, high + run_up))
        down = self._sweep(fine[::-1], -1, progress)
        # Where there was no room for that, the lens may not have followed yet.
        up = [taken for taken in (*coarse, *up) if taken[0].position >= reach.low + run_up]
        down = [taken for taken in down if taken[0].position <= reach.high - run_up]
        return self._evaluate([*up, *down], distance_m)

    @property
    def pictures(self) -> int:
        """How many pictures a placement takes, for a progress bar."""
        return self._plan.coarse + 2 * self._plan.fine

    def _sweep(
        self, positions: Sequence[float], direction: int, progress: Callable[[], None]
    ) -> list[tuple[Shot, Image]]:
        taken: dict[float, tuple[Shot, Image]] = {}
        for wanted in positions:
            position = self._device.focus_range.nearest(wanted)
            if position not in taken:  # steps of the actuator may be wider
                frame = self._take(position)
                grey = grey_picture(frame)
                corners = self._finder.find(eight_bits(grey)) if self._finder is not None else None
                middle_s = 0.5 * sum(frame.exposure)
                taken[position] = Shot(position, direction, middle_s, frame.temperature_c, corners), grey
            progress()
        return list(taken.values())

    def _take(self, position: float) -> DeviceFrame:
        """Return a frame that was exposed after the lens had time to settle at a position."""
        device = self._device
        position = device.focus_range.nearest(position)
        device.move_to(position)
        settled_s = device.clock.now() + self._plan.settle_s
        for _ in range(10 * MAX_STALE_FRAMES):
            frame = device.read(self._plan.frame_timeout_s)
            if frame.exposure[0] >= settled_s and not frame.moving:
                return frame
        raise DeviceError(f"expected the lens to settle at {position:g} {device.focus_range.unit}, it still moves")

    def _sharp_range(self, coarse: Sequence[tuple[Shot, Image]]) -> tuple[float, float]:
        """Return the positions between which something of the target is sharpest."""
        placement = self._evaluate(coarse, None)
        found = sharp_range(np.array([shot.position for shot in placement.shots]), placement.sharpness)
        if found is None:
            raise CalibrationError(
                "expected the target to be sharp somewhere within the range of the lens, it is nowhere: is it too "
                "near, too far, too dark, without texture, or are the pictures too small to show blur?"
            )
        return found

    def _evaluate(self, taken: Sequence[tuple[Shot, Image]], distance_m: float | None) -> Placement:
        shots = tuple(shot for shot, _ in taken)
        height, width = taken[0][1].shape
        if self._finder is None:
            ids, centres, half = _grid(width, height, len(taken))
        else:
            ids, centres, half = _tracked(shots)
        rows = [window_sharpness(grey, centres[i], half[i]) for i, (_, grey) in enumerate(taken)]
        middle = np.median(centres, axis=0)
        return Placement(shots, ids, np.array(rows), distance_m, (width, height), middle)


def _even(low: float, high: float, count: int) -> list[float]:
    return [float(u) for u in np.linspace(low, high, count)]


def _grid(width: int, height: int, shots: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ids (K,), centres (shots, K, 2) and radii (shots, K) of windows on a grid in the picture's middle."""
    x, y = np.meshgrid((np.arange(GRID) + 0.5) / GRID, (np.arange(GRID) + 0.5) / GRID)
    at = np.column_stack([(0.25 + 0.5 * x.ravel()) * width, (0.25 + 0.5 * y.ravel()) * height])
    half = 0.5 * min(width, height) / 2.0 / GRID
    return (
        np.arange(len(at), dtype=np.float64),
        np.repeat(at[None], shots, axis=0),
        np.full((shots, len(at)), half),
    )


def _tracked(shots: Sequence[Shot]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ids (K,), centres (shots, K, 2) and radii (shots, K) of windows that follow the corners of the board.

    The field of view changes evenly with the lens: all corners together move on straight lines, a little bent. So
    windows also follow those that are too blurred to be found.
    """
    found = [(i, shot.corners) for i, shot in enumerate(shots) if shot.corners is not None]
    if len(found) < 2:
        raise CalibrationError(
            f"expected to find the board in several pictures, found it in {len(found)}: is it the board that was "
            "told, in the picture, lit evenly, without glare, and its squares 20 pixels wide or more?"
        )
    ids = np.unique(np.concatenate([c.ids for _, c in found]))
    which = np.concatenate([np.searchsorted(ids, c.ids) for _, c in found])
    pixels = np.concatenate([c.pixels for _, c in found])
    u = np.array([shot.position for shot in shots])
    middle, half_range = 0.5 * (u.min() + u.max()), max(0.5 * float(np.ptp(u)), 1e-9)
    x = (u - middle) / half_range
    at_x = np.concatenate([np.full(len(c.ids), x[i]) for i, c in found])
    order = 2 if len(found) >= 6 and np.ptp(at_x) > 0.3 else (1 if np.ptp(at_x) > 0.02 else 0)
    places, scale, shift = _breathing(which, pixels, at_x, len(ids), order)
    powers = x[:, None] ** np.arange(1, order + 1)
    centres = places * (1.0 + powers @ scale)[:, None, None] + (powers @ shift)[:, None]
    radii = _radii(places) * (1.0 + powers @ scale)[:, None]
    return ids.astype(np.float64), centres, radii


def _breathing(
    which: npt.NDArray[np.int64], pixels: FloatArray, x: FloatArray, count: int, order: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fit pixels = places (1 + scale . x^n) + shift . x^n, n = 1 .. order, by turns.

    Returns:
        places (count, 2), scale (order,) and shift (order, 2).
    """
    powers = x[:, None] ** np.arange(1, order + 1)
    scale: FloatArray = np.zeros(order)
    shift: FloatArray = np.zeros((order, 2))
    places: FloatArray = np.zeros((count, 2))
    for _ in range(6):
        now = (pixels - powers @ shift) / (1.0 + powers @ scale)[:, None]
        for axis in (0, 1):
            sums = np.bincount(which, now[:, axis], count)
            places[:, axis] = sums / np.maximum(np.bincount(which, minlength=count), 1)
        off = pixels - places[which]
        rows = np.zeros((2 * len(x), 3 * order))
        for axis in (0, 1):
            rows[axis::2, :order] = powers * places[which, axis][:, None]
            rows[axis::2, (1 + axis) * order : (2 + axis) * order] = powers
        solution = np.linalg.lstsq(rows, off.ravel(), rcond=None)[0] if order else np.zeros(0)
        scale = np.asarray(solution[:order], np.float64)
        shift = np.asarray(solution[order:].reshape(2, order).T, np.float64)
    return places, scale, shift


def _radii(centres: FloatArray) -> FloatArray:
    """Return radii (K,) of windows by the distance of corners (K, 2) to the nearest other."""
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    radii: FloatArray = np.clip(WINDOW_PART * apart.min(axis=1), LEAST_WINDOW_PX, MAX_WINDOW_PX)
    return radii
