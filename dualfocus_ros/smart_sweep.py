# SPDX-License-Identifier: Apache-2.0
"""The smart sweep: after a full sweep, focus positions are put where the depth of the scene is.

With positions a gap s(x) apart around inverse depth x, depth errs in dioptres the more the wider that is, and
relatively by 1 / x of it. The positions chosen make the mean of that over the depths last seen small, and look at
the rest of the range as well, in wider steps. Every few sweeps, and where nothing is known, a sweep is a full one.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import InputError
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import MIN_SLICES, FloatImage

FloatVector = npt.NDArray[np.float64]

MAX_SAMPLES = 20_000  # pixels of a depth image that are looked at
LEAST_CONFIDENCE = 0.02  # mean over the image, pixels without depth counting as 0: below, nothing is known
STALE_SWEEPS = 4  # that were planned since depth last came: then it is not believed any more
STEPS_A_GAP = 8  # the grid of positions divides each gap of the full sweep into so many steps ...
MAX_GRID = 160  # ... fewer where it would have more positions than this ...
LEAST_STEP_DPT = 0.012  # ... or nearer ones: what is nearer counts as the same position elsewhere


@dataclass(frozen=True)
class Tuning:
    """How positions follow the histogram; the defaults were tuned by measurement, see docs/smart_sweep.md.

    Attributes:
        smoothing: standard deviation of the smoothing of the histogram, in gaps of the full sweep: depths are not
            known better, edges of objects need slices on both sides, and gaps must grow gently.
        floor: share of the weight that the range gets evenly, whatever is seen.
        power: errors count as gap^power: above 1, wide gaps are worse than they are wide.
        change: share by which new positions must be better than those of the last sweep to take their place.
    """

    smoothing: float = 0.4
    floor: float = 0.02
    power: float = 2.5
    change: float = 0.1


DEFAULT = Tuning()


@dataclass(frozen=True)
class DepthHistogram:
    """How much of the image is at which inverse depth.

    Attributes:
        dioptres: (K,) inverse depth of pixels.
        weights: (K,) above 0, how sure they are.
        confidence: mean over the image, pixels without depth counting as 0.
    """

    dioptres: FloatVector
    weights: FloatVector
    confidence: float

    @classmethod
    def of(cls, depth_m: FloatImage, confidence: FloatImage) -> DepthHistogram:
        """Take some of the pixels of an estimate.

        Args:
            depth_m: (H, W) metres; NaN no estimate, -inf too near, +inf too far (REP 117).
            confidence: (H, W) 0..1.

        Raises:
            InputError: if they are not two images of one size.
        """
        if depth_m.ndim != 2 or depth_m.shape != confidence.shape:
            raise InputError(
                f"expected depth and confidence of one shape (H, W), got {depth_m.shape} and {confidence.shape}"
            )
        stride = max(1, math.ceil(math.sqrt(depth_m.size / MAX_SAMPLES)))
        some = (slice(stride // 2, None, stride),) * 2
        depth: FloatVector = depth_m[some].astype(np.float64).ravel()
        weight: FloatVector = confidence[some].astype(np.float64).ravel()
        weight = np.clip(np.nan_to_num(weight, nan=0.0), 0.0, 1.0)
        weight[np.isnan(depth) | ((depth <= 0.0) & np.isfinite(depth))] = 0.0
        mean = float(weight.mean()) if weight.size else 0.0
        depth, weight = depth[weight > 0.0], weight[weight > 0.0]
        # -inf is too near: nearer than any position.
        dioptres: FloatVector = np.where(depth > 0.0, 1.0 / np.where(depth > 0.0, depth, 1.0), np.inf)
        return cls(dioptres, weight, mean)

    @property
    def tells(self) -> bool:
        """Whether enough is known to go by it."""
        return self.confidence >= LEAST_CONFIDENCE

    def over(self, edges_dpt: FloatVector) -> FloatVector:
        """Return the share (B,) of each bin between descending edges (B + 1,); end bins take what is beyond."""
        inside = np.clip(self.dioptres, edges_dpt[-1], edges_dpt[0])
        counts, _ = np.histogram(inside, edges_dpt[::-1], weights=self.weights)
        return np.asarray(counts[::-1] / max(float(counts.sum()), 1e-12), np.float64)


class _Problem:
    """Where to put positions on a grid over the range of a full sweep."""

    def __init__(self, histogram: DepthHistogram, full_m: tuple[float, ...], tuning: Tuning) -> None:
        self._tuning = tuning
        full_dpt = 1.0 / np.asarray(full_m, np.float64)
        gaps = full_dpt[:-1] - full_dpt[1:]
        parts = np.clip(gaps / LEAST_STEP_DPT, 1, max(min(STEPS_A_GAP, MAX_GRID // len(gaps)), 1)).astype(int)
        self.full_places = np.concatenate([[0], np.cumsum(parts)])
        self.grid_dpt = np.interp(np.arange(self.full_places[-1] + 1), self.full_places, full_dpt)
        self._weigh(histogram.over(self.grid_dpt), np.repeat(gaps, parts))
        self._costs = self._gap_costs()

    def _weigh(self, seen: FloatVector, gap_dpt: FloatVector) -> None:
        """Set the weight of every bin of the grid from the share (B,) that was seen in it."""
        middle = 0.5 * (self.grid_dpt[1:] + self.grid_dpt[:-1])
        width = self.grid_dpt[:-1] - self.grid_dpt[1:]
        away = (middle[:, None] - middle[None, :]) / np.maximum(self._tuning.smoothing * gap_dpt, 1e-9)[None, :]
        kernel = np.exp(-0.5 * away**2) * width[:, None]
        shares = (kernel / kernel.sum(axis=0)) @ seen
        floor = self._tuning.floor
        shares = (1.0 - floor) * shares + floor * width / width.sum()
        # Relative errors; at infinity, in bins of the grid.
        self._weights = shares / np.maximum(middle, 0.5 * gap_dpt.mean())

    def _gap_costs(self) -> FloatVector:
        """Return the cost (G, G) of a gap between two positions of the grid; inf where there is none."""
        summed = np.concatenate([[0.0], np.cumsum(self._weights)])
        gap = self.grid_dpt[:, None] - self.grid_dpt[None, :]
        weight = summed[None, :] - summed[:, None]
        return np.where(gap > 0.0, np.maximum(gap, 0.0) ** self._tuning.power * weight, np.inf)

    def cost(self, chosen: npt.NDArray[np.intp]) -> float:
        """Return the cost of positions given by their places on the grid."""
        return float(self._costs[chosen[:-1], chosen[1:]].sum())

    def best(self, count: int) -> npt.NDArray[np.intp]:
        """Return the `count` places on the grid of least cost, both ends always among them.

        The field of view of the nearest position is that of the depth, and what alignment knows refers to it: both
        stay as they are from sweep to sweep. Back and forth, the frames at the ends are part of two sweeps. And
        networks do badly with what lies beyond the last position. By dynamic programming: exact.
        """
        reach = self._costs[0]  # least cost of coming to each place with so many positions
        origins = []
        for _ in range(count - 2):
            total = reach[:, None] + self._costs
            origins.append(total.argmin(axis=0))
            reach = total.min(axis=0)
        place = len(reach) - 1
        chosen = [place]
        for origin in reversed(origins):
            place = int(origin[place])
            chosen.append(place)
        return np.array([*chosen, 0][::-1], np.intp)


class SmartPlanner:
    """Chooses the focus positions of every sweep. Safe to use from several threads."""

    def __init__(self, config: SweepConfig, tuning: Tuning = DEFAULT) -> None:
        """Start with nothing known."""
        self._lock = threading.Lock()
        self._config, self._tuning = config, tuning
        self._histogram: DepthHistogram | None = None
        self._since_full = self._unseen = 0
        self._last: tuple[float, ...] = ()

    def configure(self, config: SweepConfig) -> None:
        """Take other settings from the next sweep on."""
        with self._lock:
            self._config = config

    def observe(self, depth_m: FloatImage, confidence: FloatImage) -> None:
        """Take the newest depth image (H, W), metres, and its confidence (H, W), 0..1.

        Raises:
            InputError: if they are not two images of one size.
        """
        histogram = DepthHistogram.of(depth_m, confidence)
        with self._lock:
            self._histogram, self._unseen = histogram, 0

    def positions(self, full_positions_m: tuple[float, ...]) -> tuple[float, ...]:
        """Return the focus distances in metres of the sweep that begins now, nearest first.

        Args:
            full_positions_m: those of a full sweep, nearest first; the last may be inf.
        """
        with self._lock:
            histogram, config, last = self._histogram, self._config, self._last
            full = (
                histogram is None
                or not histogram.tells
                or self._unseen >= STALE_SWEEPS
                or self._since_full >= config.smart_full_every - 1
            )
            self._unseen += 1
            self._since_full = 0 if full else self._since_full + 1
        if full or histogram is None:
            return full_positions_m
        chosen = plan(histogram, full_positions_m, config.smart_slices, last, self._tuning)
        with self._lock:
            self._last = chosen
        return chosen


def plan(
    histogram: DepthHistogram,
    full_positions_m: tuple[float, ...],
    slices: int = 0,
    last_m: tuple[float, ...] = (),
    tuning: Tuning = DEFAULT,
) -> tuple[float, ...]:
    """Return focus distances in metres, nearest first, for a scene of that depth.

    They lie on a fixed grid, which has all positions of the full sweep, so that what was learned of a position is
    found again.

    Args:
        histogram: of the depth of the scene.
        full_positions_m: focus distances of a full sweep, nearest first; the last may be inf.
        slices: number of positions; 0: as many as the full sweep has, which is also the most.
        last_m: positions of the last such sweep, kept where they are nearly as good; empty: there was none.
        tuning: how they follow the histogram.
    """
    count = min(max(slices, MIN_SLICES), len(full_positions_m)) if slices else len(full_positions_m)
    problem = _Problem(histogram, full_positions_m, tuning)
    with np.errstate(divide="ignore"):
        grid_m = 1.0 / problem.grid_dpt
    grid_m[problem.full_places] = full_positions_m  # not off by rounding
    chosen = problem.best(count)
    if len(last_m) == count:
        last = np.searchsorted(grid_m, last_m)
        there = last[-1] < len(grid_m) and np.array_equal(grid_m[last], last_m)
        if there and problem.cost(last) <= (1.0 + tuning.change) * problem.cost(chosen):
            return last_m
    return tuple(float(m) for m in grid_m[chosen])
