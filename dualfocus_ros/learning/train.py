# SPDX-License-Identifier: Apache-2.0
"""Trains the network: `python -m dualfocus_ros.learning.train RUN --pool POOL`, or under torchrun on several GPUs.

RUN is a folder. If it holds a checkpoint the run goes on from there with the settings that it was started with, so
a run may be stopped at any second: SIGINT and SIGTERM write one, and so does every minute.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from dualfocus_ros.errors import DualFocusError, InputError
from dualfocus_ros.learning.data import Batch, PoolDataset, SimulatedDataset, find_pool
from dualfocus_ros.learning.journal import Journal
from dualfocus_ros.learning.losses import total_loss
from dualfocus_ros.learning.network import DualFocusNet
from dualfocus_ros.learning.runs import (
    CHECKPOINT,
    SAVE_EVERY_S,
    read_checkpoint,
    stop_on_signals,
    write_checkpoint,
)
from dualfocus_ros.learning.settings import Settings, make_parser
from dualfocus_ros.learning.textures import texture_bank
from dualfocus_ros.learning.weights import load_network

EMA_DECAY = 0.999
TEXTURES = 500
# While one process validates or writes, the others wait.
PATIENCE = timedelta(hours=2)
KEYS = (
    *("config", "network", "weights"),
    *("model", "averaged", "optimiser", "step", "stacks", "seconds"),
)


def load_checkpoint(run: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint of a run, or None where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    return read_checkpoint(run / CHECKPOINT, KEYS, device)


class Trainer:
    """State of a run: everything that a checkpoint holds."""

    def __init__(self, settings: Settings, device: torch.device, saved: dict[str, Any] | None = None):
        """Start a run, or take it up where it stopped."""
        self.settings, self.config, self.device = settings, settings.config, device
        torch.manual_seed(self.config.seed)
        self.network = DualFocusNet(settings.network).to(device, memory_format=torch.channels_last)
        self.averaged = swa_utils.AveragedModel(
            self.network, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True
        )
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.step, self.stacks, self.seconds = 0, 0, 0.0
        if saved is not None:
            self.network.load_state_dict(saved["model"])
            self.averaged.load_state_dict(saved["averaged"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.stacks, self.seconds = saved["step"], saved["stacks"], saved["seconds"]

    def start_from(self, path: Path) -> None:
        """Take trained weights for a new run.

        Raises:
            InputError: if they cannot be read, or are those of another network.
        """
        network, _ = load_network(path)
        if network.config != self.settings.network:
            raise InputError(f"expected weights of {self.settings.network} in {path}, got {network.config}")
        self.network.load_state_dict(network.state_dict())
        self.averaged.module.load_state_dict(network.state_dict())

    def save(self, run: Path) -> None:
        """Write the checkpoint; a run that dies while writing keeps the one before."""
        state = {
            **{name: asdict(getattr(self.settings, name)) for name in ("config", "network", "weights")},
            "model": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "stacks": self.stacks,
            "seconds": self.seconds,
        }
        write_checkpoint(run / CHECKPOINT, state)

    def learning_rate(self) -> float:
        """Return the learning rate of this step: a linear rise, then half a cosine down to 0."""
        config = self.config
        rise = min(1.0, (self.step + 1) / config.warmup)
        return config.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(self.step / config.steps, 1.0)))

    def train_step(self, model: nn.Module, batch: Batch, processes: int = 1) -> dict[str, Tensor]:
        """Take one optimiser step; return the loss terms.

        Args:
            model: the network, or what distributes it.
            batch: of this process.
            processes: how many take the step together.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        with torch.autocast(self.device.type, torch.bfloat16):
            prediction = model(batch.images, batch.focus_dpt, batch.blur_gain)
        loss, terms = total_loss(
            prediction, batch.images, batch.inverse_depth, batch.focus_dpt, batch.blur_gain, self.settings.weights
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if torch.isfinite(norm):  # one bad batch must not end a run of days
            self.optimiser.step()
            # The first averages follow quickly, else they would remember the random start for ever.
            decay = min(EMA_DECAY, (1.0 + self.step) / (10.0 + self.step))
            self.averaged.multi_avg_fn = swa_utils.get_ema_multi_avg_fn(decay)
            self.averaged.update_parameters(self.network)
        else:  # what it left in the running means of the normalisation would stay there
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        self.step += 1
        self.stacks += processes * len(batch.images)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


def batches(args: argparse.Namespace, trainer: Trainer, rank: int) -> Iterator[Batch]:
    """Return endless batches for this process, on its device."""
    config, device = trainer.config, trainer.device
    seed = config.seed * 1009 + rank
    shape = (config.slices_a_batch, config.crop_px, seed, trainer.step)
    if args.pool is None:
        bank = torch.from_numpy(texture_bank(TEXTURES, seed, args.photos)).to(device)
        yield from SimulatedDataset(bank, *shape)
        return
    loader = torch.utils.data.DataLoader(
        PoolDataset(args.pool, *shape),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals,
    )
    for batch in loader:
        yield batch.to(device)


def train(args: argparse.Namespace) -> Trainer:
    """Run until the steps are done, the minutes are over or a signal comes; return the state reached.

    Raises:
        InputError: if the settings, the checkpoint, the pool or the stacks to validate on are not usable.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    args.run.mkdir(parents=True, exist_ok=True)
    saved = load_checkpoint(args.run, device)
    trainer = Trainer(Settings.of(args, saved), device, saved)
    if args.init is not None and saved is None:
        trainer.start_from(args.init)
    if args.pool is not None:
        find_pool(args.pool)  # workers would say less clearly that it is empty
    journal = None
    if rank == 0:
        journal = Journal(args.run, args.stacks, trainer.step, trainer.config.steps, args.print_every)
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        _loop(args, trainer, journal, world, rank)
    finally:
        if journal is not None:
            journal.close()
        if world > 1:
            torch.distributed.destroy_process_group()
    return trainer


def _loop(args: argparse.Namespace, trainer: Trainer, journal: Journal | None, world: int, rank: int) -> None:
    """Train; `journal` is that of the first process, which alone writes."""
    model: nn.Module = trainer.network
    if world > 1:
        # Without a depth loss nothing asks for the guided upsampling.
        idle = trainer.settings.weights.depth == 0.0
        model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=idle)
    start = saved = time.monotonic()
    before = trainer.seconds
    with stop_on_signals() as stop:
        for batch in batches(args, trainer, rank):
            now = time.monotonic()
            done = trainer.step >= trainer.config.steps or now - start > 60.0 * args.minutes
            if _any_process(done or stop(), world, trainer.device):
                break
            terms = trainer.train_step(model, batch, world)
            trainer.seconds = before + time.monotonic() - start
            if journal is None:
                continue
            journal.note(terms)
            if trainer.step % args.log_every == 0:
                journal.log(trainer.step, trainer.stacks, trainer.seconds, trainer.learning_rate())
            scores_due = trainer.step % args.validate_every == 0
            if scores_due or now - saved > SAVE_EVERY_S:
                trainer.save(args.run)
                saved = now
            if scores_due:
                journal.score(trainer.averaged.module, trainer.step, trainer.stacks, trainer.device)
    if journal is not None:
        trainer.save(args.run)


def _any_process(condition: bool, world: int, device: torch.device) -> bool:
    """Return whether the condition holds in any process: all must take the same number of steps."""
    if world == 1:
        return condition
    flag = torch.tensor(float(condition), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def _leave_signals(worker: int) -> None:
    """Let the main process alone decide what a signal to the whole group means."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Train from the command line."""
    parser = make_parser()
    args = parser.parse_args()
    if args.photos is not None and args.pool is not None:
        parser.error("--photos and --pool exclude each other: photographs go into the pool when it is made")
    try:
        train(args)
    except DualFocusError as error:
        parser.exit(1, f"train: {error}\n")


if __name__ == "__main__":
    main()
