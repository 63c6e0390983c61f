# SPDX-License-Identifier: Apache-2.0
"""Lens files: reading, writing, and what a calibration says of a lens."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dualfocus_ros.errors import CalibrationError
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.lens_file import find_lens, list_lenses, load_lens, save_lens
from dualfocus_ros.types import LensModel

FOCAL_M, PITCH_M = 0.004, 8e-6


def thin_lens_px(focus_dpt: float) -> float:
    """v / pitch with 1/f = 1/v + D."""
    return 1.0 / (1.0 / FOCAL_M - focus_dpt) / PITCH_M


def calibration(**changes: Any) -> LensCalibration:
    at = (0.1, 3.0, 6.0, 11.0)
    lens = LensCalibration(
        name="mine",
        lens=LensModel(FOCAL_M, 2.0, PITCH_M),
        image_size=(640, 480),
        curve=FocusCurve((0.0, 100.0, 250.0), (0.1, 5.0, 11.0)),
        unit="focus_absolute",
        calibrated=True,
        date="2026-11-28",
        module="a webcam: with a colon",
        method="board, 6 placements",
        hysteresis=3.0,
        temperature_c=30.0,
        dpt_per_k=0.004,
        settle=((10.0, 0.05), (250.0, 0.18)),
        focus_dpt=at,
        intrinsics=tuple((thin_lens_px(d), thin_lens_px(d), 321.5, 236.0) for d in at),
        distortion_model="plumb_bob",
        distortion=(0.01, -0.02, 1e-5, 0.0, 0.003),
        residuals={"focus_rms_dpt": 0.012},
    )
    return dataclasses.replace(lens, **changes)


def changed(path: Path, where: str, value: Any) -> Path:
    """Write a good lens file with one entry changed; None: left out."""
    save_lens(calibration(), path)
    content = yaml.safe_load(path.read_text())
    entry = content
    *outer, last = where.split(".")
    for key in outer:
        entry = entry[key]
    if value is None:
        del entry[last]
    else:
        entry[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mine.yaml"
    save_lens(calibration(), path)
    read = load_lens(str(path))
    wanted = calibration()
    assert np.asarray(read.intrinsics) == pytest.approx(np.asarray(wanted.intrinsics), rel=1e-7)
    for field in dataclasses.fields(LensCalibration):
        if field.name != "intrinsics":
            assert getattr(read, field.name) == getattr(wanted, field.name), field.name
    assert [p.name for p in path.parent.iterdir()] == ["mine.yaml"], "no temporary file is left"


def test_round_trip_of_the_least(tmp_path: Path) -> None:
    least = LensCalibration("least", LensModel(FOCAL_M, 2.0, PITCH_M), (8, 6), FocusCurve((0.0, 1.0), (3.0, 1.0)))
    save_lens(least, tmp_path / "least.yaml")
    assert load_lens(str(tmp_path / "least.yaml")) == least


def test_numbers_of_numpy_can_be_written(tmp_path: Path) -> None:
    size = tuple(np.array([640, 480]))
    lens = calibration(image_size=size, hysteresis=np.float64(2.5), calibrated=np.bool_(True))
    save_lens(lens, tmp_path / "numpy.yaml")
    assert load_lens(str(tmp_path / "numpy.yaml")).image_size == (640, 480)


def test_the_example_in_the_documentation_of_the_format_is_a_lens_file(tmp_path: Path) -> None:
    from dualfocus_ros import lens_file

    text = (lens_file.__doc__ or "").partition("\n\n")[2]
    (tmp_path / "example.yaml").write_text(text)
    lens = load_lens(str(tmp_path / "example.yaml"))
    assert lens.calibrated and lens.date == "2026-11-28" and lens.settle[1] == (250.0, 0.18)
    assert lens.lens.pixel_pitch_m == 7.2e-6 and lens.dpt_per_k == 0.004 and len(lens.intrinsics) == 1


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", "other", "format: dualfocus-lens"),
        ("version", 2, "version: 1"),
        ("lense", 1, "unknown entry 'lense': did you mean 'lens'"),
        ("focus.curv", [], "unknown entry 'curv': did you mean 'curve'"),
        ("lens", None, "expected lens with the entries focal_length_m"),
        ("lens.f_number", "bright", "lens.f_number to be a number, got 'bright'"),
        ("lens.f_number", None, "lens with the entries"),
        ("lens.focal_length_m", 4.0e6, "focal_length_m"),
        ("lens.pixel_pitch_m", True, "lens.pixel_pitch_m to be a number"),
        ("lens.pixel_pitch_m", float("nan"), "lens.pixel_pitch_m to be a number"),
        ("image_size", None, "image_size"),
        ("image_size", [640], "image_size"),
        ("image_size", [640, -1], "image_size"),
        ("image_size", [640.5, 480], "image_size in whole pixels, got 640.5"),
        ("calibrated", "yes", "calibrated to be true or false, got 'yes'"),
        ("focus", None, "focus with a curve"),
        ("focus.curve", None, "focus.curve as a list"),
        ("focus.curve", [[0, 1]], "2 or more points"),
        ("focus.curve", [[0, 1], [1, 1]], "only rise or only fall"),
        ("focus.curve", [[0, 1], [2, 2], [1, 3]], "ascending positions"),
        ("focus.curve", [[0, 1], [1, "x"]], "focus.curve to be a number, got 'x'"),
        ("focus.hysteresis", -1.0, "hysteresis"),
        ("focus.hysteresis", 900.0, "hysteresis smaller than the range"),
        ("focus.temperature", {"reference": 3}, "focus.temperature with the entries reference_c"),
        ("focus.temperature", 20.0, "focus.temperature with the entries"),
        ("focus.settle", [[10, 0.1], [5, 0.2]], "settle as \\[move, seconds\\]"),
        ("focus.settle", [[10, -0.1]], "settle as \\[move, seconds\\]"),
        ("focus.settle", [10, 0.1], "focus.settle as a list"),
        ("intrinsics", {"fx": 1}, "intrinsics as a list"),
        ("intrinsics", [{"fx": 1}], "intrinsics with the entries focus_dpt"),
        (
            "intrinsics",
            [{"focus_dpt": d, "fx": 9, "fy": 9, "cx": 1, "cy": 1} for d in (2, 1)],
            "ascending focus_dpt",
        ),
        ("intrinsics", [{"focus_dpt": 1, "fx": -9, "fy": 9, "cx": 1, "cy": 1}], "fx"),
        ("distortion", 5, "distortion as a list"),
        ("distortion", ["a"], "distortion to be a number"),
        ("distortion_model", None, "expected a distortion_model"),
        ("residuals", [1], "residuals as name: number"),
        ("residuals", {"rms": "small"}, "residuals.rms to be a number, got 'small'"),
    ],
)
def test_every_bad_entry_is_named_with_its_file(tmp_path: Path, where: str, value: Any, message: str) -> None:
    path = changed(tmp_path / "bad.yaml", where, value)
    with pytest.raises(CalibrationError, match=message) as caught:
        load_lens(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n", b"", b"\xff\xfe\x00", b"just text"])
def test_what_is_no_lens_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="broken.yaml"):
        load_lens(str(path))


def test_empty_entries_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    save_lens(calibration(distortion=(), distortion_model=""), path)
    content = yaml.safe_load(path.read_text())
    content.update(
        module=None, method=None, date=None, name=None, intrinsics=None, distortion=None, residuals=None
    )
    content["focus"].update(unit=None, settle=None)
    path.write_text(yaml.safe_dump(content))
    lens = load_lens(str(path))
    assert (lens.name, lens.module, lens.method, lens.date, lens.unit) == ("few", "", "", "", "")
    assert lens.settle == lens.intrinsics == lens.distortion == () and lens.residuals == {}


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "text.yaml"
    save_lens(calibration(), path)
    path.write_text(path.read_text().replace("pixel_pitch_m: 8.0e-06", "pixel_pitch_m: 8e-6"))
    assert "8e-6" in path.read_text()
    assert load_lens(str(path)).lens.pixel_pitch_m == 8e-6


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "dualfocus_ros" / "lenses"


def test_the_users_folder_goes_before_that_of_the_package(user_folder: Path) -> None:
    assert find_lens("logitech_c920").parent != user_folder
    save_lens(calibration(), user_folder / "logitech_c920.yaml")
    assert find_lens("logitech_c920") == user_folder / "logitech_c920.yaml"
    assert load_lens("logitech_c920").calibrated
    assert {"logitech_c920", "oak_imx378"} <= set(list_lenses())


def test_a_name_goes_before_a_path_of_the_working_directory(
    user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_lens(calibration(), user_folder / "mine.yaml")
    (user_folder.parent / "mine").write_text("something else")
    monkeypatch.chdir(user_folder.parent)
    assert find_lens("mine") == user_folder / "mine.yaml"
    monkeypatch.chdir(user_folder)
    assert find_lens("mine.yaml").samefile(user_folder / "mine.yaml")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("logitech_c290", "did you mean 'logitech_c920'"),
        ("", "got none: there are .*logitech_c920"),
        ("zzz", "there are .*oak_imx378"),
        ("/no/such/file.yaml", "got '/no/such/file.yaml'"),
        ("~nobody-of-that-name/lens.yaml", "got '~nobody"),
        ("nul\0", "expected lens to be a lens file"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(user_folder: Path, name: str, hint: str) -> None:
    with pytest.raises(CalibrationError, match=hint):
        load_lens(name)


def test_output_that_cannot_be_written_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CalibrationError, match="cannot write the lens file"):
        save_lens(calibration(), tmp_path / "file" / "mine.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(CalibrationError, match="cannot write the lens file"):
        save_lens(calibration(), tmp_path / "folder.yaml")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.yaml"], "no temporary file is left"


def test_the_curve_goes_both_ways() -> None:
    for dioptres in ((0.1, 5.0, 11.0), (11.0, 5.0, 0.1)):
        curve = FocusCurve((0.0, 100.0, 250.0), dioptres)
        for position in (0.0, 13.0, 100.0, 170.0, 250.0):
            assert curve.position_at(curve.dioptres_at(position)) == pytest.approx(position)
        assert curve.dioptres_at(-10.0) == dioptres[0] and curve.dioptres_at(999.0) == dioptres[-1]
        assert {curve.position_at(0.0), curve.position_at(99.0)} == {0.0, 250.0}
    assert FocusCurve((0.0, 100.0, 250.0), (0.0, 4.0, 10.0)).dioptres_at(175.0) == 7.0


def test_intrinsics_between_calibrated_positions_follow_the_optics() -> None:
    lens = calibration()
    for focus_dpt in (0.1, 1.0, 2.0, 4.5, 8.0, 11.0):
        k = lens.intrinsics_at(focus_dpt, 640, 480)
        assert k is not None
        assert k.fx_px == pytest.approx(thin_lens_px(focus_dpt), rel=3e-4)
        assert (k.cx_px, k.cy_px) == (321.5, 236.0)
        assert (k.distortion_model, k.distortion) == ("plumb_bob", lens.distortion)
        thin = lens.thin_lens_intrinsics(focus_dpt, 640, 480)
        assert thin.fx_px == pytest.approx(thin_lens_px(focus_dpt), rel=1e-9)
        assert (thin.cx_px, thin.cy_px) == (319.5, 239.5)
    beyond = lens.intrinsics_at(99.0, 640, 480)
    assert beyond is not None and beyond.fx_px == pytest.approx(thin_lens_px(11.0))
    assert calibration(focus_dpt=(), intrinsics=()).intrinsics_at(1.0, 640, 480) is None
    assert lens.thin_lens_intrinsics(0.0, 640, 480).fx_px == pytest.approx(FOCAL_M / PITCH_M)


def test_other_sizes_of_the_same_shape_scale() -> None:
    lens = calibration()
    half = lens.intrinsics_at(3.0, 320, 240)
    assert half is not None and half.fx_px == pytest.approx(0.5 * thin_lens_px(3.0))
    # The centre of pixel 0 is 0: the left edge of the image is -0.5 in both sizes.
    assert half.cx_px == pytest.approx((321.5 + 0.5) / 2.0 - 0.5)
    assert lens.lens_for(1280, 960).pixel_pitch_m == pytest.approx(0.5 * PITCH_M)
    big = lens.lens_for(1280, 960)
    assert big.focal_length_m / big.pixel_pitch_m == pytest.approx(2.0 * FOCAL_M / PITCH_M)
    assert lens.thin_lens_intrinsics(3.0, 1280, 960).fx_px == pytest.approx(2.0 * thin_lens_px(3.0))
    # Half a pixel of rounding is the same shape.
    assert lens.lens_for(427, 320).focal_length_m == FOCAL_M


def test_other_shapes_are_refused_by_a_calibration_and_guessed_by_a_starting_point() -> None:
    for refused in (lambda c: c.lens_for(640, 360), lambda c: c.intrinsics_at(1.0, 640, 360)):
        with pytest.raises(CalibrationError, match="calibrated with images of 640 x 480, these have 640 x 360"):
            refused(calibration())
    assert calibration(calibrated=False).lens_for(640, 360).pixel_pitch_m == PITCH_M


def test_settle_time_by_the_length_of_the_move() -> None:
    lens = calibration()
    assert lens.settle_s(130.0) == lens.settle_s(-130.0) == pytest.approx(0.115)
    assert lens.settle_s(1.0) == 0.05 and lens.settle_s(999.0) == 0.18
    assert calibration(settle=()).settle_s(10.0) is None


def test_temperature() -> None:
    lens = calibration()
    assert lens.temperature_offset_dpt(40.0) == pytest.approx(0.04)
    assert lens.temperature_offset_dpt(20.0) == pytest.approx(-0.04)
    assert lens.temperature_offset_dpt(None) == 0.0
    assert calibration(temperature_c=None).temperature_offset_dpt(40.0) == 0.0
    assert math.isclose(lens.temperature_offset_dpt(30.0), 0.0)
