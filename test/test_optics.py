# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from dualfocus_ros import optics
from dualfocus_ros.errors import LensError


def test_dioptres_and_metres_are_reciprocal_and_reach_infinity():
    assert optics.metres_to_dioptres([0.5, 2.0, np.inf]).tolist() == [2.0, 0.5, 0.0]
    assert optics.dioptres_to_metres([2.0, 0.5, 0.0]).tolist() == [0.5, 2.0, np.inf]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_distances_must_be_positive(bad):
    with pytest.raises(LensError, match="above 0 m"):
        optics.metres_to_dioptres(bad)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_dioptres_must_be_finite(bad):
    with pytest.raises(LensError, match="dioptres"):
        optics.dioptres_to_metres(bad)


def test_image_distance_obeys_the_lens_equation():
    v = optics.image_distance_m(0.05, 0.3)
    assert 1 / v + 1 / 0.3 == pytest.approx(1 / 0.05, rel=1e-12)
    assert optics.image_distance_m(0.05, math.inf) == 0.05
    with pytest.raises(LensError, match="beyond the focal length"):
        optics.image_distance_m(0.05, 0.05)


def test_blur_diameter_is_the_cone_of_light_cut_by_the_sensor():
    # By similar triangles: the cone of base A that converges at v_d is cut at the sensor distance v_s.
    f, n, pitch, s, d = 0.016, 1.4, 22.5e-6, 0.7, 2.0
    v_s, v_d = 1 / (1 / f - 1 / s), 1 / (1 / f - 1 / d)
    expected_px = (f / n) * abs(v_s - v_d) / v_d / pitch
    assert optics.blur_diameter_px(f, n, pitch, s, d) == pytest.approx(expected_px, rel=1e-9)
    assert optics.blur_diameter_px(f, n, pitch, s, s) == pytest.approx(0.0, abs=1e-12)


def test_blur_gain_of_the_published_example():
    # 16 mm f/1.4 at infinity on 22.5 um pixels: 11.43 mm * 16 mm / 22.5 um = 8.127 px per dioptre.
    assert optics.blur_gain_px_per_dpt(0.016, 1.4, 22.5e-6, math.inf) == pytest.approx(8.127, abs=1e-3)


def test_focal_length_in_pixels_grows_towards_near_focus():
    assert optics.focal_length_px(0.016, 22.5e-6, 0.4) == pytest.approx(740.7407, abs=1e-3)
    assert optics.focal_length_px(0.016, 22.5e-6, math.inf) == pytest.approx(0.016 / 22.5e-6)
