# SPDX-License-Identifier: Apache-2.0
"""Measures engines side by side: on whole stacks, and on the last slice where the others were known before."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from dualfocus_ros.engine.base import DepthEngine, StreamingEngine
from dualfocus_ros.engine.manifest import DEFAULT_MODEL, find_model, load_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.engine.pick import choose_engine, make_engine, takes_model
from dualfocus_ros.errors import EngineError
from dualfocus_ros.estimator import DepthEstimator
from dualfocus_ros.types import FloatImage, FocalStack

HALF = "_fp16"


@dataclass(frozen=True)
class Candidate:
    """An engine to be measured: what it is called, and what makes it."""

    name: str
    make: Callable[[], DepthEngine]


@dataclass
class Speed:
    """What was measured of one engine, in milliseconds; alignment is always in it.

    Attributes:
        name: of the candidate.
        device: where it runs, in words.
        whole_ms: from nothing to depth, each run.
        last_ms: from the last slice to depth, where the others were prepared; empty where the engine cannot.
        prepare_ms: to prepare one slice, each run.
        memory_mb: peak of a process that runs nothing else.
        differs: median and largest relative difference of depth to the first engine.
    """

    name: str
    device: str
    whole_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    prepare_ms: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    differs: tuple[float, float] = (0.0, 0.0)

    def summary(self) -> dict[str, Any]:
        """Return medians, 99th percentiles and frames a second, for a table or JSON; None where there is none."""
        numbers: dict[str, Any] = {"name": self.name, "device": self.device}
        for key in ("whole_ms", "last_ms", "prepare_ms"):
            times = getattr(self, key)
            numbers[key] = statistics.median(times) if times else None
            numbers[key.replace("_ms", "_p99_ms")] = float(np.quantile(times, 0.99)) if times else None
        last = numbers["last_ms"]
        numbers["frames_per_s"] = 1e3 / last if last else None
        numbers["last_share"] = last / numbers["whole_ms"] if last else None
        return {
            **numbers,
            "memory_mb": self.memory_mb,
            "median_differs": self.differs[0],
            "most_differs": self.differs[1],
        }


def candidates(names: Sequence[str], model: str | None) -> list[Candidate]:
    """Return what to measure for engine names: each engine, and of onnx its one graph and half precision, too.

    Raises:
        EngineError: if there is no such engine or model.
    """
    found: dict[str, Candidate] = {}
    for name in names:
        chosen = choose_engine(name).name
        given = model if takes_model(chosen) else None
        found.setdefault(chosen, Candidate(chosen, partial(make_engine, chosen, given)))
        if chosen == "onnx":
            network = model or DEFAULT_MODEL
            if load_manifest(find_model(network)).stages is not None:
                one = partial(OnnxEngine, network, staged=False)
                found.setdefault("onnx, one graph", Candidate("onnx, one graph", one))
            if half := _half(network):
                found.setdefault("onnx, half", Candidate("onnx, half", partial(OnnxEngine, half)))
    return list(found.values())


def _half(model: str) -> str:
    """Return the name of the model in half precision; empty if there is none, or it is a path."""
    try:
        find_model(model + HALF)
    except EngineError:
        return ""
    return model + HALF


def measure_speed(found: Sequence[Candidate], stack: FocalStack, runs: int, memory: bool = True) -> list[Speed]:
    """Measure engines in turns, so that whatever else the machine does slows them alike.

    Every run has images of its own, as a camera's are: nothing of one is known in the next.

    Args:
        found: the engines; depth is compared with that of the first.
        stack: to run them on.
        runs: of each.
        memory: whether to measure the memory, each in a process of its own.

    Raises:
        EngineError: if an engine cannot run.
    """
    with ExitStack() as resources:
        engines = [resources.enter_context(candidate.make()) for candidate in found]
        estimators = [DepthEstimator(engine) for engine in engines]
        speeds = [Speed(c.name, e.device) for c, e in zip(found, engines, strict=True)]
        depths = [estimator.estimate(stack).depth_m for estimator in estimators]
        for _ in range(runs):
            for estimator, speed in zip(estimators, speeds, strict=True):
                # Another engine's threads and data are still about: the first run of a turn does not count.
                _run_once(estimator, Speed(speed.name, speed.device), stack)
                _run_once(estimator, speed, stack)
    for candidate, speed, depth_m in zip(found, speeds, depths, strict=True):
        speed.differs = _difference(depth_m, depths[0])
        if memory:
            speed.memory_mb = peak_memory_mb(candidate, stack)
    return speeds


def _run_once(estimator: DepthEstimator, speed: Speed, stack: FocalStack) -> None:
    fresh = _copied(stack)
    start = time.perf_counter()
    estimator.estimate(fresh)
    speed.whole_ms.append(1e3 * (time.perf_counter() - start))
    if _streams(estimator.engine):
        fresh = _copied(stack)
        for count in range(1, len(fresh.slices)):
            start = time.perf_counter()
            estimator.prepare(fresh.slices[:count])
            speed.prepare_ms.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        estimator.estimate(fresh)
        speed.last_ms.append(1e3 * (time.perf_counter() - start))


def _streams(engine: DepthEngine) -> bool:
    return isinstance(engine, StreamingEngine) and engine.streams


def _copied(stack: FocalStack) -> FocalStack:
    return replace(stack, slices=tuple(replace(s, image=s.image.copy()) for s in stack.slices))


def _difference(depth_m: FloatImage, reference_m: FloatImage) -> tuple[float, float]:
    known = np.isfinite(depth_m) & np.isfinite(reference_m)
    if not known.any():
        return float("nan"), float("nan")
    relative = np.abs(depth_m[known] / reference_m[known] - 1.0)
    return float(np.median(relative)), float(relative.max())


def peak_memory_mb(candidate: Candidate, stack: FocalStack) -> float:
    """Return the peak of the memory of a new process that runs an engine on a stack, twice, and nothing else.

    Raises:
        EngineError: if the engine cannot run, or the process is killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak_here, candidate, stack).result()
        except BrokenProcessPool as error:
            raise EngineError(f"the process that ran {candidate.name} was killed: is memory short?") from error


def _peak_here(candidate: Candidate, stack: FocalStack) -> float:
    with candidate.make() as engine:
        estimator = DepthEstimator(engine)
        for _ in range(2):
            estimator.estimate(stack)
    # Not ru_maxrss: that is inherited from the process which started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024.0  # of KiB


def speed_table(speeds: Sequence[Speed]) -> str:
    """Return the numbers as a text table."""
    rows = []
    for speed in speeds:
        s = speed.summary()
        rows.append(
            [
                s[key]
                for key in (
                    "name",
                    "whole_ms",
                    "whole_p99_ms",
                    "prepare_ms",
                    "last_ms",
                    "last_p99_ms",
                    "frames_per_s",
                )
            ]
            + [s["memory_mb"], f"{100 * s['median_differs']:.2g} / {100 * s['most_differs']:.2g}"]
        )
    head = ["engine", "stack ms", "p99", "slice ahead", "last slice ms", "p99", "maps/s", "peak MB", "differs %"]
    where = "\n".join(f"{speed.name}: {speed.device}" for speed in speeds)
    text = tabulate(rows, headers=head, floatfmt=".1f")
    return (
        f"{text}\nstack: from nothing to depth; last slice: the others were worked on as they came; maps/s: in "
        f"sliding mode, at most; differs: depth from that of the first, median / most\n\n{where}"
    )


def as_json(speeds: Sequence[Speed]) -> list[dict[str, Any]]:
    """Return the numbers for JSON, with every single run."""
    return [{**speed.summary(), "runs": asdict(speed)} for speed in speeds]
