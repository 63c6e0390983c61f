# SPDX-License-Identifier: Apache-2.0
"""`calibrate settle` from its arguments to the lens file, the table and the picture, with a simulated device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest

from dualfocus_ros.camera import pick
from dualfocus_ros.camera.common import setting
from dualfocus_ros.camera.device import DeviceConfig
from dualfocus_ros.commands import calibrate_device, calibrate_settle
from dualfocus_ros.errors import CalibrationError, ParameterError
from dualfocus_ros.lens_calibration import LensCalibration
from dualfocus_ros.lens_file import load_lens, save_lens
from dualfocus_ros.types import LensModel

sys.path.insert(0, str(Path(__file__).parents[1] / "calibration"))
from settle_lens import CURVE, SettleLens, creeping


@dataclass(frozen=True)
class Config(DeviceConfig):
    port: str = setting("", "A port.")
    tau_s: float = setting(0.02, "Of the lens.")
    count: int = setting(1, "A number.")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Let the camera `test` be a SettleLens; return the list of those that were made."""
    made: list[Any] = []

    def make(name: str, config: Config) -> SettleLens:
        made.append((config, SettleLens(creeping(config.tau_s), noise=0.8)))
        return made[-1][1]

    monkeypatch.setattr(pick, "make_device", make)
    monkeypatch.setattr(pick, "device_config", lambda name: Config)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return made


def arguments(*texts: str, lens: str, parameters: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    calibrate_settle.add_arguments(parser)
    given = [word for text in parameters or [] for word in ("-p", text)]
    options = ["--camera", "test", "--lens", lens, "--repetitions", "8", "--max-settle", "0.8"]
    return parser.parse_args([*options, *given, *texts])


def write_lens(path: Path) -> LensCalibration:
    lens = LensCalibration(
        "mine", LensModel(0.004, 2.0, 8e-6), (640, 480), CURVE, calibrated=True, residuals={"focus_rms_dpt": 0.01}
    )
    save_lens(lens, path)
    return lens


def test_it_writes_the_settle_times_into_the_lens_file_and_nothing_else(
    device: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write_lens(tmp_path / "mine.yaml")
    assert calibrate_settle.run(arguments(lens=str(tmp_path / "mine.yaml"), parameters=["tau_s:=0.03"])) == 0
    after = load_lens(str(tmp_path / "mine.yaml"))
    assert after.settle and after.settle[-1][0] == pytest.approx(1000.0, abs=1.0)
    config, lens = device[0]
    assert config.tau_s == 0.03 and config.lens == str(tmp_path / "mine.yaml")
    true_s = lens.true_settle_s(500.0, 500.0 + after.settle[0][0], 0.02)
    assert after.settle[0][1] == pytest.approx(true_s, rel=0.15)
    assert after.residuals["focus_rms_dpt"] == 0.01 and after.residuals["settle_tolerance_dpt"] >= 0.0199
    assert (after.curve, after.calibrated, after.lens) == (before.curve, True, before.lens)
    assert cv2.imread(str(tmp_path / "mine_settle.png")) is not None
    said = capsys.readouterr().out
    for _, settle_s in after.settle:
        assert f"{1e3 * settle_s:.1f} ms" in said


def test_a_lens_file_of_the_package_is_copied_to_the_user(device: list[Any], tmp_path: Path) -> None:
    path = calibrate_settle.output_path(package_file())
    assert path == tmp_path / "config" / "dualfocus_ros" / "lenses" / "logitech_c920.yaml"
    write_lens(tmp_path / "own.yaml")
    assert calibrate_settle.output_path(tmp_path / "own.yaml") == tmp_path / "own.yaml"


def package_file() -> Path:
    from dualfocus_ros.lens_file import find_lens

    return find_lens("logitech_c920")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["prot:=x"], "has no parameter 'prot': did you mean 'port'"),
        (["port=x"], "NAME:=VALUE, got 'port=x'"),
        (["count:=1.5"], "count to be of type int"),
        (["tau_s:=fast"], "tau_s to be of type float"),
        (["rate_hz:=0"], "rate_hz within"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(device: list[Any], parameters: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        calibrate_device.device_settings("test", parameters)


def test_parameters_get_their_types(device: list[Any]) -> None:
    given = ["port:=0123", "tau_s:=1", "count:=7", "hold_exposure:=false"]
    config: Any = calibrate_device.device_settings("test", given, "mine")
    assert (config.port, config.tau_s, config.count, config.hold_exposure, config.lens) == (
        *("0123", 1.0, 7, False),
        "mine",
    )


def test_a_picture_that_cannot_be_written_is_an_error(device: list[Any], tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot write the picture"):
        calibrate_settle.write_picture(tmp_path / "no" / "folder.png", b"")
