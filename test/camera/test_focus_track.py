# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from dualfocus_ros.camera.focus_track import FocusTrack


def track() -> FocusTrack:
    """A lens at 10 since 0 s that takes 0.02 s, and 0.001 s a unit, to settle."""
    return FocusTrack(10.0, 0.0, lambda move: 0.02 + 0.001 * move)


def test_a_lens_that_was_told_nothing_stands_still() -> None:
    motion = track().during(5.0, 5.1)
    assert (motion.position, motion.moved, motion.speed) == (10.0, False, 0.0)


def test_an_exposure_is_of_a_moving_lens_while_it_overlaps_the_move() -> None:
    t = track()
    t.command(1.0, 90.0)  # settled at 1.1
    assert t.settled_at_s == pytest.approx(1.1)
    before, during, across, after = (
        t.during(*times) for times in ((0.95, 0.999), (1.02, 1.03), (1.09, 1.12), (1.101, 1.2))
    )
    assert (before.position, before.moved) == (10.0, False)
    assert during.moved and during.position == pytest.approx(30.0) and during.speed == pytest.approx(800.0)
    assert across.moved
    assert (after.position, after.moved, after.speed) == (90.0, False, 0.0)


def test_an_exposure_that_began_before_the_command_and_reached_into_the_move_is_of_a_moving_lens() -> None:
    t = track()
    t.command(1.0, 90.0)
    assert t.during(0.99, 1.01).moved


def test_the_past_stays_known_after_the_next_command() -> None:
    t = track()
    t.command(1.0, 90.0)
    t.command(2.0, 20.0)
    assert t.during(1.5, 1.6) == t.during(1.7, 1.8)
    assert t.during(1.5, 1.6).position == 90.0 and not t.during(1.5, 1.6).moved


def test_a_move_that_is_overtaken_counts_with_its_whole_way() -> None:
    t = track()
    t.command(1.0, 110.0)  # would take 0.12 s
    t.command(1.01, 11.0)
    # By then it may be anywhere on its way: the shortest settle time would be a bet.
    assert t.settled_at_s == pytest.approx(1.01 + 0.02 + 0.001 * (110.0 - 11.0))
    assert t.during(1.02, 1.03).moved


def test_a_command_to_where_the_lens_is_moves_nothing() -> None:
    t = track()
    t.command(1.0, 10.0)
    assert not t.during(1.0, 1.01).moved
