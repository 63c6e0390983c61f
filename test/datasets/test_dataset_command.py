# SPDX-License-Identifier: Apache-2.0
"""The command `dataset`, and that `evaluate` scores what it wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from dataset_files import damage, texture, write_image

from dualfocus_ros.cli import main
from dualfocus_ros.datasets.registry import DATASETS, open_dataset
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.evaluation.stacks import Sample, evaluate
from dualfocus_ros.stackio import load_stack

pytest.importorskip("tqdm")


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """Make two images of NYU: 1 m, right half 2 m."""
    depth = np.full((480, 640), 1000, np.uint16)
    depth[:, 320:] = 2000
    depth[200:220, 100:200] = 0
    for number in ("00001", "00002"):
        write_image(tmp_path / "nyu" / "test" / "office" / f"rgb_{number}.jpg", texture((480, 640), int(number)))
        write_image(tmp_path / "nyu" / "test" / "office" / f"sync_depth_{number}.png", depth)
    return tmp_path / "nyu"


def test_what_is_written_is_what_was_read(nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["dataset", "nyu5", "--root", str(nyu), "--out", str(out), "--limit", "1"]) == 0
    said = capsys.readouterr()
    folder = out / "nyu5" / "test"
    assert said.out == f"1 stacks in {folder}\n" and "nyu5" in said.err and "1/1" in said.err
    assert [p.name for p in folder.iterdir()] == ["office_00001"]
    stored, read = load_stack(folder / "office_00001"), next(open_dataset("nyu5", nyu))
    np.testing.assert_array_equal(stored.stack.focus_distance_m, read.stack.focus_distance_m)
    for a, b in zip(stored.stack.slices, read.stack.slices, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert a.intrinsics == b.intrinsics
    assert stored.stack.lens == read.stack.lens
    assert stored.ground_truth_m is not None and read.ground_truth_m is not None
    np.testing.assert_allclose(stored.ground_truth_m, read.ground_truth_m, atol=1e-6)
    meta = json.loads((folder / "office_00001" / "meta.json").read_text())
    assert (meta["data_set"], meta["scale"], meta["focus_leaks_truth_range"]) == ("nyu5", "metric", True)
    assert meta["source"] == "office/rgb_00001.jpg" and "rows 48:432" in meta["protocol"]


def test_evaluate_scores_the_data_as_they_are(nyu: Path, tmp_path: Path) -> None:
    """The same numbers as by way of folders, to half a unit of depth.png."""
    out = tmp_path / "out"
    assert main(["dataset", "nyu5", "--root", str(nyu), "--out", str(out)]) == 0
    for source, file in ((out, "folders.json"), (nyu, "direct.json")):
        options = ["--dataset", "nyu5"] if source == nyu else []
        command = ["evaluate", str(source), *options, "--engine", "classical", "--json", str(tmp_path / file)]
        assert main(command) == 0
    folders, direct = (
        json.loads((tmp_path / file).read_text())["evaluations"][0] for file in ("folders.json", "direct.json")
    )
    assert list(direct["families"]) == ["nyu5"] and direct["total"]["count"] == 2
    assert direct["total"]["abs_rel"] == pytest.approx(folders["total"]["abs_rel"], rel=1e-3)


def test_evaluate_of_data_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), "--dataset", "nyu5", "--engine", "classical"]) == 1
    assert "expected layout" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--dataset", "nyu6", "--engine", "classical"]) == 1
    assert "did you mean 'nyu5'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nyu10", "nyu10-published"])
def test_evaluate_scores_it(name: str, nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["dataset", name, "--root", str(nyu), "--out", str(out), "--split", "test"]) == 0
    assert main(["evaluate", str(out), "--engine", "classical", "--json", str(tmp_path / "e.json")]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "classical" in line]
    assert rows == ["test (2)", "total (2)"]
    (evaluation,) = json.loads((tmp_path / "e.json").read_text())["evaluations"]
    assert evaluation["total"]["abs_rel"] < (0.03 if name == "nyu10" else 0.2)


def test_a_folder_with_stacks_is_not_added_to(
    nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["dataset", "nyu5", "--root", str(nyu), "--out", str(tmp_path / "out"), "--limit", "1"]
    assert main(command) == 0
    before = sorted(tmp_path.rglob("*"))
    assert main(command) == 1
    assert "nyu5/test to be empty or not there" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty" / "nyu5" / "test").mkdir(parents=True)
    assert main([*command[:5], str(tmp_path / "empty"), "--limit", "1"]) == 0


def test_a_damaged_file_ends_it_with_one_line(
    nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(nyu / "test" / "office" / "sync_depth_00002.png")
    assert main(["dataset", "nyu5", "--root", str(nyu), "--out", str(tmp_path / "out")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dualfocus: nyu5 test/office_00002: ") and "sync_depth_00002.png" in last


def test_a_set_without_truth_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        path = tmp_path / "data" / "Aligned" / "Figure1" / "balls" / f"a{i}.jpg"
        write_image(path, texture((36, 64), i))
    calibration = tmp_path / "data" / "calibration" / "balls" / "calibrated.txt"
    calibration.parent.mkdir(parents=True)
    calibration.write_text("10 0.1\n20 0.1\n30 0.1\n0.2\n")
    out = tmp_path / "out"
    assert main(["dataset", "mobile-depth", "--root", str(tmp_path / "data"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("1 stacks, 1 of them without truth in ")
    folder = out / "mobile-depth" / "test" / "balls"
    assert json.loads((folder / "meta.json").read_text())["scale"] == "relative"
    assert not (folder / "depth.png").exists()
    assert load_stack(folder).ground_truth_m is None
    assert main(["infer", str(folder), "--output", str(tmp_path / "depth"), "--engine", "classical"]) == 0
    assert np.load(tmp_path / "depth" / "depth.npy").shape == (36, 64)


def test_evaluation_takes_the_stacks_without_a_detour(nyu: Path) -> None:
    with make_engine("classical", None) as engine:
        samples = map(Sample.of, open_dataset("nyu5", nyu))
        evaluation = evaluate(engine, samples, EstimatorConfig(max_motion_px=math.inf))
    assert [(s.path, s.family) for s in evaluation.stacks] == [
        (Path("nyu5/test/office_00001"), "test"),
        (Path("nyu5/test/office_00002"), "test"),
    ]
    assert evaluation.total().metrics.abs_rel < 0.05


def test_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [d.name for d in DATASETS]
    (fod500,) = [line for line in lines if "fod500" in line]
    assert "train, test*" in fod500 and "metric" in fod500 and "https://github.com/dvl-tum/defocus-net" in fod500


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dataset"], "missing: NAME, --root, --out; `dataset --list`"),
        (["dataset", "fod500", "--out", "x"], "missing: --root"),
        (["dataset", "nope", "--root", ".", "--out", "x"], "expected a data set out of nyu10"),
        (["dataset", "nyu5", "--root", "{nyu}", "--out", "{out}", "--split", "val"], "got 'val'"),
        (["dataset", "nyu5", "--root", "{nyu}", "--out", "{out}", "--limit", "0"], "at least 1 stack, got 0"),
        (["dataset", "fod500", "--root", "{nyu}", "--out", "{out}"], "NNNNNNDpt.exr"),
    ],
)
def test_known_errors_are_one_line_and_exit_1(
    arguments: list[str], expected: str, nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.format(nyu=nyu, out=tmp_path / "out") for a in arguments]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("dualfocus: ") and expected in said.err
    assert said.out == "" and not (tmp_path / "out").exists()
