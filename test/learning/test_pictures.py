# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.pictures import picture_scene
from dualfocus_ros.learning.simulator import Optics, focal_stack, pupil

HEIGHT, WIDTH = 64, 80
NEAR_DPT, FAR_DPT = 3.0, 1.0


@pytest.fixture(scope="module")
def rgbd() -> tuple[np.ndarray, np.ndarray]:
    """A textured square in front of a textured wall."""
    rng = np.random.default_rng(3)
    light = cv2.GaussianBlur(rng.random((HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 0.8)
    depth = np.full((HEIGHT, WIDTH), 1.0 / FAR_DPT, np.float32)
    depth[20:44, 28:52] = 1.0 / NEAR_DPT
    return light, depth


@pytest.fixture(scope="module")
def stack(rgbd):
    optics = Optics((NEAR_DPT, 2.0, FAR_DPT), blur_gain=4.0)
    return focal_stack(picture_scene(*rgbd), optics, pupil(np.random.default_rng(3), 80))


def test_depth_is_that_of_the_picture(rgbd, stack):
    np.testing.assert_allclose(stack.inverse_depth.numpy(), 1.0 / rgbd[1], rtol=1e-5)


def test_what_is_in_focus_looks_as_in_the_picture(rgbd, stack):
    """Inside, half a disc of blur (4 px) away from the edges of the square; views sample bilinearly."""
    light = torch.from_numpy(rgbd[0]).permute(2, 0, 1)
    square = (slice(None), slice(26, 38), slice(34, 46))
    wall = (slice(None), slice(4, 14), slice(4, 76))
    for part, sharp in ((square, 0), (wall, 2)):
        errors = [float((stack.light[n][part] - light[part]).abs().mean()) for n in range(3)]
        assert np.argmin(errors) == sharp
        assert errors[sharp] < 0.35 * min(e for n, e in enumerate(errors) if n != sharp)


def test_the_wall_is_blurred_by_the_disc_of_the_thin_lens(rgbd):
    light, depth = np.zeros((HEIGHT, WIDTH, 3), np.float32), np.full((HEIGHT, WIDTH), 1.0, np.float32)
    light[30:33, 40:43] = 1.0
    optics = Optics((3.0, 2.0, 1.0), blur_gain=6.0)
    found = focal_stack(picture_scene(light, depth), optics, pupil(np.random.default_rng(3), 100)).light[0, 0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    weight = found.numpy() / found.sum().item()
    variance = (weight * ((x - 41) ** 2 + (y - 31) ** 2)).sum()
    square = 2 * (9 - 1) / 12  # of the square itself, both axes
    assert np.sqrt(8 * (variance - square)) == pytest.approx(12.0, rel=0.05)  # a disc has variance d^2 / 8


def test_unknown_depth_is_taken_from_the_nearest_known_pixel(rgbd):
    light, depth = rgbd
    holes = depth.copy()
    holes[28:32, 36:40], holes[0, 0], holes[1, 1] = np.nan, np.inf, 0.0
    layers = picture_scene(light, holes)
    assert len(layers) == 2 and layers[0].inverse_depth_dpt == pytest.approx(NEAR_DPT)
    assert bool(layers[0].mask[28:32, 36:40].all())


@pytest.mark.parametrize(
    ("depth", "message"), [(np.ones((4, 5), np.float32), "size of the depth"), (None, "known depth")]
)
def test_bad_pictures(rgbd, depth, message):
    light, good = rgbd
    with pytest.raises(InputError, match=message):
        picture_scene(light, np.zeros_like(good) if depth is None else depth)
