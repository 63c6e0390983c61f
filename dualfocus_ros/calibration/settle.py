# SPDX-License-Identifier: Apache-2.0
"""Measures how long a lens takes to settle, by pictures of a scene that stands still.

1. A static sweep, up and down, tells the sharpness of the picture at every position of the lens.
2. Each move ends where sharpness changes fastest with the position (on a flank: at its peak it tells nothing), so
   that sharpness tells how far the lens still is from where it will come to rest.
3. The move is made many times, the command falling at another time between two frames each time, so that the
   exposures together sample the settling more finely than the frame rate.
4. A smooth curve through all of them, the averaging over the exposure undone, says when the deviation stays within
   the tolerance. Deviations are from the end of each repetition, so that slow drift does not matter.

Times count from when the command had been given, and are those of an instant: an exposure that STARTS so long
after the command is settled from its first row to its last. They are by the time stamps of the device, whose
constant error, should there be one, is in the settle time as it will be in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dualfocus_ros.calibration.settle_moves import Effort, Mover, MoveResult
from dualfocus_ros.calibration.settle_record import Recorder, static_sweep
from dualfocus_ros.calibration.settle_signal import StaticSweep
from dualfocus_ros.calibration.settle_targets import (
    Tolerance,
    check_signal,
    choose_targets,
    sweep_positions,
    usable_range,
)
from dualfocus_ros.camera.common import check_settings, setting
from dualfocus_ros.camera.device import ActuatorRange, FocusDevice
from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.lens_calibration import FocusCurve

# Moves this much shorter than the range stand for all of it.
WHOLE = 0.98
# Settle times of fewer exposures are doubtful.
LEAST_EXPOSURES = 3.0


@dataclass(frozen=True)
class SettleConfig:
    """How settling is measured."""

    tolerance_dpt: float = setting(
        0.02, "Deviation that counts as settled, where the lens file has a curve.", unit="dpt", min=1e-4, max=1.0
    )
    tolerance_part: float = setting(
        0.01, "Deviation that counts as settled where there is no curve, part of the range.", min=1e-4, max=0.2
    )
    slices: int = setting(10, "Slices of the sweep; the shortest move is one step of it.", min=3, max=64)
    positions: int = setting(33, "Positions of the static sweep.", min=9, max=257)
    repetitions: int = setting(24, "Repetitions of a move; more are made where there is noise.", min=8, max=400)
    max_repetitions: int = setting(96, "The most repetitions of a move.", min=8, max=1000)
    max_settle_s: float = setting(3.0, "The longest settle time to look for.", unit="s", min=0.05, max=60.0)
    rest_s: float = setting(0.3, "Least wait at each position of the static sweep.", unit="s", min=0.0, max=10.0)
    frame_timeout_s: float = setting(
        1.0, "A camera that gives no frame for this long is stalled.", unit="s", min=0.05
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        check_settings(self)


@dataclass(frozen=True)
class SettleResult:
    """Settle times.

    Attributes:
        settle: (length of the move, seconds), ascending in both, as lens files have it.
        moves: what it is made of, the longest first.
        unit: of the actuator.
        notes: what a user should know, in words.
    """

    settle: tuple[tuple[float, float], ...]
    moves: tuple[MoveResult, ...]
    unit: str
    notes: tuple[str, ...]


def measure_settle(
    device: FocusDevice,
    curve: FocusCurve | None = None,
    config: SettleConfig | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> SettleResult:
    """Measure how long moves of several lengths take, from both sides; the slower side counts.

    Args:
        device: open, its exposure and white balance held; camera and scene stand still.
        curve: of the lens, which makes dioptres of actuator units; None: the tolerance is a part of the range.
        config: how; None: the defaults.
        tell: is called with what is being done.

    Raises:
        CalibrationError: if it cannot be measured; the message says why.
        DeviceError: if the device fails.
    """
    config = config or SettleConfig()
    reach = usable_range(device.focus_range, curve)
    recorder = Recorder(device, config.frame_timeout_s)
    frame_s = _frame_period_s(recorder, reach, config)
    tell(f"static sweep from {reach.low:g} to {reach.high:g} {reach.unit} and back")
    sweeps, texture = _sweep_both_ways(recorder, reach, config)
    check_signal(sweeps[1.0], texture, reach.unit)
    tolerance = Tolerance(config.tolerance_dpt, config.tolerance_part, curve)
    pairs = choose_targets(sweeps, config.slices, reach, tolerance)
    effort = Effort(config.repetitions, config.max_repetitions, config.max_settle_s)
    mover = Mover(recorder, reach, frame_s, effort)
    moves = []
    for target in (t for pair in pairs for t in pair):
        tell(f"move from {target.start:g} to {target.position:g} {reach.unit}, again and again")
        moves.append(mover.measure(target, sweeps[float(np.sign(target.position - target.start))]))
        tell(f"  settled after {moves[-1].curve.settle_s:.4f} s")
    settle, said = settle_table(moves, reach.high - reach.low)
    notes = [*mover.notes, *said, *_exposure_notes(moves)]
    if recorder.failures:
        notes.append(f"{recorder.failures} frames did not come in time")
    return SettleResult(settle, tuple(moves), reach.unit, tuple(notes))


def settle_table(moves: list[MoveResult], whole: float) -> tuple[tuple[tuple[float, float], ...], tuple[str, ...]]:
    """Return the table for a lens file, and what a user should know of it.

    Of both sides the slower counts, and a longer move never takes less time than a shorter one. Where no move of
    the whole range could be measured, it gets the time that the two longest lead to on a straight line.

    Args:
        moves: at least one.
        whole: length of the range.
    """
    slowest: dict[float, float] = {}
    for m in moves:
        length = round(abs(m.move), 9)
        slowest[length] = max(slowest.get(length, 0.0), m.curve.settle_s)
    lengths = sorted(slowest)
    times = [float(t) for t in np.maximum.accumulate([slowest[length] for length in lengths])]
    notes = []
    if lengths[-1] < WHOLE * whole:
        slope = (times[-1] - times[-2]) / (lengths[-1] - lengths[-2]) if len(lengths) > 1 else 0.0
        notes.append(
            f"moves longer than {lengths[-1]:.6g} could not be measured in this scene: the time for the whole "
            "range is extrapolated; a scene that is sharp near one end of the range allows longer ones"
        )
        times.append(times[-1] + slope * (whole - lengths[-1]))
        lengths.append(whole)
    return tuple(zip(lengths, times, strict=True)), tuple(notes)


def _exposure_notes(moves: list[MoveResult]) -> list[str]:
    exposure_s = max(float(np.median(m.samples.end_s - m.samples.start_s)) for m in moves)
    fastest_s = min(m.curve.settle_s for m in moves)
    if fastest_s > LEAST_EXPOSURES * exposure_s:
        return []
    return [
        f"exposures of {1e3 * exposure_s:.1f} ms average over most of a settle time of {1e3 * fastest_s:.1f} ms: "
        "swings as short as an exposure are not seen; give more light and a shorter exposure"
    ]


def _frame_period_s(recorder: Recorder, reach: ActuatorRange, config: SettleConfig) -> float:
    """Wait at the low end until the lens is at rest there; return the frame period."""
    pictures = recorder.record(recorder.move(reach.low)[1], config.max_settle_s)
    if len(pictures) < 3:
        raise CalibrationError(
            f"expected more than {len(pictures)} frames in {config.max_settle_s:g} s: raise the frame rate"
        )
    return float(np.median(np.diff([p.start_s for p in pictures])))


def _sweep_both_ways(
    recorder: Recorder, reach: ActuatorRange, config: SettleConfig
) -> tuple[dict[float, StaticSweep], float]:
    """Return the static sweeps, from below under 1 and from above under -1, and the largest texture."""
    grid = sweep_positions(reach, config.positions)
    sweeps, texture = {}, 0.0
    for sign, positions in ((1.0, grid), (-1.0, grid[::-1])):
        sweeps[sign], seen, _ = static_sweep(recorder, positions, config.rest_s, config.max_settle_s)
        texture = max(texture, float(seen.max()))
    return sweeps, texture
