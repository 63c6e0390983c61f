# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendered import (
    ERRORS,
    corner_error_px,
    family,
    in_pixels,
    make_stack,
    needs_stacks,
    reference_of,
    true_residual,
)

from dualfocus_ros.align import align, metadata_intrinsics
from dualfocus_ros.alignment.aligner import Aligner, make_aligner
from dualfocus_ros.alignment.base import Grid
from dualfocus_ros.alignment.classical import ClassicalResidual
from dualfocus_ros.alignment.residual import estimate_residual, linear_grey, shrunk, solve_graph
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.evaluation.metrics import score
from dualfocus_ros.stackio import StoredStack
from dualfocus_ros.types import AlignedStack, FocalStack, Intrinsics


def found_in(stack: FocalStack) -> np.ndarray:
    return estimate_residual(stack, metadata_intrinsics(stack, "camera_info"), ClassicalResidual()).residual


def test_finds_scale_and_shift_of_slices_that_are_blurred_unlike() -> None:
    stack = make_stack()
    found = found_in(stack)
    assert corner_error_px(np.tile([1.0, 0.0, 0.0], (4, 1)), np.array(ERRORS), stack) > 1.5
    assert corner_error_px(found, np.array(ERRORS), stack) < 0.05
    assert found[0].tolist() == [1.0, 0.0, 0.0]  # the reference is where it is


def test_finds_nothing_where_there_is_nothing() -> None:
    stack = make_stack(errors=((1.0, 0.0, 0.0),) * 4)
    assert np.abs(in_pixels(found_in(stack), reference_of(stack))).max() < 0.05


@pytest.mark.parametrize("corner_px", [-8.0, 8.0])
def test_finds_errors_as_large_as_lenses_have(corner_px: float) -> None:
    """2 % of scale, and 8 pixels of shift at a width of 640."""
    errors = ((1.0, 0.0, 0.0), (1.0 + corner_px / 400, 4.0, -4.0), (0.99, -4.0, 2.0), (1.01, 0.0, 4.0))
    stack = make_stack(errors=errors)
    assert corner_error_px(found_in(stack), np.array(errors), stack) < 0.1


def test_information_says_how_well_it_is_known() -> None:
    """More noise is less information; and errors are of the size that it says."""
    stack = make_stack()
    intrinsics = metadata_intrinsics(stack, "camera_info")
    rng = np.random.default_rng(1)

    def noisy(image: np.ndarray) -> np.ndarray:
        return np.clip(image + rng.normal(0.0, 25.0, image.shape), 0, 255).astype(np.uint8)

    dark = replace(stack, slices=tuple(replace(s, image=noisy(s.image)) for s in stack.slices))
    known, less = (estimate_residual(s, intrinsics, ClassicalResidual()).information for s in (stack, dark))
    assert (np.linalg.det(less[1:]) < 0.5 * np.linalg.det(known[1:])).all()
    assert (known[0] == 0.0).all()


def test_the_coded_values_of_blurred_edges_do_not_shift_the_estimate() -> None:
    """In sRGB values a bright edge moves towards the dark as it blurs; linear light does not."""
    image = np.array([[0, 64, 128, 255]], np.uint8)
    light = linear_grey(np.repeat(image[..., None], 3, axis=2), 1)
    np.testing.assert_allclose(light / light[0, 3], [[0.0, 0.05126946, 0.21586050, 1.0]], rtol=1e-4, atol=1e-7)
    assert light.mean() == pytest.approx(1.0)
    deep = linear_grey(np.array([[0, 1000, 2000, 3000]], np.uint16), 1)  # taken to be linear
    np.testing.assert_allclose(deep / deep[0, 3], [[0.0, 1 / 3, 2 / 3, 1.0]], rtol=1e-5)


@pytest.mark.parametrize("shrink", [1, 2, 3, 4, 5, 8])
def test_smaller_images_have_the_mean_of_their_pixels(shrink: int) -> None:
    image = np.full((50, 70, 3), 100, np.uint8)
    small = linear_grey(image, shrink)
    assert small.shape == (50 // shrink, 70 // shrink)
    np.testing.assert_allclose(small, 1.0, rtol=1e-5)


def test_maps_of_smaller_images_move_the_same_points() -> None:
    ref_to_slice = np.array([[1.02, 0.0, -3.0], [0.0, 1.02, 2.0]])
    small = shrunk(ref_to_slice, 4)
    point = np.array([10.0, 20.0])  # of the small image; its middle is at 4 p + 1.5 in the large one
    there = ref_to_slice @ np.array([*(4 * point + 1.5), 1.0])
    np.testing.assert_allclose(small @ np.array([*point, 1.0]), (there - 1.5) / 4)


def test_relations_that_agree_are_solved_exactly() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 3))
    truth[2] = 0.0
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    equations = []
    for i, j in pairs:
        root = rng.normal(size=(3, 3))
        matrix = 1e4 * (root @ root.T + np.eye(3))
        equations.append(np.column_stack([matrix, matrix @ (truth[j] - truth[i])]))
    moved, information = solve_graph(np.array(equations), pairs, np.zeros((5, 3)), reference=2, prior_px=100.0)
    np.testing.assert_allclose(moved, truth, atol=1e-5)
    assert (information[2] == 0.0).all() and (np.linalg.eigvalsh(information[[0, 1, 3, 4]]) > 0.0).all()


def test_what_the_images_say_little_of_stays_near_nothing() -> None:
    """However often it is asked for."""
    so_far, equations = np.zeros((2, 3)), np.zeros((1, 3, 4))
    equations[0, :, :3] = np.eye(3) / 10.0**2  # known to 10 px ...
    prior_px = 5.0  # ... where 5 are to be expected
    for _ in range(20):
        equations[0, :, 3] = equations[0, :, :3] @ (np.array([6.0, 0.0, -6.0]) - so_far[1])
        so_far += solve_graph(equations, [(0, 1)], so_far, 0, prior_px)[0]
    np.testing.assert_allclose(so_far[1], np.array([6.0, 0.0, -6.0]) * 0.2, atol=1e-9)


def test_noise_alone_moves_no_slice_far() -> None:
    rng = np.random.default_rng(0)
    stack = make_stack()
    noise = [np.clip(rng.normal(110.0, 20.0, s.image.shape), 0, 255).astype(np.uint8) for s in stack.slices]
    blank = replace(stack, slices=tuple(replace(s, image=i) for s, i in zip(stack.slices, noise, strict=True)))
    assert np.abs(in_pixels(found_in(blank), reference_of(blank))).max() < 4.0


def test_slices_that_nothing_is_seen_in_stay_where_they_are() -> None:
    stack = make_stack()
    flat = replace(stack, slices=tuple(replace(s, image=np.full_like(s.image, 90)) for s in stack.slices))
    np.testing.assert_allclose(in_pixels(found_in(flat), reference_of(flat)), 0.0, atol=1e-6)


def test_slices_that_are_too_small_are_refused() -> None:
    k = Intrinsics(20, 16, 100.0, 100.0, 9.5, 7.5)
    stack = make_stack()
    tiny = replace(stack, slices=tuple(replace(s, image=s.image[:16, :20], intrinsics=k) for s in stack.slices))
    with pytest.raises(AlignmentError, match="at least 24 pixels a side.*20 x 16.*residual to none"):
        found_in(tiny)


def test_grid_is_one_at_the_corner() -> None:
    grid = Grid.of(40, 30, 19.5, 14.5)
    assert np.hypot(grid.x[0, 0], grid.y[0, 0]) == pytest.approx(1.0)
    assert grid.x.shape == grid.y.shape == (30, 40)


@needs_stacks
def test_rendered_stacks_are_aligned_to_a_fraction_of_a_pixel() -> None:
    """Mean over the stacks of the RMS error at the corners: about 1 px before, under 0.15 px after."""
    before, after = [], []
    for stored in family("breathing"):
        truth = true_residual(stored)
        before.append(corner_error_px(np.tile([1.0, 0.0, 0.0], truth.shape[:1] + (1,)), truth, stored.stack))
        after.append(corner_error_px(found_in(stored.stack), truth, stored.stack))
    assert np.mean(before) > 0.9
    assert np.mean(after) < 0.15
    assert np.sqrt(np.mean(np.square(after))) < 0.15


def abs_rel(engine: DepthEngine, stored: StoredStack, aligned: AlignedStack) -> float:
    assert stored.ground_truth_m is not None
    output, focus_m = engine.infer(aligned), stored.stack.focus_distance_m
    return score(output.depth_m, stored.ground_truth_m, (focus_m.min(), focus_m.max()), output.confidence).abs_rel


@needs_stacks
@pytest.mark.parametrize("name", ["classical", "onnx"])
def test_depth_is_as_good_as_with_the_true_alignment(name: str) -> None:
    """Within 1.05 of that, and within 1.5 of stacks that need no alignment and have no noise."""
    with make_engine(name) as engine:
        errors = []
        for stored in family("breathing"):
            with make_aligner() as aligner:
                errors.append(abs_rel(engine, stored, aligner.align(stored.stack, "camera_info")))
            true = align(stored.stack, "camera_info", true_residual(stored), noise=aligner.report.noise)
            errors.append(abs_rel(engine, stored, true))
        estimate, truth = np.mean(errors[::2]), np.mean(errors[1::2])
        room = np.mean([abs_rel(engine, s, Aligner().align(s.stack, "camera_info")) for s in family("room")])
    assert estimate <= 1.05 * truth
    assert estimate <= 1.5 * room
