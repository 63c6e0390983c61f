# SPDX-License-Identifier: Apache-2.0
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.errors import ParameterError
from dualfocus_ros.estimator import DepthEstimator, EstimatorConfig
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel

LENS = LensModel(0.016, 1.4, 22.5e-6)


class KnownDepth:
    """An engine that answers with what it was given."""

    name, device = "known", "cpu"

    def __init__(self, depth_m, confidence):
        self.output = EngineOutput(
            np.asarray(depth_m, np.float32), np.asarray(confidence, np.float32), np.zeros((2, 3, 3), np.uint8)
        )

    def infer(self, stack):
        self.stack = stack
        return self.output


def make_stack(scales=(1.0, 1.0, 1.0)):
    image = np.zeros((2, 3, 3), np.uint8)
    return FocalStack.from_slices(
        [
            FocalSlice(image, 7 + i, s, Intrinsics(3, 2, 10.0 * scale, 10.0 * scale, 1.0, 0.5))
            for i, (s, scale) in enumerate(zip((0.5, 1.0, 2.0), scales, strict=True))
        ],
        LENS,
        reference=0,
        frame_id="camera",
    )


def test_limits_follow_rep_117():
    engine = KnownDepth([[0.1, 0.5, 3.0], [1.0, 1.0, np.nan]], [[1, 1, 1], [0.2, 1, 0]])
    config = EstimatorConfig(min_depth_m=0.3, max_depth_m=2.0, min_confidence=0.5)
    estimate = DepthEstimator(engine, config).estimate(make_stack())
    expected = [[-np.inf, 0.5, np.inf], [np.nan, 1.0, np.nan]]
    np.testing.assert_array_equal(estimate.depth_m, np.array(expected, np.float32))
    assert estimate.depth_m.dtype == np.float32
    assert estimate.stamp_ns == 7 and estimate.frame_id == "camera"
    assert np.nanmax(engine.output.depth_m) == 3.0  # the engine's array was not written to


def test_pixels_seen_by_too_few_slices_have_no_depth():
    engine = KnownDepth(np.ones((2, 3)), np.ones((2, 3)))
    estimate = DepthEstimator(engine, EstimatorConfig(breathing="camera_info")).estimate(make_stack((1, 1.6, 1)))
    np.testing.assert_array_equal(np.isnan(estimate.depth_m), [[True, False, True]] * 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"breathing": "some"}, "thin_lens.*'some'"),
        ({"min_depth_m": 2.0, "max_depth_m": 1.0}, "min_depth_m < max_depth_m"),
        ({"min_confidence": 1.5}, "min_confidence in 0..1, got 1.5"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ParameterError, match=message):
        EstimatorConfig(**values)


class Streaming(KnownDepth):
    """Takes slices ahead, and takes down which."""

    streams = True

    def __init__(self):
        super().__init__(np.ones((2, 3)), np.ones((2, 3)))
        self.prepared = []

    def prepare(self, image, number, row, count):
        self.prepared.append((image, number, row, count))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def different(stack, value):
    """Return the stack with images of that value, each an array of its own."""
    return replace(stack, slices=tuple(replace(s, image=np.full_like(s.image, value)) for s in stack.slices))


def test_slices_prepared_ahead_are_those_of_the_stack():
    engine = Streaming()
    estimator = DepthEstimator(engine)
    first, second = (different(make_stack((1.0, 0.8, 0.7)), value) for value in (10, 200))
    estimator.prepare(first.slices)  # like what? No stack was there yet
    assert engine.prepared == []
    estimator.estimate(first)
    before = engine.stack.numbers
    estimator.prepare(second.slices[2:])
    estimator.prepare([second.slices[2], second.slices[0]])
    assert [(row, count) for _, _, row, count in engine.prepared] == [(2, 3), (2, 3), (0, 3)]
    estimator.estimate(second)
    for image, number, row, _ in engine.prepared:
        assert engine.stack.images[row] is image and engine.stack.numbers[row] == number
    assert not set(before) & set(engine.stack.numbers)


def test_sweeps_that_never_become_a_stack_are_forgotten():
    estimator = DepthEstimator(Streaming())
    stack = make_stack((1.0, 0.8, 0.7))
    estimator.estimate(stack)
    for value in range(50):
        estimator.prepare(different(stack, value).slices[:2])
    assert len(estimator._aligner._kept._kept) <= 5


def test_a_focus_that_the_last_stack_had_not_is_not_prepared():
    engine = Streaming()
    estimator = DepthEstimator(engine)
    stack = make_stack((1.0, 0.8, 0.7))
    estimator.estimate(stack)
    positions = [s.focus_dpt for s in stack.slices]
    between = replace(stack.slices[1], focus_distance_m=2.0 / (positions[1] + positions[2]))
    near = replace(stack.slices[1], focus_distance_m=1.0 / (positions[1] + 0.01 * (positions[2] - positions[1])))
    estimator.prepare([between])
    assert engine.prepared == []
    estimator.prepare([near])
    assert [row for _, _, row, _ in engine.prepared] == [1]


def test_a_slice_in_two_stacks_is_warped_once():
    engine = Streaming()
    estimator = DepthEstimator(engine)
    first, second = (different(make_stack((1.0, 0.8, 0.7)), value) for value in (10, 200))
    estimator.estimate(first)
    numbers, images = engine.stack.numbers, engine.stack.images
    estimator.estimate(replace(first, slices=(*first.slices[:2], second.slices[2])))
    assert engine.stack.numbers[:2] == numbers[:2] and engine.stack.numbers[2] != numbers[2]
    assert engine.stack.images[1] is images[1]


def test_another_reference_or_lens_state_warps_anew():
    engine = Streaming()
    estimator = DepthEstimator(engine, EstimatorConfig(breathing="camera_info"))
    first = different(make_stack((1.0, 0.8, 0.7)), 10)
    estimator.estimate(first)
    numbers = engine.stack.numbers
    wider = replace(first.slices[1], intrinsics=Intrinsics(3, 2, 6.0, 6.0, 1.0, 0.5))
    estimator.estimate(replace(first, slices=(first.slices[0], wider, first.slices[2])))
    assert [a == b for a, b in zip(numbers, engine.stack.numbers, strict=True)] == [True, False, True]
    estimator.estimate(replace(first, reference=1))
    assert engine.stack.numbers[0] != numbers[0]


def test_what_left_the_stacks_is_forgotten():
    estimator = DepthEstimator(Streaming())
    gone = []
    for value in range(5):
        stack = different(make_stack(), value)
        gone.append(weakref.ref(stack.slices[0].image))
        estimator.estimate(stack)
        del stack
        gc.collect()
    assert [reference() is None for reference in gone] == [True] * 4 + [False]


@pytest.mark.parametrize("normalise", [True, False])
def test_exposures_become_one_if_so_configured(normalise):
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 160, (6, 8, 3)).astype(np.uint8)
    texture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    darker = np.rint(texture * 0.9).astype(np.uint8)  # coded: about 0.8 of the light
    k = Intrinsics(64, 48, 100.0, 100.0, 31.5, 23.5)
    images = (texture, darker, texture.copy())
    slices = [FocalSlice(image, i, s, k) for i, (image, s) in enumerate(zip(images, (0.5, 1.0, 2.0), strict=True))]
    stack = FocalStack.from_slices(slices, LENS, reference=0)
    engine = KnownDepth(np.ones((48, 64)), np.ones((48, 64)))
    estimator = DepthEstimator(engine, EstimatorConfig(breathing="none", normalise_exposure=normalise))
    estimator.estimate(stack)
    assert engine.stack.images[0] is texture
    if normalise:
        assert np.abs(engine.stack.images[1].astype(int) - texture).mean() < 2.0
        assert estimator.alignment.exposure_difference == pytest.approx(0.24, abs=0.04)
    else:
        assert engine.stack.images[1] is darker
        assert estimator.alignment.exposure_difference == 0.0
    estimator.config = replace(estimator.config, normalise_exposure=not normalise)  # live
    estimator.estimate(stack)
    assert (engine.stack.images[1] is darker) == normalise
