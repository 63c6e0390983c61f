# SPDX-License-Identifier: Apache-2.0
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
