# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.plausibility import Plausibility, look_at, plane_residual
from dualfocus_ros.types import DepthEstimate, Intrinsics

SHAPE = (60, 80)
Y, X = np.mgrid[0:60, 0:80]


def plane(distance_m: float = 2.0, tilt_x: float = 0.0, tilt_y: float = 0.0) -> np.ndarray:
    """Return the depth of the plane z = distance + tilt_x X + tilt_y Y as a pinhole camera of 70 px sees it."""
    rays_x, rays_y = (X - 39.5) / 70.0, (Y - 29.5) / 70.0
    return (distance_m / (1.0 - tilt_x * rays_x - tilt_y * rays_y)).astype(np.float32)


def residual(depth_m: np.ndarray) -> tuple[float, float]:
    return plane_residual(depth_m, np.isfinite(depth_m) & (depth_m > 0.0))


def estimate(depth_m: np.ndarray, confidence: np.ndarray | float = 0.5) -> DepthEstimate:
    height, width = depth_m.shape
    return DepthEstimate(
        depth_m.astype(np.float32),
        np.broadcast_to(np.float32(confidence), depth_m.shape),
        np.zeros((*depth_m.shape, 3), np.uint8),
        Intrinsics(width, height, 70.0, 70.0, 39.5, 29.5),
    )


@pytest.mark.parametrize("tilts", [(0.0, 0.0), (0.8, 0.0), (0.0, -0.9), (0.7, 0.7), (-0.5, 0.9)])
@pytest.mark.parametrize("distance_m", [0.2, 2.0, 30.0])
def test_a_plane_has_no_residual_however_it_is_tilted(tilts: tuple[float, float], distance_m: float) -> None:
    found, share = residual(plane(distance_m, *tilts))
    assert found < 1e-6
    assert share == 1.0


@pytest.mark.parametrize("sigma", [0.001, 0.005])
@pytest.mark.parametrize("tilts", [(0.0, 0.0), (0.6, -0.4)])
def test_noise_along_the_ray_is_the_residual(sigma: float, tilts: tuple[float, float]) -> None:
    noise = np.random.default_rng(1).normal(0.0, sigma, SHAPE)
    found, share = residual((plane(3.0, *tilts) * (1.0 + noise)).astype(np.float32))
    assert found == pytest.approx(sigma, rel=0.05)
    assert share == 1.0


def test_of_two_planes_the_larger() -> None:
    """A wall at 2 m over 70 % of the image, exact; a box before it, on which nothing is flat."""
    depth_m = plane(2.0, 0.3)
    depth_m[:, :24] = 1.0 + np.random.default_rng(0).uniform(0.0, 0.5, (60, 24))
    found, share = residual(depth_m)
    assert found < 1e-3
    assert 0.70 <= share <= 0.72


def test_pixels_without_depth_do_not_count() -> None:
    depth_m = plane(2.0, 0.3, 0.2)
    depth_m[::2] = np.nan
    depth_m[1::4] = np.inf
    depth_m[:, :5] = 0.0
    depth_m[:, 5:9] = -np.inf
    found, share = residual(depth_m)
    assert found < 1e-6
    assert share == 1.0


def test_large_images_are_sampled_and_give_the_same_every_time() -> None:
    noise = np.random.default_rng(2).normal(0.0, 0.004, (480, 640))
    depth_m = (2.0 * (1.0 + noise)).astype(np.float32)
    first = residual(depth_m)
    assert first == residual(depth_m.copy())
    assert first[0] == pytest.approx(0.004, rel=0.05)


@pytest.mark.parametrize(
    "known",
    [
        np.zeros(SHAPE, bool),
        (Y == 3) & (X < 2),  # two points
        Y == 3,  # a line: any plane through it
    ],
)
def test_too_few_points_make_no_plane(known: np.ndarray) -> None:
    found = plane_residual(plane(), known)
    assert all(math.isnan(value) for value in found)


def test_what_is_curved_is_told_from_what_is_flat() -> None:
    ball = (2.0 + 0.05 * ((X - 39.5) ** 2 + (Y - 29.5) ** 2) / 39.5**2).astype(np.float32)
    assert 0.003 < residual(ball)[0] < 0.03


def test_coverage_and_confidence_are_of_the_pixels_that_have_depth() -> None:
    depth_m = plane()
    depth_m[:15] = np.nan
    depth_m[15:30, :40] = -np.inf
    confidence = np.where(np.isfinite(depth_m), 0.8, 0.1)
    confidence[59] = 0.3
    found = look_at(estimate(depth_m, confidence))
    assert found.coverage == pytest.approx(1.0 - 0.25 - 0.125)
    assert found.confidence == pytest.approx((0.8 * 2920 + 0.3 * 80) / 3000)
    assert math.isnan(found.instability)
    assert found.plane_residual < 1e-6 and found.plane_share == 1.0


def test_nothing_is_known_of_no_depth() -> None:
    found = look_at(estimate(np.full(SHAPE, np.nan)), plane())
    assert found.coverage == 0.0
    assert all(
        math.isnan(v) for v in (found.confidence, found.instability, found.plane_residual, found.plane_share)
    )


def test_instability_is_the_median_relative_change() -> None:
    before, now = plane(2.0), plane(2.0)
    now[:25] = 2.2  # of 25 rows the change is 0.2 / 2.2, of 35 none
    assert look_at(estimate(now), before).instability == 0.0
    now[:40] = 2.5
    assert look_at(estimate(now), before).instability == pytest.approx(0.2, rel=1e-6)
    # Only where both have depth.
    before[:40] = np.nan
    assert look_at(estimate(now), before).instability == 0.0
    before[40:] = np.inf
    assert math.isnan(look_at(estimate(now), before).instability)
    assert math.isnan(look_at(estimate(now), np.ones((4, 4), np.float32)).instability)


def test_the_mean_is_over_what_is_known() -> None:
    nan = math.nan
    mean = Plausibility.mean([Plausibility(1.0, 0.5, nan, 0.1, 0.2), Plausibility(0.0, nan, 0.3, nan, 0.6)])
    assert mean == Plausibility(0.5, 0.5, 0.3, 0.1, pytest.approx(0.4))
    assert math.isnan(Plausibility.mean([Plausibility(0.0, nan, nan, nan, nan)]).confidence)
    with pytest.raises(EvaluationError, match="at least one"):
        Plausibility.mean([])
