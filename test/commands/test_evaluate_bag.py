# SPDX-License-Identifier: Apache-2.0
"""`evaluate` on recordings, as users type it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from bag_helpers import IMAGE, LENS, TRUTH, frames, recorded, write

from dualfocus_ros.cli import main

ROOT = Path(__file__).resolve().parents[2]
STACKS = 5
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sweeps of four positions and a frame while the lens moves, but for the last such frame."""
    return write(tmp_path_factory.mktemp("bags") / "swept", recorded(frames(24)), compress=True)


def evaluate(bag: Path, *options: str) -> int:
    return main(["evaluate", str(bag), "--engine", "classical", *options])


def numbers(file: Path) -> dict[str, Any]:
    (evaluation,) = json.loads(file.read_text())["evaluations"]
    return dict(evaluation)


def without_times(value: Any) -> Any:
    """Return a document without what was measured."""
    if isinstance(value, dict):
        times = ("runtime_s", "elapsed_s", "engine_s", "align_s")
        return {k: without_times(v) for k, v in value.items() if k not in times}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_scores_counts_and_remarks(bag: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "e.json"
    assert evaluate(bag, "--json", str(file)) == 0
    found = numbers(file)
    names = [s["path"] for s in found["stacks"]]
    assert len(names) == STACKS and names == sorted(names)
    assert all(re.fullmatch(r"swept/\d+\.\d{9}", name) for name in names)
    assert found["counts"][f"messages of {IMAGE}"] == 24
    assert (found["counts"]["focal stacks"], found["counts"]["stacks with true depth"]) == (STACKS, STACKS)
    assert (found["notes"], found["failures"]) == ([], [])
    assert 0.0 < found["engine_s"] + found["align_s"] < found["elapsed_s"]
    said = capsys.readouterr()
    assert re.search(rf"\| +swept \({STACKS}\) \| +classical \|", said.out)
    assert f"24 messages of {IMAGE}" in said.out
    assert "AbsRel" in said.err and "24/24" in said.err


def test_two_runs_differ_in_times_alone(bag: Path, tmp_path: Path) -> None:
    documents = []
    for name in ("a.json", "b.json"):
        assert evaluate(bag, "--json", str(tmp_path / name), "-p", "mode:=sliding") == 0
        documents.append(without_times(numbers(tmp_path / name)))
    assert len(documents[0]["stacks"]) == 1 + 4 * (STACKS - 1)
    assert documents[0] == documents[1]


def test_parameters_of_the_depth_node(bag: Path, tmp_path: Path) -> None:
    file, params = tmp_path / "e.json", tmp_path / "p.yaml"
    params.write_text("/**:\n  ros__parameters: {engine: classical, max_depth_m: 0.9, min_confidence: 0.9}\n")
    command = ["evaluate", str(bag), "--params", str(params), "--json", str(file)]
    assert main(command) == 0
    limited = numbers(file)
    assert limited["engine"] == "classical"
    assert main([*command, "-p", "max_depth_m:=1e3", "-p", "min_confidence:=0"]) == 0
    assert limited["total"]["coverage"] < numbers(file)["total"]["coverage"]


def test_topics_and_times(bag: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "e.json"
    other = write(tmp_path / "other", recorded(frames(24)), rename=lambda t: t.replace("/camera/", "/eye/"))
    options = [
        "--lens-topic",
        "eye/lens",
        "--image-topic",
        "/eye/image_raw",
        "--camera-info-topic",
        "/eye/camera_info",
    ]
    assert evaluate(other, *options, "--json", str(file)) == 0
    assert len(numbers(file)["stacks"]) == STACKS
    assert evaluate(bag, "--truth-topic", "none", "--json", str(file)) == 0
    found = numbers(file)
    assert (found["stacks"], found["total"], len(found["looks"])) == ([], None, STACKS)
    capsys.readouterr()
    assert evaluate(bag, "--start", "0.3", "--end", "1.4", "--json", str(file)) == 0
    images = numbers(file)["counts"][f"messages of {IMAGE}"]
    assert images < 24 and "100%|" in (said := capsys.readouterr().err) and f"{images}/{images} " in said
    assert 1 <= len(numbers(file)["stacks"]) < STACKS


def test_a_damaged_recording_is_evaluated_and_told(bag: Path, tmp_path: Path, capsys: Capture) -> None:
    file = next(bag.glob("*.mcap"))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    assert evaluate(cut, "--json", str(tmp_path / "e.json")) == 0
    found = numbers(tmp_path / "e.json")
    assert 1 <= len(found["stacks"]) < STACKS
    assert found["notes"] and all("cut.mcap" in note for note in found["notes"])
    assert found["notes"][0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image-topic", "/camera/image"], f"no topic /camera/image for the images: did you mean {IMAGE}?"),
        (["--lens-topic", IMAGE], f"topic {IMAGE}: expected lens states of type sensor_msgs/msg/JointState"),
        (["--truth-topic", IMAGE], "named for both"),
        (["--start", "100"], "expected a start within the recording"),
        (["--start", "2", "--end", "1"], "expected 0 <= start < end"),
        (["--tolerance", "-1"], "expected a tolerance of at least 0 s"),
        (["--tolerance", "inf"], "expected a tolerance of at least 0 s"),
        (["-p", "max_slice:=3"], "did you mean 'max_slices'?"),
        (["-p", "mode"], "expected a parameter as NAME:=VALUE"),
        (["--params", "none.yaml"], "cannot read the parameter file none.yaml"),
        (["--engine", "clasical"], "did you mean 'classical'"),
    ],
)
def test_known_errors_are_one_line(options: list[str], words: str, bag: Path, capsys: Capture) -> None:
    assert evaluate(bag, *options) == 1
    said = capsys.readouterr()
    assert said.err.startswith("dualfocus: ") and said.err.count("\n") == 1, said.err
    assert words in said.err
    assert said.out == ""


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty.mcap").write_bytes(b"")
    (tmp_path / "garbage.db3").write_bytes(b"garbage" * 1000)
    no_lens = write(tmp_path / "bag", [m for m in recorded(frames(6)) if m.topic != LENS])
    for path, words in (
        (tmp_path / "none.mcap", "does not exist"),
        (tmp_path / "empty.mcap", "found none: empty.mcap is damaged"),
        (tmp_path / "garbage.db3", "found none: garbage.db3 is damaged"),
        (no_lens, f"expected a topic with lens states of type sensor_msgs/msg/JointState (such as {LENS})"),
    ):
        assert evaluate(path) == 1
        said = capsys.readouterr().err
        assert said.startswith("dualfocus: ") and said.count("\n") == 1, said
        assert words in said


def test_no_complete_sweep_is_the_last_line(tmp_path: Path, capsys: Capture) -> None:
    assert evaluate(write(tmp_path / "bag", recorded(frames(2)))) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dualfocus: ") and "no complete focus sweep: read 2 messages of" in last


def command(bag: Path) -> list[str]:
    return [sys.executable, "-m", "dualfocus_ros", "evaluate", str(bag), "--engine", "classical"]


@pytest.mark.parametrize("columns", [120, 0])
def test_a_terminal_shows_a_bar_that_fills(columns: int, bag: Path) -> None:
    """Also one that does not know how wide it is, as that of a container."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command(bag), cwd=ROOT, stdout=subprocess.PIPE, stderr=follower, env=environ, text=True
    )
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 65536):
            shown += block
    except OSError:  # the other side has closed it
        pass
    finally:
        os.close(leader)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    bars = [line for line in shown.decode().split("\r") if "classical:" in line]
    done = [int(m.group(1)) for line in bars if (m := re.search(r"(\d+)/24 ", line))]
    assert len(done) >= 3 and done[0] == 0 and done[-1] == 24
    assert done == sorted(done)
    assert "100%" in bars[-1] and "image/s" in bars[-1] and "AbsRel" in bars[-1]
    assert f"total ({STACKS})" in output and "\r" not in output


def test_without_a_terminal_the_bar_is_quiet_and_the_table_clean(bag: Path) -> None:
    done = subprocess.run(command(bag), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    bars = [line for line in re.split(r"[\r\n]", done.stderr) if "classical:" in line]
    assert 1 <= len(bars) <= 3 and "24/24" in bars[-1]
    assert f"total ({STACKS})" in done.stdout and "image/s" not in done.stdout


def test_it_needs_no_ros(bag: Path) -> None:
    code = f"""
        import sys
        names = ("rclpy", "sensor_msgs", "std_msgs", "builtin_interfaces", "rcl_interfaces", "rosbag2_py")
        for name in (*names, *(f"{{n}}.msg" for n in names)):
            sys.modules[name] = None  # importing it is an error
        from dualfocus_ros.cli import main
        sys.exit(main(["evaluate", {str(bag)!r}, "--engine", "classical"]))
        """
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AMENT_", "ROS_", "RMW_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"total ({STACKS})" in done.stdout
    assert f"24 messages of {TRUTH}" in done.stdout


def test_options_for_something_else_are_errors(bag: Path, tmp_path: Path, capsys: Capture) -> None:
    for source, options, words in (
        (bag, ("--split", "test"), "expected a split only of a data set"),
        (tmp_path, ("--lens-topic", "/x"), "those of a recording"),
        (tmp_path, ("--end", "3"), "those of a recording"),
        (tmp_path, ("--dataset", "nyu5", "--start", "3"), "those of a recording"),
        (tmp_path, (), "nor is it a recording"),
        (bag, ("-p", "engine:=onnx"), "expected the engine once"),
        (bag, ("--tolerance", "-1"), "expected a tolerance of at least 0 s"),
    ):
        assert evaluate(source, *options) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and words in said[0], said


def test_a_copy_of_the_shipped_parameters_fits_every_engine(bag: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "depth.yaml"
    file.write_text((ROOT / "config" / "depth.yaml").read_text())
    options = ("--params", str(file), "-p", "min_confidence:=0.25", "--json", str(tmp_path / "e.json"))
    assert evaluate(bag, *options) == 0
    settings = json.loads((tmp_path / "e.json").read_text())["settings"]
    assert (settings["min_confidence"], settings["mode"]) == ("0.25", "sweep")
    assert evaluate(bag, "--model", "x") == 1
    assert "classical engine takes no model" in capsys.readouterr().err


def test_a_piece_of_a_sweep_is_no_sweep(bag: Path, capsys: Capture) -> None:
    assert evaluate(bag, "--end", "0.18") == 1
    assert "no complete focus sweep" in capsys.readouterr().err


def test_a_piece_of_a_sweep_is_said_to_be_one(tmp_path: Path, capsys: Capture) -> None:
    """Where nothing tells how many positions there would have been."""
    silent = [replace(f, lens_state=replace(f.lens_state, sweep_slices=0)) for f in frames(24)]
    bag = write(tmp_path / "silent", recorded(silent))
    assert evaluate(bag, "--end", "0.18") == 0
    said = capsys.readouterr().out
    (count,) = re.findall(r"there is but one sweep, of (\d) focus positions", said)
    assert f"{count} messages of {IMAGE}" in said
    assert evaluate(bag) == 0
    assert "but one sweep" not in capsys.readouterr().out
