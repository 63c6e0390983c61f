# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: per stack, per family of stacks, and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dualfocus_ros.align import Breathing
from dualfocus_ros.evaluation.bands import BandScore
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.plausibility import Plausibility
from dualfocus_ros.types import DepthEstimate, FloatImage, FocalStack


@dataclass(frozen=True)
class StackResult:
    """One scored stack: its folder (of a bag: bag / stamp), its family, runtime of align + engine."""

    path: Path
    family: str
    metrics: DepthMetrics
    runtime_s: float
    bands: tuple[BandScore, ...] = ()


@dataclass(frozen=True)
class StackLook:
    """What can be said of the depth of one stack without its truth; its path, family and runtime as above."""

    path: Path
    family: str
    plausibility: Plausibility
    runtime_s: float


@dataclass(frozen=True, eq=False)
class Observation:
    """One stack with its estimate, as reports want to see it.

    Attributes:
        engine: name of the engine.
        stack: as captured.
        estimate: in the frame of the stack's reference.
        breathing: what the field of view of its slices was taken from.
        truth_m: (H, W) metres in that frame, NaN unknown; None where there is none.
        result: its scores, where there is a truth.
        look: what can be said without, where that was asked for.
    """

    engine: str
    stack: FocalStack
    estimate: DepthEstimate
    breathing: Breathing
    truth_m: FloatImage | None
    result: StackResult | None
    look: StackLook | None


@dataclass(frozen=True)
class GroupResult:
    """Means over the stacks of a group; the runtime is their median, bands of distance are over all pixels."""

    name: str
    count: int
    metrics: DepthMetrics
    runtime_s: float
    bands: tuple[BandScore, ...] = ()

    @classmethod
    def of(cls, name: str, stacks: list[StackResult]) -> GroupResult:
        """Average over `stacks`; raise EvaluationError if there are none."""
        metrics = DepthMetrics.mean([s.metrics for s in stacks])
        bands = tuple(BandScore.merged(scores) for scores in zip(*(s.bands for s in stacks), strict=True))
        return cls(name, len(stacks), metrics, float(np.median([s.runtime_s for s in stacks])), bands)


@dataclass(frozen=True)
class Evaluation:
    """What one engine reached.

    Attributes:
        engine: its name.
        device: where it ran.
        stacks: those with ground truth, in the order in which they were given.
        without_truth: folders (of a bag: bag / stamp) that were not scored, as they have no ground truth.
        looks: what can be said without ground truth; empty where that was not asked for.
        failures: stacks that gave no depth, with the reason.
        notes: what is wrong with the source, in words.
        counts: what was read and what was left out, by name.
        elapsed_s: duration of the whole evaluation; 0 where it was not measured.
        engine_s: time of it within the engine.
        align_s: time of it spent on alignment.
    """

    engine: str
    device: str
    stacks: tuple[StackResult, ...]
    without_truth: tuple[Path, ...] = ()
    looks: tuple[StackLook, ...] = ()
    failures: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    engine_s: float = 0.0
    align_s: float = 0.0

    def families(self) -> tuple[GroupResult, ...]:
        """Return the mean of every family, in order of first appearance."""
        names = dict.fromkeys(s.family for s in self.stacks)
        return tuple(GroupResult.of(n, [s for s in self.stacks if s.family == n]) for n in names)

    def total(self) -> GroupResult:
        """Return the mean over all stacks, each counting the same; bands of unlike lenses make no total.

        Raises:
            EvaluationError: if no stack was scored.
        """
        return replace(GroupResult.of("total", list(self.stacks)), bands=())

    def look(self) -> Plausibility:
        """Return the mean of what can be said without ground truth.

        Raises:
            EvaluationError: if that was not asked for.
        """
        return Plausibility.mean([look.plausibility for look in self.looks])


class StampNames:
    """What the stacks of a recording are called, by the stamp of their depth: seconds with nine digits behind.

    So a stack has one name, live, in a replay, and in any part of the recording that is evaluated. Where a stamp
    comes again (two stacks share the frame at which the focus turns, a replay starts anew) `-2` and so on follow.
    """

    def __init__(self) -> None:
        """Start with no stamp seen."""
        self._seen: Counter[int] = Counter()

    def name(self, stamp_ns: int) -> str:
        """Return the name of the next stack of that stamp, in nanoseconds."""
        self._seen[stamp_ns] += 1
        again = f"-{self._seen[stamp_ns]}" if self._seen[stamp_ns] > 1 else ""
        return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}{again}"


def in_common(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations of several engines with the stacks that all of them gave a depth for.

    A note tells how many others there are.
    """
    kept = [_paths(e) for e in evaluations]
    common = set.intersection(*kept) if kept else set()
    return [
        replace(
            e,
            stacks=tuple(s for s in e.stacks if s.path in common),
            looks=tuple(s for s in e.looks if s.path in common),
            notes=(*e.notes, f"{n} stacks left out, for which another engine gave no depth"),
        )
        if (n := len(paths - common))
        else e
        for e, paths in zip(evaluations, kept, strict=True)
    ]


def _paths(evaluation: Evaluation) -> set[Path]:
    return {s.path for s in evaluation.stacks} | {s.path for s in evaluation.looks}
