# SPDX-License-Identifier: Apache-2.0
"""Measures what alignment costs a frame on one core: while a lens is being learned, and after."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from dualfocus_ros.align import breathing_source
from dualfocus_ros.alignment.aligner import make_aligner
from dualfocus_ros.alignment.memory import CONVERGED_SWEEPS
from dualfocus_ros.types import FocalStack

ESTIMATORS = ("none", "classical", "network")
SWEEP_NS = 1_000_000_000


@dataclass(frozen=True)
class AlignmentSpeed:
    """What one way to align costs.

    Attributes:
        name: of the estimator of the residual; `none` warps by metadata alone.
        learning_ms: of each frame of each sweep until the lens is known.
        known_ms: after that.
    """

    name: str
    learning_ms: tuple[float, ...]
    known_ms: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """Return medians, for a table or JSON; None where there is nothing to learn, or it did not end."""
        medians = [statistics.median(ms) if ms else None for ms in (self.learning_ms, self.known_ms)]
        return {"name": self.name, "learning_ms": medians[0], "known_ms": medians[1]}


def measure_alignment(stack: FocalStack, sweeps: int) -> list[AlignmentSpeed]:
    """Align sweep after sweep of the same pictures, in images of their own, by each estimator in turn.

    Args:
        stack: its field of view must change with focus.
        sweeps: to be measured of each after the lens is known.

    Raises:
        AlignmentError: if the stack cannot be aligned.
        EngineError: if an estimator cannot be loaded.
    """
    found = []
    with _one_core():
        for name in ESTIMATORS:
            with make_aligner(name, threads=1) as aligner:
                learning: list[float] = []
                known: list[float] = []
                for number in range(1 + CONVERGED_SWEEPS + sweeps):
                    sweep = _later(stack, number)
                    start = time.perf_counter()
                    aligner.align(sweep, breathing_source(sweep), math.inf)
                    ms = 1e3 * (time.perf_counter() - start) / len(stack.slices)
                    if number:  # the first one loads and allocates
                        (learning if aligner.report.estimated else known).append(ms)
                found.append(AlignmentSpeed(name, tuple(learning), tuple(known)))
    return found


@contextmanager
def _one_core() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _later(stack: FocalStack, number: int) -> FocalStack:
    """Return the stack as of a later sweep, with noise of its own, so little that it is left as it is."""
    rng = np.random.default_rng(number)
    shape, dtype = stack.slices[0].image.shape, stack.slices[0].image.dtype
    noise = (rng.random(shape, np.float32) < 0.1).astype(dtype)
    slices = [
        replace(s, image=cv2.add(s.image, noise), stamp_ns=s.stamp_ns + number * SWEEP_NS) for s in stack.slices
    ]
    return replace(stack, slices=tuple(slices), stamp_ns=stack.stamp_ns + number * SWEEP_NS)


def alignment_table(speeds: list[AlignmentSpeed]) -> str:
    """Return the numbers as a text table."""
    rows = [[s["name"], s["learning_ms"], s["known_ms"]] for s in (speed.summary() for speed in speeds)]
    return tabulate(
        rows, ["residual", "while learning, ms a frame", "once known, ms a frame"], floatfmt=".2f", missingval="-"
    )
