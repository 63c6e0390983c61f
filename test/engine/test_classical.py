# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from stack_helpers import assert_arrays_equal, copy_of
from synthetic_stacks import FOCUS_M, LENS, SHAPE, aligned, quantised, render, texture

from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.errors import EngineError
from dualfocus_ros.evaluation.stacks import evaluate_stacks
from dualfocus_ros.stackio import find_stacks
from dualfocus_ros.types import AlignedStack, LensModel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "focal_stacks"
# AbsRel and RMSE of the best simple recipe on each family of the validation stacks.
RECIPE_ROWS = {
    "fod": (0.277, 0.254),
    "room": (0.109, 0.543),
    "macro": (0.080, 0.033),
    "breathing": (0.411, 1.467),
}
# Median error of sharp texture, in steps between neighbouring slices (dioptres).
TOLERANCE_STEPS = 0.2
INNER = (slice(8, -8), slice(8, -8))


def infer(stack: AlignedStack):
    with ClassicalEngine() as engine:
        return engine.infer(stack)


def error_steps(depth_m: np.ndarray, truth_m: np.ndarray, focus_m: tuple[float, ...] = FOCUS_M) -> np.ndarray:
    step_dpt = (1 / focus_m[0] - 1 / focus_m[-1]) / (len(focus_m) - 1)
    return (np.abs(1 / depth_m - 1 / truth_m) / step_dpt)[INNER]


def relative_error(depth_m: np.ndarray, truth_m: np.ndarray) -> np.ndarray:
    return (np.abs(depth_m - truth_m) / truth_m)[INNER]


def test_is_what_the_name_chooses() -> None:
    engine = make_engine("classical")
    assert isinstance(engine, ClassicalEngine)
    assert (engine.name, engine.device) == ("classical", "cpu")


@pytest.mark.parametrize("depth_m", [0.45, 0.65, 0.75, 1.2, 2.2])
def test_plane_at_and_between_the_slices(depth_m: float) -> None:
    slices, truth = render(texture(), [depth_m])
    output = infer(aligned(quantised(slices)))
    assert output.depth_m.shape == SHAPE and output.depth_m.dtype == np.float32
    error = error_steps(output.depth_m, truth)
    assert np.median(error) < TOLERANCE_STEPS
    assert error.max() < 0.5


def test_steps_in_depth() -> None:
    slices, truth = render(texture(), [0.5, 1.5, 0.8])
    output = infer(aligned(quantised(slices)))
    error = relative_error(output.depth_m, truth)
    assert np.median(error) < 0.02
    assert np.mean(error < 0.1) > 0.85
    # Also in the right order, side by side.
    thirds = [np.median(output.depth_m[:, i * 128 // 3 + 6 : (i + 1) * 128 // 3 - 6]) for i in range(3)]
    np.testing.assert_allclose(thirds, [0.5, 1.5, 0.8], rtol=0.05)


def test_all_in_focus_is_the_sharp_image() -> None:
    linear = texture()
    slices, _ = render(linear, [0.5, 1.5])
    output = infer(aligned(quantised(slices)))
    sharp = np.rint(linear ** (1 / 2.2) * 255)
    assert output.all_in_focus.shape == (*SHAPE, 3) and output.all_in_focus.dtype == np.uint8
    found = np.abs(output.all_in_focus.astype(float) - sharp).mean()
    assert found < 3.0
    best_slice = min(np.abs(np.rint(s * 255) - sharp).mean() for s in slices)
    assert found < 0.5 * best_slice


@pytest.mark.parametrize("focus_m", [(0.5, 1.0, 3.0), tuple(1 / np.linspace(2.5, 0.25, 25))])
def test_any_number_of_slices(focus_m: tuple[float, ...]) -> None:
    slices, truth = render(texture(), [1.0], focus_m)
    output = infer(aligned(quantised(slices), focus_m))
    assert np.median(relative_error(output.depth_m, truth)) < 0.05


def test_infinite_focus() -> None:
    focus_m = (0.5, 0.8, 2.0, math.inf)
    slices, truth = render(texture(), [0.8, 8.0], focus_m)
    output = infer(aligned(quantised(slices), focus_m))
    assert np.isfinite(output.depth_m).all()
    error = error_steps(output.depth_m, truth, focus_m)
    assert np.median(error[:, :40]) < TOLERANCE_STEPS
    assert np.median(error[:, -40:]) < TOLERANCE_STEPS


def test_grey_equals_colour_of_equal_channels() -> None:
    linear = np.repeat(texture().mean(axis=2, keepdims=True), 3, axis=2)
    images = quantised(render(linear, [0.6, 1.2])[0])
    colour = infer(aligned(images))
    grey = infer(aligned([np.ascontiguousarray(i[..., 0]) for i in images]))
    np.testing.assert_allclose(grey.depth_m, colour.depth_m, rtol=1e-3)
    np.testing.assert_array_equal(grey.all_in_focus, colour.all_in_focus)


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_16_bit_in_whatever_container_equals_8_bit(white: int) -> None:
    slices, truth = render(texture(), [0.6, 1.2])
    deep = infer(aligned(quantised(slices, np.uint16, white)))
    shallow = infer(aligned(quantised(slices)))
    assert np.median(np.abs(deep.depth_m - shallow.depth_m) / truth) < 0.01
    assert deep.all_in_focus.dtype == np.uint8
    assert np.abs(deep.all_in_focus.astype(int) - shallow.all_in_focus).mean() < 2.0


def test_exposure_does_not_matter() -> None:
    slices, truth = render(texture(), [0.6, 1.2])
    dark = infer(aligned(quantised([0.3 * s for s in slices])))
    assert np.median(relative_error(dark.depth_m, truth)) < 0.03


def test_pixels_that_too_few_slices_see_have_no_depth() -> None:
    images = quantised(render(texture(), [0.6])[0])
    valid = np.ones((len(images), *SHAPE), bool)
    valid[2:, :, :20] = False  # two slices left
    valid[3:, :, 20:40] = False  # three left: enough, and they enclose the depth
    for image, seen in zip(images, valid, strict=True):
        image[~seen] = 0
    output = infer(aligned(images, valid=valid))
    assert np.isnan(output.depth_m[:, :20]).all() and not output.confidence[:, :20].any()
    assert np.isfinite(output.depth_m[:, 20:]).all()
    assert np.median(np.abs(output.depth_m[8:-8, 45:-8] - 0.6)) < 0.02
    assert np.median(np.abs(output.depth_m[8:-8, 24:36] - 0.6)) < 0.1


def test_noise_of_the_slice_that_was_not_resampled_does_not_win() -> None:
    rng = np.random.default_rng(3)
    slices, truth = render(0.45 + 0.1 * texture(), [0.9])
    half_a_pixel = np.array([[1.01, 0.0, 0.5], [0.0, 1.01, 0.5]])
    noisy = []
    for n, clean in enumerate(slices):
        noise = rng.normal(0, 0.02, clean.shape)
        if n > 0:
            noise = cv2.warpAffine(
                noise, half_a_pixel, SHAPE[::-1], flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT
            )
        noisy.append(np.clip(clean + noise, 0, 1))
    output = infer(aligned(quantised(noisy)))
    assert np.median(relative_error(output.depth_m, truth)) < 0.1


def test_a_blank_patch_is_filled_and_less_confident() -> None:
    linear = texture((200, 260))
    blank = (slice(50, 150), slice(80, 180))
    linear[blank] = linear[blank].mean(axis=(0, 1))
    output = infer(aligned(quantised(render(linear, [0.9])[0])))
    np.testing.assert_allclose(output.depth_m[60:140, 90:170], 0.9, rtol=0.1)
    # Half a patch in, even the widest blur brings nothing of the texture around.
    assert output.confidence[80:120, 110:150].max() < 0.5
    assert output.confidence[:40].min() > 0.9


def test_confidence_sorts_the_error() -> None:
    linear = texture()
    linear[:, ::2] = linear[:, 1::2]
    linear[:40] = 0.5 + 0.02 * (linear[:40] - 0.5)
    slices, truth = render(linear, [0.45, 0.6, 2.0, 0.8])
    rng = np.random.default_rng(5)
    output = infer(aligned(quantised([np.clip(s + rng.normal(0, 0.01, s.shape), 0, 1) for s in slices])))
    assert output.confidence.min() >= 0.0 and output.confidence.max() <= 1.0
    error = np.abs(output.depth_m - truth) / truth
    order = np.argsort(output.confidence, axis=None)
    worst, best = error.ravel()[order[: error.size // 4]], error.ravel()[order[-error.size // 4 :]]
    assert best.mean() < 0.3 * worst.mean()


def test_results_are_fresh_and_inputs_are_left_alone() -> None:
    first, second = (quantised(render(texture(seed=i), [d])[0]) for i, d in ((0, 0.5), (1, 1.5)))
    copies = [i.copy() for i in first]
    with ClassicalEngine() as engine:
        output = engine.infer(aligned(first))
        kept = copy_of(output)
        engine.infer(aligned(second))
        again = engine.infer(aligned(first))
    assert_arrays_equal(output, kept)
    assert_arrays_equal(again, kept)
    assert all((i == c).all() for i, c in zip(first, copies, strict=True))


def test_large_images_are_worked_on_smaller_and_come_back_whole() -> None:
    shape = (480, 640)
    slices, truth = render(texture(shape), [0.6, 1.2])
    output = infer(aligned(quantised(slices)))
    assert output.depth_m.shape == output.confidence.shape == shape
    assert np.median(error_steps(output.depth_m, truth)) < TOLERANCE_STEPS


@pytest.mark.parametrize("shape", [(3, 4), (5, 400), (17, 23)])
def test_odd_and_tiny_images(shape: tuple[int, int]) -> None:
    images = quantised([texture(shape, i) for i in range(3)])
    output = infer(aligned(images, (0.5, 1.0, 2.0)))
    assert output.depth_m.shape == shape
    assert ((output.depth_m >= 0.4999) & (output.depth_m <= 2.0001)).all()


@pytest.mark.parametrize("level", [0, 255])
def test_images_without_any_content(level: int) -> None:
    output = infer(aligned([np.full((*SHAPE, 3), level, np.uint8)] * len(FOCUS_M)))
    assert np.isfinite(output.depth_m).all()
    assert output.confidence.max() < 0.5


def test_fewer_than_three_slices() -> None:
    with pytest.raises(EngineError, match="at least 3 slices, got 2"):
        infer(aligned(quantised([texture(), texture()]), (0.5, 1.0)))


def test_lens_without_aperture_in_pixels() -> None:
    tiny = LensModel(LENS.focal_length_m, 1000.0, LENS.pixel_pitch_m)
    output = infer(aligned(quantised(render(texture(), [0.6])[0]), lens=tiny))
    assert np.isfinite(output.depth_m).all()


@pytest.mark.shared
@pytest.mark.timeout(300)
def test_beats_the_recipes_on_every_family() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no validation stacks at {SHARED}")
    with ClassicalEngine() as engine:
        evaluation = evaluate_stacks(engine, find_stacks(SHARED))
    families = {g.name: g for g in evaluation.families()}
    assert {n: g.count for n, g in families.items()} == {"fod": 12, "room": 12, "macro": 8, "breathing": 8}
    for name, (abs_rel, rmse_m) in RECIPE_ROWS.items():
        metrics = families[name].metrics
        assert metrics.abs_rel < abs_rel and metrics.rmse_m < rmse_m, name
        assert metrics.coverage == 1.0
        assert metrics.sparsification < 0.9
    assert families["breathing"].metrics.abs_rel < 0.25
