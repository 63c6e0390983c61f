# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import corner_error_px, family, in_pixels, make_stack, needs_stacks, reference_of, true_residual

from dualfocus_ros.align import metadata_intrinsics
from dualfocus_ros.alignment.classical import ClassicalResidual
from dualfocus_ros.alignment.memory import CONVERGED_SWEEPS, FORGETTING, LensMemory
from dualfocus_ros.alignment.residual import NO_RESIDUAL, StackResidual, estimate_residual
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.types import FocalStack

STACK = make_stack()
K = reference_of(STACK)
RADIUS = float(np.hypot(159.5, 119.5))


def residual(*pixels: float) -> np.ndarray:
    """Return a residual (4, 3) whose slices but the reference are displaced by (corner, x, y) pixels."""
    corner, x, y = pixels
    return np.array([NO_RESIDUAL, *[(1.0 + corner / RADIUS, x, y)] * 3])


def sweep(found: np.ndarray, deviation_px: float = 0.1) -> StackResidual:
    information = np.tile(np.eye(3) / deviation_px**2, (4, 1, 1))
    information[0] = 0.0
    return StackResidual(found, information)


def recalled(memory: LensMemory, stack: FocalStack = STACK) -> np.ndarray:
    return in_pixels(memory.recall(stack, K)[0], K)


def test_knows_nothing_at_first_but_the_reference() -> None:
    known, sweeps = LensMemory().recall(STACK, K)
    assert known.tolist() == [list(NO_RESIDUAL)] * 4
    assert sweeps.tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


def test_is_the_mean_of_sweeps_that_are_worth_the_same() -> None:
    memory, rng = LensMemory(), np.random.default_rng(0)
    found = [residual(*(1.0 + rng.normal(0.0, 0.1, 3))) for _ in range(CONVERGED_SWEEPS)]
    for one in found:
        memory.learn(STACK, K, sweep(one))
    mean = np.mean([in_pixels(f, K) for f in found], axis=0)
    np.testing.assert_allclose(recalled(memory), mean, atol=0.1 * FORGETTING * CONVERGED_SWEEPS)
    assert memory.recall(STACK, K)[1].tolist() == [CONVERGED_SWEEPS] * 4


def test_five_sweeps_err_by_less_than_half_of_one() -> None:
    rng, single, after = np.random.default_rng(0), [], []
    for _ in range(200):
        memory = LensMemory()
        for _ in range(5):
            one = residual(*(1.0 + rng.normal(0.0, 0.1, 3)))
            memory.learn(STACK, K, sweep(one))
            single.append(in_pixels(one, K)[1] - 1.0)
        after.append(recalled(memory)[1] - 1.0)
    ratio = np.sqrt(np.mean(np.square(after)) / np.mean(np.square(single)))
    assert ratio == pytest.approx(1.0 / np.sqrt(5.0), rel=0.1)


def test_a_sweep_counts_by_its_information() -> None:
    memory = LensMemory()
    memory.learn(STACK, K, sweep(residual(1.0, 1.0, 1.0), 0.1))
    memory.learn(STACK, K, sweep(residual(1.2, 1.2, 1.2), 0.2))
    np.testing.assert_allclose(recalled(memory)[1:], (4 * (1 - FORGETTING) + 1.2) / (4 * (1 - FORGETTING) + 1))


def test_one_sweep_that_goes_wrong_changes_little_and_two_that_agree_start_anew() -> None:
    memory = LensMemory()
    for _ in range(6):
        memory.learn(STACK, K, sweep(residual(1.0, 0.0, -1.0)))
    memory.learn(STACK, K, sweep(residual(1.0, 9.0, -1.0)))
    assert memory.contradicted(STACK)
    np.testing.assert_allclose(recalled(memory)[2], [1.0, 0.0, -1.0], atol=1e-9)
    memory.learn(STACK, K, sweep(residual(1.0, 0.0, -1.0)))  # it was an exception
    assert not memory.contradicted(STACK)
    for value in (5.0, 5.1):
        memory.learn(STACK, K, sweep(residual(1.0, value, -1.0)))
    assert not memory.contradicted(STACK)
    np.testing.assert_allclose(recalled(memory)[2], [1.0, 5.1, -1.0], atol=1e-9)
    assert memory.recall(STACK, K)[1].tolist() == [CONVERGED_SWEEPS, 1, 1, 1]


def test_follows_a_lens_that_drifts_slowly() -> None:
    memory = LensMemory()
    for i in range(300):
        memory.learn(STACK, K, sweep(residual(0.0, 0.003 * i, 0.0)))
    assert recalled(memory)[1][1] == pytest.approx(0.003 * 299, abs=1.5 * 0.003 / FORGETTING)
    assert memory.recall(STACK, K)[1][1:].min() == 300  # it never had to start anew


def test_positions_are_known_by_their_focus_within_a_quarter_of_a_step() -> None:
    memory = LensMemory()
    memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0)))
    near = replace(STACK.slices[2], focus_distance_m=1.05)
    other = replace(STACK.slices[2], focus_distance_m=1.4)
    for s, sweeps in ((near, 1), (other, 0)):
        stack = FocalStack.from_slices([*STACK.slices[:2], s, STACK.slices[3]], STACK.lens, reference=0)
        assert memory.recall(stack, K)[1].tolist() == [CONVERGED_SWEEPS, 1, sweeps, 1]


def test_another_camera_starts_anew() -> None:
    memory = LensMemory()
    memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0)))
    smaller = K.resized(160, 120)
    assert memory.recall(STACK, smaller)[1].tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


def learned(path: Path, sweeps: int = CONVERGED_SWEEPS) -> LensMemory:
    memory = LensMemory(path)
    for _ in range(sweeps):
        memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0)))
    return memory


def test_the_file_keeps_what_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "lens.json"
    before = learned(path)
    after = LensMemory(path)
    for a, b in zip(before.recall(STACK, K), after.recall(STACK, K), strict=True):
        np.testing.assert_allclose(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["lens.json"]


def test_the_file_is_not_written_before_the_lens_is_known(tmp_path: Path) -> None:
    learned(tmp_path / "lens.json", CONVERGED_SWEEPS - 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "dualfocus-lens-errors", "version": 99}',
        '{"format": "dualfocus-lens-errors", "version": 1, "camera": {}}',
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lens.json"
    path.write_text(text)
    with pytest.raises(AlignmentError, match=r"lens\.json: expected lens errors .*delete the file"):
        LensMemory(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "key, value",
    [
        ("information", [[1.0, 0.0], [0.0, 1.0]]),
        ("corner_px", float("nan")),
        ("shift_x_px", 1e6),
        ("focus_dpt", float("nan")),
        ("sweeps", 0),
    ],
)
def test_a_file_with_numbers_of_no_use_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "lens.json"
    learned(path)
    data = json.loads(path.read_text())
    data["positions"][1][key] = value
    path.write_text(json.dumps(data))
    with pytest.raises(AlignmentError, match="no usable estimate at"):
        LensMemory(path)


def test_a_file_of_another_camera_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lens.json"
    learned(path)
    text = path.read_text()
    with pytest.raises(AlignmentError, match="expected lens errors of this camera.*160.*delete the file"):
        LensMemory(path).recall(STACK, K.resized(160, 120))
    assert path.read_text() == text


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "lens.json", tmp_path, "~no_such_user/lens.json", "a\0b", "x" * 5000):
        with pytest.raises(AlignmentError, match="alignment_file to be a file in a folder that can be written"):
            LensMemory(path)


def test_a_file_that_cannot_be_written_any_more_is_told_and_no_sweep_lost(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    memory = LensMemory(folder / "lens.json")
    folder.rmdir()
    for _ in range(CONVERGED_SWEEPS):
        memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0)))
    assert "cannot write" in memory.trouble and "not kept" in memory.trouble
    assert recalled(memory)[1] == pytest.approx([1.0, 2.0, 3.0])


def test_other_metadata_start_anew() -> None:
    memory = LensMemory()
    memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0)), "none")
    assert memory.recall(STACK, K, "none")[1].tolist() == [CONVERGED_SWEEPS, 1, 1, 1]
    assert memory.recall(STACK, K, "camera_info")[1].tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


def test_a_camera_that_changes_on_the_way_starts_anew_though_there_is_a_file(tmp_path: Path) -> None:
    memory = learned(tmp_path / "lens.json")
    assert memory.recall(STACK, K.resized(160, 120))[1].tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


def test_slices_that_show_little_do_not_count() -> None:
    memory = LensMemory()
    memory.learn(STACK, K, sweep(residual(1.0, 2.0, 3.0), deviation_px=4.0))
    assert memory.recall(STACK, K)[1].tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


def test_positions_that_no_sweep_has_any_more_are_forgotten() -> None:
    memory = LensMemory()
    for value in (0.0, 0.0, 0.0, 9.0):  # the last one is a rival
        memory.learn(STACK, K, sweep(residual(0.0, value, 0.0)))
    farther = [replace(s, focus_distance_m=s.focus_distance_m * 1.35) for s in STACK.slices[1:]]
    other = FocalStack.from_slices([STACK.slices[0], *farther], STACK.lens, reference=0)
    assert memory.contradicted(STACK) and not memory.contradicted(other)
    for _ in range(25):
        memory.learn(other, K, sweep(residual(0.0, 0.0, 0.0)))
    assert memory.recall(STACK, K)[1].tolist() == [CONVERGED_SWEEPS, 0, 0, 0]


@needs_stacks
def test_five_scenes_tell_more_of_a_lens_than_one() -> None:
    """As if all rendered stacks were taken by one lens: scenes that tell little count little.

    Five equal sweeps would err by 0.45 of one; these by less, since they are not equal.
    """
    stacks = family("breathing")
    seen = []
    for stored in stacks:
        found = estimate_residual(stored.stack, metadata_intrinsics(stored.stack), ClassicalResidual())
        truth, wrong = true_residual(stored), found.residual.copy()
        wrong[:, 0] /= truth[:, 0]
        wrong[:, 1:] -= truth[:, 1:]
        seen.append(StackResidual(wrong, found.information))
    stack, none = stacks[0].stack, np.tile(NO_RESIDUAL, (10, 1))
    single = [corner_error_px(s.residual, none, stack) for s in seen]
    after = []
    for chosen in itertools.combinations(seen, 5):
        memory = LensMemory()
        for one in chosen:
            memory.learn(stack, reference_of(stack), one)
        after.append(corner_error_px(memory.recall(stack, reference_of(stack))[0], none, stack))
    assert np.sqrt(np.mean(np.square(after)) / np.mean(np.square(single))) < 0.45
