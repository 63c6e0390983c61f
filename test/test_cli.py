# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_stacks import FOCUS_M, captured, quantised, render, texture

from dualfocus_ros import __version__, cli
from dualfocus_ros.align import BREATHING_CHOICES
from dualfocus_ros.cli import COMMANDS, build_parser, main
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.engine.pick import ENGINE_CHOICES
from dualfocus_ros.stackio import save_stack

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ["all_in_focus.png", "confidence.npy", "depth.npy", "points.ply", "preview.png"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planes at 0.65 m (family near, two stacks) and 1.5 m (family far)."""
    root = tmp_path_factory.mktemp("stacks")
    for name, depth_m in (("near/1", 0.65), ("near/2", 0.65), ("far/1", 1.5)):
        slices, truth = render(texture(seed=len(name)), [depth_m])
        save_stack(root / name, captured(quantised(slices)), truth)
    return root


def test_infer_one_stack(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["infer", str(tree / "near/1"), "--output", str(tmp_path / "out"), "--engine", "classical"]
    assert main(command) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == OUTPUTS
    assert np.median(np.load(tmp_path / "out/depth.npy")) == pytest.approx(0.65, rel=0.03)
    said = capsys.readouterr()
    assert "100 % of the pixels" in said.out and said.err == "engine classical on cpu\n"


def test_infer_mirrors_a_tree(tree: Path, tmp_path: Path) -> None:
    assert (
        main(["infer", str(tree), "--output", str(tmp_path), "--engine", "classical", "--breathing", "none"]) == 0
    )
    found = {p.parent.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("depth.npy")}
    assert sorted(found) == ["far/1", "near/1", "near/2"]
    assert np.median(np.load(found["far/1"])) == pytest.approx(1.5, rel=0.05)


def test_evaluate(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tree), "--engine", "classical", "--json", str(tmp_path / "e.json")]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "classical" in line]
    assert rows == ["far (1)", "near (2)", "total (3)"]
    (evaluation,) = json.loads((tmp_path / "e.json").read_text())["evaluations"]
    assert evaluation["engine"] == "classical"
    assert evaluation["total"]["abs_rel"] < 0.05
    assert len(evaluation["stacks"]) == 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose depth is a mean of the focus positions, weighted by brightness."""
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("tiny_models").tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_infer_with_a_model(
    engine: str, model: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", str(tree / "far"), "--output", str(tmp_path), "--engine", engine, "--model", str(model)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err.startswith("engine onnx on cpu, ") and ", tiny" in said.err
    assert ("(auto: " in said.err) == (engine == "auto")
    images = np.stack([cv2.imread(str(p)) for p in sorted((tree / "far/1").glob("slice_*.png"))])
    grey = images.mean(axis=3)
    depth_m = grey.sum(axis=0) / np.einsum("nhw,n->hw", grey, 1.0 / np.array(FOCUS_M))
    # The breathing of these stacks is none: every slice stays where it is.
    np.testing.assert_allclose(np.load(tmp_path / "1/depth.npy"), depth_m, rtol=1e-4)


def test_evaluate_compares_engines(
    model: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(tree), "--engine", "classical", "auto", "onnx", "--model", str(model)]
    assert main([*command, "--json", str(tmp_path / "e.json")]) == 0
    said = capsys.readouterr()
    # auto and onnx are one engine.
    assert [line.split()[1] for line in said.err.splitlines() if line.startswith("engine ")] == [
        "classical",
        "onnx",
    ]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in said.out.splitlines() if "|" in line]
    names = ["far (1)", "near (2)", "total (3)"]
    assert [r[:2] for r in rows if r[1] in ("classical", "onnx")] == [
        [name, engine] for name in names for engine in ("classical", "onnx")
    ]
    assert [r[0] for r in rows if r[1] == "onnx / classical"] == names
    document = json.loads((tmp_path / "e.json").read_text())
    first, second = document["evaluations"]
    assert (first["engine"], second["engine"]) == ("classical", "onnx")
    ratios = document["ratios_to_first"]["onnx"]
    assert ratios["first"] == "classical"
    found = ratios["families"]["near"]["abs_rel"]
    assert found == pytest.approx(second["families"]["near"]["abs_rel"] / first["families"]["near"]["abs_rel"])
    assert found > 1.0  # what the tiny model says has little to do with depth


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["infer", "absent", "--output", "out"], "absent"),
        (["infer", "{stack}", "--output", "{out}", "--engine", "clasical"], "did you mean 'classical'"),
        (
            ["infer", "{stack}", "--output", "{out}", "--engine", "classical", "--breathing", "thinlens"],
            "expected breathing to be one of",
        ),
        (["evaluate", "{empty}"], "no focal stack"),
        (["evaluate", "{stack}", "--engine", "classical", "--engine", "nope"], "expected engine to be one of"),
        (["evaluate", "{stack}", "--engine", "classical", "nope"], "expected engine to be one of"),
        (["evaluate", "{stack}", "--engine", "classical", "--model", "x"], "classical engine takes no model"),
        (["infer", "{stack}", "--output", "{out}", "--engine", "auto", "--model", "x.onnx"], "manifest"),
        (["infer", "{stack}", "--output", "{out}", "--engine", "onnx", "--model", "xyzzy"], "no model 'xyzzy'"),
    ],
)
def test_known_errors_are_one_line_and_exit_1(
    arguments: list[str], expected: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"stack": tree / "near/1", "out": tmp_path / "out", "empty": tmp_path}
    assert main([a.format(**names) for a in arguments]) == 1
    captured_text = capsys.readouterr()
    assert captured_text.err.count("\n") == 1 and captured_text.err.startswith("dualfocus: ")
    assert expected in captured_text.err
    assert captured_text.out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "COMMAND"),
        (["infr", "x"], "did you mean 'infer'?"),
        (["evalute"], "did you mean 'evaluate'?"),
        (["xyzzy"], "invalid choice"),
        (["infer", "x", "--output", "o", "--breath", "auto"], "unrecognized arguments: --breath auto"),
        (["infer", "x"], "--output"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error


def test_xyzzy_is_like_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    assert "did you mean" not in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert __version__ in text
    assert all(re.search(rf"^    {name}\b", text, re.MULTILINE) for name in COMMANDS)


def test_help_names_every_breathing_source(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("infer", "evaluate"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert all(choice in text for choice in BREATHING_CHOICES)


@pytest.mark.parametrize("name", ["infer", "evaluate", "demo", "benchmark"])
def test_help_names_every_engine(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert all(choice in text for choice in (*ENGINE_CHOICES, DEFAULT_MODEL))


def test_every_command_is_complete() -> None:
    _, commands = build_parser()
    assert list(commands) == list(COMMANDS)
    for name, command in commands.items():
        assert name == command.NAME and command.HELP and callable(command.run)


def python(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=check
    )


def test_the_parser_imports_nothing_heavy() -> None:
    code = """
        import sys
        from dualfocus_ros.cli import build_parser
        build_parser()
        print(sorted({m.split(".")[0] for m in sys.modules} & {"numpy", "cv2", "rclpy", "matplotlib", "torch"}))
        """
    assert python(code).stdout.strip() == "[]"


def test_only_the_chosen_command_is_imported() -> None:
    code = """
        import sys
        from dualfocus_ros.cli import build_parser
        build_parser(["evaluate", "x"])
        print([m for m in sys.modules if m.startswith("dualfocus_ros.commands.")])
        """
    assert python(code).stdout.strip() == "['dualfocus_ros.commands.evaluate']"


def test_runs_as_a_module(tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dualfocus_ros", "evaluate", str(tree / "far"), "--engine", "classical"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "total (1)" in done.stdout
    assert "AbsRel" in done.stderr  # progress, kept off the table


def test_an_unknown_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        NAME = HELP = "doctor"

        def add_arguments(self, parser) -> None:
            pass

        def run(self, args) -> int:
            raise ZeroDivisionError

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Broken())
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_interrupt_exits_130_without_traceback(tree: Path, tmp_path: Path) -> None:
    # A command that has started for sure and takes long: it writes the same stack into the tree for ever.
    code = f"""
        import itertools, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from dualfocus_ros import cli, stackio
        stackio.find_stacks = lambda root: itertools.repeat(root)
        command = ["infer", {str(tree / "far/1")!r}, "--output", {str(tmp_path)!r}, "--engine", "classical"]
        sys.exit(cli.main(command))
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and "100 %" in process.stdout.readline()
        time.sleep(0.3)
        # Python loses an interrupt that comes while it cleans an object up; a user presses the keys again.
        for _ in range(20):
            os.kill(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
                break
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error or "Exception ignored in" in error


def test_a_closed_pipe_is_quiet() -> None:
    code = """
        import subprocess, sys
        first = subprocess.Popen([sys.executable, "-m", "dualfocus_ros", "doctor"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        first.stdout.close()
        error = first.stderr.read().decode()
        print(first.wait(), repr(error))
        """
    code_and_error = python(code).stdout.strip()
    assert code_and_error == "141 ''"
