# SPDX-License-Identifier: Apache-2.0
"""Runs an engine over focal stacks on disk and scores it, per stack, per family and in total."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualfocus_ros.align import Breathing
from dualfocus_ros.alignment.aligner import Residual, make_aligner
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.errors import DualFocusError, EvaluationError
from dualfocus_ros.estimator import DepthEstimator, EstimatorConfig
from dualfocus_ros.evaluation.bands import BandScore, score_bands
from dualfocus_ros.evaluation.metrics import DepthMetrics, score
from dualfocus_ros.stackio import StoredStack, load_stack
from dualfocus_ros.types import FloatImage


@dataclass(frozen=True)
class StackResult:
    """One scored stack: its folder, its family (name of the folder above), runtime of align + engine."""

    path: Path
    family: str
    metrics: DepthMetrics
    runtime_s: float
    bands: tuple[BandScore, ...] = ()


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
        stacks: in the order in which they were given.
        without_truth: folders that were left out because they have no depth.png.
    """

    engine: str
    device: str
    stacks: tuple[StackResult, ...]
    without_truth: tuple[Path, ...] = ()

    def families(self) -> tuple[GroupResult, ...]:
        """Return the mean of every family, in order of first appearance."""
        names = dict.fromkeys(s.family for s in self.stacks)
        return tuple(GroupResult.of(n, [s for s in self.stacks if s.family == n]) for n in names)

    def total(self) -> GroupResult:
        """Return the mean over all stacks, each counting the same; bands of unlike lenses make no total."""
        return replace(GroupResult.of("total", list(self.stacks)), bands=())


def evaluate_stacks(
    engine: DepthEngine,
    paths: Iterable[Path],
    breathing: Breathing | None = None,
    residual: Residual = "auto",
    progress: Callable[[StackResult], None] | None = None,
) -> Evaluation:
    """Score an engine on stored stacks.

    Args:
        engine: already entered.
        paths: stack folders.
        breathing: as `align.align`; None takes what each stored stack says.
        residual: what finds the errors that the metadata do not tell, as `EstimatorConfig.residual`.
        progress: called with every result as it comes.

    Raises:
        EvaluationError: if no stack has ground truth, or an estimate cannot be scored.
        DualFocusError: if a stack cannot be read or estimated.
    """
    results: list[StackResult] = []
    without_truth: list[Path] = []
    for path in paths:
        stored = load_stack(path)
        if stored.ground_truth_m is None:
            without_truth.append(path)
            continue
        results.append(_evaluate_one(engine, stored, stored.ground_truth_m, breathing, residual))
        if progress is not None:
            progress(results[-1])
    if not results:
        raise EvaluationError(
            f"found no stack with ground truth among {len(without_truth)}: depth.png is needed to score"
        )
    return Evaluation(engine.name, engine.device, tuple(results), tuple(without_truth))


def _evaluate_one(
    engine: DepthEngine,
    stored: StoredStack,
    truth_m: FloatImage,
    breathing: Breathing | None,
    residual: Residual,
) -> StackResult:
    config = EstimatorConfig(breathing=breathing or stored.breathing, residual=residual, max_motion_px=math.inf)
    with make_aligner(config.residual) as aligner:  # a lens of its own for each stack
        estimator = DepthEstimator(engine, config, aligner)
        start = time.perf_counter()
        estimate = estimator.estimate(stored.stack)
        runtime_s = time.perf_counter() - start
    focus_m = stored.stack.focus_distance_m
    focus_range_m = (float(focus_m.min()), float(focus_m.max()))
    try:
        metrics = score(estimate.depth_m, truth_m, focus_range_m, estimate.confidence)
        bands = score_bands(estimate.depth_m, truth_m, focus_range_m)
    except DualFocusError as error:
        raise EvaluationError(f"{stored.path}: {error}") from error
    return StackResult(stored.path, stored.family, metrics, runtime_s, bands)
