# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import numpy as np
import pytest

from dualfocus_ros.errors import LensError, ParameterError
from dualfocus_ros.sweep import FocusSweep, SweepConfig, focus_positions_m, focus_schedule
from dualfocus_ros.types import CameraFrame, Intrinsics, LensModel, LensState

LENS = LensModel(0.016, 1.4, 22.5e-6)


class SlowLens:
    """A lens that needs a given number of frames for every move."""

    lens = LENS
    focus_range_m = (0.1, math.inf)
    focus_positions_m = None

    def __init__(self, frames_to_settle):
        self.frames_to_settle = frames_to_settle
        self.commands = []

    def set_focus(self, focus_distance_m):
        self.commands.append(focus_distance_m)
        self.left = self.frames_to_settle

    def read(self):
        speed = 0.5 if self.left > 0 else 0.0
        self.left -= 1
        state = LensState(0, self.commands[-1], LENS, speed)
        return CameraFrame(np.zeros((4, 4), np.uint8), "mono8", 0, state, Intrinsics(4, 4, 9, 9, 1.5, 1.5))


def test_positions_are_evenly_spaced_in_dioptres_by_default():
    positions = focus_positions_m(SweepConfig(near_m=0.4, far_m=5.0, slices=10))
    assert np.diff(1 / np.array(positions)) == pytest.approx([-(2.5 - 0.2) / 9] * 9)
    assert positions[0] == pytest.approx(0.4) and positions[-1] == pytest.approx(5.0)


def test_positions_can_reach_infinity():
    assert focus_positions_m(SweepConfig(near_m=0.5, far_m=math.inf, slices=3)) == (0.5, 1.0, math.inf)


def test_positions_in_metres_and_explicit():
    assert focus_positions_m(SweepConfig(near_m=1, far_m=3, slices=3, spacing="metres")) == (1.0, 2.0, 3.0)
    assert focus_positions_m(SweepConfig(distances_m=(3.0, 1.0, 2.0))) == (1.0, 2.0, 3.0)


def test_schedules():
    first = lambda pattern: list(itertools.islice(focus_schedule((1.0, 2.0, 3.0), pattern), 7))  # noqa: E731
    assert first("sawtooth") == [1, 2, 3, 1, 2, 3, 1]
    assert first("back_and_forth") == [1, 2, 3, 2, 1, 2, 3]


@pytest.mark.parametrize("frames_to_settle", [0, 2])
def test_the_sweep_goes_on_only_after_a_settled_frame(frames_to_settle):
    camera = SlowLens(frames_to_settle)
    sweep = FocusSweep(camera, SweepConfig(near_m=0.5, far_m=2.0, slices=3))
    frames = list(itertools.islice(sweep.frames(), 6 * (frames_to_settle + 1)))
    settled = [f.lens_state.focus_distance_m for f in frames if f.lens_state.focus_speed_mps == 0.0]
    assert settled == pytest.approx([0.5, 0.8, 2.0] * 2)
    assert len(frames) == len(settled) * (frames_to_settle + 1)


def test_a_lens_that_never_settles_is_an_error():
    sweep = FocusSweep(SlowLens(10**9), SweepConfig())
    with pytest.raises(LensError, match="still moves after 60 frames"):
        list(sweep.frames())


def test_a_sweep_beyond_the_lens_is_an_error():
    with pytest.raises(LensError, match="sweep.near_m and sweep.far_m"):
        FocusSweep(SlowLens(0), SweepConfig(near_m=0.05))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"near_m": 2.0, "far_m": 1.0}, "near_m < sweep.far_m, got 2.0 and 1.0"),
        ({"near_m": -1.0}, "near_m"),
        ({"near_m": math.nan}, "near_m"),
        ({"slices": 2}, "at least 3, got 2"),
        ({"spacing": "log"}, "'log'"),
        ({"pattern": "random"}, "'random'"),
        ({"distances_m": (1.0, 2.0)}, "3 or more"),
        ({"distances_m": (1.0, 1.0, 2.0)}, "distinct"),
        ({"distances_m": (1.0, -1.0, 2.0)}, "above 0"),
        ({"far_m": math.inf, "spacing": "metres"}, "finite sweep.far_m"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ParameterError, match=message):
        SweepConfig(**values)
