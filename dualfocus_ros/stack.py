# SPDX-License-Identifier: Apache-2.0
"""The focal stack buffer: frames in, complete focal stacks out.

Three streams meet here by stamp: images, intrinsics and lens states. A sweep is a monotone run of focus
positions; it ends where the focus turns around. Which positions make a complete sweep is learned from the
first sweep that was seen whole, and again when the sweep changes; where the frames tell of how many positions
their sweep is, it is complete with that many, and each may have positions of its own.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from dualfocus_ros.errors import ParameterError
from dualfocus_ros.pairing import TIME_JUMP_NS, FramePairer, LensedFrame
from dualfocus_ros.told_sweep import TOO_CLOSE, are_too_close, is_told, joined, whole_sweep
from dualfocus_ros.types import MIN_SLICES, FocalSlice, FocalStack, Image, Intrinsics, LensState

Mode = Literal["sweep", "sliding"]
MODE_CHOICES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True)
class BufferConfig:
    """When frames become a stack."""

    mode: str = field(
        default="sweep",
        metadata={
            "doc": "sweep: one depth per focus sweep; sliding: after the first sweep one depth per frame.",
            "choices": MODE_CHOICES,
        },
    )
    max_slices: int = field(
        default=64, metadata={"doc": "Most focus positions kept in memory.", "min": MIN_SLICES, "max": 256}
    )
    focus_tolerance_dpt: float = field(
        default=0.005,
        metadata={"doc": "Focus positions closer than this are the same position.", "unit": "1/m", "min": 0.0,
                  "max": 1.0},
    )  # fmt: skip
    max_focus_speed_dpt_per_s: float = field(
        default=0.05,
        metadata={
            "doc": "Frames exposed while the focus moved faster are dropped.",
            "unit": "1/(m s)",
            "min": 0.0,
        },
    )
    max_stack_age_s: float = field(
        default=10.0,
        metadata={"doc": "Longest time between the first and last slice of a stack; 0: no limit.", "unit": "s",
                  "min": 0.0},
    )  # fmt: skip
    max_lens_gap_s: float = field(
        default=0.25,
        metadata={"doc": "Longest gap between two lens states that is interpolated.", "unit": "s", "min": 0.0},
    )

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        if self.mode not in MODE_CHOICES:
            raise ParameterError(f"expected mode to be one of {MODE_CHOICES}, got {self.mode!r}")


class FocalStackBuffer:
    """Collects frames and hands out complete stacks. One thread uses it.

    Every `add_*` returns the stacks that this message completed, oldest first. `drops` counts, by reason, the
    frames that were left out; of sweeps that ended without all their positions, all frames (incomplete_sweep, or
    TOO_CLOSE).
    """

    def __init__(self, config: BufferConfig | None = None) -> None:
        """Start empty."""
        self.config = config or BufferConfig()
        self.drops: Counter[str] = Counter()
        self.frames_accepted = 0
        self.stacks_completed = 0
        self.time_jumps = 0
        self._latest: dict[int, LensedFrame] = {}
        self._previous: list[LensedFrame] = []  # of the last whole sweep that told its length, where sliding
        self._repeated_dpt: set[float] = set()  # of the run under way, taken to be where the lens was already
        self._pairer = FramePairer(self.config.max_lens_gap_s, self.drops)
        self._reset()

    @property
    def positions_dpt(self) -> tuple[float, ...]:
        """Focus positions of the last complete sweep, in dioptres ascending; empty while unknown."""
        return self._learned

    @property
    def frames_held(self) -> int:
        """Number of frames in memory."""
        held = (*self._run, *self._latest.values(), *self._previous)
        return len({id(f) for f in held}) + self._pairer.images_waiting

    @property
    def settled(self) -> tuple[FocalSlice, ...]:
        """Slices of the sweep under way that no later frame will replace: the lens has moved on."""
        return tuple(_as_slice(frame) for frame in self._run[:-1])

    def add_image(self, stamp_ns: int, image: Image, frame_id: str = "") -> list[FocalStack]:
        """Add an image (H, W[, 3]); it is kept, not copied."""
        return self._consume(self._pairer.add_image(stamp_ns, image, frame_id))

    def add_intrinsics(self, stamp_ns: int, intrinsics: Intrinsics) -> list[FocalStack]:
        """Add the intrinsics of the image of that stamp."""
        return self._consume(self._pairer.add_intrinsics(stamp_ns, intrinsics))

    def add_lens_state(self, state: LensState) -> list[FocalStack]:
        """Add a lens state; between two states the focus is interpolated in dioptres."""
        return self._consume(self._pairer.add_lens_state(state))

    def _consume(self, frames: list[LensedFrame]) -> list[FocalStack]:
        stacks = [s for frame in frames if (s := self._add_frame(frame)) is not None]
        self.stacks_completed += len(stacks)
        return stacks

    def flush(self) -> list[FocalStack]:
        """Take the current run as a whole sweep: call it at the end of a recording."""
        self._run_is_whole = True
        stack = self._close(self._run)
        self._start_run()
        self.stacks_completed += stack is not None
        return [stack] if stack is not None else []

    def _add_frame(self, frame: LensedFrame) -> FocalStack | None:
        """Take one frame whose lens state is known; return the stack that it completes."""
        if frame.state.focus_speed_dpt_per_s > self.config.max_focus_speed_dpt_per_s:
            self.drops["lens_moving"] += 1
            return None
        if self._run and not frame.fits(self._run[-1]):
            self.drops["camera_changed"] += len(self._run)
            self._reset()
        late = None
        if self._run and frame.stamp_ns < self._run[-1].stamp_ns - TIME_JUMP_NS:
            self.time_jumps += 1
            late = self._close(self._run)
            self._start_run()
            self._latest = {}
            self._previous = []
        if not self._insert(frame):
            return late
        self.frames_accepted += 1
        late = self._split_at_turn() or late
        if is_told(self._run):
            return self._take_told(frame) or late
        stack = self._slide(frame) if self.config.mode == "sliding" else self._complete_run()
        return stack or late

    def _reset(self) -> None:
        """Forget everything, also what a sweep is."""
        self._start_run()
        self._latest = {}
        self._previous = []
        self._last_closed: tuple[float, ...] = ()
        self._learned: tuple[float, ...] = ()

    def _start_run(self, frames: Sequence[LensedFrame] = (), *, whole: bool = False) -> None:
        self._run = list(frames)
        # Where the focus was when the lens came to each position: what it is compared with while it waits.
        self._arrived_dpt = [f.focus_dpt for f in frames]
        self._run_is_whole = whole
        self._run_emitted = False
        self._run_overflowed = False
        margin_dpt = self.config.focus_tolerance_dpt
        near = max(self._arrived_dpt, default=-np.inf) + margin_dpt
        far = min(self._arrived_dpt, default=np.inf) - margin_dpt
        self._repeated_dpt = {dpt for dpt in self._repeated_dpt if far <= dpt <= near}

    def _insert(self, frame: LensedFrame) -> bool:
        """Put the frame at its time into the run; say whether it is of use."""
        stamps = [f.stamp_ns for f in self._run]
        at = bisect.bisect_left(stamps, frame.stamp_ns)
        if at < len(stamps) and stamps[at] == frame.stamp_ns:
            self.drops["duplicate_stamp"] += 1
            return False
        if self._run and at == 0:
            self.drops["out_of_order"] += 1
            return False
        # While the lens waits at a position its newest frame is the one to use.
        if at < len(stamps) and self._same_position(self._arrived_dpt[at], frame):
            self._note_repeated(frame)
            return False
        if at > 0 and self._same_position(self._arrived_dpt[at - 1], frame):
            self._note_repeated(frame)
            self._run[at - 1] = frame
            return True
        self._run.insert(at, frame)
        self._arrived_dpt.insert(at, frame.focus_dpt)
        if len(self._run) > self.config.max_slices:
            self.drops["too_many_slices"] += 1
            self._run_overflowed = True
            del self._run[0], self._arrived_dpt[0]
        return True

    def _note_repeated(self, frame: LensedFrame) -> None:
        self.drops["repeated_position"] += 1
        self._repeated_dpt.add(round(frame.focus_dpt, 3))  # few, however long the lens waits

    def _split_at_turn(self) -> FocalStack | None:
        """Close the run where the direction of focus turned; return the stack that this yields."""
        steps = np.sign(np.diff([f.focus_dpt for f in self._run]))
        turns = np.flatnonzero(steps[1:] != steps[:-1]) + 1
        if turns.size == 0:
            return None
        stack = self._close(self._run[: turns[0] + 1])
        # The frame at the turn belongs to both runs.
        self._start_run(self._run[turns[-1] :], whole=True)
        return stack

    def _close(self, run: list[LensedFrame]) -> FocalStack | None:
        """Learn from a finished run; return its stack if that was not handed out yet.

        The run that was under way when the first frame came may not be whole, and a sawtooth's jump back to
        its start is a run of two: neither tells what a sweep is, unless the same comes again.
        """
        positions = tuple(sorted(f.focus_dpt for f in run))
        if len(positions) < MIN_SLICES:
            return None
        if self._run_overflowed:
            self._learned = self._last_closed = ()
            return None
        if is_told(run):
            self._last_closed = ()
            if not self._run_emitted:
                close = are_too_close(run, self._repeated_dpt)
                self.drops[TOO_CLOSE if close else "incomplete_sweep"] += len(run)
            return None
        repeated = self._same_positions(positions, self._last_closed)
        if repeated or (self._run_is_whole and not self._learned):
            self._learn(positions)
        self._last_closed = positions
        if self._run_emitted:
            return None
        if not self._covers(positions, self._learned):
            self.drops["incomplete_sweep"] += len(run)
            return None
        if self.config.mode == "sliding":
            for frame in run:
                self._remember(frame)
        return self._make_stack(run)

    def _learn(self, positions_dpt: tuple[float, ...]) -> None:
        if not self._same_positions(positions_dpt, self._learned):
            self._learned = positions_dpt
            self._latest = {}

    def _complete_run(self) -> FocalStack | None:
        """Return the stack of the current run as soon as all its positions are there, once."""
        positions = tuple(sorted(f.focus_dpt for f in self._run))
        if self._run_emitted or self._run_overflowed or not self._covers(positions, self._learned):
            return None
        self._run_emitted = True
        return self._make_stack(self._run)

    def _slide(self, frame: LensedFrame) -> FocalStack | None:
        """Replace the focus position of the frame by it; return the stack of the newest frames."""
        if not self._learned:
            return None
        if not self._remember(frame):
            self.drops["position_of_no_sweep"] += 1
            return None
        if len(self._latest) < len(self._learned) or frame is not self._run[-1]:
            return None
        self._run_emitted = True
        return self._make_stack(list(self._latest.values()), stamp_ns=frame.stamp_ns)

    def _take_told(self, frame: LensedFrame) -> FocalStack | None:
        """Return the stack of a sweep that tells its length once it is whole; sliding: what there is so far."""
        sliding = self.config.mode == "sliding"
        whole = None if self._run_overflowed else whole_sweep(self._run, self._run_is_whole)
        if whole is not None and not self._run_emitted:
            self._learned = tuple(sorted(f.focus_dpt for f in whole))
            self._latest = {}
            self._previous = whole if sliding else []
            self._run_emitted = True
            return self._make_stack(whole, stamp_ns=self._run[-1].stamp_ns if sliding else None)
        if not sliding or frame is not self._run[-1]:
            return None
        frames = joined(self._run, self._previous, self._match_tolerance_dpt(self._learned))
        if frames is None or len(frames) < MIN_SLICES:
            return None
        return self._make_stack(frames, stamp_ns=frame.stamp_ns)

    def _remember(self, frame: LensedFrame) -> bool:
        """Keep the frame as the newest of its learned position; say whether it has one."""
        index = int(np.argmin(np.abs(np.asarray(self._learned) - frame.focus_dpt)))
        if abs(self._learned[index] - frame.focus_dpt) > self._match_tolerance_dpt(self._learned):
            return False
        old = self._latest.get(index)
        if old is None or old.stamp_ns <= frame.stamp_ns:
            self._latest[index] = frame
        return True

    def _make_stack(self, frames: list[LensedFrame], stamp_ns: int | None = None) -> FocalStack | None:
        stamps = [f.stamp_ns for f in frames]
        age_s = (max(stamps) - min(stamps)) * 1e-9
        if self.config.max_stack_age_s > 0.0 and age_s > self.config.max_stack_age_s:
            self.drops["stack_too_old"] += 1
            return None
        slices = [_as_slice(frame) for frame in frames]
        return FocalStack.from_slices(slices, frames[0].state.lens, stamp_ns=stamp_ns, frame_id=frames[0].frame_id)

    def _same_position(self, arrived_dpt: float, frame: LensedFrame) -> bool:
        return abs(arrived_dpt - frame.focus_dpt) <= self.config.focus_tolerance_dpt

    def _match_tolerance_dpt(self, positions: tuple[float, ...]) -> float:
        """Repeatability allowed between sweeps: a quarter of the smallest spacing."""
        spacing = float(np.diff(positions).min()) if len(positions) > 1 else 0.0
        return max(self.config.focus_tolerance_dpt, 0.25 * spacing)

    def _covers(self, positions: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
        """Say whether every wanted position is among the positions."""
        if len(positions) < len(wanted) or not wanted:
            return False
        distance = np.abs(np.asarray(positions)[None, :] - np.asarray(wanted)[:, None]).min(axis=1)
        return bool((distance <= self._match_tolerance_dpt(wanted)).all())

    def _same_positions(self, a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return len(a) == len(b) and self._covers(a, b)


def _as_slice(frame: LensedFrame) -> FocalSlice:
    return FocalSlice(frame.image, frame.stamp_ns, frame.state.focus_distance_m, frame.intrinsics)
