# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from synthetic_stacks import FOCUS_M, LENS, quantised, render, texture

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.data import Batch, save_stack
from dualfocus_ros.learning.journal import Journal
from dualfocus_ros.learning.losses import LossWeights
from dualfocus_ros.learning.network import SIZES, NetworkConfig
from dualfocus_ros.learning.settings import Settings, TrainConfig, make_parser
from dualfocus_ros.learning.simulator import Optics, Stack
from dualfocus_ros.learning.train import CHECKPOINT, Trainer, load_checkpoint, train

TINY = NetworkConfig(widths=(8, 8, 8, 8), surfaces=2)
STEPS = 6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a tiny network wherever the small one is asked for."""
    monkeypatch.setitem(SIZES, "small", TINY)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    generator = torch.Generator().manual_seed(0)
    for i in range(4):
        light = torch.rand((3, 3, 40, 40), generator=generator)
        depth = 0.3 + 0.5 * torch.rand((40, 40), generator=generator)
        save_stack(folder / f"{i:07d}_0_03.npz", Stack(light, depth, Optics((0.9, 0.5, 0.2), 4.0, 0.0)))
    return folder


def go(run: Path, pool: Path, *options: str, steps: int | None = STEPS, workers: int = 0) -> Trainer:
    """Train with options of the command line; a new run is a short one."""
    new = not (run / CHECKPOINT).exists()
    shape = ["--slices-a-batch", "6", "--crop-px", "32", "--warmup", "3"] if new else []
    length = [] if steps is None else ["--steps", str(steps)]
    fixed = [str(run), "--pool", str(pool), "--workers", str(workers), "--log-every", "1"]
    return train(make_parser().parse_args([*fixed, *shape, *length, *options]))


def settings(**config: object) -> Settings:
    return Settings(TrainConfig(**config), TINY, LossWeights())  # type: ignore[arg-type]


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {f"{k}.{n}": v for k in ("network", "averaged") for n, v in getattr(trainer, k).state_dict().items()}


def same(a: Trainer, b: Trainer) -> bool:
    return all(torch.equal(value, state(b)[name]) for name, value in state(a).items())


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Send the signal of the second number after as many steps as the first says."""
    wanted: list[int] = []
    log = Journal.log

    def log_and_stop(self: Journal, step: int, *rest: float) -> None:
        log(self, step, *rest)  # type: ignore[arg-type]
        if wanted and step == wanted[0]:
            os.kill(os.getpid(), wanted[1])

    monkeypatch.setattr(Journal, "log", log_and_stop)
    yield wanted


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGTERM, 2)])
def test_a_run_stopped_by_a_signal_goes_on_as_if_nothing_had_been(
    tmp_path: Path, pool: Path, stop_after: list[int], number: signal.Signals, workers: int
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole = go(tmp_path / "whole", pool)
    assert whole.step == STEPS
    stop_after[:] = [2, number]
    assert go(tmp_path / "parts", pool, workers=workers).step == 2
    stop_after.clear()
    resumed = go(tmp_path / "parts", pool, steps=None, workers=workers)
    assert (resumed.step, resumed.stacks) == (whole.step, whole.stacks) == (6, 12)
    assert same(resumed, whole)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_run_that_dies_while_it_saves_keeps_the_checkpoint_before(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = go(tmp_path, pool, steps=2)

    def die(state: object, path: Path) -> None:
        path.write_bytes(b"half a checkpo")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            done.save(tmp_path)
    assert same(Trainer(done.settings, CPU, load_checkpoint(tmp_path, CPU)), done)


def test_the_length_of_a_run_may_change_and_nothing_else(tmp_path: Path, pool: Path) -> None:
    go(tmp_path, pool, steps=2)
    assert go(tmp_path, pool, steps=3).step == 3
    resumed = go(tmp_path, pool, "--crop-px", "32", "--weight-spatial", "0.5", steps=4)  # as before
    assert resumed.step == resumed.config.steps == 4
    for option in (
        ("--learning-rate", "1"),
        ("--weight-focal", "0"),
        ("--without", "spatial"),
        ("--size", "base"),
    ):
        with pytest.raises(InputError, match=r"the run in .* has .*, not .*: leave that out"):
            go(tmp_path, pool, *option, steps=5)


def test_parts_of_the_network_can_be_left_out(tmp_path: Path, pool: Path) -> None:
    trainer = go(tmp_path, pool, "--without", "spatial", "--without", "conditioned", steps=1)
    assert trainer.network.config == replace(TINY, spatial=False, conditioned=False)
    assert go(tmp_path, pool, steps=2).network.config == trainer.network.config


def test_a_new_run_may_start_from_trained_weights(tmp_path: Path, pool: Path) -> None:
    before = go(tmp_path / "first", pool)
    weights = str(tmp_path / "first" / CHECKPOINT)
    started = go(tmp_path / "second", pool, "--init", weights, "--minutes", "0")
    assert started.step == 0
    for network in (started.network, started.averaged.module):
        for name, value in before.averaged.module.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
    with pytest.raises(InputError, match="expected weights of NetworkConfig"):
        go(tmp_path / "third", pool, "--init", weights, "--without", "spatial")


def test_minutes_end_a_run_and_keep_it(tmp_path: Path, pool: Path) -> None:
    assert go(tmp_path, pool, "--minutes", "0").step == 0
    assert (tmp_path / CHECKPOINT).is_file()


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    trainer = Trainer(settings(steps=100, warmup=10, learning_rate=1e-3), CPU)
    rates = []
    for trainer.step in range(101):
        rates.append(trainer.learning_rate())
    assert rates[0] == pytest.approx(1e-4)
    assert rates[50] == pytest.approx(0.5e-3)  # half way down a cosine
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[:10] == sorted(rates[:10])


def test_a_batch_without_a_finite_gradient_changes_nothing() -> None:
    trainer = Trainer(settings(), CPU)
    good = Batch(
        torch.rand(1, 3, 3, 32, 32), torch.ones(1, 32, 32), torch.tensor([[2.0, 1.0, 0.5]]), torch.ones(1)
    )
    trainer.train_step(trainer.network, good)  # from here on the averages are others than the weights
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    depth = torch.full((1, 32, 32), torch.inf)
    batch = Batch(torch.rand(1, 3, 3, 32, 32), depth, torch.tensor([[torch.inf, 0.5, 0.2]]), torch.ones(1))
    trainer.train_step(trainer.network, batch)
    assert trainer.step == 2
    for name, value in trainer.network.state_dict().items():  # running means of the normalisation, too
        assert torch.equal(value, before[name]), name


def test_curves_are_logged_in_one_file_over_all_parts(tmp_path: Path, pool: Path) -> None:
    go(tmp_path, pool, steps=2)
    checkpoint = (tmp_path / CHECKPOINT).read_bytes()
    go(tmp_path, pool, steps=4)
    (tmp_path / CHECKPOINT).write_bytes(checkpoint)  # as if it had been killed before it saved
    go(tmp_path, pool, steps=5)
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [int(row["stacks"]) for row in rows] == [2, 4, 6, 8, 10]
    assert all(float(row["loss"]) > 0.0 for row in rows)
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)


def test_stored_stacks_are_scored_on_the_way(tmp_path: Path, pool: Path) -> None:
    stacks = write_stacks(tmp_path / "stacks")
    go(tmp_path / "run", pool, "--stacks", str(stacks), "--validate-every", "2", steps=4)
    rows = list(csv.DictReader((tmp_path / "run" / "scores.csv").open()))
    assert [(row["step"], row["family"]) for row in rows] == [
        ("2", "stacks"), ("2", "total"), ("4", "stacks"), ("4", "total")
    ]  # fmt: skip
    assert all(0.0 < float(row["abs_rel"]) < 2.0 for row in rows)


def test_stacks_without_ground_truth_are_named_before_training(tmp_path: Path, pool: Path) -> None:
    stacks = write_stacks(tmp_path / "stacks")
    (stacks / "one" / "depth.png").unlink()
    with pytest.raises(InputError, match=r"ground truth to validate on, but .*one has no depth.png"):
        go(tmp_path / "run", pool, "--stacks", str(stacks))


def write_stacks(folder: Path) -> Path:
    """Write one stack of flat strips with its depth; return the folder above."""
    images, truth = render(texture(), (0.45, 0.8, 1.5))
    (folder / "one").mkdir(parents=True)
    for i, image in enumerate(quantised(images)):
        cv2.imwrite(str(folder / "one" / f"slice_{i:02d}.png"), image[..., ::-1])
    cv2.imwrite(str(folder / "one" / "depth.png"), np.rint(truth * 1000).astype(np.uint16))
    lens = {name: getattr(LENS, name) for name in ("focal_length_m", "f_number", "pixel_pitch_m")}
    meta = {**lens, "focus_distance_m": FOCUS_M, "depth_unit_m": 0.001}
    (folder / "one" / "meta.json").write_text(json.dumps(meta))
    return folder


def test_an_empty_pool_and_settings_out_of_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected training stacks .* found none: fill the pool first"):
        go(tmp_path / "run", tmp_path, workers=1)
    with pytest.raises(InputError, match=r"size to be one of \['small', 'base'\], got 'huge'"):
        TrainConfig(size="huge")
    with pytest.raises(InputError, match="crop_px to be a multiple of 32, got 100"):
        TrainConfig(crop_px=100)
    with pytest.raises(InputError, match="warmup to be at least 1, got 0"):
        TrainConfig(warmup=0)
    with pytest.raises(InputError, match=r"sharpness to be one of \['q', 'none', 'inverse'\], got 'Q'"):
        LossWeights(sharpness="Q")


def test_every_setting_is_an_option_that_says_what_it_means() -> None:
    text = " ".join(make_parser().format_help().split())
    assert "--weight-spatial SPATIAL spatial variational loss L_SV. (default: 0.5)" in text
    assert "--warmup WARMUP steps until the largest learning rate. (default: 200)" in text


@pytest.mark.parametrize("content", [b"no checkpoint", b"", "keys"])
def test_a_checkpoint_that_is_none_is_named_and_kept(tmp_path: Path, pool: Path, content: bytes | str) -> None:
    path = tmp_path / CHECKPOINT
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"step": 3}, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="expected a checkpoint in .*checkpoint.pt"):
        go(tmp_path, pool)
    assert path.read_bytes() == before


def run_module(module: str, *args: str, launcher: tuple[str, ...] = ("-m",)) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, f"dualfocus_ros.learning.{module}", *args]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_known_errors_are_one_line_on_the_command_line(tmp_path: Path) -> None:
    done = run_module("train", str(tmp_path / "run"), "--pool", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("train: expected training stacks (*.npz) in")
    assert "Traceback" not in done.stderr


def test_torchrun_trains_in_two_processes_and_one_writes(tmp_path: Path, pool: Path) -> None:
    run = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    sizes = ("--steps", "2", "--slices-a-batch", "3", "--crop-px", "32")
    done = run_module(
        "train", str(run), "--pool", str(pool), *sizes, "--workers", "0", "--log-every", "1", launcher=launcher
    )
    assert done.returncode == 0, done.stderr
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 2
    rows = list(csv.DictReader((run / "train.csv").open()))
    assert [(row["step"], row["stacks"]) for row in rows] == [("1", "2"), ("2", "4")]
