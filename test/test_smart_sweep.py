# SPDX-License-Identifier: Apache-2.0
"""The smart sweep: focus positions follow the depth of the scene, and the rest of the range is still looked at."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.errors import InputError, ParameterError
from dualfocus_ros.focus_sweep import FocusSweep, SweepControl
from dualfocus_ros.smart_sweep import STALE_SWEEPS, DepthHistogram, SmartPlanner, plan
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.sweep import SweepConfig, focus_positions_m

FULL = focus_positions_m(SweepConfig())
STEP_DPT = (1 / FULL[0] - 1 / FULL[-1]) / (len(FULL) - 1)
FULL_BY_KIND = {
    "dioptres": FULL,
    "to infinity": focus_positions_m(SweepConfig(far_m=math.inf)),
    "metres": focus_positions_m(SweepConfig(spacing="metres")),
    "many": focus_positions_m(SweepConfig(slices=64)),
    "three": (0.5, 1.0, 3.0),
    "dense": (1.0, 1.01, 1.02, 1.03, 1.04),
    "macro": focus_positions_m(SweepConfig(near_m=0.05, far_m=0.08, slices=12)),
}
SCENES_DPT = {"far": (0.29, 0.49), "near": (1.24, 1.89), "all": (0.2, 2.5)}


@pytest.fixture(scope="module")
def camera():
    with SimulatedCamera(SimulatedConfig(width=32, height=24, views=16, rate_hz=0.0)) as opened:
        yield opened


def image_of(low_dpt: float, high_dpt: float, shape=(48, 64), seed=0) -> np.ndarray:
    """Depth spread evenly over a range of dioptres."""
    return (1.0 / np.random.default_rng(seed).uniform(low_dpt, high_dpt, shape)).astype(np.float32)


def sure(depth: np.ndarray, confidence: float = 0.9) -> np.ndarray:
    return np.full(depth.shape, confidence, np.float32)


def histogram_of(low_dpt: float, high_dpt: float) -> DepthHistogram:
    depth = image_of(low_dpt, high_dpt)
    return DepthHistogram.of(depth, sure(depth))


def gaps_in(positions_m, low_dpt: float, high_dpt: float) -> np.ndarray:
    """Return the gaps between positions, dioptres, that overlap a range."""
    dpt = 1.0 / np.array(positions_m)
    return np.array([a - b for a, b in zip(dpt, dpt[1:], strict=False) if b < high_dpt and a > low_dpt])


@pytest.mark.parametrize("kind", FULL_BY_KIND)
@pytest.mark.parametrize("scene", SCENES_DPT)
@pytest.mark.parametrize("slices", [0, 3, 5, 200])
def test_every_plan_is_a_sweep_from_end_to_end_of_the_range(kind, scene, slices):
    full = FULL_BY_KIND[kind]
    chosen = plan(histogram_of(*SCENES_DPT[scene]), full, slices)
    assert len(chosen) == (len(full) if slices == 0 else min(slices, len(full)))
    assert all(a < b for a, b in zip(chosen, chosen[1:], strict=False))
    assert (chosen[0], chosen[-1]) == (full[0], full[-1])
    spacing = -np.diff(1.0 / np.array(chosen))
    assert spacing.min() > min(0.006, 0.99 * -np.diff(1.0 / np.array(full)).max())


@pytest.mark.parametrize("scene", ["far", "near"])
def test_positions_are_dense_where_the_scene_is_with_a_guard_on_each_side(scene):
    low, high = SCENES_DPT[scene]
    chosen = plan(histogram_of(low, high), FULL)
    dpt = 1.0 / np.array(chosen)
    assert gaps_in(chosen, low, high).mean() < 0.75 * STEP_DPT
    for side_dpt, beyond in ((low, dpt < low), (high, dpt > high)):
        assert np.abs(dpt[beyond] - side_dpt).min() < STEP_DPT
    # The rest of the range is not left alone.
    assert np.abs(np.diff(dpt)).max() < 0.5 * (2.5 - 0.2)


@pytest.mark.parametrize("kind", ["metres", "to infinity"])
def test_sweeps_that_are_not_even_in_dioptres_are_planned_too(kind):
    full = FULL_BY_KIND[kind]
    chosen = plan(histogram_of(1.3, 1.8), full)
    assert gaps_in(chosen, 1.3, 1.8).mean() < 0.7 * gaps_in(full, 1.3, 1.8).mean()


def test_two_clusters_both_get_their_share():
    depth = np.concatenate([image_of(0.34, 0.42), image_of(1.55, 1.75)])
    chosen = plan(DepthHistogram.of(depth, sure(depth)), FULL)
    for low, high in ((0.34, 0.42), (1.55, 1.75)):
        assert gaps_in(chosen, low, high).mean() < STEP_DPT
    assert gaps_in(chosen, 0.9, 1.1).mean() > STEP_DPT


def test_of_two_equal_clusters_the_far_one_gets_more_since_errors_count_relatively():
    depth = np.concatenate([image_of(0.5, 0.8), image_of(1.8, 2.1)])
    chosen = plan(DepthHistogram.of(depth, sure(depth)), FULL)
    assert gaps_in(chosen, 0.5, 0.8).mean() < 0.8 * gaps_in(chosen, 1.8, 2.1).mean()


def test_positions_lie_on_one_grid_that_has_the_full_sweep():
    chosen = {m for i in range(20) for m in plan(histogram_of(0.25 + 0.1 * i, 0.4 + 0.1 * i), FULL)}
    dpt = np.sort(1.0 / np.array(sorted(chosen | set(FULL))))
    steps = np.diff(dpt) / STEP_DPT * 8
    assert np.abs(steps - np.round(steps)).max() < 1e-6 and steps.min() > 0.5


def test_the_confidence_weighs():
    depth = np.concatenate([image_of(0.29, 0.45), image_of(1.5, 1.9)])
    doubtful = np.concatenate([np.full((48, 64), 0.9), np.full((48, 64), 0.03)]).astype(np.float32)
    alike = plan(DepthHistogram.of(depth, sure(depth)), FULL)
    weighed = plan(DepthHistogram.of(depth, doubtful), FULL)
    assert gaps_in(weighed, 0.29, 0.45).mean() < gaps_in(alike, 0.29, 0.45).mean()
    assert gaps_in(weighed, 1.5, 1.9).mean() > gaps_in(alike, 1.5, 1.9).mean()


def test_pixels_without_depth_do_not_count_and_those_beyond_count_at_the_ends():
    depth = image_of(0.3, 0.4)
    holes = depth.copy()
    holes[::2] = np.nan
    holes[1, :10] = (0.0, -1.0, np.nan, 0.0, -1.0, np.nan, 0.0, -1.0, np.nan, 0.0)
    conf = sure(depth)
    conf[3, :4] = (np.nan, -0.5, 0.0, np.nan)
    found = DepthHistogram.of(holes, conf)
    assert found.dioptres.min() >= 0.3 - 1e-6 and found.dioptres.max() <= 0.4 + 1e-6
    assert found.confidence == pytest.approx(0.9 * len(found.dioptres) / depth.size)
    ends = DepthHistogram.of(
        np.array([[np.inf, 100.0, -np.inf], [0.1, 1.0, np.nan]], np.float32), sure(np.zeros((2, 3)))
    )
    shares = ends.over(np.array([2.5, 1.5, 0.7, 0.2]))
    assert shares == pytest.approx([0.4, 0.2, 0.4])


def test_images_of_different_sizes_are_refused():
    with pytest.raises(InputError, match=r"one shape.*\(48, 64\) and \(24, 32\)"):
        SmartPlanner(SweepConfig(smart=True)).observe(image_of(1, 2), sure(np.zeros((24, 32))))
    with pytest.raises(InputError, match="shape"):
        DepthHistogram.of(np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32))


def test_the_first_sweep_is_full_and_then_every_fourth():
    planner = SmartPlanner(SweepConfig(smart=True, smart_full_every=4))
    assert [planner.positions(FULL) == FULL for _ in range(3)] == [True] * 3  # nothing is known yet
    found = []
    for _ in range(9):
        depth = image_of(0.29, 0.49)
        planner.observe(depth, sure(depth))
        found.append(planner.positions(FULL) == FULL)
    assert found == [False, False, False, True, False, False, False, True, False]
    planner.configure(SweepConfig(smart=True, smart_full_every=1))
    assert planner.positions(FULL) == FULL


@pytest.mark.parametrize("nothing", [np.nan, 0.0])
def test_where_nothing_is_known_the_sweep_is_full(nothing):
    planner = SmartPlanner(SweepConfig(smart=True))
    depth = image_of(0.29, 0.49)
    planner.observe(np.full_like(depth, nothing), sure(depth))
    assert planner.positions(FULL) == FULL
    planner.observe(depth, sure(depth, 0.0))
    assert planner.positions(FULL) == FULL
    planner.observe(depth, sure(depth))
    assert planner.positions(FULL) != FULL


def test_a_depth_node_that_died_is_not_believed_for_ever():
    planner = SmartPlanner(SweepConfig(smart=True, smart_full_every=1000))
    depth = image_of(0.29, 0.49)
    planner.observe(depth, sure(depth))
    found = [planner.positions(FULL) == FULL for _ in range(STALE_SWEEPS + 5)]
    assert found == [False] * STALE_SWEEPS + [True] * 5
    planner.observe(depth, sure(depth))
    assert planner.positions(FULL) != FULL


def test_a_scene_that_does_not_change_keeps_its_positions():
    planner = SmartPlanner(SweepConfig(smart=True, smart_full_every=100))
    seen = set()
    for seed in range(12):  # the same scene, estimated anew each time
        depth = image_of(0.29 + 0.004 * (seed % 3), 0.49 - 0.004 * (seed % 2), seed=seed)
        planner.observe(depth, sure(depth))
        seen.add(planner.positions(FULL))
    assert len(seen) == 1
    depth = image_of(1.24, 1.89)
    planner.observe(depth, sure(depth))
    assert planner.positions(FULL) not in seen


def test_positions_of_another_range_are_planned_anew():
    planner = SmartPlanner(SweepConfig(smart=True, smart_full_every=100))
    other = focus_positions_m(SweepConfig(near_m=0.3, far_m=2.0, slices=7))
    depth = image_of(0.6, 0.9)
    for full in (FULL, other, FULL):
        planner.observe(depth, sure(depth))
        chosen = planner.positions(full)
        assert chosen != full and len(chosen) == len(full) and (chosen[0], chosen[-1]) == (full[0], full[-1])


def test_sweeps_can_be_shorter():
    planner = SmartPlanner(SweepConfig(smart=True, smart_slices=6))
    depth = image_of(0.29, 0.49)
    planner.observe(depth, sure(depth))
    assert len(planner.positions(FULL)) == 6


def test_depth_comes_from_another_thread():
    planner = SmartPlanner(SweepConfig(smart=True, smart_full_every=1000))
    ended, observed = threading.Event(), threading.Event()
    scenes = [image_of(0.29, 0.49), image_of(1.24, 1.89)]

    def observe() -> None:
        while not ended.is_set():
            for depth in scenes:
                planner.observe(depth, sure(depth))
                observed.set()

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        found = []
        for _ in range(30):
            assert observed.wait(20.0)
            observed.clear()
            found.append(planner.positions(FULL))
    finally:
        ended.set()
        thread.join()
    assert all(f != FULL and len(set(f)) == len(FULL) and f[0] == FULL[0] for f in found)


@pytest.mark.parametrize("pattern", ["sawtooth", "back_and_forth"])
@pytest.mark.parametrize("mode", ["sweep", "sliding"])
def test_every_sweep_of_a_camera_gives_its_own_stack(camera, pattern, mode):
    config = SweepConfig(smart=True, smart_full_every=3, pattern=pattern)
    planner, buffer = SmartPlanner(config), FocalStackBuffer(BufferConfig(mode=mode))
    depth = image_of(0.29, 0.49)
    stacks, plans = [], []

    def planned(full):
        planner.observe(depth, sure(depth))
        plans.append(planner.positions(full))
        return plans[-1]

    for frame in FocusSweep(camera, SweepControl(config), planned).frames():
        buffer.add_lens_state(frame.lens_state)
        buffer.add_intrinsics(frame.stamp_ns, frame.intrinsics)
        stacks += buffer.add_image(frame.stamp_ns, frame.image)
        if len(plans) == 7:
            break
    assert [p == FULL for p in plans[:6]] == [False, False, True] * 2
    whole = [s for s in stacks if tuple(s.focus_distance_m) in plans]
    assert set(buffer.drops) <= {"lens_moving"}
    assert buffer.stacks_completed == len(stacks)
    if mode == "sweep":
        assert [tuple(s.focus_distance_m) for s in stacks] == plans[:6]
    else:
        assert len(whole) >= 6 and len(stacks) >= 6 * (len(FULL) - 1) - len(FULL)
        stamps = [s.stamp_ns for s in stacks]
        assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"smart_full_every": 0}, "smart_full_every of at least 1, got 0"), ({"smart_slices": 2}, "at least 3")],
)
def test_bad_settings(values, message):
    with pytest.raises(ParameterError, match=message):
        SweepConfig(**values)


def test_it_is_off_by_default():
    assert SweepConfig().smart is False
