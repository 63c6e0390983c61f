# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dualfocus_ros.learning import ablation
from dualfocus_ros.learning.data import save_stack
from dualfocus_ros.learning.network import SIZES, NetworkConfig
from dualfocus_ros.learning.settings import Settings, make_parser
from dualfocus_ros.learning.simulator import Optics, Stack
from dualfocus_ros.learning.train import Trainer


def test_every_run_is_another_one() -> None:
    parser = make_parser()
    settings = [
        Settings.of(parser.parse_args(["run", *options.split()]), None) for options in ablation.RUNS.values()
    ]
    assert len(set(settings)) == len(ablation.RUNS)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny pool, and a tiny network."""
    monkeypatch.setitem(SIZES, "small", NetworkConfig(widths=(8, 8, 8, 8), surfaces=2))
    (tmp_path / "pool").mkdir()
    for i in range(2):
        depth = 0.3 + 0.5 * torch.rand((40, 40))
        stack = Stack(torch.rand((3, 3, 40, 40)), depth, Optics((0.9, 0.5, 0.2), 4.0, 0.0))
        save_stack(tmp_path / "pool" / f"{i:07d}_0_03.npz", stack)
    return tmp_path / "pool"


RUNS = ("complete", "without the spatial constraint")


def command(folder: Path, pool: Path) -> list[str]:
    options = ["--pool", str(pool), "--held-out", str(pool), "--workers", "0", "--warmup", "1"]
    short = ["--steps", "2", "--slices-a-batch", "6", "--crop-px", "32"]
    return ["ablation", str(folder / "out"), *options, *short, "--runs", *RUNS]


def test_trains_and_scores_what_is_asked_for(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", command(tmp_path, pool))
    ablation.main()
    table = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in table] == ["network", table[1].split("|")[1], *RUNS]
    scores = [float(row.split("|")[2]) for row in table[2:]]
    assert all(0.0 < score < 5.0 for score in scores)
    monkeypatch.setattr(Trainer, "train_step", None)  # what is done is not done again
    ablation.main()
    assert capsys.readouterr().out.splitlines() == table


def test_a_run_that_was_stopped_is_not_scored(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*command(tmp_path, pool), "--minutes", "0"])
    with pytest.raises(SystemExit) as stopped:
        ablation.main()
    assert stopped.value.code == ablation.EXIT_STOPPED
    captured = capsys.readouterr()
    assert captured.out == "" and "the same command goes on" in captured.err


def test_a_wrong_option_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation", str(tmp_path), "--pool", str(tmp_path / "none"), "--steps", "2"])
    with pytest.raises(SystemExit) as stopped:
        ablation.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("ablation: expected training stacks")
