# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import ERRORS, corner_error_px, make_stack, reference_of

from dualfocus_ros.align import align
from dualfocus_ros.alignment.aligner import (
    CHECK_EVERY_SWEEPS,
    Aligner,
    make_aligner,
    make_residual_estimator,
)
from dualfocus_ros.alignment.classical import ClassicalResidual
from dualfocus_ros.alignment.memory import CONVERGED_SWEEPS
from dualfocus_ros.errors import AlignmentError, MotionError
from dualfocus_ros.noise import calmed
from dualfocus_ros.types import AlignedStack, FocalSlice, FocalStack

SWEEP_S = 0.6


class Counting(ClassicalResidual):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def relate(self, *args):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().relate(*args)


def sweeps(count: int, first: int = 0, **kwargs: object) -> Iterator[FocalStack]:
    """Yield stacks of one lens, each with noise of its own."""
    for i in range(first, first + count):
        yield make_stack(start_s=SWEEP_S * i, noise_seed=i, **kwargs)  # type: ignore[arg-type]


def found_error_px(aligned: AlignedStack, stack: FocalStack) -> float:
    radius = np.hypot(159.5, 119.5)
    residual = aligned.residual_px / (radius, 1.0, 1.0) + (1.0, 0.0, 0.0)
    return corner_error_px(residual, np.array(ERRORS), stack)


def test_a_lens_that_repeats_its_errors_is_known_after_five_sweeps_and_then_costs_nothing() -> None:
    estimator = Counting()
    aligner = Aligner(estimator)
    calls = []
    for stack in sweeps(CONVERGED_SWEEPS + 4):
        before = estimator.calls
        aligned = aligner.align(stack, "camera_info", 4.0)
        calls.append(estimator.calls - before)
        assert found_error_px(aligned, stack) < 0.06
    assert all(calls[:CONVERGED_SWEEPS]) and not any(calls[CONVERGED_SWEEPS:])
    assert aligner.report.converged and aligner.report.in_words() == "converged"


def test_a_lens_that_is_known_is_looked_at_now_and_then() -> None:
    estimator = Counting()
    aligner = Aligner(estimator)
    looked = []
    for stack in sweeps(CONVERGED_SWEEPS + 2 * CHECK_EVERY_SWEEPS):
        aligner.align(stack, "camera_info", 4.0)
        looked.append(aligner.report.estimated)
    assert [i for i, one in enumerate(looked, 1) if one and i > CONVERGED_SWEEPS] == [
        CONVERGED_SWEEPS + CHECK_EVERY_SWEEPS,
        CONVERGED_SWEEPS + 2 * CHECK_EVERY_SWEEPS,
    ]


def test_says_how_far_learning_is() -> None:
    aligner = Aligner(ClassicalResidual())
    for i, stack in enumerate(sweeps(2), 1):
        aligner.align(stack, "camera_info")
        assert aligner.report.in_words() == f"learning, {i} of {CONVERGED_SWEEPS} sweeps"
        assert not aligner.report.converged


def test_a_camera_that_stands_still_is_never_taken_to_move() -> None:
    """Over 200 sweeps with noise; the limit is the default one."""
    aligner, moved = Aligner(ClassicalResidual()), []
    for stack in sweeps(200):
        aligner.align(stack, "camera_info", 4.0)  # raises if it is
        moved.append(aligner.report.motion_px)
    assert max(moved[1:]) < 0.5


@pytest.mark.parametrize("known_sweeps", [0, 1, 2, 8])
@pytest.mark.parametrize("speed_px_s", [30.0, 150.0])
def test_a_pan_is_told_within_one_sweep(known_sweeps: int, speed_px_s: float) -> None:
    """From whatever sweep on it goes: it is in the first stack that was taken while the camera moved."""
    aligner, start_s = Aligner(ClassicalResidual()), SWEEP_S * known_sweeps
    for stack in sweeps(known_sweeps):
        aligner.align(stack, "camera_info", 4.0)
    for stack in sweeps(2, known_sweeps, moved_px=lambda t: speed_px_s * (t - start_s)):
        with pytest.raises(MotionError, match="the image moved by .* px .*max_motion_px is 4"):
            aligner.align(stack, "camera_info", 4.0)
    aligner.align(next(sweeps(1, known_sweeps + 2)), "camera_info", math.inf)  # any motion is fine if asked so


def test_the_pan_is_not_learned_as_an_error_of_the_lens() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(4, moved_px=lambda t: 40.0 * t):
        with pytest.raises(MotionError):
            aligner.align(stack, "camera_info", 4.0)
    where = 40.0 * SWEEP_S * 4
    for stack in sweeps(3, 4, moved_px=lambda t: where):
        try:
            aligned = aligner.align(stack, "camera_info", 4.0)
        except MotionError:
            continue  # the first one after the pan cannot be told from it: nothing is known of the lens
    assert found_error_px(aligned, stack) < 0.1


def test_a_camera_that_moved_between_two_sweeps_stands_still_in_both() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(CONVERGED_SWEEPS):
        aligner.align(stack, "camera_info", 4.0)
    for stack in sweeps(3, CONVERGED_SWEEPS, moved_px=lambda t: 20.0):
        assert found_error_px(aligner.align(stack, "camera_info", 4.0), stack) < 0.15


def test_a_small_even_motion_is_corrected() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(CONVERGED_SWEEPS):
        aligner.align(stack, "camera_info", 4.0)
    speed, start_s = 8.0, SWEEP_S * CONVERGED_SWEEPS  # 2.4 px from the first slice to the last
    moving = list(sweeps(3, CONVERGED_SWEEPS, moved_px=lambda t: speed * (t - start_s)))
    for stack in moving:
        aligned = aligner.align(stack, "camera_info", 4.0)
    assert aligner.report.motion_px == pytest.approx(2.4, abs=0.5)
    truth = np.array(ERRORS)
    truth[:, 1] += [speed * 0.1 * i for i in range(4)]
    radius = np.hypot(159.5, 119.5)
    residual = aligned.residual_px / (radius, 1.0, 1.0) + (1.0, 0.0, 0.0)
    assert corner_error_px(residual, np.array(ERRORS), moving[-1]) > 1.2
    assert corner_error_px(residual, truth, moving[-1]) < 0.4


def test_a_lens_that_was_knocked_is_learned_anew() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(CONVERGED_SWEEPS + 2):
        aligner.align(stack, "camera_info", math.inf)
    knocked = (ERRORS[0], *((s - 0.004, x + 2.0, y - 1.0) for s, x, y in ERRORS[1:]))
    for stack in sweeps(4, CONVERGED_SWEEPS + 2, errors=knocked):
        aligned = aligner.align(stack, "camera_info", math.inf)
    radius = np.hypot(159.5, 119.5)
    residual = aligned.residual_px / (radius, 1.0, 1.0) + (1.0, 0.0, 0.0)
    assert corner_error_px(residual, np.array(knocked), stack) < 0.1


def test_registered_stacks_are_left_alone_unless_asked() -> None:
    stack = make_stack()
    k = reference_of(stack)
    registered = replace(stack, slices=tuple(replace(s, intrinsics=k) for s in stack.slices))
    with make_aligner("auto") as aligner:
        aligned = aligner.align(registered, "camera_info")
        for image, s in zip(aligned.images, registered.slices, strict=True):
            np.testing.assert_array_equal(image, calmed(s.image, aligner.report.noise))
        assert aligner.report.in_words() == "not estimated" and aligner.report.converged
    with make_aligner("classical") as aligner:
        assert np.abs(aligner.align(registered, "camera_info").residual_px).max() > 1.0


def test_none_believes_the_metadata() -> None:
    stack = make_stack()
    with make_aligner("none") as aligner:
        aligned = aligner.align(stack, "camera_info")
    expected = align(stack, "camera_info", noise=aligner.report.noise)
    for a, b in zip(aligned.images, expected.images, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not aligned.residual_px.any()


def test_unknown_estimators_are_refused() -> None:
    with pytest.raises(AlignmentError, match="'auto', 'classical', 'network', 'none'.*'clasical'"):
        make_residual_estimator("clasical")


def test_what_was_learned_is_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lens.json"
    with make_aligner("auto", path) as aligner:
        for stack in sweeps(CONVERGED_SWEEPS):
            aligner.align(stack, "camera_info")
    with make_aligner("auto", path) as aligner:
        aligned = aligner.align(stack, "camera_info")
        assert aligner.report.converged and not aligner.report.estimated
    assert found_error_px(aligned, stack) < 0.06


def converged() -> Aligner:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(CONVERGED_SWEEPS):
        aligner.align(stack, "camera_info", 4.0)
    return aligner


def test_slices_prepared_ahead_are_those_of_the_stack() -> None:
    aligner = converged()
    (stack,) = sweeps(1, CONVERGED_SWEEPS)
    ahead = aligner.prepare(stack.slices[:3])
    assert [row for row, _ in ahead] == [0, 1, 2]
    aligned = aligner.align(stack, "camera_info", 4.0)
    assert [s.number for _, s in ahead] == list(aligned.numbers[:3])
    assert all(s.aligned is image for (_, s), image in zip(ahead, aligned.images, strict=False))


def test_nothing_is_prepared_while_the_lens_is_being_learned() -> None:
    aligner = Aligner(ClassicalResidual())
    first, second = sweeps(2)
    aligner.align(first, "camera_info")
    assert aligner.prepare(second.slices[:2]) == []


def test_slices_of_another_focus_are_not_prepared() -> None:
    aligner = converged()
    (stack,) = sweeps(1, CONVERGED_SWEEPS)
    other: FocalSlice = replace(stack.slices[1], focus_distance_m=0.75)
    assert aligner.prepare((other,)) == []


def test_a_camera_without_a_clock_is_learned_from_all_the_same() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in sweeps(3):
        timeless = replace(stack, slices=tuple(replace(s, stamp_ns=0) for s in stack.slices))
        aligner.align(timeless, "camera_info", math.inf)
        assert aligner.report.estimated


def test_other_metadata_are_not_corrected_by_what_was_learned_of_the_first() -> None:
    aligner = Aligner(ClassicalResidual(), always=True)
    for stack in sweeps(CONVERGED_SWEEPS):
        aligner.align(stack, "none", math.inf)
    (stack,) = sweeps(1, CONVERGED_SWEEPS)
    assert found_error_px(aligner.align(stack, "camera_info", math.inf), stack) < 0.1


def test_images_too_small_to_estimate_anything_are_aligned_by_metadata() -> None:
    stack = make_stack()
    small = [
        replace(s, image=s.image[:18, :22].copy(), intrinsics=replace(s.intrinsics, width=22, height=18))
        for s in stack.slices
    ]
    with make_aligner("auto") as aligner:
        aligner.align(FocalStack.from_slices(small, stack.lens, reference=0), "camera_info")
        assert aligner.report.in_words() == "not estimated"


def test_a_recording_that_starts_again_is_learned_from_all_the_same() -> None:
    aligner = Aligner(ClassicalResidual())
    for stack in [*sweeps(2, 50), *sweeps(3)]:
        aligner.align(stack, "camera_info", math.inf)
        assert aligner.report.estimated


def test_sliding_stacks_are_used_once_to_learn() -> None:
    """One depth per frame: of the stacks that share slices only every fourth, all new, is estimated on."""
    aligner, looked = Aligner(ClassicalResidual()), []
    frames = [s for stack in sweeps(4) for s in stack.slices]
    for newest in range(4, len(frames) + 1):
        window = frames[newest - 4 : newest]
        stack = FocalStack.from_slices(window, make_stack().lens, reference=None)
        aligner.align(stack, "camera_info", 4.0)
        looked.append(aligner.report.estimated)
    assert looked == [True, False, False, False] * 3 + [True]


def test_the_noise_of_sliding_stacks_is_measured_once_for_all_new_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the stacks that share slices only every fourth, all new, is measured; its level stays meanwhile."""
    measured: list[float] = []

    def level(images: tuple[np.ndarray, ...]) -> float:
        measured.append((4.0, 8.0)[len(measured)])
        return measured[-1]

    monkeypatch.setattr("dualfocus_ros.alignment.aligner.noise_level", level)
    aligner, found = Aligner(), []
    frames = [s for stack in sweeps(2) for s in stack.slices]
    for newest in range(4, len(frames) + 1):
        window = frames[newest - 4 : newest]
        aligner.align(FocalStack.from_slices(window, make_stack().lens, reference=None), "camera_info")
        found.append((len(measured), aligner.report.noise))
    assert found[:4] == [(1, pytest.approx(4.0, rel=0.13))] * 4
    assert found[4] == (2, pytest.approx(8.0, rel=0.13))
