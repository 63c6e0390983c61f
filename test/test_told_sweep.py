# SPDX-License-Identifier: Apache-2.0
"""The stack buffer where frames tell of how many focus positions their sweep is."""

from __future__ import annotations

import numpy as np
import pytest
from stack_helpers import LENS, PERIOD_NS, POSITIONS_DPT, Player, focus_dpt, image, intrinsics

from dualfocus_ros.errors import LensError
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.types import LensState

N = len(POSITIONS_DPT)
NEAREST_FIRST = sorted(POSITIONS_DPT, reverse=True)
OTHER = (2.0, 1.1, 0.9, 0.7, 0.2)


def told(player: Player, positions=NEAREST_FIRST, **kwargs):
    return player.sweep(positions, told=len(positions), **kwargs)


@pytest.fixture
def player() -> Player:
    return Player(FocalStackBuffer())


@pytest.fixture
def slider() -> Player:
    return Player(FocalStackBuffer(BufferConfig(mode="sliding")))


@pytest.mark.parametrize("positions", [POSITIONS_DPT, NEAREST_FIRST])
def test_the_first_whole_sweep_gives_depth_with_its_last_frame(player, positions):
    for p in positions[:-1]:
        assert player.frame(p, told=N) == []
    (stack,) = player.frame(positions[-1], told=N)
    assert focus_dpt(stack) == NEAREST_FIRST
    assert player.buffer.positions_dpt == pytest.approx(sorted(positions))
    assert player.buffer.drops == {}


def test_positions_and_their_number_may_differ_from_sweep_to_sweep(player):
    sweeps = [NEAREST_FIRST, OTHER, (2.0, 1.0, 0.5), (2.0, 1.7, 1.4, 1.3, 1.2, 0.2), NEAREST_FIRST]
    for sweep in sweeps:
        told(player, sweep)
    assert [focus_dpt(s) for s in player.stacks] == [list(s) for s in sweeps]
    assert player.buffer.drops == {}
    for stack in player.stacks:  # and none has a frame of another sweep
        assert np.ptp([s.stamp_ns for s in stack.slices]) == (len(stack.slices) - 1) * PERIOD_NS


def test_back_and_forth_the_turning_frame_belongs_to_both_sweeps(player):
    told(player)
    there_and_back = [OTHER[::-1], (2.0, 1.5, 0.2), NEAREST_FIRST[::-1], OTHER]
    for sweep in there_and_back:
        player.sweep(sweep[1:], told=len(sweep))
    assert [focus_dpt(s) for s in player.stacks] == [
        NEAREST_FIRST,
        *(sorted(s, reverse=True) for s in there_and_back),
    ]
    for before, after in zip(player.stacks, player.stacks[1:], strict=False):
        shared = {s.stamp_ns for s in before.slices} & {s.stamp_ns for s in after.slices}
        assert len(shared) == 1
    assert player.buffer.drops == {}


@pytest.mark.parametrize("lost", range(N))
def test_a_sweep_that_lost_a_frame_gives_no_stack_and_is_counted(player, lost):
    told(player)
    player.sweep([p for i, p in enumerate(NEAREST_FIRST) if i != lost], told=N)
    told(player, OTHER)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST, list(OTHER)]
    assert player.buffer.drops == {"incomplete_sweep": N - 1}


def test_a_sweep_that_was_under_way_at_the_start_gives_no_stack(player):
    player.sweep(NEAREST_FIRST[1:], told=N)
    assert player.stacks == []
    told(player)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST]


def test_frames_of_a_held_focus_are_no_part_of_a_sweep(player):
    for hold_dpt in (1.0, 3.0, 0.1):  # within the range, and where a sweep comes past it on its way
        player.stacks.clear()
        told(player, NEAREST_FIRST[:3] + [0.4, 0.3])
        player.sweep(NEAREST_FIRST[:2], told=N)  # ended by the wish to hold
        for _ in range(3):
            player.frame(hold_dpt)
        told(player)
        told(player, OTHER)
        assert [focus_dpt(s) for s in player.stacks[1:]] == [NEAREST_FIRST, list(OTHER)]


def test_an_aborted_sweep_is_no_sweep(player):
    told(player)
    player.sweep(NEAREST_FIRST[:3], told=N)
    told(player, OTHER)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST, list(OTHER)]
    assert player.buffer.drops == {"incomplete_sweep": 3}


def test_while_the_lens_waits_or_moves_a_position_counts_once(player):
    for _ in range(2):
        for p in NEAREST_FIRST:
            player.frame(p - 0.05, speed_mps=9.0, told=N)
            player.frame(p, told=N)
            player.frame(p, told=N)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST] * 2
    assert player.buffer.drops == {"lens_moving": 2 * N, "repeated_position": 2 * N}


@pytest.mark.parametrize("jitter_dpt", [0.0, 2e-4])
def test_positions_within_the_tolerance_are_told_to_be_too_close(jitter_dpt):
    player = Player(FocalStackBuffer(BufferConfig(focus_tolerance_dpt=0.3)))
    for _ in range(3):
        for p in np.linspace(2.0, 1.0, N):  # 0.25 dpt apart
            for i in range(3):
                player.frame(p + i * jitter_dpt, told=N)
    assert player.stacks == []
    assert player.buffer.drops["closer_than_focus_tolerance"] > 0
    assert player.buffer.drops["incomplete_sweep"] == 0
    # A lens that waits and jitters does not make a lost frame look so.
    player = Player(FocalStackBuffer())
    for _ in range(3):
        for p in NEAREST_FIRST[1:]:
            for i in range(9):
                player.frame(p + i * jitter_dpt, told=N)
    assert player.buffer.drops["incomplete_sweep"] > 0
    assert player.buffer.drops["closer_than_focus_tolerance"] == 0


def test_frames_out_of_order_still_make_the_stack(player):
    start = player.stamp_ns
    for i in (0, 2, 1, 4, 3):
        player.frame(NEAREST_FIRST[i], stamp_ns=start + i * PERIOD_NS, told=N)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST]


def test_more_slices_than_are_kept_give_no_partial_depth():
    player = Player(FocalStackBuffer(BufferConfig(max_slices=8)))
    for _ in range(3):
        told(player, np.linspace(2.0, 0.2, 12))
    assert player.stacks == [] and player.buffer.drops["too_many_slices"] >= 12
    told(player)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST]


def test_a_camera_that_stops_telling_is_learned_as_any_other(player):
    told(player, OTHER)
    for _ in range(4):
        player.sweep()
    assert focus_dpt(player.stacks[-1]) == NEAREST_FIRST and len(player.stacks) >= 3
    told(player, OTHER)
    assert focus_dpt(player.stacks[-1]) == list(OTHER)


def test_a_recording_that_loops_gives_a_stack_each_time():
    buffer = FocalStackBuffer()
    stacks = []
    for _ in range(3):
        player = Player(buffer)
        told(player)
        stacks += player.stacks
    assert [focus_dpt(s) for s in stacks] == [NEAREST_FIRST] * 3 and buffer.time_jumps == 2
    assert buffer.flush() == []


def test_sliding_gives_a_stack_every_frame_after_the_first_sweep(slider):
    told(slider)
    assert [focus_dpt(s) for s in slider.stacks] == [NEAREST_FIRST]
    for _ in range(2):
        for p in NEAREST_FIRST:
            stamp = slider.stamp_ns
            (stack,) = slider.frame(p, told=N)
            assert focus_dpt(stack) == NEAREST_FIRST
            stamps = [s.stamp_ns for s in stack.slices]
            assert stack.stamp_ns == stamp == max(stamps)
            assert max(stamps) - min(stamps) == (N - 1) * PERIOD_NS


def test_sliding_takes_of_the_sweep_before_what_the_focus_has_not_passed_again(slider):
    told(slider)
    found = [focus_dpt(stack) for p in OTHER for stack in slider.frame(p, told=N)]
    assert found == [
        [2.0, 1.5, 1.0, 0.5, 0.2],
        [2.0, 1.1, 1.0, 0.5, 0.2],
        [2.0, 1.1, 0.9, 0.5, 0.2],
        [2.0, 1.1, 0.9, 0.7, 0.5, 0.2],
        [2.0, 1.1, 0.9, 0.7, 0.2],  # whole: itself and no more
    ]


def test_sliding_back_and_forth_gives_a_stack_every_frame(slider):
    told(slider)
    slider.stacks.clear()
    for p in (*OTHER[::-1][1:], *NEAREST_FIRST[1:]):
        (stack,) = slider.frame(p, told=N)
        assert len(stack.slices) >= 3 and {focus_dpt(stack)[0], focus_dpt(stack)[-1]} == {2.0, 0.2}
        assert stack.stamp_ns == max(s.stamp_ns for s in stack.slices)
    assert [focus_dpt(s) for s in slider.stacks[N - 2 :: N - 1]] == [list(OTHER), NEAREST_FIRST]


@pytest.mark.parametrize(("after", "expected"), [(N, [4.5, 3.5, 2.5, 1.5]), (0, None)])
def test_interpolated_lens_states_tell_it_where_both_neighbours_do(after, expected):
    buffer = FocalStackBuffer(BufferConfig(max_focus_speed_dpt_per_s=20.0))
    buffer.add_intrinsics(0, intrinsics())
    stacks = []
    for i in range(5):  # the lens reports at 0, 100 ... 400 ms, the camera exposes at 50 ... 350 ms
        told_slices = 4 if after or i % 2 else 0
        stacks += buffer.add_lens_state(LensState(i * 100_000_000, 1.0 / (1.0 + i), LENS, 0.0, told_slices))
        stacks += buffer.add_image(50_000_000 + i * 100_000_000, image())
    found = [s.focus_dpt for s in stacks[0].slices] if stacks else None
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_sweep_of_one_or_two_positions_is_refused():
    for slices in (-1, 1, 2):
        with pytest.raises(LensError, match="sweep of 3 focus positions or more"):
            LensState(0, 1.0, LENS, 0.0, slices)


def test_memory_is_bounded(slider):
    for _ in range(20):
        told(slider, OTHER)
        told(slider)
    assert slider.buffer.frames_held <= 2 * N + 1
