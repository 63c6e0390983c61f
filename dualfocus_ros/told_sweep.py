# SPDX-License-Identifier: Apache-2.0
"""Sweeps whose frames tell of how many focus positions they are: no need to learn that from repetition.

So depth comes with the first whole sweep, and every sweep may have positions of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dualfocus_ros.pairing import LensedFrame

# Why frames were left out: their focus positions were taken to be the same.
TOO_CLOSE = "closer_than_focus_tolerance"
# Positions that differ by less are those of a lens at rest.
JITTER_DPT = 2e-3


def is_told(run: Sequence[LensedFrame]) -> bool:
    """Say whether the newest frame of a run tells of how many focus positions its sweep is."""
    return bool(run) and run[-1].state.sweep_slices > 0


def whole_sweep(run: Sequence[LensedFrame], from_turn: bool) -> list[LensedFrame] | None:
    """Return the frames of the sweep that the newest frame is part of, None while some are to come.

    Args:
        run: monotone in focus, of distinct positions, oldest first; its newest frame tells.
        from_turn: whether it began where the focus turned around: that frame is part of the sweeps on both sides,
            where it is part of any.
    """
    slices = run[-1].state.sweep_slices
    first = len(run) - 1
    while first > 0 and run[first - 1].state.sweep_slices == slices:
        first -= 1
    if first == 1 and from_turn and run[0].state.sweep_slices > 0:
        first = 0
    frames = list(run[first:])
    return frames if len(frames) >= slices else None


def are_too_close(run: Sequence[LensedFrame], repeated: Collection[float]) -> bool:
    """Say whether a sweep that lacks positions would be whole with those that were taken for repeated ones.

    Args:
        run: frames of the sweep, of distinct positions; they tell.
        repeated: focus positions in dioptres of the frames that were left out as repeated.
    """
    gaps_dpt = np.diff(sorted((*(f.focus_dpt for f in run), *repeated)))
    distinct = 1 + np.count_nonzero(gaps_dpt > JITTER_DPT)
    return len(run) < run[-1].state.sweep_slices <= int(distinct)


def joined(
    run: Sequence[LensedFrame], previous: Sequence[LensedFrame], tolerance_dpt: float
) -> list[LensedFrame] | None:
    """Return the frames of the sweep under way, and those of the one before where the focus has not been since.

    Args:
        run: of the sweep under way.
        previous: frames of the last whole sweep.
        tolerance_dpt: positions nearer than this are the same one.

    Returns:
        None where nothing is new, or there is no whole sweep.
    """
    own = [f for f in run if not any(f is p for p in previous)]
    if not own or not previous:
        return None
    low, high = min(f.focus_dpt for f in own), max(f.focus_dpt for f in own)
    kept = [p for p in previous if not low - tolerance_dpt <= p.focus_dpt <= high + tolerance_dpt]
    return own + kept
