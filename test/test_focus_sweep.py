# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dualfocus_ros.camera.device import ActuatorRange, DeviceConfig
from dualfocus_ros.camera.hardware import HardwareCamera
from dualfocus_ros.errors import DeviceError, LensError
from dualfocus_ros.focus_sweep import FocusSweep, Mode, SweepControl
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.stack import FocalStackBuffer
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import CameraFrame, Intrinsics, LensModel, LensState

sys.path.insert(0, str(Path(__file__).parent / "camera"))
from scripted_device import ScriptedDevice

LENS = LensModel(0.016, 1.4, 22.5e-6)
THREE = SweepConfig(near_m=0.5, far_m=2.0, slices=3)
AT = (0.5, 0.8, 2.0)
PERIOD_NS = 66_000_000


class SlowLens:
    """A lens that needs a given number of frames for every move."""

    lens = LENS
    focus_positions_m: tuple[float, ...] | None = None

    def __init__(self, frames_to_settle: int = 0, focus_range_m: tuple[float, float] = (0.1, math.inf)) -> None:
        self.frames_to_settle = frames_to_settle
        self.focus_range_m = focus_range_m
        self.commands: list[float] = []
        self.frames = self.left = 0
        self.prepared: list[int] = []
        self.others_from: set[int] = set()

    def nearest_focus_m(self, focus_distance_m: float) -> float:
        return focus_distance_m

    def prepare_sweep(self) -> bool:
        self.prepared.append(self.frames)
        return self.frames in self.others_from

    def set_focus(self, focus_distance_m: float) -> None:
        self.commands.append(focus_distance_m)
        self.left = self.frames_to_settle

    def read(self) -> CameraFrame:
        self.frames += 1
        speed = 0.5 if self.left > 0 else 0.0
        self.left -= 1
        at = self.commands[-1] if self.commands else 1.0
        state = LensState(self.frames * PERIOD_NS, at, LENS, speed)
        k = Intrinsics(4, 4, 9, 9, 1.5, 1.5)
        return CameraFrame(np.zeros((4, 4), np.uint8), "mono8", state.stamp_ns, state, k)


def focus_of(frames: list[CameraFrame]) -> list[float]:
    return [f.lens_state.focus_distance_m for f in frames if f.lens_state.focus_speed_mps == 0.0]


def take(sweep: FocusSweep, count: int) -> list[float]:
    return focus_of(list(itertools.islice(sweep.frames(), count)))


def test_the_camera_is_prepared_before_every_sweep_and_not_within() -> None:
    lens = SlowLens(frames_to_settle=2)
    take(FocusSweep(lens, THREE), 20)
    assert lens.prepared == [0, 9, 18]


@pytest.mark.parametrize("at_frame", [3, 5])
def test_where_pictures_are_others_now_the_turn_is_exposed_again(at_frame: int) -> None:
    there_and_back = SweepConfig(near_m=0.5, far_m=2.0, slices=3, pattern="back_and_forth")
    lens = SlowLens()
    lens.others_from = {at_frame}
    taken = take(FocusSweep(lens, there_and_back), at_frame + 5)
    assert taken[at_frame:] == pytest.approx([0.5, 0.8, 2.0, 0.8, 0.5])


def test_sawtooth_and_back_and_forth() -> None:
    assert take(FocusSweep(SlowLens(), THREE), 7) == pytest.approx([*AT, *AT, 0.5])
    there_and_back = SweepConfig(near_m=0.5, far_m=2.0, slices=3, pattern="back_and_forth")
    # The turning points are exposed once.
    assert take(FocusSweep(SlowLens(), there_and_back), 7) == pytest.approx([0.5, 0.8, 2.0, 0.8, 0.5, 0.8, 2.0])


@pytest.mark.parametrize("frames_to_settle", [0, 2])
def test_the_sweep_goes_on_only_after_a_settled_frame(frames_to_settle: int) -> None:
    sweep = FocusSweep(SlowLens(frames_to_settle), THREE)
    frames = list(itertools.islice(sweep.frames(), 6 * (frames_to_settle + 1)))
    assert focus_of(frames) == pytest.approx([*AT, *AT])
    assert len(frames) == 6 * (frames_to_settle + 1)
    assert {f.lens_state.sweep_slices for f in frames} == {3}


def test_a_lens_that_never_settles_is_an_error_that_may_pass() -> None:
    with pytest.raises(DeviceError, match=r"still moves after \d+ frames and 6\.\d s"):
        list(FocusSweep(SlowLens(10**9), SweepConfig()).frames())


def test_a_slow_lens_gets_its_time_however_many_frames_that_are() -> None:
    assert take(FocusSweep(SlowLens(80), THREE), 3 * 81) == pytest.approx(AT)


def test_a_sweep_beyond_the_lens_is_an_error() -> None:
    with pytest.raises(LensError, match="sweep.near_m and sweep.far_m"):
        FocusSweep(SlowLens(), SweepConfig(near_m=0.05))


def test_positions_that_are_one_for_the_actuator_are_taken_once() -> None:
    lens = LensCalibration("steps", LENS, (4, 4), FocusCurve((0.0, 10.0), (0.0, 4.0)), settle=((0.0, 0.0),))
    device = ScriptedDevice(reach=ActuatorRange(0.0, 10.0, 1.0), takes_s=0.0)
    with HardwareCamera(device, lens, DeviceConfig(width=64, height=48)) as camera:
        sweep = FocusSweep(camera, SweepConfig(near_m=0.5, far_m=3.0, slices=20))
        np.testing.assert_allclose(1.0 / np.array(sweep.positions_m), [2.0, 1.6, 1.2, 0.8, 0.4])
        frames = list(itertools.islice(sweep.frames(), 5))
        assert {f.lens_state.sweep_slices for f in frames} == {5}
        with pytest.raises(LensError, match="steps of the lens"):
            FocusSweep(camera, SweepConfig(near_m=1.0, far_m=1.2, slices=10))


def run(
    sweep: FocusSweep, control: SweepControl, script: dict[int, Callable[[], None]], count: int
) -> list[float]:
    """Take `count` frames; after the frame of a number its action is done."""
    got = []
    for i, frame in enumerate(sweep.frames(), start=1):
        got.append(frame)
        script.get(i, lambda: None)()
        if i == count:
            control.end()
    return focus_of(got)


def hold(control: SweepControl, focus_m: float) -> None:
    control.set_hold_m(focus_m)
    control.hold()


def test_other_settings_hold_from_the_next_sweep_on() -> None:
    control = SweepControl(THREE)
    sweep = FocusSweep(SlowLens(), control)

    def change() -> None:
        control.config = SweepConfig(distances_m=(1.0, 2.0, 3.0, 4.0))

    assert run(sweep, control, {2: change}, 7) == pytest.approx([*AT, 1.0, 2.0, 3.0, 4.0])
    assert len(sweep.positions_m) == 4


def test_the_focus_is_held_and_moved_while_held() -> None:
    control = SweepControl(THREE)
    script = {2: partial(hold, control, 1.5), 5: lambda: control.set_hold_m(0.7), 7: control.sweep}
    got = run(FocusSweep(SlowLens(), control), control, script, 10)
    assert got == pytest.approx([0.5, 0.8, 1.5, 1.5, 1.5, 0.7, 0.7, *AT])


def test_held_frames_do_not_belong_to_a_sweep() -> None:
    control = SweepControl(THREE)
    hold(control, 1.0)
    frames = list(itertools.islice(FocusSweep(SlowLens(), control).frames(), 4))
    assert {f.lens_state.sweep_slices for f in frames} == {0}


class WakingLens(SlowLens):
    """Does something after a number of reads: what another thread would do."""

    def __init__(self, script: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self.script = script

    def read(self) -> CameraFrame:
        frame = super().read()
        self.script.get(self.frames, lambda: None)()
        return frame


def test_paused_it_hands_out_nothing_but_the_sweeps_that_are_asked_for() -> None:
    control = SweepControl(THREE, paused=True)
    lens = WakingLens({5: control.request_sweep, 20: lambda: control.pause(False)})
    got = run(FocusSweep(lens, control), control, {}, 6)
    assert got == pytest.approx([*AT, *AT])
    assert lens.frames == 20 + 3  # all the time it looked after the camera
    assert control.mode is Mode.SWEEP


def test_a_pause_ends_a_sweep_and_then_what_was_done_before_goes_on() -> None:
    control = SweepControl(THREE)
    hold(control, 1.25)
    lens = WakingLens({4: lambda: control.pause(True), 9: lambda: control.pause(False)})
    got = run(FocusSweep(lens, control), control, {}, 6)
    assert got == pytest.approx([1.25] * 6) and lens.frames == 4 + 5 + 2

    control = SweepControl(THREE)
    lens = WakingLens(
        {2: lambda: control.pause(True), 3: lambda: control.pause(True), 9: lambda: control.pause(False)}
    )
    assert run(FocusSweep(lens, control), control, {}, 5) == pytest.approx([0.5, 0.8, *AT])


def test_one_sweep_while_the_focus_is_held() -> None:
    control = SweepControl(THREE)
    hold(control, 1.0)
    got = run(FocusSweep(SlowLens(), control), control, {2: control.request_sweep}, 7)
    assert got == pytest.approx([1.0, 1.0, *AT, 1.0, 1.0])


def test_the_camera_is_left_to_be_opened_anew() -> None:
    control = SweepControl(THREE)
    frames = FocusSweep(SlowLens(), control).frames()
    next(frames)
    control.restart()
    assert list(frames) == [] and not control.ended and control.must_stop
    assert control.begin() and not control.begin()
    assert len(list(itertools.islice(FocusSweep(SlowLens(), control).frames(), 3))) == 3


def test_waiting_ends_with_the_control() -> None:
    control = SweepControl(THREE)
    assert not control.wait(0.01)
    control.end()
    assert control.wait(60.0)


def test_the_planner_is_asked_before_each_sweep_where_sweeps_are_smart() -> None:
    asked = []

    def plan(full: tuple[float, ...]) -> tuple[float, ...]:
        asked.append(full)
        return (0.6, 0.7, 0.75) if len(asked) > 1 else full

    smart = SweepConfig(near_m=0.5, far_m=2.0, slices=3, smart=True)
    assert take(FocusSweep(SlowLens(), smart, plan), 6) == pytest.approx([*AT, 0.6, 0.7, 0.75])
    assert asked[0] == pytest.approx(AT)
    assert take(FocusSweep(SlowLens(), THREE, plan), 6) == pytest.approx([*AT, *AT])


def test_a_sweep_that_was_asked_for_is_made_once_the_camera_is_back() -> None:
    control = SweepControl(THREE, paused=True)
    control.request_sweep()
    frames = FocusSweep(SlowLens(), control).frames()
    next(frames)  # and then the camera is lost
    assert run(FocusSweep(SlowLens(), control), control, {}, 3) == pytest.approx(AT)


def test_sweeps_that_are_asked_for_are_whole_whichever_way_the_last_one_went() -> None:
    config = dataclasses.replace(THREE, pattern="back_and_forth")
    control = SweepControl(config, paused=True)
    lens = WakingLens({5: control.request_sweep, 20: control.request_sweep})
    assert run(FocusSweep(lens, control), control, {}, 6) == pytest.approx([*AT, *AT])
    # After a pause in the middle of a sweep, and of one on its way back, too.
    control = SweepControl(config)
    lens = WakingLens({4: lambda: control.pause(True), 9: lambda: control.pause(False)})
    assert run(FocusSweep(lens, control), control, {}, 7) == pytest.approx([*AT, 0.8, *AT])


def test_frames_are_heard_of_while_paused_too() -> None:
    control = SweepControl(THREE, paused=True)
    heard: list[int] = []
    lens = WakingLens({7: control.end})
    assert list(FocusSweep(lens, control, heard=lambda: heard.append(1)).frames()) == []
    assert len(heard) == 7


@pytest.mark.parametrize("pattern", ["sawtooth", "back_and_forth"])
def test_every_sweep_has_the_positions_that_it_tells_whatever_play_and_steps_the_lens_has(pattern: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        step, play = float(rng.integers(1, 11)), float(rng.uniform(0.2, 20.0))
        dpt = (0.0, float(rng.uniform(2.0, 6.0)))
        curve = FocusCurve((0.0, 250.0), dpt if rng.random() < 0.5 else dpt[::-1])
        lens = LensCalibration("x", LENS, (64, 48), curve, hysteresis=play, settle=((0.0, 0.02), (250.0, 0.02)))
        device = ScriptedDevice(reach=ActuatorRange(0.0, 250.0, step), takes_s=0.01, play=play)
        slices = int(rng.integers(5, 14))
        with HardwareCamera(device, lens, DeviceConfig(width=64, height=48)) as camera:
            config = SweepConfig(near_m=0.6, far_m=3.0, slices=slices, pattern=pattern)
            sweep = FocusSweep(camera, config)
            count = len(sweep.positions_m)
            stacks = []
            buffer = FocalStackBuffer()
            for frame in sweep.frames():
                buffer.add_intrinsics(frame.stamp_ns, frame.intrinsics)
                buffer.add_lens_state(frame.lens_state)
                stacks += buffer.add_image(frame.stamp_ns, frame.image)
                if sweep.sweeps >= 3:
                    break
        assert [len(s.slices) for s in stacks[:3]] == [count] * 3
        ends = 1.0 / np.array([(s.focus_distance_m[0], s.focus_distance_m[-1]) for s in stacks])
        # Both ends are there every time, within two steps of the actuator.
        near_far = 1.0 / np.array([sweep.positions_m[0], sweep.positions_m[-1]])
        np.testing.assert_allclose(
            ends, np.tile(near_far, (len(ends), 1)), atol=2.0 * step * dpt[1] / 250.0 + 1e-9
        )
