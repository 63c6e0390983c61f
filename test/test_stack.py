# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from stack_helpers import LENS, PERIOD_NS, POSITIONS_DPT, Player, focus_dpt, image, intrinsics

from dualfocus_ros.errors import LensError, ParameterError, StackError
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.types import FocalSlice, FocalStack, LensModel, LensState

NEAREST_FIRST = sorted(POSITIONS_DPT, reverse=True)


@pytest.fixture
def player():
    return Player(FocalStackBuffer())


def test_learns_from_the_first_whole_sweep_then_completes_at_the_last_frame(player):
    assert player.sweep(POSITIONS_DPT[2:]) == []  # the camera was already sweeping
    assert player.sweep() == []  # whole, but that shows only when the focus turns
    late = player.frame(POSITIONS_DPT[0])
    assert [focus_dpt(s) for s in late] == [NEAREST_FIRST]
    for p in POSITIONS_DPT[1:-1]:
        assert player.frame(p) == []
    (stack,) = player.frame(POSITIONS_DPT[-1])
    assert focus_dpt(stack) == NEAREST_FIRST
    assert player.buffer.positions_dpt == pytest.approx(POSITIONS_DPT)
    assert player.buffer.stacks_completed == 2
    assert player.buffer.drops == {"incomplete_sweep": 3}  # the sweep that was under way at the start


def test_each_slice_carries_its_own_image_and_stamp(player):
    for _ in range(3):
        player.sweep()
    stack = player.stacks[-1]
    by_stamp = sorted(stack.slices, key=lambda s: s.stamp_ns)
    assert np.diff([s.stamp_ns for s in by_stamp]).tolist() == [PERIOD_NS] * 4
    assert [int(s.image[0, 0, 0]) for s in by_stamp] == [10, 11, 12, 13, 14]
    assert [s.focus_dpt for s in by_stamp] == pytest.approx(POSITIONS_DPT)
    assert stack.stamp_ns == stack.slices[stack.reference].stamp_ns
    assert stack.reference == 0 and stack.frame_id == "camera"


@pytest.mark.parametrize("order", [POSITIONS_DPT, POSITIONS_DPT[::-1]])
def test_sawtooth_gives_one_stack_a_sweep(player, order):
    for _ in range(6):
        player.sweep(order)
    assert len(player.stacks) == 4 or len(player.stacks) == 5
    steady = player.stacks[1:]
    assert all(focus_dpt(s) == NEAREST_FIRST for s in steady)
    assert np.diff([s.stamp_ns for s in steady]).tolist() == [5 * PERIOD_NS] * (len(steady) - 1)


def test_back_and_forth_gives_one_stack_each_way(player):
    cycle = POSITIONS_DPT + POSITIONS_DPT[-2:0:-1]
    for _ in range(4):
        player.sweep(cycle)
    newest = [max(s.stamp_ns for s in stack.slices) for stack in player.stacks[1:]]
    assert set(np.diff(newest)) == {4 * PERIOD_NS}
    assert all(focus_dpt(s) == NEAREST_FIRST for s in player.stacks)


def test_sliding_gives_a_stack_every_frame_with_the_stamp_of_the_newest():
    player = Player(FocalStackBuffer(BufferConfig(mode="sliding")))
    for _ in range(2):
        player.sweep()
    player.stacks.clear()
    for _ in range(3):
        for p in POSITIONS_DPT:
            stamp = player.stamp_ns
            (stack,) = player.frame(p)
            assert stack.stamp_ns == stamp == max(s.stamp_ns for s in stack.slices)
            assert focus_dpt(stack) == NEAREST_FIRST
            assert max(s.stamp_ns for s in stack.slices) - min(s.stamp_ns for s in stack.slices) == 4 * PERIOD_NS


def test_frames_of_a_moving_lens_are_rejected_and_counted(player):
    for _ in range(3):
        for p in POSITIONS_DPT:
            player.frame(p - 0.05, speed_mps=10.0)
            player.frame(p)
    assert player.buffer.drops["lens_moving"] == 15
    assert all(focus_dpt(s) == NEAREST_FIRST for s in player.stacks) and len(player.stacks) == 2


def test_while_the_lens_waits_the_newest_frame_of_a_position_is_used(player):
    for _ in range(3):
        for p in POSITIONS_DPT:
            player.frame(p)
            player.frame(p)
    assert player.buffer.drops["repeated_position"] == 15
    assert all(focus_dpt(s) == NEAREST_FIRST for s in player.stacks) and len(player.stacks) == 2
    # A frame that came while the stack was not yet complete is the newer one of its position.
    assert {int(s.image[0, 0, 0]) % 2 for s in player.stacks[-1].slices[1:]} == {1}


def test_slices_that_the_lens_has_left_are_settled(player):
    for _ in range(3):
        player.sweep()
    player.frame(POSITIONS_DPT[0])  # the lens jumps back: a sweep of its own begins
    found = []
    for position in (POSITIONS_DPT[1], POSITIONS_DPT[1], POSITIONS_DPT[2], POSITIONS_DPT[3]):
        player.frame(position)
        found.append([s.focus_dpt for s in player.buffer.settled])
    expected = [POSITIONS_DPT[:n] for n in (1, 1, 2, 3)]
    assert [pytest.approx(e) == f for e, f in zip(expected, found, strict=True)] == [True] * 4
    settled = player.buffer.settled
    (stack,) = player.frame(POSITIONS_DPT[4])
    of_stack = {s.stamp_ns: s.image for s in stack.slices}
    assert all(of_stack[s.stamp_ns] is s.image for s in settled)


def test_a_lost_frame_costs_one_sweep_and_is_counted(player):
    for _ in range(3):
        player.sweep()
    before = len(player.stacks)
    player.buffer.drops.clear()
    player.sweep(POSITIONS_DPT[:2] + POSITIONS_DPT[3:])
    assert player.frame(POSITIONS_DPT[0]) == []
    assert player.buffer.drops["incomplete_sweep"] == 4
    player.sweep(POSITIONS_DPT[1:])
    assert len(player.stacks) == before + 1
    assert len(player.buffer.positions_dpt) == 5


@pytest.mark.parametrize("frames", [5, 6, 7, 11])
def test_a_short_bag_that_loops_gives_depth(frames):
    buffer = FocalStackBuffer()
    stacks = []
    for _ in range(6):
        player = Player(buffer)
        for i in range(frames):
            player.frame(POSITIONS_DPT[i % 5])
        stacks += player.stacks
    assert len(stacks) >= 3
    assert all(focus_dpt(s) == NEAREST_FIRST for s in stacks)
    assert buffer.time_jumps == 5


def test_camera_info_that_comes_a_frame_late_is_waited_for():
    buffer = FocalStackBuffer()
    stacks, late = [], []
    for n in range(20):
        i = n % 5
        stamp = n * PERIOD_NS
        stacks += buffer.add_lens_state(LensState(stamp, 1 / POSITIONS_DPT[i], LENS))
        stacks += buffer.add_image(stamp, image())
        for info in late:
            stacks += buffer.add_intrinsics(*info)
        late = [(stamp, intrinsics(fx_px=40.0 + i))]
    assert len(stacks) >= 2
    for stack in stacks:
        assert [s.intrinsics.fx_px for s in stack.slices] == [44.0, 43.0, 42.0, 41.0, 40.0]


def test_a_sweep_of_too_many_positions_gives_no_partial_depth():
    player = Player(FocalStackBuffer(BufferConfig(max_slices=8)))
    for _ in range(5):
        player.sweep(np.linspace(0.2, 2.0, 12))
    assert player.stacks == [] and player.buffer.drops["too_many_slices"] >= 4 * 4


def test_a_slow_continuous_sweep_is_cut_into_positions_of_the_tolerance():
    config = BufferConfig(focus_tolerance_dpt=0.1, max_focus_speed_dpt_per_s=10.0)
    player = Player(FocalStackBuffer(config))
    for _ in range(4):
        player.sweep(np.arange(0.2, 2.0, 0.03))
    spacing = -np.diff(focus_dpt(player.stacks[-1]))
    # The last frame before the turn makes a position of its own.
    assert len(player.stacks) >= 2 and np.sort(spacing)[1] > 0.05 and spacing.max() < 0.2


def test_a_focal_length_that_follows_the_focus_is_one_lens(player):
    for _ in range(3):
        for i, p in enumerate(POSITIONS_DPT):
            player.frame(
                p, model=LensModel(LENS.focal_length_m * (1 + 0.001 * i), LENS.f_number, LENS.pixel_pitch_m)
            )
    assert len(player.stacks) == 2 and player.buffer.drops["camera_changed"] == 0


def test_sliding_stacks_never_go_back_in_time():
    player = Player(FocalStackBuffer(BufferConfig(mode="sliding")))
    for _ in range(3):
        player.sweep()
    start = player.stamp_ns
    for i in (0, 2, 1, 3, 4):
        player.frame(POSITIONS_DPT[i], stamp_ns=start + i * PERIOD_NS)
    stamps = [s.stamp_ns for s in player.stacks]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)
    assert all(s.stamp_ns == max(x.stamp_ns for x in s.slices) for s in player.stacks[1:])


def test_images_of_another_size_than_their_camera_info_are_counted():
    buffer = FocalStackBuffer()
    buffer.add_lens_state(LensState(1, 1.0, LENS))
    buffer.add_intrinsics(1, intrinsics(16, 12))
    assert buffer.add_image(1, image()) == []
    assert buffer.drops == {"camera_info_of_another_size": 1}


@pytest.mark.parametrize("far_m", [1e7, 1e200])
def test_huge_focus_distances_are_as_good_as_infinity(player, far_m):
    for _ in range(3):
        player.frame(1 / far_m, speed_mps=1.0)
        for p in POSITIONS_DPT:
            player.frame(p)
    player.buffer.add_lens_state(LensState(player.stamp_ns, far_m, LENS))
    player.buffer.add_lens_state(LensState(player.stamp_ns + 10, far_m / 10, LENS))
    player.buffer.add_intrinsics(player.stamp_ns + 5, intrinsics())
    player.buffer.add_image(player.stamp_ns + 5, image())
    assert player.stacks


@pytest.mark.parametrize("changed", [(0.3, 0.9, 1.4), POSITIONS_DPT[::2], (*POSITIONS_DPT, 2.5, 3.0)])
def test_a_changed_sweep_is_learned_anew(player, changed):
    for _ in range(3):
        player.sweep()
    for _ in range(5):
        player.sweep(changed)
    assert focus_dpt(player.stacks[-1]) == sorted(changed, reverse=True)
    assert player.buffer.positions_dpt == pytest.approx(sorted(changed))


def test_a_change_of_resolution_starts_again(player):
    for _ in range(3):
        player.sweep()
    player.sweep(POSITIONS_DPT[:2])
    for _ in range(3):
        player.sweep(size=(16, 12))
    assert player.buffer.drops["camera_changed"] > 0
    assert player.stacks[-1].slices[0].image.shape == (12, 16, 3)


def test_a_change_of_lens_starts_again(player):
    for _ in range(3):
        player.sweep()
    zoomed = LensModel(0.03, 2.0, LENS.pixel_pitch_m)
    for _ in range(3):
        player.sweep(model=zoomed)
    assert player.stacks[-1].lens == zoomed and player.buffer.drops["camera_changed"] > 0


def test_duplicates_are_dropped(player):
    for _ in range(3):
        for p in POSITIONS_DPT:
            stamp = player.stamp_ns
            player.frame(p)
            player.frame(p, stamp_ns=stamp)
    assert player.buffer.drops["duplicate_stamp"] == 15
    assert len(player.stacks) == 2


def test_frames_out_of_order_within_a_sweep_still_make_the_stack(player):
    for _ in range(2):
        player.sweep()
    start = player.stamp_ns
    player.stacks.clear()
    for i in (0, 2, 1, 4, 3):
        player.frame(POSITIONS_DPT[i], stamp_ns=start + i * PERIOD_NS)
    assert [focus_dpt(s) for s in player.stacks] == [NEAREST_FIRST] * 2  # the learned one, and this
    by_stamp = sorted(player.stacks[-1].slices, key=lambda s: s.stamp_ns)
    assert [s.focus_dpt for s in by_stamp] == pytest.approx(POSITIONS_DPT)


def test_a_bag_that_loops_goes_on_after_the_jump(player):
    for _ in range(2):
        for _ in range(4):
            player.sweep()
        count = len(player.stacks)
        player.stamp_ns = 1_000_000_000
    assert count >= 6 and player.buffer.time_jumps == 1
    assert all(focus_dpt(s) == NEAREST_FIRST for s in player.stacks)
    for stack in player.stacks:
        stamps = [s.stamp_ns for s in stack.slices]
        assert max(stamps) - min(stamps) == 4 * PERIOD_NS


def test_memory_is_bounded_whatever_comes():
    buffer = FocalStackBuffer(BufferConfig(max_slices=8))
    player = Player(buffer)
    for i in range(100):
        player.frame(0.1 + 0.05 * i)
    assert buffer.frames_held <= 8 and buffer.drops["too_many_slices"] == 92
    for i in range(100):
        buffer.add_image(player.stamp_ns + i, image())
    assert buffer.frames_held <= 8 + 17


def test_old_stacks_are_refused():
    buffer = FocalStackBuffer(BufferConfig(max_stack_age_s=0.1))
    player = Player(buffer)
    for _ in range(4):
        player.sweep()
    assert player.stacks == [] and buffer.drops["stack_too_old"] == 3


def test_flush_hands_out_a_single_recorded_sweep(player):
    player.sweep()
    (stack,) = player.buffer.flush()
    assert focus_dpt(stack) == NEAREST_FIRST
    assert player.buffer.flush() == []


def test_infinite_focus_is_a_position(player):
    positions = (0.0, 0.5, 1.0)
    for _ in range(3):
        player.sweep(positions)
    assert player.stacks[-1].slices[-1].focus_distance_m == np.inf


def test_lens_states_of_another_rate_are_interpolated_in_dioptres():
    buffer = FocalStackBuffer(BufferConfig(max_focus_speed_dpt_per_s=20.0))
    buffer.add_intrinsics(0, intrinsics())
    stacks = []
    for sweep in range(3):
        base = sweep * 1_000_000_000
        for i in range(5):  # the lens reports at 0, 100 ... 400 ms, the camera exposes at 50 ... 350 ms
            stacks += buffer.add_lens_state(LensState(base + i * 100_000_000, 1.0 / (1.0 + i), LENS))
            stacks += buffer.add_image(base + 50_000_000 + i * 100_000_000, image())
    assert len(stacks) >= 1
    assert [s.focus_dpt for s in stacks[-1].slices] == pytest.approx([4.5, 3.5, 2.5, 1.5])


def test_an_image_between_two_focus_positions_counts_as_moving():
    buffer = FocalStackBuffer()
    buffer.add_intrinsics(50, intrinsics())
    buffer.add_image(50, image())
    buffer.add_lens_state(LensState(0, 1.0, LENS))
    buffer.add_lens_state(LensState(100, 0.5, LENS))
    assert buffer.drops == {"lens_moving": 1}


def test_images_without_lens_state_or_camera_info_are_counted():
    buffer = FocalStackBuffer()
    player = Player(buffer)
    for p in POSITIONS_DPT * 10:
        player.frame(p, lens=False)
    assert buffer.drops["no_lens_state"] == 50 - 16
    buffer = FocalStackBuffer()
    player = Player(buffer)
    for p in POSITIONS_DPT * 10:
        player.frame(p, info=False)
    assert buffer.drops["no_camera_info"] == 50 - 16


def test_camera_info_of_another_stamp_serves_when_none_comes(player):
    player.buffer.add_intrinsics(5, intrinsics())
    for _ in range(3):
        player.sweep(info=False)
    assert len(player.stacks) >= 1


def test_the_reference_is_the_smallest_field_of_view():
    slices = []
    buffer = FocalStackBuffer()
    for sweep in range(3):
        for i, p in enumerate(POSITIONS_DPT):
            stamp = (sweep * 5 + i) * PERIOD_NS
            buffer.add_lens_state(LensState(stamp, 1 / p, LENS))
            buffer.add_intrinsics(stamp, intrinsics(fx_px=50.0 - i))  # breathes the other way round
            slices += buffer.add_image(stamp, image())
    assert slices[-1].reference == 4 and slices[-1].slices[4].intrinsics.fx_px == 50.0


def test_errors_say_what_was_expected():
    with pytest.raises(ParameterError, match="sweep.*sliding.*'swep'"):
        BufferConfig(mode="swep")
    one = FocalSlice(image(), 0, 1.0, intrinsics())
    with pytest.raises(StackError, match="at least 3 slices.*got 2"):
        FocalStack.from_slices([one, one], LENS)
    with pytest.raises(StackError, match="distinct focus distances, got 1.0 m twice"):
        FocalStack.from_slices([one, one, one], LENS)
    with pytest.raises(StackError, match="32 x 24.*got 16 x 12"):
        FocalSlice(image(0, 16, 12), 0, 1.0, intrinsics())
    for bad in (float("nan"), -1.0, 0.0, 0.01):
        with pytest.raises(LensError, match="focus distance"):
            LensState(0, bad, LENS)
    with pytest.raises(LensError, match="f_number"):
        LensModel(0.016, 0.0, 1e-6)
