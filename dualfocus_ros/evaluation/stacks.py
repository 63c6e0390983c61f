# SPDX-License-Identifier: Apache-2.0
"""Runs an engine over focal stacks, from disk or from anywhere, and scores it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dualfocus_ros.align import Breathing
from dualfocus_ros.alignment.aligner import Aligner, Residual, make_aligner
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.errors import DualFocusError, EngineError, EvaluationError
from dualfocus_ros.estimator import DepthEstimator, EstimatorConfig
from dualfocus_ros.evaluation.bands import BandScore, score_bands
from dualfocus_ros.evaluation.metrics import DepthMetrics, score
from dualfocus_ros.evaluation.overlap import InOrder, Overlapped
from dualfocus_ros.evaluation.plausibility import look_at
from dualfocus_ros.evaluation.results import Evaluation, GroupResult, Observation, StackLook, StackResult
from dualfocus_ros.stackio import StoredStack, load_stack
from dualfocus_ros.types import DepthEstimate, FloatImage, FocalStack

__all__ = ["Evaluation", "GroupResult", "Sample", "StackResult", "evaluate", "evaluate_stacks", "read_samples"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One stack to be evaluated.

    Attributes:
        path: what it is called: its folder, or bag / stamp.
        family: what it is averaged with.
        stack: as captured.
        truth_m: (H, W) true depth in metres in the pixels of the stack's reference, NaN unknown; None: no truth.
        breathing: what is known of its field of view, see `align.align`; None: as the estimator is configured.
    """

    path: Path
    family: str
    stack: FocalStack
    truth_m: FloatImage | None = None
    breathing: Breathing | None = None

    @classmethod
    def of(cls, stored: StoredStack) -> Sample:
        """Return a stack from disk as a sample."""
        return cls(stored.path, stored.family, stored.stack, stored.ground_truth_m, stored.breathing)


def read_samples(paths: Iterable[Path]) -> Iterator[Sample]:
    """Read stack folders one by one.

    Raises:
        StackError: if one cannot be read.
    """
    for path in paths:
        yield Sample.of(load_stack(path))


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

    def observe(observation: Observation) -> None:
        if progress is not None and observation.result is not None:
            progress(observation.result)

    samples = read_samples(paths)
    if breathing is not None:
        samples = (replace(sample, breathing=breathing) for sample in samples)
    config = EstimatorConfig(residual=residual, max_motion_px=math.inf)
    evaluation = evaluate(engine, samples, config, observe)
    if not evaluation.stacks:
        raise EvaluationError(
            f"found no stack with ground truth among {len(evaluation.without_truth)}: depth.png is needed to score"
        )
    return evaluation


def evaluate(
    engine: DepthEngine,
    samples: Iterable[Sample],
    config: EstimatorConfig,
    observe: Callable[[Observation], None] = lambda _: None,
    *,
    one_lens: bool = False,
    look: bool = False,
) -> Evaluation:
    """Estimate the depth of samples, and score those whose truth is known.

    Each stack is scored on a thread while the engine works on the next one; the order of all results, and their
    numbers, are those of one thread.

    Args:
        engine: already entered.
        samples: taken one at a time; none is kept.
        config: as the depth node has it. What a sample says of its field of view goes before `breathing`.
        observe: called with every stack that was estimated, in order, on the thread that called.
        one_lens: the samples come one after the other from one camera: what alignment learns of its lens is kept
            from stack to stack, and a stack that gives no depth is noted. Else each has a lens of its own, and
            the first that gives no depth is an error.
        look: also say what can be said without a truth; needed where there is none: stacks without truth are else
            left out.

    Raises:
        EvaluationError: if an estimate cannot be scored and it is not `one_lens`.
        EngineError: if the engine fails.
        DualFocusError: if a stack cannot be read, or estimated and it is not `one_lens`.
    """
    run = _Run(engine, config, one_lens, look)
    start = time.perf_counter()
    run.all(samples, observe)
    return run.evaluation(time.perf_counter() - start)


def _aligner(config: EstimatorConfig) -> AbstractContextManager[Aligner]:
    return make_aligner(config.residual, config.alignment_file, denoise=config.denoise)


@dataclass(frozen=True, eq=False)
class _Estimated:
    """The depth of a stack, what its field of view was taken from, and how long it took."""

    estimate: DepthEstimate
    breathing: Breathing
    runtime_s: float


class _Run:
    """Collects what one evaluation finds. One thread estimates, another judges, both in the order of samples."""

    def __init__(self, engine: DepthEngine, config: EstimatorConfig, one_lens: bool, look: bool) -> None:
        self._engine, self._config = Overlapped(engine), config
        self._one_lens, self._look = one_lens, look
        self._estimator: DepthEstimator | None = None
        self._before_m: FloatImage | None = None
        self.stacks: list[StackResult] = []
        self.without_truth: list[Path] = []
        self.looks: list[StackLook] = []
        self.failures: list[tuple[Path, str]] = []
        self.align_s = self.engine_s = 0.0

    def all(self, samples: Iterable[Sample], observe: Callable[[Observation], None]) -> None:
        """Evaluate samples, and tell of each in its turn."""
        config = self._config
        with (
            _aligner(config) if self._one_lens else nullcontext() as kept,
            ThreadPoolExecutor(1, "scores") as scorer,
        ):
            scores: InOrder[Observation] = InOrder(scorer, observe)
            self._engine.before = scores.start
            for sample in samples:
                if sample.truth_m is None and not self._look:
                    self.without_truth.append(sample.path)
                    continue
                with nullcontext(kept) if kept is not None else _aligner(config) as aligner:
                    found = self.estimate(sample, aligner)
                scores.hold(partial(self.judge, sample, found))
                # An error may be the end: it is not left waiting while the engine goes on.
                scores.tell(0 if isinstance(found, DualFocusError) else 2)
            scores.tell(0)

    def estimate(self, sample: Sample, aligner: Aligner) -> _Estimated | DualFocusError:
        """Return the depth of one sample, or why there is none."""
        config = self._config
        if sample.breathing is not None:
            config = replace(config, breathing=sample.breathing)
        if self._estimator is None or not self._one_lens:
            self._estimator = DepthEstimator(self._engine, config, aligner)
        self._estimator.config = config
        try:
            estimate = self._estimator.estimate(sample.stack)
        except DualFocusError as error:
            return error
        timing = self._estimator.timing
        self.align_s += timing.align_s
        self.engine_s += timing.engine_s
        return _Estimated(estimate, aligner.report.source, timing.align_s + timing.engine_s)

    def judge(self, sample: Sample, found: _Estimated | DualFocusError) -> Observation | None:
        """Score one sample; return None where it gave no depth, or raise where that is not to be."""
        try:
            if isinstance(found, DualFocusError):
                raise found
            return self._score(sample, found)
        except EngineError:
            raise
        except DualFocusError as error:
            if not self._one_lens:
                raise
            self.failures.append((sample.path, str(error)))
            return None

    def _score(self, sample: Sample, found: _Estimated) -> Observation:
        estimate, runtime_s = found.estimate, found.runtime_s
        look = result = None
        if self._look:
            look = StackLook(sample.path, sample.family, look_at(estimate, self._before_m), runtime_s)
            self.looks.append(look)
            self._before_m = estimate.depth_m if self._one_lens else None
        if sample.truth_m is None:
            self.without_truth.append(sample.path)
        else:
            metrics, bands = score_estimate(
                estimate.depth_m, estimate.confidence, sample.truth_m, sample.stack.focus_range_m, sample.path
            )
            result = StackResult(sample.path, sample.family, metrics, runtime_s, bands)
            self.stacks.append(result)
        return Observation(
            self._engine.name, sample.stack, estimate, found.breathing, sample.truth_m, result, look
        )

    def evaluation(self, elapsed_s: float) -> Evaluation:
        return Evaluation(
            self._engine.name,
            self._engine.device,
            tuple(self.stacks),
            tuple(self.without_truth),
            tuple(self.looks),
            tuple(self.failures),
            elapsed_s=elapsed_s,
            engine_s=self.engine_s,
            align_s=self.align_s,
        )


def score_estimate(
    depth_m: FloatImage,
    confidence: FloatImage | None,
    truth_m: FloatImage,
    range_m: tuple[float, float],
    name: Path | str,
) -> tuple[DepthMetrics, tuple[BandScore, ...]]:
    """Return all scores of one estimate: over all pixels, and by distance.

    Args:
        depth_m: (H, W) metres; not finite or not above 0 is no estimate.
        confidence: (H, W), None where it is not known.
        truth_m: (H, W) metres, not finite is invalid.
        range_m: nearest and farthest focus distance.
        name: of the stack, for the message of an error.

    Raises:
        EvaluationError: as `metrics.score`, with the name.
    """
    try:
        return (
            score(depth_m, truth_m, range_m, confidence),
            score_bands(depth_m, truth_m, range_m),
        )
    except DualFocusError as error:
        raise EvaluationError(f"{name}: {error}") from error
