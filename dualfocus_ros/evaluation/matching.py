# SPDX-License-Identifier: Apache-2.0
"""Finds the true depth of every estimate by stamp, one to one, while both still come."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from dualfocus_ros.pairing import TIME_JUMP_NS

Estimate = TypeVar("Estimate")
Truth = TypeVar("Truth")


class StampMatcher(Generic[Estimate, Truth]):
    """Joins estimates and truths. Estimates come out in the order in which they came in, each exactly once.

    A truth of the same stamp is taken at once; else the nearest one within the tolerance, as soon as a truth far
    beyond it shows that no nearer one will come. A truth of another stamp is taken once, and not while another
    estimate that waits is nearer to it; one of the same stamp serves all estimates of that stamp (where the focus
    turns around, two stacks share the frame at the turn). Truths may come in another order than that of their
    stamps, by up to TIME_JUMP_NS.
    """

    def __init__(self, tolerance_s: float, keep_s: float, most_waiting: int = 16) -> None:
        """Start empty.

        Args:
            tolerance_s: largest difference of stamps.
            keep_s: truths older than the newest by more are forgotten.
            most_waiting: so many estimates wait for a truth; the oldest then goes without.
        """
        self._tolerance_ns = round(tolerance_s * 1e9)
        self._keep_ns = round(keep_s * 1e9)
        self._most_waiting = most_waiting
        self._truths: dict[int, Truth] = {}
        self._newest_ns: int | None = None
        self._waiting: deque[tuple[int, Estimate]] = deque()
        self._used: set[int] = set()
        self.truths_seen = 0
        self.truths_used = 0
        self.matched = 0
        self.unmatched = 0

    def add_truth(self, stamp_ns: int, truth: Truth) -> list[tuple[Estimate, Truth | None]]:
        """Take a truth; return the estimates that are decided now, each with its truth or None."""
        self.truths_seen += 1
        done: list[tuple[Estimate, Truth | None]] = []
        if self._newest_ns is not None and stamp_ns < self._newest_ns - TIME_JUMP_NS:
            done = self.finish()
            self._truths.clear()
            self._used.clear()
            self._newest_ns = stamp_ns
        self._truths[stamp_ns] = truth
        self._newest_ns = stamp_ns if self._newest_ns is None else max(self._newest_ns, stamp_ns)
        for old in [t for t in self._truths if t < self._newest_ns - self._keep_ns]:
            del self._truths[old]
            self._used.discard(old)
        return done + self._decide(final=False)

    def add_estimate(self, stamp_ns: int, estimate: Estimate) -> list[tuple[Estimate, Truth | None]]:
        """Take an estimate; return what is decided now, as `add_truth`."""
        self._waiting.append((stamp_ns, estimate))
        return self._decide(final=False)

    def finish(self) -> list[tuple[Estimate, Truth | None]]:
        """Decide on all that wait: no more truths will come."""
        return self._decide(final=True)

    def _decide(self, final: bool) -> list[tuple[Estimate, Truth | None]]:
        done: list[tuple[Estimate, Truth | None]] = []
        while self._waiting:
            stamp_ns, estimate = self._waiting[0]
            last_ns = stamp_ns + self._tolerance_ns + TIME_JUMP_NS
            late = self._newest_ns is not None and self._newest_ns >= last_ns
            given_up = final or late or len(self._waiting) > self._most_waiting
            if stamp_ns not in self._truths and not given_up:
                break
            done.append((estimate, self._take(stamp_ns)))
            self._waiting.popleft()
        return done

    def _take(self, stamp_ns: int) -> Truth | None:
        """Return the nearest truth that is not nearer to another; None where none is within the tolerance."""
        if stamp_ns in self._truths:
            return self._use(stamp_ns)
        others = [other for other, _ in self._waiting if other != stamp_ns]
        free = [
            t
            for t in self._truths.keys() - self._used
            if abs(t - stamp_ns) <= self._tolerance_ns and all(abs(t - o) >= abs(t - stamp_ns) for o in others)
        ]
        if not free:
            self.unmatched += 1
            return None
        return self._use(min(free, key=lambda t: (abs(t - stamp_ns), t)))

    def _use(self, stamp_ns: int) -> Truth:
        self.matched += 1
        self.truths_used += stamp_ns not in self._used
        self._used.add(stamp_ns)
        return self._truths[stamp_ns]
