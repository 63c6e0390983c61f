# SPDX-License-Identifier: Apache-2.0
"""`calibrate board` and `calibrate lens` from their arguments to the files that they leave."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualfocus_ros.calibration.boards import BoardFinder
from dualfocus_ros.calibration.session import load_session, save_session
from dualfocus_ros.camera.simulated_lens import SimulatedLensConfig, SimulatedLensDevice
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.cli import main
from dualfocus_ros.lens_file import load_lens

BOARD = "charuco:9x6:0.03:0.022"
OPTIONS = ["--camera", "simulated_lens", "--board", BOARD, "--near", "0.24", "--far", "0.6", "--placements", "5"]
SMALL = {"width": 320, "height": 240, "lens_seed": 5, "hysteresis": 20.0}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the lens file of a rehearsal."""
    output = tmp_path_factory.mktemp("lens") / "rehearsed.yaml"
    parameters = [word for name, value in SMALL.items() for word in ("-p", f"{name}:={value}")]
    arguments = ["calibrate", "lens", "--name", "rehearsed", "--output", str(output), *OPTIONS, *parameters]
    assert main(arguments) == 0
    return output


def test_a_rehearsal_gives_the_curve_of_the_hidden_lens(calibrated: Path) -> None:
    found = load_lens(str(calibrated))
    assert found.calibrated and found.date and BOARD in found.method and found.unit == "step"
    truth = SimulatedLensDevice(SimulatedLensConfig(**SMALL))  # type: ignore[arg-type]
    assert found.temperature_c is not None
    positions = np.linspace(found.curve.positions[0], found.curve.positions[-1], 60)
    off = [found.curve.dioptres_at(u) - truth.true_focus_dpt(u, found.temperature_c) for u in positions]
    assert np.abs(off).max() < 0.05
    assert max(found.curve.focus_dpt) > 3.9 and min(found.curve.focus_dpt) < 1.9
    assert found.hysteresis == pytest.approx(20.0, abs=1.5)
    for focus_dpt in (2.0, 3.0, 4.0):
        k = found.intrinsics_at(focus_dpt, 320, 240)
        assert k is not None
        assert k.fx_px == pytest.approx(truth.true_intrinsics(focus_dpt).fx_px, rel=0.005)
    assert cv2.imread(str(calibrated.with_name("rehearsed_lens.png"))) is not None


def test_measurements_are_evaluated_again_to_the_same_lens_file(calibrated: Path, tmp_path: Path) -> None:
    measurements = calibrated.with_name("rehearsed_measurements.json")
    again = tmp_path / "again.yaml"
    assert (
        main(["calibrate", "lens", "--name", "rehearsed", "--output", str(again), "--from", str(measurements)])
        == 0
    )
    first, second = load_lens(str(calibrated)), load_lens(str(again))
    # Pixels and sharpness were rounded in the file.
    np.testing.assert_allclose(second.curve.focus_dpt, first.curve.focus_dpt, atol=1e-3)
    assert (second.unit, second.date, second.image_size) == (first.unit, first.date, first.image_size)


def test_a_session_is_kept_whole(calibrated: Path, tmp_path: Path) -> None:
    session = load_session(calibrated.with_name("rehearsed_measurements.json"))
    save_session(session, tmp_path / "copy.json")
    copy = load_session(tmp_path / "copy.json")
    assert (copy.board, copy.lens, copy.unit, copy.date) == (
        parse_board(BOARD),
        session.lens,
        "step",
        session.date,
    )
    for a, b in zip(session.placements, copy.placements, strict=True):
        assert len(a.shots) == len(b.shots) > 20
        np.testing.assert_array_equal(a.sharpness, b.sharpness)
        np.testing.assert_array_equal(a.centres_px, b.centres_px)


@pytest.mark.parametrize("damage", ["", "{}", '{"format": "dualfocus-calibration", "version": 2}', "[1"])
def test_a_file_that_is_no_session_is_named(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(damage)
    assert (
        main(["calibrate", "lens", "--name", "x", "--output", str(tmp_path / "x.yaml"), "--from", str(path)]) == 1
    )
    assert str(path) in capsys.readouterr().err and not (tmp_path / "x.yaml").exists()


def test_a_session_that_lacks_a_picture_is_refused(calibrated: Path, tmp_path: Path) -> None:
    content = json.loads(calibrated.with_name("rehearsed_measurements.json").read_text())
    del content["placements"][0]["shots"][3]
    (tmp_path / "short.json").write_text(json.dumps(content))
    arguments = ["calibrate", "lens", "--name", "x", "--from", str(tmp_path / "short.json")]
    assert main([*arguments, "--output", str(tmp_path / "x.yaml")]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--camera", "v4l2"], "--lens-model FOCAL_M F_NUMBER PITCH_M"),
        (["--camera", "v4l3"], "did you mean 'v4l2'"),
        (["--camera", "simulated_lens", "--board", "charuco:9x6"], "expected a board as"),
        (["--camera", "simulated_lens", "--near", "2", "--far", "1"], "0 < near < far"),
        (["--camera", "simulated_lens", "--placements", "2"], "3 to 40 placements"),
        (["--camera", "simulated_lens", "-p", "widht:=3"], "did you mean 'width'"),
    ],
)
def test_what_cannot_work_is_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "lens", "--name", "x", *options]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_printed_board_is_found_in_its_true_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.png"
    assert main(["calibrate", "board", "--board", BOARD, "--output", str(path)]) == 0
    assert "290 x 200 mm" in capsys.readouterr().out
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    found = BoardFinder(parse_board(BOARD)).find(image)
    assert found is not None and len(found.ids) == 8 * 5
    square_px = np.diff(found.pixels[np.argsort(found.ids)][:8, 0]).mean()
    assert square_px / 300 * 0.0254 == pytest.approx(0.03, rel=1e-3)  # at 300 dots an inch


def test_boards_are_written_as_what_can_be_printed(tmp_path: Path) -> None:
    assert (
        main(["calibrate", "board", "--board", "checkerboard:8x5:0.025", "--output", str(tmp_path / "b.pdf")]) == 0
    )
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert main(["calibrate", "board", "--output", str(tmp_path / "b.jpg")]) == 1
