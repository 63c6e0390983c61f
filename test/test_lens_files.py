# SPDX-License-Identifier: Apache-2.0
"""The lens files that come with the package: starting points that say so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from dualfocus_ros.lens_file import load_lens

FOLDER = Path(__file__).resolve().parent.parent / "config" / "lenses"
FILES = sorted(FOLDER.glob("*.yaml"))
# Range of the actuator, by its interface, that the curve lies in; the nearest focus that makers state (m).
NOMINAL = {
    "raspberry_pi_camera_3": ((0.0, 15.0), 0.10),
    "raspberry_pi_camera_3_wide": ((0.0, 32.0), 0.05),
    "oak_imx378": ((0.0, 255.0), 0.08),
    "logitech_c920": ((0.0, 250.0), None),
    "waveshare_imx179_usb": ((0.0, 1023.0), None),
    "generic_uvc_250": ((0.0, 250.0), None),
    "generic_uvc_1023": ((0.0, 1023.0), None),
    "generic_vcm_10bit": ((0.0, 1023.0), None),
    "optotune_el_16_40_16mm": ((-2.0, 3.0), None),
}


def test_all_files_are_known_here() -> None:
    assert [f.stem for f in FILES] == sorted(NOMINAL)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_file_is_a_plausible_starting_point_and_says_so(file: Path) -> None:
    lens = load_lens(str(file))
    assert lens.name == file.stem
    assert not lens.calibrated and lens.date == "" and lens.settle == () and lens.intrinsics == ()
    assert lens.hysteresis == 0.0 and lens.temperature_c is None
    assert 0.002 < lens.lens.focal_length_m < 0.03 and 1.0 < lens.lens.f_number < 8.0
    width, height = lens.image_size
    assert (width, height) == (640, 480), "that of the drivers' defaults"
    fx = lens.thin_lens_intrinsics(0.0, width, height).fx_px
    assert 15.0 < math.degrees(2.0 * math.atan(width / 2.0 / fx)) < 110.0


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_curve_covers_what_the_maker_states(file: Path) -> None:
    lens = load_lens(str(file))
    (low, high), nearest_m = NOMINAL[file.stem]
    assert low <= lens.curve.positions[0] < lens.curve.positions[-1] <= high
    ends = sorted((lens.curve.focus_dpt[0], lens.curve.focus_dpt[-1]))
    assert ends[0] == 0.0, "infinity"
    if nearest_m is not None:
        assert ends[1] >= 1.0 / nearest_m
    # Larger is nearer with all of these interfaces.
    assert lens.curve.focus_dpt[-1] > lens.curve.focus_dpt[0]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_file_names_its_sources_and_its_guesses(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert len(content["method"]) > 150 and content["module"]
    assert file.read_text().startswith("#"), "a first line for people"
    sure = {"raspberry_pi_camera_3", "raspberry_pi_camera_3_wide"}
    if file.stem not in sure:
        assert any(word in content["method"].lower() for word in ("guess", "assumption"))
