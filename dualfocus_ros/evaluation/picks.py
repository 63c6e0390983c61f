# SPDX-License-Identifier: Apache-2.0
"""Of which stacks a report with pictures keeps something, while an evaluation runs."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from dualfocus_ros.evaluation.kept import KeptStack, name_of
from dualfocus_ros.evaluation.results import Observation


class Picks:
    """Chooses the stacks of one engine that are kept, as they come, without knowing how many will.

    Of `count`, half are the worst (largest AbsRel; where there is no truth, least confident) and one is the best;
    for the rest, stacks at even steps through the evaluation are held ready. At most 2 `count` are kept at a time.
    """

    def __init__(self, count: int, others: Collection[str] = ()) -> None:
        """Start empty.

        Args:
            count: to be chosen by this rule.
            others: paths of stacks to be kept besides; without even steps then, so that engines can be compared.
        """
        self._count, self._others = count, frozenset(others)
        self._worst_count = (count + 1) // 2
        self._ranked: list[tuple[tuple[bool, float], int, KeptStack]] = []  # best first: the worst, and the best
        self._even: dict[int, KeptStack] = {}
        self._asked: dict[str, KeptStack] = {}
        self._step, self._seen = 1, 0

    @property
    def kept(self) -> list[KeptStack]:
        """All that is kept now."""
        found = [*(k for _, _, k in self._ranked), *self._even.values(), *self._asked.values()]
        return list({id(k): k for k in found}.values())

    def offer(self, observation: Observation) -> None:
        """Look at the next stack."""
        index, rank = self._seen, badness_of(observation)
        self._seen += 1
        is_worst, is_best = self._is_extreme(rank)
        is_even = not self._others and index % self._step == 0
        asked = name_of(observation)[0] in self._others
        if not (is_worst or is_best or is_even or asked) or not self._count:
            return
        kept = KeptStack.of(observation)
        if asked:
            self._asked[kept.path] = kept
        if is_worst or is_best:
            self._ranked = sorted([*self._ranked, (rank, -index, kept)], key=lambda entry: entry[:2])
            if len(self._ranked) > self._worst_count + 1:
                del self._ranked[1]  # neither the best nor among the worst
        if is_even:
            self._even[index] = kept
            while len(self._even) > self._count:
                self._step *= 2
                self._even = {i: k for i, k in self._even.items() if i % self._step == 0}

    def _is_extreme(self, rank: tuple[bool, float]) -> tuple[bool, bool]:
        if len(self._ranked) <= self._worst_count:
            return True, False
        return rank > self._ranked[1][0], rank < self._ranked[0][0]

    def chosen(self) -> list[KeptStack]:
        """Return those to be shown, worst first: at most `count`, and those asked for."""
        worst_first = [k for _, _, k in reversed(self._ranked)]
        picked = worst_first[: self._worst_count]
        if not self._others:
            best = worst_first[self._worst_count :]
            room = self._count - len(picked) - len(best)
            between = [k for k in self._even.values() if not any(k is other for other in (*picked, *best))]
            if room <= 0:
                best = best[: self._count - len(picked)]
            steps = np.unique(
                np.linspace(0, len(between) - 1, max(0, min(room, len(between)))).round().astype(int)
            )
            picked = [*picked, *(between[i] for i in steps), *best]
        picked += [k for k in self._asked.values() if not any(k is other for other in picked)]
        return sorted(picked, key=badness_of, reverse=True)


def badness_of(seen: Observation | KeptStack) -> tuple[bool, float]:
    """Return what stacks are sorted by: scored ones by AbsRel; before them those whose truth is not known."""
    if seen.result is not None:
        return True, seen.result.metrics.abs_rel
    confidence = math.nan if seen.look is None else seen.look.plausibility.confidence
    return False, 1.0 - confidence if math.isfinite(confidence) else math.inf
