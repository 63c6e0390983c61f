# SPDX-License-Identifier: Apache-2.0
"""Mean sparsification curves over stacks, from a sample of the pixels of each, as they come."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dualfocus_ros.evaluation.metrics import (
    SPARSIFICATION_STEPS,
    covered_mask,
    fill_nearest,
    sparsification_curve,
    valid_mask,
)
from dualfocus_ros.evaluation.results import Observation

# Sorting more pixels takes time, and the mean over stacks does not become smoother.
SAMPLED_PIXELS = 20_000


class CurveMean:
    """Mean curves over the stacks of one engine, each counting the same."""

    def __init__(self) -> None:
        """Start empty."""
        self.count = 0
        self._sums = np.zeros((2, SPARSIFICATION_STEPS))

    @property
    def curve(self) -> npt.NDArray[np.float64]:
        """(SPARSIFICATION_STEPS,) mean relative error of the most confident 1 %, 2 % ... of the pixels."""
        mean: npt.NDArray[np.float64] = self._sums[0] / self.count
        return mean

    @property
    def oracle(self) -> npt.NDArray[np.float64]:
        """The same where the pixels were sorted by their error: no confidence can do better."""
        mean: npt.NDArray[np.float64] = self._sums[1] / self.count
        return mean

    def add(self, observation: Observation) -> None:
        """Add a stack, as `metrics.score` does it but on a grid of pixels; without a truth nothing is added."""
        estimate, truth_m = observation.estimate, observation.truth_m
        if truth_m is None:
            return
        step = math.ceil(math.sqrt(truth_m.size / SAMPLED_PIXELS))
        depth_m, truth_m, confidence = (
            np.ascontiguousarray(a[step // 2 :: step, step // 2 :: step])
            for a in (estimate.depth_m, truth_m, estimate.confidence)
        )
        valid = valid_mask(truth_m, observation.stack.focus_range_m)
        covered = covered_mask(depth_m)
        if not valid.any() or not covered.any():
            return
        truth = truth_m[valid].astype(np.float64)
        error = np.abs(fill_nearest(depth_m, covered)[valid] - truth) / truth
        trust = np.where(covered, confidence, -1.0)[valid]
        self._sums += [sparsification_curve(error, trust), sparsification_curve(error, -error)]
        self.count += 1
