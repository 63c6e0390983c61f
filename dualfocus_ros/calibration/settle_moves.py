# SPDX-License-Identifier: Apache-2.0
"""Makes one move of a lens many times and tells from the pictures how long it took to settle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualfocus_ros.calibration.settle_fit import Samples, SettleCurve, fit_settling
from dualfocus_ros.calibration.settle_record import Picture, Recorder, static_sweep
from dualfocus_ros.calibration.settle_signal import FloatArray, Gauge, StaticSweep, log_energies, make_gauge
from dualfocus_ros.calibration.settle_targets import LEAST_REACH, Target
from dualfocus_ros.camera.device import ActuatorRange
from dualfocus_ros.errors import CalibrationError

# The golden ratio spreads the commands over the frame period, however many repetitions there are.
GOLDEN = 0.6180339887
# Repetitions are added until the noise of the curve is below the first part of the tolerance, as long as they may;
# with more than the second the tolerance cannot be kept.
GOOD_CURVE_NOISE, MAX_CURVE_NOISE = 0.15, 0.25
# ... and the spread of the settle time below this part of it: a swing that just reaches the tolerance is not sure.
MAX_SPREAD = 0.04
# Positions of the local sweep are so many tolerances apart, or so many times the noise of a picture.
FINE_STEP, FINE_NOISES = 3.0, 3.0
FINE_STEPS, FINE_FRAMES = 3, 10
# Deviations beyond this part of the gauge's reach say only that the lens is far.
FAR_PART = 0.75
# Repetitions are recorded for this many rough settle times and some frames; their last part tells where they end.
WINDOW, WINDOW_FRAMES = 2.5, 10
END_PART = 0.75
ROUGH_REPETITIONS = 2
ROUGH_WINDOW = 1.5  # of the longest settle time that is looked for
LEAST_END_FRAMES = 3
# Pictures that look unlike before the command by this part of the whole change: the stamps are wrong.
EARLY_PART, EARLY_NOISES = 0.2, 12.0


@dataclass(frozen=True)
class MoveResult:
    """What was measured of one move.

    Attributes:
        start: position of the actuator.
        target: where it was sent.
        tolerance: deviation that counts as settled, in actuator units.
        dpt_per_unit: of the curve at the target; None: not known.
        samples: deviations in actuator units.
        curve: fitted to them.
        repetitions: how many moves were made.
    """

    start: float
    target: float
    tolerance: float
    dpt_per_unit: float | None
    samples: Samples
    curve: SettleCurve
    repetitions: int

    @property
    def move(self) -> float:
        """Length of the move, signed: positive from below."""
        return self.target - self.start


@dataclass(frozen=True)
class Effort:
    """How much is done: repetitions, the most of them, and how long a settle time is looked for (s)."""

    repetitions: int
    max_repetitions: int
    max_settle_s: float


@dataclass(frozen=True)
class _Run:
    """One repetition: when the command was given, and the pictures before and after it."""

    before_s: float
    told_s: float
    at_start: FloatArray  # (octaves,) features
    pictures: list[Picture]

    @property
    def features(self) -> FloatArray:
        """(n, octaves)."""
        return log_energies(np.stack([p.energies for p in self.pictures]))

    @property
    def times_s(self) -> tuple[FloatArray, FloatArray]:
        """Start and end of the exposures (n,) since the command."""
        times = np.array([(p.start_s, p.end_s) for p in self.pictures]) - self.told_s
        return times[:, 0], times[:, 1]


class Mover:
    """Makes moves, the longest first: how long that takes says how long to wait at the others."""

    def __init__(self, recorder: Recorder, reach: ActuatorRange, frame_s: float, effort: Effort) -> None:
        """Take a recorder of an open device.

        Args:
            recorder: of the device.
            reach: positions that may be used.
            frame_s: frame period.
            effort: how much is done.
        """
        self.notes: list[str] = []
        self._recorder, self._reach, self._effort = recorder, reach, effort
        self._frame_s = frame_s
        self._longest_s: float | None = None
        self._count = 0

    def measure(self, target: Target, sweep: StaticSweep) -> MoveResult:
        """Measure one move.

        Args:
            target: of the move.
            sweep: the static sweep from the side that the move comes from.

        Raises:
            CalibrationError: if the lens does not settle, or the time stamps are wrong.
        """
        window_s = self._window_s(self._longest_s)
        runs = [self._run(target, window_s) for _ in range(ROUGH_REPETITIONS)]
        self._check_stamps(runs, sweep)
        rough_s = self._rough_settle_s(runs, target, window_s)
        self._longest_s = max(self._longest_s or 0.0, rough_s)
        gauge = self._fine_gauge(target)
        window_s = max(self._window_s(rough_s), 0.6 * self._longest_s + WINDOW_FRAMES * self._frame_s)
        wanted = self._effort.repetitions
        while True:
            runs += [self._run(target, window_s) for _ in range(wanted - len(runs))]
            samples = self._samples(runs, gauge, window_s)
            curve = fit_settling(samples, target.tolerance, FAR_PART * gauge.reach, self._frame_s)
            wanted = 2 * len(runs)
            sure = curve.spread_s < max(MAX_SPREAD * curve.settle_s, MAX_SPREAD * self._frame_s)
            quiet = curve.noise < GOOD_CURVE_NOISE * target.tolerance
            if (sure and quiet) or wanted > self._effort.max_repetitions:
                break
        self._check_stamps(runs, sweep)
        return self._result(target, gauge, samples, curve, len(runs))

    def _result(
        self, target: Target, gauge: Gauge, samples: Samples, curve: SettleCurve, repetitions: int
    ) -> MoveResult:
        tolerance = target.tolerance
        if curve.noise >= MAX_CURVE_NOISE * tolerance:
            tolerance = curve.noise / MAX_CURVE_NOISE
            curve = fit_settling(samples, tolerance, FAR_PART * gauge.reach, self._frame_s)
            self.notes.append(
                f"move {target.start:g} to {target.position:g}: the noise allows no tolerance below "
                f"{tolerance:.3g} {self._reach.unit}, asked for {target.tolerance:.3g}: give more light or texture"
            )
        if not curve.ends_inside:
            raise self._never(target, float(np.abs(curve.deviation[-1])), float(curve.time_s[-1]))
        return MoveResult(
            target.start, target.position, tolerance, target.dpt_per_unit, samples, curve, repetitions
        )

    def _run(self, target: Target, window_s: float) -> _Run:
        """Go to the start, wait, make the move at another time between two frames than before, and record."""
        back_s = self._recorder.move(target.start)[1]
        rest_s = self._effort.max_settle_s if self._longest_s is None else 1.2 * self._longest_s
        there = self._recorder.record(back_s, rest_s + 3.0 * self._frame_s)[-3:]
        at_start = log_energies(np.stack([p.energies for p in there])).mean(axis=0)
        self._count += 1
        self._recorder.wait((self._count * GOLDEN % 1.0) * self._frame_s)
        before_s, told_s = self._recorder.move(target.position)
        return _Run(before_s, told_s, at_start, self._recorder.record(told_s, window_s))

    def _window_s(self, settle_s: float | None) -> float:
        if settle_s is None:
            return ROUGH_WINDOW * self._effort.max_settle_s
        return WINDOW * settle_s + WINDOW_FRAMES * self._frame_s

    def _rough_settle_s(self, runs: list[_Run], target: Target, window_s: float) -> float:
        """Return the settle time to a frame or so."""
        gauge, rough_s = target.gauge, 0.0
        for run in runs:
            start_s, end_s = run.times_s
            deviation = gauge.deviations(run.features)
            late = start_s > 0.7 * window_s
            self._check_rest(target, deviation[late], float(start_s[-1]))
            off = np.abs(deviation - np.median(deviation[late]))
            noise = max(gauge.noise, 1.4826 * float(np.median(off[late])))
            # The second largest of three frames: one glitch late in the record is no settling.
            off = np.median([np.r_[off[1:], 0.0], off, np.r_[0.0, off[:-1]]], axis=0)
            rough_s = max(rough_s, float(end_s[off > max(target.tolerance, 4.0 * noise)].max(initial=0.0)))
        if rough_s > self._effort.max_settle_s:
            raise self._never(target, target.tolerance, rough_s)
        return rough_s

    def _check_rest(self, target: Target, late: FloatArray, time_s: float) -> None:
        # A mean of three frames keeps the swings of a lens and lowers the noise.
        swing = float(np.ptp(np.convolve(late, np.full(3, 1.0 / 3.0), "valid"))) if len(late) > 5 else 0.0
        if swing > 2.0 * target.tolerance + 5.0 * target.gauge.noise:
            raise self._never(target, swing, time_s)

    def _never(self, target: Target, deviation: float, time_s: float) -> CalibrationError:
        unit = self._reach.unit
        return CalibrationError(
            f"expected the lens to settle within {self._effort.max_settle_s:g} s after a move from "
            f"{target.start:g} to {target.position:g} {unit}, after {time_s:.2f} s it still moves by "
            f"{deviation:.3g} {unit} (tolerance {target.tolerance:.3g}): is autofocus off, do scene and camera "
            "stand still? Or allow more time"
        )

    def _fine_gauge(self, target: Target) -> Gauge:
        """Return a gauge by a static sweep around the target, from the side that the move comes from."""
        positions = self._fine_positions(target)
        if len(positions) < 3:
            return target.gauge
        settled_s = (self._longest_s or 0.0) + 2.0 * self._frame_s
        # From as far as the move comes: so all of the play is taken up.
        self._recorder.record(self._recorder.move(target.start)[1], settled_s)
        sweep, *_ = static_sweep(
            self._recorder, positions, settled_s, self._effort.max_settle_s + settled_s, FINE_FRAMES
        )
        gauge = make_gauge(sweep, target.position, target.gauge.weights)
        return gauge if gauge is not None and gauge.reach > LEAST_REACH * target.tolerance else target.gauge

    def _fine_positions(self, target: Target) -> FloatArray:
        """Return positions around the target in the order of the move; at an end of the range, all on one side."""
        step = max(FINE_STEP * target.tolerance, FINE_NOISES * target.gauge.noise, self._reach.step)
        sign = float(np.sign(target.position - target.start))
        low = max(target.position - FINE_STEPS * step, self._reach.low)
        low = max(min(low, self._reach.high - 2 * FINE_STEPS * step), self._reach.low)
        way = target.position + step * np.arange(-2 * FINE_STEPS, 2 * FINE_STEPS + 1)
        way = way[(way > low - 0.5 * step) & (way <= self._reach.high)][: 2 * FINE_STEPS + 1]
        positions = np.unique([self._reach.nearest(float(u)) for u in way])
        return positions if sign > 0.0 else positions[::-1]

    def _samples(self, runs: list[_Run], gauge: Gauge, window_s: float) -> Samples:
        """Return the deviations of all repetitions, each from where it ends."""
        starts, ends, deviations, names = [], [], [], []
        for number, run in enumerate(runs):
            start_s, end_s = run.times_s
            deviation = gauge.deviations(run.features)
            inside = start_s <= window_s
            last = inside & (start_s > END_PART * window_s)
            if last.sum() < LEAST_END_FRAMES:
                continue  # frames were lost
            starts.append(start_s[inside])
            ends.append(end_s[inside])
            deviations.append(deviation[inside] - np.median(deviation[last]))
            names.append(np.full(int(inside.sum()), number))
        if len(starts) < 4:
            raise CalibrationError(
                f"expected frames at the end of each move, {len(runs) - len(starts)} of {len(runs)} lack them: "
                "the camera loses nearly all frames"
            )
        return Samples(
            np.concatenate(starts), np.concatenate(ends), np.concatenate(deviations), np.concatenate(names)
        )

    def _check_stamps(self, runs: list[_Run], sweep: StaticSweep) -> None:
        """Raise CalibrationError if the picture changes before the lens was told to move."""
        noise = np.median(sweep.noise, axis=0)
        early_s = []
        for run in runs:
            change = np.abs(run.features - run.at_start) / noise
            whole = change[-1]
            start_s, end_s = run.times_s
            odd = (change > np.maximum(EARLY_NOISES, EARLY_PART * whole.max())).any(axis=1)
            odd &= end_s < run.before_s - run.told_s
            if odd.any():
                early_s.append(-float(start_s[odd].min()))
        if len(early_s) > len(runs) // 3:
            raise CalibrationError(
                "expected the picture to change after the lens is told to move, by the time stamps it changes "
                f"up to {max(early_s):.3f} s before, in {len(early_s)} of {len(runs)} moves: the stamps of the "
                "camera lag"
            )
