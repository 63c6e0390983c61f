# SPDX-License-Identifier: Apache-2.0
"""The settling of a lens as a curve, from deviations averaged over exposures that began at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

MAX_KNOTS, KNOTS_A_FRAME = 240, 32.0
MEDIAN_OF = 5
# How often the fit is made again on a shorter time, and how many frames after the settle time that has at least.
CLOSER_LOOKS, CLOSER_FRAMES = 2, 1.5
# A shorter time is no gain where it brings noise of more than this part of the tolerance.
QUIET = 0.1
# Times within an exposure at which its mean is taken.
EXPOSURE_PARTS = 7
# Smoothness is chosen by generalised cross-validation that counts a degree of freedom this often: plain
# cross-validation now and then follows the noise.
COST_OF_FREEDOM = 1.4
# Residuals beyond this many deviations weigh less: frames with a wrong stamp, a passing shadow.
ROBUST_AT = 3.0
ROBUST_ROUNDS = 2


@dataclass(frozen=True)
class Samples:
    """Deviations of many repetitions of one move.

    Attributes:
        start_s: (n,) start of the exposures, since the command.
        end_s: (n,) their ends.
        deviation: (n,) mean over the exposure, by what the picture tells.
        repetition: (n,) which repetition they are of.
    """

    start_s: FloatArray
    end_s: FloatArray
    deviation: FloatArray
    repetition: npt.NDArray[np.int64]

    @property
    def middle_s(self) -> FloatArray:
        """(n,) middle of the exposures."""
        return 0.5 * (self.start_s + self.end_s)

    def where(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """Return the samples that a mask chooses."""
        return Samples(self.start_s[mask], self.end_s[mask], self.deviation[mask], self.repetition[mask])


@dataclass(frozen=True)
class SettleCurve:
    """A settling curve.

    Attributes:
        time_s: (k,) ascending, since the command.
        deviation: (k,) at these very times, the averaging over exposures undone.
        noise: standard deviation of `deviation` where the curve enters the tolerance.
        settle_s: after which the deviation stays within the tolerance.
        spread_s: standard deviation of `settle_s`, by drawing the repetitions anew (half of the middle 68 %).
        ends_inside: whether it comes to stay within the tolerance at all.
    """

    time_s: FloatArray
    deviation: FloatArray
    noise: float
    settle_s: float
    spread_s: float
    ends_inside: bool


def far_until_s(samples: Samples, far: float) -> float:
    """Return until when the deviation is beyond `far`: the last of the running medians of 5; 0 if it never is."""
    order = np.argsort(samples.middle_s)
    size = np.abs(samples.deviation[order])
    if len(size) < MEDIAN_OF:
        return 0.0
    running = np.median(np.lib.stride_tricks.sliding_window_view(size, MEDIAN_OF), axis=1)
    beyond = np.flatnonzero(running >= far)
    if not len(beyond):
        return 0.0
    return max(float(samples.middle_s[order][beyond[-1] + MEDIAN_OF // 2]), 0.0)


def fit_settling(samples: Samples, tolerance: float, far: float, frame_s: float, draws: int = 24) -> SettleCurve:
    """Fit a smooth curve to what follows the last time that the deviation was `far`.

    The fit is a smoothing spline (piecewise linear with a penalty on its second differences), whose mean over each
    exposure is compared with the sample: so it is the deviation at an instant, and not that of an exposure. It is
    made again where the curve enters the tolerance, as finely as the time that this takes asks for.

    Args:
        samples: of all repetitions.
        tolerance: in the unit of the deviations.
        far: deviations beyond this are not to be trusted in size.
        frame_s: frame period.
        draws: how often the repetitions are drawn anew for the spread.
    """
    last_s = float(samples.start_s.max())
    begin_s = min(far_until_s(samples, far), last_s - 4.0 * frame_s)
    near = samples.where((samples.middle_s >= begin_s) & (samples.middle_s <= last_s))
    curve = _fit(near, tolerance, frame_s, draws)
    for _ in range(CLOSER_LOOKS):
        closer_s = curve.settle_s + max(curve.settle_s - begin_s, CLOSER_FRAMES * frame_s)
        if not curve.ends_inside or closer_s >= curve.time_s[-1]:
            break
        closer = _fit(near.where(near.middle_s <= closer_s), tolerance, frame_s, draws)
        noisier = closer.noise > max(curve.noise, QUIET * tolerance)
        if not closer.ends_inside or noisier:
            break
        curve = closer
    return curve


def _fit(near: Samples, tolerance: float, frame_s: float, draws: int) -> SettleCurve:
    first, last = float(near.start_s.min()), float(near.middle_s.max())
    knots = int(np.clip((last - first) / (frame_s / KNOTS_A_FRAME), 16, MAX_KNOTS))
    time_s = np.linspace(first, last, knots)
    spline = _Spline(near, time_s)
    weights: FloatArray = np.ones(len(near.deviation))
    curve: FloatArray = np.zeros(knots)
    for _ in range(1 + ROBUST_ROUNDS):
        smoothness = spline.choose_smoothness(weights)
        curve = spline.solve(weights, smoothness)
        residual = near.deviation - spline.design @ curve
        scale = 1.4826 * float(np.median(np.abs(residual))) + 1e-12
        weights = 1.0 / np.maximum(1.0, np.abs(residual) / (ROBUST_AT * scale)) ** 2
    settle_s, inside = last_outside_s(time_s, curve, tolerance)
    drawn = _drawn(spline, near, weights, smoothness, tolerance, draws)
    spread_s = 0.5 * float(np.diff(np.percentile(drawn, (16, 84)))[0])
    noise = spline.noise(weights, smoothness, scale)
    there = int(np.argmin(np.abs(time_s - settle_s)))
    return SettleCurve(time_s, curve, float(noise[there]), settle_s, spread_s, inside)


def last_outside_s(time_s: FloatArray, deviation: FloatArray, tolerance: float) -> tuple[float, bool]:
    """Return the time after which a deviation stays within the tolerance, and whether it does at the end.

    A curve that is never outside was settled when it began; at time 0 at the earliest.
    """
    outside = np.flatnonzero(np.abs(deviation) > tolerance)
    if not len(outside):
        return max(float(time_s[0]), 0.0), True
    i = int(outside[-1])
    if i == len(time_s) - 1:
        return float(time_s[-1]), False
    here, there = abs(deviation[i]), np.sign(deviation[i]) * deviation[i + 1]
    part = (here - tolerance) / (here - there)
    return max(float(time_s[i] + part * (time_s[i + 1] - time_s[i])), 0.0), True


def _drawn(
    spline: _Spline, near: Samples, weights: FloatArray, smoothness: float, tolerance: float, draws: int
) -> list[float]:
    """Return settle times of repetitions drawn anew, with replacement."""
    rng = np.random.default_rng(0)
    names, index = np.unique(near.repetition, return_inverse=True)
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        curve = spline.solve(weights * times[index], smoothness)
        found.append(last_outside_s(spline.time_s, curve, tolerance)[0])
    return found


class _Spline:
    """Penalised least squares on fixed knots."""

    def __init__(self, samples: Samples, time_s: FloatArray) -> None:
        self.time_s = time_s
        self.deviation = samples.deviation
        self.design = _exposure_means(samples, time_s)
        second = np.diff(np.eye(len(time_s)), 2, axis=0)
        self.penalty = second.T @ second
        # Whatever the smoothness and the weights, the equations stay solvable.
        self.floor = 1e-9 * np.eye(len(time_s))

    def _gram(self, weights: FloatArray) -> FloatArray:
        return self.design.T @ (weights[:, None] * self.design)

    def solve(self, weights: FloatArray, smoothness: float) -> FloatArray:
        """Return the curve at the knots."""
        equations = self._gram(weights) + smoothness * self.penalty + self.floor
        solved: FloatArray = np.linalg.solve(equations, self.design.T @ (weights * self.deviation))
        return solved

    def choose_smoothness(self, weights: FloatArray) -> float:
        """Return the smoothness with the least generalised cross-validation.

        Gram matrix and penalty are made diagonal together, once for all smoothnesses: with S = gram + penalty =
        L L' and L^-1 penalty L^-T = Q diag(s) Q', gram + c penalty = L Q diag(1 - s + c s) Q' L'.
        """
        n = len(self.deviation)
        gram = self._gram(weights)
        lower = np.linalg.cholesky(gram + self.penalty + self.floor)
        half = np.linalg.solve(lower, np.linalg.solve(lower, self.penalty).T)
        share, axes = np.linalg.eigh(0.5 * (half + half.T))
        share = np.clip(share, 0.0, 1.0)
        # The model's columns in these axes, in which its Gram matrix is diag(1 - s).
        right = axes.T @ np.linalg.solve(lower, self.design.T @ (weights * self.deviation))
        whole = float(weights @ self.deviation**2)
        best, chosen = np.inf, 1.0
        for smoothness in 10.0 ** np.arange(-2.0, 7.1, 0.5):
            gain = 1.0 / np.maximum(1.0 - share + smoothness * share, 1e-12)
            fitted = gain * right
            error = max(whole - 2.0 * float(fitted @ right) + float((1.0 - share) @ fitted**2), 0.0)
            left = 1.0 - COST_OF_FREEDOM * float((1.0 - share) @ gain) / n
            score = error / max(left, 1e-3) ** 2
            if left > 0.0 and score < best:
                best, chosen = score, float(smoothness)
        return chosen

    def noise(self, weights: FloatArray, smoothness: float, scale: float) -> FloatArray:
        """Return the standard deviation of the curve at the knots for samples of that standard deviation."""
        gram = self._gram(weights)
        inverse = np.linalg.inv(gram + smoothness * self.penalty + self.floor)
        return scale * np.sqrt(np.maximum(np.diag(inverse @ gram @ inverse), 0.0))


def _exposure_means(samples: Samples, time_s: FloatArray) -> FloatArray:
    """Return (n, k): row i times a curve at the knots is its mean over exposure i."""
    part = (np.arange(EXPOSURE_PARTS) + 0.5) / EXPOSURE_PARTS
    at = samples.start_s[:, None] + part * (samples.end_s - samples.start_s)[:, None]
    place = np.clip((at - time_s[0]) / (time_s[1] - time_s[0]), 0.0, len(time_s) - 1.000001)
    left = place.astype(int)
    right_weight = place - left
    design = np.zeros((len(samples.start_s), len(time_s)))
    row = np.arange(len(design))[:, None].repeat(EXPOSURE_PARTS, axis=1)
    np.add.at(design, (row, left), (1.0 - right_weight) / EXPOSURE_PARTS)
    np.add.at(design, (row, left + 1), right_weight / EXPOSURE_PARTS)
    return design
