# SPDX-License-Identifier: Apache-2.0
"""Rates and silence, on a clock that the test moves."""

from __future__ import annotations

import time

import pytest

from dualfocus_ros.nodes.rates import Rate


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def tick(rate: Rate, clock: Clock, count: int, period_s: float) -> None:
    for _ in range(count):
        clock.now_s += period_s
        rate.tick()


def test_a_steady_rate_is_measured(clock: Clock) -> None:
    rate = Rate()
    tick(rate, clock, 40, 1 / 15)
    assert rate.hz() == pytest.approx(15.0)


def test_one_message_has_no_rate(clock: Clock) -> None:
    rate = Rate()
    assert rate.hz() == 0.0
    tick(rate, clock, 1, 1.0)
    assert rate.hz() == 0.0
    tick(rate, clock, 1, 1.0)
    assert rate.hz() == pytest.approx(1.0)


def test_the_rate_falls_when_messages_stop(clock: Clock) -> None:
    rate = Rate()
    tick(rate, clock, 11, 0.1)
    assert rate.hz() == pytest.approx(10.0)
    clock.now_s += 9.0
    assert rate.hz() == pytest.approx(10 / 10.0)
    clock.now_s += 90.0
    assert rate.hz() == pytest.approx(10 / 100.0)


def test_only_the_last_messages_count(clock: Clock) -> None:
    rate = Rate()
    tick(rate, clock, 100, 1.0)
    tick(rate, clock, Rate.WINDOW, 0.02)
    assert rate.hz() == pytest.approx(50.0)


def test_silence_counts_from_the_last_message_or_the_start(clock: Clock) -> None:
    rate = Rate()
    clock.now_s += 3.0
    assert rate.silent_for_s() == pytest.approx(3.0)
    tick(rate, clock, 1, 1.0)
    assert rate.silent_for_s() == 0.0
    clock.now_s += 2.5
    assert rate.silent_for_s() == pytest.approx(2.5)


def test_restart_forgets(clock: Clock) -> None:
    rate = Rate()
    tick(rate, clock, 10, 0.1)
    clock.now_s += 100.0
    rate.restart()
    assert rate.hz() == 0.0
    assert rate.silent_for_s() == 0.0
