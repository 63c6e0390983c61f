# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rendered import ERRORS, family, make_stack, needs_stacks

from dualfocus_ros.align import metadata_intrinsics
from dualfocus_ros.alignment.aligner import Aligner
from dualfocus_ros.alignment.exposure import NEGLIGIBLE_GAIN, ExposureMeter
from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.evaluation.stacks import Sample, evaluate
from dualfocus_ros.types import FocalStack

SWEEP_S = 0.6
PERFECT = ((1.0, 0.0, 0.0),) * 4
# Light of the four slices, of which the first is the reference: red, green, blue.
UNEQUAL = np.array([[1.0, 1.0, 1.0], [0.93, 0.95, 0.97], [1.1, 1.12, 1.16], [0.88, 0.9, 0.92]])


def exposed(stack: FocalStack, factors: np.ndarray) -> FocalStack:
    """Return the stack as if taken with other exposures, (N, 3)."""
    light = srgb_to_linear(np.arange(256) / 255.0)[:, None]
    tables = [np.rint(255.0 * linear_to_srgb(light * f)).astype(np.uint8)[None] for f in factors]
    return replace(
        stack,
        slices=tuple(
            replace(s, image=cv2.LUT(s.image, table)) for s, table in zip(stack.slices, tables, strict=True)
        ),
    )


def sweep(number: int, factors: np.ndarray = UNEQUAL) -> FocalStack:
    """Return the stack of a later sweep, with noise of its own."""
    stack = make_stack(errors=PERFECT, start_s=SWEEP_S * number, noise_seed=number)
    return exposed(stack, factors)


def level_differences(aligned: object, expected: object) -> list[float]:
    """Return the mean difference of the slices, in levels."""
    return [
        float(np.abs(a.astype(float) - b).mean())
        for a, b in zip(aligned.images, expected.images, strict=True)  # type: ignore[attr-defined]
    ]


def test_slices_of_other_exposure_get_that_of_the_reference() -> None:
    plain = make_stack(errors=PERFECT)
    expected = Aligner().align(plain, "camera_info", normalise_exposure=False)
    disturbed = exposed(plain, UNEQUAL)
    left = Aligner().align(disturbed, "camera_info", normalise_exposure=False)
    aligner = Aligner()
    found = aligner.align(disturbed, "camera_info")
    assert max(level_differences(found, expected)) < 1.0
    assert min(level_differences(left, expected)[1:]) > 2.0
    assert aligner.report.exposure_difference == pytest.approx(1.16 / 0.92 - 1.0, abs=0.01)
    np.testing.assert_array_equal(found.images[0], left.images[0])  # the reference stays as it is


def test_slices_of_one_exposure_are_left_as_they_are() -> None:
    """Over sweeps with noise and errors of the lens: bit for bit what it is without."""
    on, off = Aligner(), Aligner()
    slightly = np.array([1.0, 0.99, 1.012, 0.995])[:, None] * np.ones(3)
    for number in range(8):
        errors = ERRORS if number % 2 else PERFECT
        stack = make_stack(errors=errors, start_s=SWEEP_S * number, noise_seed=number)
        if number > 3:
            stack = exposed(stack, slightly)
        found = on.align(stack, "camera_info")
        expected = off.align(stack, "camera_info", normalise_exposure=False)
        assert on.report.exposure_difference == 0.0
        for a, b in zip(found.images, expected.images, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_stacks
@pytest.mark.parametrize("name", ["fod", "room", "macro", "breathing"])
def test_rendered_stacks_of_one_exposure_are_told_as_such(name: str) -> None:
    for stored in family(name):
        stack = stored.stack
        none = np.tile([1.0, 0.0, 0.0], (len(stack.slices), 1))
        exposure = ExposureMeter().measure(stack, metadata_intrinsics(stack, stored.breathing), none)
        assert exposure.gains == (None,) * len(stack.slices), stored.path
        assert exposure.steady and exposure.difference == 0.0


@needs_stacks
def test_depth_from_unequal_slices_is_nearly_that_from_equal_ones() -> None:
    samples = [Sample.of(stored) for stored in family("room")[:2]]
    ramp = 1.0 + 0.15 * np.linspace(-1.0, 1.0, len(samples[0].stack.slices))[:, None] * np.ones(3)
    unequal = [replace(sample, stack=exposed(sample.stack, ramp)) for sample in samples]

    def error(of: list[Sample], normalise: bool) -> float:
        config = EstimatorConfig(max_motion_px=math.inf, normalise_exposure=normalise)
        with ClassicalEngine() as engine:
            stacks = evaluate(engine, of, config).stacks
        return float(np.mean([stack.metrics.abs_rel for stack in stacks]))

    before, disturbed, normalised = error(samples, False), error(unequal, False), error(unequal, True)
    assert error(samples, True) == before
    assert disturbed > 1.15 * before
    assert normalised < before + 0.5 * (disturbed - before)


def images_of(stack: FocalStack, aligner: Aligner) -> list[np.ndarray]:
    return list(aligner.align(stack, "camera_info").images)


def test_slices_prepared_ahead_are_those_of_the_stack() -> None:
    """What a lens does to the light repeats, so the gains of the last stack hold."""
    ahead, at_once = Aligner(), Aligner()
    taken = []
    for number in range(5):
        stack = sweep(number)
        prepared = dict(ahead.prepare(stack.slices[:3]))
        taken.append(len(prepared))
        found = ahead.align(stack, "camera_info")
        for row, s in prepared.items():
            assert found.images[row] is s.aligned and found.numbers[row] == s.number
        for a, b in zip(found.images, images_of(stack, at_once), strict=True):
            np.testing.assert_array_equal(a, b)
        assert ahead.report == replace(at_once.report, residual_px=ahead.report.residual_px)
    assert taken == [0, 0, 3, 3, 3]  # the first stack is like none, and the gains of the second may be chance


def test_flicker_ends_preparing_ahead_and_changes_no_result() -> None:
    ahead, at_once = Aligner(), Aligner()
    rng = np.random.default_rng(3)
    prepared = []
    for number in range(8):
        factors = np.ones((4, 3)) if number < 3 else rng.uniform(0.85, 1.15, (4, 1)) * np.ones(3)
        stack = sweep(number, factors)
        for count in (1, 2, 4):
            prepared.append(len(ahead.prepare(stack.slices[:count])))
        for a, b in zip(images_of(stack, ahead), images_of(stack, at_once), strict=True):
            np.testing.assert_array_equal(a, b)
    assert prepared[3 * 1 : 3 * 4] == [1, 2, 4] * 3  # the fourth was begun before it was told to flicker
    assert prepared[3 * 4 :] == [0] * 12


def test_gains_hold_while_the_exposure_does() -> None:
    meter, none = ExposureMeter(), np.tile([1.0, 0.0, 0.0], (4, 1))

    def measured(number: int, factors: np.ndarray) -> object:
        stack = sweep(number, factors)
        return meter.measure(stack, metadata_intrinsics(stack, "camera_info"), none)

    first = measured(0, UNEQUAL)
    assert not first.steady
    assert [measured(n, UNEQUAL) for n in range(1, 6)] == [replace(first, steady=True)] * 5
    brighter = UNEQUAL.copy()
    brighter[2] *= 1.0 + 2.0 * NEGLIGIBLE_GAIN
    changed = measured(6, brighter)
    assert not changed.steady and changed.gains[2] != first.gains[2]
    equal = measured(7, np.ones((4, 3)))
    assert equal.gains == (None,) * 4 and not equal.steady
    assert measured(8, np.ones((4, 3))).steady


def test_a_stack_of_other_positions_starts_anew() -> None:
    meter, none = ExposureMeter(), np.tile([1.0, 0.0, 0.0], (4, 1))
    stack = sweep(0)
    meter.measure(stack, metadata_intrinsics(stack, "camera_info"), none)
    other = replace(
        stack, slices=tuple(replace(s, focus_distance_m=0.8 * s.focus_distance_m) for s in stack.slices)
    )
    assert not meter.measure(other, metadata_intrinsics(other, "camera_info"), none).steady
    three = replace(stack, slices=stack.slices[:3])
    assert len(meter.measure(three, metadata_intrinsics(three, "camera_info"), none[:3]).gains) == 3
    grey = replace(stack, slices=tuple(replace(s, image=s.image[..., 1].copy()) for s in stack.slices))
    found = meter.measure(grey, metadata_intrinsics(grey, "camera_info"), none)
    assert [len(gain.steps) for gain in found.gains if gain is not None] == [1, 1, 1]


@pytest.mark.parametrize("convert", [lambda i: i[..., 1].copy(), lambda i: i.astype(np.uint16), lambda i: i[:-2]])
def test_slices_of_another_kind_are_not_prepared_like_the_last_stack(convert: object) -> None:
    aligner = Aligner()
    for number in range(3):
        aligner.align(sweep(number), "none")
    stack = sweep(3)
    assert len(aligner.prepare(stack.slices)) == 4
    image = convert(stack.slices[2].image)  # type: ignore[operator]
    k = replace(stack.slices[2].intrinsics, height=image.shape[0])
    assert aligner.prepare([replace(stack.slices[2], image=image, intrinsics=k)]) == []


def test_may_be_switched_while_it_runs() -> None:
    aligner, stack = Aligner(), sweep(0)
    on = aligner.align(stack, "camera_info")
    off = aligner.align(stack, "camera_info", normalise_exposure=False)
    assert aligner.report.exposure_difference == 0.0
    expected = Aligner().align(stack, "camera_info", normalise_exposure=False)
    for a, b in zip(off.images, expected.images, strict=True):
        np.testing.assert_array_equal(a, b)
    aligner.prepare(stack.slices)
    again = aligner.align(stack, "camera_info")
    for a, b in zip(on.images, again.images, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not set(off.numbers[1:]) & set(again.numbers[1:])  # an engine must not take them for the same


def test_16_bits_get_one_exposure_within_those_of_the_camera() -> None:
    plain = make_stack(errors=PERFECT)
    light = [np.rint(4095.0 * srgb_to_linear(s.image / 255.0)) for s in plain.slices]
    levels = (1.0, 0.9, 0.8, 1.15)
    slices = [
        replace(s, image=np.minimum(np.rint(x * level), 4095).astype(np.uint16))
        for s, x, level in zip(plain.slices, light, levels, strict=True)
    ]
    slices[0].image[0, 0] = 4095
    aligner = Aligner(denoise=False)
    found = aligner.align(replace(plain, slices=tuple(slices)), "none")
    for image, x in zip(found.images, light, strict=True):
        assert image.dtype == np.uint16 and image.max() <= 4095
        assert np.mean(image[x < 3000] / np.maximum(x[x < 3000], 1.0)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("value", [0, 255])
def test_a_slice_that_shows_nothing_is_left_as_it_is(value: int) -> None:
    stack = sweep(0)
    nothing = replace(stack.slices[2], image=np.full_like(stack.slices[2].image, value))
    aligned = Aligner().align(replace(stack, slices=(*stack.slices[:2], nothing, stack.slices[3])), "none")
    assert aligned.images[2] is nothing.image and aligned.images[1] is not stack.slices[1].image


def test_a_channel_that_tells_nothing_does_as_the_others() -> None:
    stack = sweep(0)
    dark = [s.image * np.array([1, 1, 0], np.uint8) for s in stack.slices]
    aligned = Aligner().align(
        replace(stack, slices=tuple(replace(s, image=i) for s, i in zip(stack.slices, dark, strict=True))), "none"
    )
    assert aligned.images[3].any(axis=(0, 1)).tolist() == [True, True, False]
    assert aligned.images[3] is not dark[3]


def test_what_left_the_stacks_is_forgotten() -> None:
    aligner, gone = Aligner(), []
    for number in range(4):
        stack = sweep(number)
        gone.append(weakref.ref(stack.slices[1].image))
        aligner.prepare(stack.slices[:3])
        aligner.align(stack, "camera_info")
        del stack
        gc.collect()
    assert [reference() is None for reference in gone] == [True] * 3 + [False]
    for number in range(4, 9):
        aligner.prepare(sweep(number).slices[:2])
    assert len(aligner._light._cells) <= 6
