# SPDX-License-Identifier: Apache-2.0
"""Time of a replay: rates, pauses and stops, by a clock that the test moves."""

from __future__ import annotations

import threading
import time

import pytest

from dualfocus_ros.nodes import playback
from dualfocus_ros.nodes.playback import Playhead

SECOND = 1_000_000_000


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(playback, "time", clock)
    return clock


def test_it_goes_at_its_rate_and_keeps_its_place_when_that_changes(clock: Clock) -> None:
    head = Playhead(2.0)
    head.start(50 * SECOND)
    clock.now_s += 1.5
    assert head.position_ns() == 53 * SECOND
    head.set_rate(0.5)
    assert head.position_ns() == 53 * SECOND
    clock.now_s += 4.0
    assert head.position_ns() == 55 * SECOND
    assert head.seconds() == pytest.approx(5.0)
    assert head.reached(55 * SECOND) and not head.reached(55 * SECOND + 1)


def test_it_stands_while_it_is_paused(clock: Clock) -> None:
    head = Playhead(1.0)
    head.start(0)
    clock.now_s += 1.0
    head.pause(True)
    clock.now_s += 10.0
    assert head.position_ns() == SECOND
    assert not head.reached(0), "nothing is due while it is paused"
    head.pause(False)
    clock.now_s += 0.5
    assert head.position_ns() == 3 * SECOND // 2


def test_a_pause_before_the_start_lasts(clock: Clock) -> None:
    head = Playhead(1.0)
    head.pause(True)
    head.start(7 * SECOND)
    clock.now_s += 5.0
    assert head.position_ns() == 7 * SECOND and not head.reached(7 * SECOND)


def test_waiting_ends_with_the_time_or_with_a_stop() -> None:
    head = Playhead(10.0)
    head.start(0)
    before = time.monotonic()
    while not head.reached(2 * SECOND):
        assert head.wait_for(2 * SECOND, 0.05)
    assert 0.2 <= time.monotonic() - before < 2.0
    stopper = threading.Timer(0.1, head.stop)
    stopper.start()
    assert not head.sleep(20.0)
    assert not head.wait_for(100 * SECOND, 20.0) and not head.reached(0)
    stopper.join()
    head.go()
    assert head.wait_for(0, 0.0) and head.reached(0)
