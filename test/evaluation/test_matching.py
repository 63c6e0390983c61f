# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from dualfocus_ros.evaluation.matching import StampMatcher

MS = 1_000_000
Matcher = StampMatcher[str, str]


def run(matcher: Matcher, events: str) -> list[tuple[str, str | None]]:
    """Add truths (t) and estimates (e) at milliseconds, as `t10 e10`; return all that was decided."""
    done = []
    for event in events.split():
        add = matcher.add_truth if event[0] == "t" else matcher.add_estimate
        done += add(int(event[1:]) * MS, event)
    return done + matcher.finish()


@pytest.mark.parametrize("events", ["t10 e10 t20 e20", "e10 t10 e20 t20", "t10 t20 e10 e20", "e10 e20 t10 t20"])
def test_a_truth_of_the_same_stamp_comes_before_or_after(events: str) -> None:
    matcher = Matcher(0.0, 10.0)
    assert run(matcher, events) == [("e10", "t10"), ("e20", "t20")]
    assert (matcher.matched, matcher.unmatched, matcher.truths_seen) == (2, 0, 2)


def test_without_tolerance_a_nanosecond_is_another_stamp() -> None:
    matcher = Matcher(0.0, 10.0)
    matcher.add_truth(1_000_000_001, "t")
    assert matcher.add_estimate(1_000_000_000, "e") == []
    assert matcher.finish() == [("e", None)]
    assert (matcher.matched, matcher.unmatched, matcher.truths_seen) == (0, 1, 1)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("t10 e12 t20", [("e12", "t10")]),
        ("t10 e15 t20", [("e15", "t10")]),  # as near as the other: the older one
        ("t10 e16 t20", [("e16", "t20")]),
        ("t10 e21 t40", [("e21", None)]),
        ("t10 e20 t40", [("e20", "t10")]),  # the tolerance itself is inside
        ("e12 t10 t20", [("e12", "t10")]),
        ("e12", [("e12", None)]),
        ("e12 t14", [("e12", "t14")]),
    ],
)
def test_within_the_tolerance_the_nearest_is_taken(events: str, expected: list) -> None:
    assert run(Matcher(0.010, 10.0), events) == expected


def test_it_is_waited_for_a_nearer_truth_but_no_longer_than_one_can_come() -> None:
    matcher = Matcher(0.010, 10.0)
    assert matcher.add_truth(10 * MS, "t10") == []
    assert matcher.add_estimate(16 * MS, "e16") == []
    assert matcher.add_truth(225 * MS, "t225") == []
    assert matcher.add_truth(226 * MS, "t226") == [("e16", "t10")]


def test_truths_may_come_in_another_order_than_their_stamps() -> None:
    assert run(Matcher(0.0, 10.0), "e10 e20 t30 t209 t10 t20") == [("e10", "t10"), ("e20", "t20")]
    assert run(Matcher(0.005, 10.0), "e10 t30 t6 t12") == [("e10", "t12")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("t10 e8 e10 t30 e30", [("e8", None), ("e10", "t10"), ("e30", "t30")]),
        ("t10 e7 e9 t30", [("e7", None), ("e9", "t10")]),
        ("t10 t14 e11 e13 t40", [("e11", "t10"), ("e13", "t14")]),
        ("t10 e10 e11 t40", [("e10", "t10"), ("e11", None)]),
    ],
)
def test_every_truth_is_taken_once_by_the_estimate_that_is_nearest(events: str, expected: list) -> None:
    matcher = Matcher(0.010, 10.0)
    assert run(matcher, events) == expected
    found = [truth for _, truth in expected if truth]
    assert len(found) == len(set(found)) == matcher.matched
    assert matcher.unmatched == len(expected) - matcher.matched


def test_estimates_come_out_in_order_and_once_whatever_comes() -> None:
    rng = random.Random(0)
    for tolerance_s in (0.0, 0.003):
        matcher = Matcher(tolerance_s, 0.5)
        stamps = sorted(rng.sample(range(2000), 300))
        events = [("e", s, s) for s in stamps] + [
            ("t", s, s + rng.randrange(30)) for s in rng.sample(range(2000), 900)
        ]
        done = []
        for kind, stamp, _ in sorted(events, key=lambda e: (e[2], e[0])):
            add = matcher.add_truth if kind == "t" else matcher.add_estimate
            done += add(stamp * MS, str(stamp))
        done += matcher.finish()
        assert [int(estimate) for estimate, _ in done] == stamps
        taken = [int(truth) for _, truth in done if truth]
        assert len(taken) == len(set(taken)) == matcher.matched > 100
        if not tolerance_s:  # truths are late by less than what is waited for
            assert {int(e) for e, truth in done if truth} == set(stamps) & {s for k, s, _ in events if k == "t"}
        assert matcher.unmatched == 300 - matcher.matched
        assert matcher.truths_seen == 900
        assert all(abs(int(e) - int(t)) <= 1000 * tolerance_s for e, t in done if t)


def test_truths_are_forgotten_when_they_are_too_old() -> None:
    assert run(Matcher(0.0, 0.05), "t0 t50 e0") == [("e0", "t0")]
    assert run(Matcher(0.0, 0.05), "t0 t51 e0") == [("e0", None)]
    assert run(Matcher(0.0, 0.05), "t0 t150 t90 e150 t80 e80") == [("e150", "t150"), ("e80", None)]


def test_nothing_is_kept_where_nothing_is_to_be() -> None:
    """A late truth is forgotten at once, also where it is the only one."""
    assert run(Matcher(0.0, 0.0), "t100 e100 t99 e99") == [("e100", "t100"), ("e99", None)]


def test_when_time_goes_back_nothing_is_matched_with_the_past() -> None:
    matcher = Matcher(0.0, 10.0)
    assert run(matcher, "t1000 t1010 e1020 t300 e1000 e300") == [
        ("e1020", None),
        ("e1000", None),
        ("e300", "t300"),
    ]
    # Less than a fifth of a second is late, not another time.
    assert run(Matcher(0.0, 10.0), "t1000 t801 e801 e1000") == [("e801", "t801"), ("e1000", "t1000")]


def test_no_more_than_so_many_wait() -> None:
    matcher = Matcher(0.0, 10.0, most_waiting=2)
    assert matcher.add_estimate(1 * MS, "e1") == matcher.add_estimate(2 * MS, "e2") == []
    assert matcher.add_estimate(3 * MS, "e3") == [("e1", None)]
    assert matcher.add_truth(2 * MS, "t2") == [("e2", "t2")]
    assert matcher.finish() == [("e3", None)]


def test_a_truth_serves_all_estimates_of_its_own_stamp_and_no_other() -> None:
    matcher: StampMatcher[str, str] = StampMatcher(0.05, 10.0)
    ms = 1_000_000
    assert matcher.add_truth(100 * ms, "t") == []
    assert matcher.add_estimate(100 * ms, "a") == [("a", "t")]
    assert matcher.add_estimate(100 * ms, "b") == [("b", "t")]
    assert matcher.add_estimate(110 * ms, "c") == []
    assert matcher.finish() == [("c", None)]
    assert (matcher.matched, matcher.unmatched, matcher.truths_used) == (2, 1, 1)
