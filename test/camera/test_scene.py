# SPDX-License-Identifier: Apache-2.0
"""The layouts of the simulated scene: where their depth is."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from dualfocus_ros.camera.scene import make_scene
from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.camera.surfaces import trace
from dualfocus_ros.errors import ParameterError

RANGES_M = {"still_life": (0.5, 3.5), "far": (2.0, 3.5), "near": (0.5, 0.83), "wall": (0.85, 3.3)}
# The field of view of the default camera, at a quarter of its resolution.
XS = ((np.arange(160, dtype=np.float32) - 79.5) / 300.0)[None]
YS = ((np.arange(120, dtype=np.float32) - 59.5) / 300.0)[:, None]


@cache
def view(layout: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    image, inverse_depth = trace(make_scene(seed, layout), XS, YS, np.zeros(3))
    assert inverse_depth.min() > 0.0  # no ray meets nothing
    return image, 1.0 / inverse_depth


@pytest.mark.parametrize("layout", RANGES_M)
def test_depth_lies_within_the_range_of_the_layout(layout: str) -> None:
    image, depth = view(layout, 1)
    low, high = RANGES_M[layout]
    assert low < depth.min() and depth.max() < high
    detail = np.abs(np.diff(image.astype(float).mean(axis=2), axis=1))
    assert detail.mean() > 2.0  # there is something to focus on


def test_two_clusters_leave_the_range_between_them_empty() -> None:
    _, depth = view("two_clusters", 1)
    near, far = depth < 0.8, depth > 1.9
    assert (near | far).all()
    assert near.mean() > 0.15 and far.mean() > 0.5
    assert depth.max() < 3.0


def test_the_wall_is_flat_and_elsewhere_for_every_seed() -> None:
    depths = [view("wall", seed)[1] for seed in (1, 2)]
    assert all(np.ptp(d) < 0.07 * d.mean() for d in depths)
    assert np.ptp([d.mean() for d in depths]) > 0.2


def test_the_seed_decides_everything_else() -> None:
    (a, depth_a), (b, depth_b) = view("far", 1), view("far", 2)
    again, _ = trace(make_scene(1, "far"), XS, YS, np.zeros(3))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a.astype(int) - b).mean() > 5.0
    assert not np.array_equal(depth_a, depth_b)


def test_still_life_is_the_default() -> None:
    image, depth = view("still_life", 1)
    default, default_inverse = trace(make_scene(1), XS, YS, np.zeros(3))
    np.testing.assert_array_equal(image, default)
    np.testing.assert_array_equal(depth, 1.0 / default_inverse)
    assert SimulatedConfig().scene == "still_life"


def test_the_camera_shows_the_scene_that_was_asked_for() -> None:
    small = SimulatedConfig(width=80, height=60, pixel_pitch_m=110e-6, views=16, rate_hz=0.0)
    with SimulatedCamera(dataclasses.replace(small, scene="near")) as camera:
        truth = camera.read().ground_truth_m
    assert truth is not None and truth.max() < 0.83
    with pytest.raises(ParameterError, match="scene to be one of .*'sea'"):
        dataclasses.replace(small, scene="sea")
