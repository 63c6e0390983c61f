# SPDX-License-Identifier: Apache-2.0
"""Trains the network of alignment: `python -m dualfocus_ros.learning.align_train RUN --pool POOL --minutes M`.

RUN is a folder. If it holds a checkpoint the run goes on from there, so it may be stopped at any second: SIGINT
and SIGTERM write one, and so does every minute.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from dualfocus_ros.errors import DualFocusError
from dualfocus_ros.learning.align_data import PairBatch, batches
from dualfocus_ros.learning.align_network import AlignConfig, AlignNet
from dualfocus_ros.learning.runs import (
    CHECKPOINT,
    SAVE_EVERY_S,
    read_checkpoint,
    stop_on_signals,
    write_checkpoint,
)

EMA_DECAY = 0.998
PRIOR_PX = 10.0  # expected of a coefficient where the images say nothing; also keeps the matrix invertible
FREEDOM = 4.0  # of Student's t: some pairs have errors that nothing in them tells of
SHARP_PX = 0.05  # errors below count by their square, above by their size
LIKELIHOOD_WEIGHT = 0.1  # against pixels of error
KEYS = ("config", "network", "model", "averaged", "optimiser", "step", "pairs", "seconds")


@dataclass(frozen=True)
class AlignTrainConfig:
    """Settings of a run; they are kept in its checkpoint.

    Attributes:
        steps: optimiser steps of the whole run; the learning rate falls to 0 over them as a cosine.
        stacks: of a batch; up to 9 pairs are taken of each.
        learning_rate: largest.
        weight_decay: of AdamW.
        warmup: steps until the largest learning rate.
        seed: of initialisation and data.
    """

    steps: int = 6000
    stacks: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    seed: int = 0


def solved(equations: Tensor) -> tuple[Tensor, Tensor]:
    """Return displacements (B, 3) and their information (B, 3, 3) of normal equations (B, 3, 4)."""
    information = equations[:, :, :3] + torch.eye(3, device=equations.device) / PRIOR_PX**2
    return torch.linalg.solve(information, equations[:, :, 3]), information


def corner_error(found: Tensor, truth: Tensor, grid: Tensor) -> Tensor:
    """Return the error in pixels (B,), rms over the corners and the middle, of coefficients (B, 3)."""
    rows, columns = grid.shape[-2] - 1, grid.shape[-1] - 1
    y = torch.tensor([0, 0, rows, rows, rows // 2])
    x = torch.tensor([0, columns, 0, columns, columns // 2])
    off = found - truth
    flow = grid[:, y, x]  # (2, 5)
    error = off[:, :1, None] * flow + off[:, 1:, None]
    return (error.square().sum(1).mean(1) + 1e-12).sqrt()


def negative_log_likelihood(found: Tensor, information: Tensor, truth: Tensor) -> Tensor:
    """Return that of the truth (B,) under Student's t with inverse covariance `information`, without constants."""
    off = found - truth
    distance = torch.einsum("bi,bij,bj->b", off, information, off)
    spread = torch.log1p(distance / (FREEDOM - 2.0))
    return 0.5 * ((FREEDOM + 3.0) * spread - torch.linalg.slogdet(information)[1])


def loss_terms(equations: Tensor, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and what to log: error in pixels, likelihood and NEES (1: as large as A says)."""
    found, information = solved(equations)
    error = corner_error(found, batch.truth, batch.grid)
    likelihood = negative_log_likelihood(found, information, batch.truth)
    robust = (error.square() + SHARP_PX**2).sqrt() - SHARP_PX
    loss = (robust + LIKELIHOOD_WEIGHT * likelihood).mean()
    off = found - batch.truth
    nees = torch.einsum("bi,bij,bj->b", off, information, off) / 3.0
    terms = {"loss": loss, "error_px": error.median(), "likelihood": likelihood.mean(), "nees": nees.median()}
    return loss, {name: term.detach() for name, term in terms.items()}


class AlignTrainer:
    """State of a run: everything that a checkpoint holds."""

    def __init__(
        self, config: AlignTrainConfig, network: AlignConfig | None = None, saved: dict[str, Any] | None = None
    ):
        """Start a run, or take it up where it stopped."""
        self.config = config
        torch.manual_seed(config.seed)
        self.network = AlignNet(network)
        self.averaged = swa_utils.AveragedModel(
            self.network, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True
        )
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.pairs, self.seconds = 0, 0, 0.0
        if saved is not None:
            self.network.load_state_dict(saved["model"])
            self.averaged.load_state_dict(saved["averaged"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.pairs, self.seconds = saved["step"], saved["pairs"], saved["seconds"]

    def save(self, run: Path) -> None:
        """Write the checkpoint; a run that dies while writing keeps the one before."""
        state = {
            "config": asdict(self.config),
            "network": asdict(self.network.config),
            "model": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "pairs": self.pairs,
            "seconds": self.seconds,
        }
        write_checkpoint(run / CHECKPOINT, state)

    def train_step(self, batch: PairBatch) -> dict[str, Tensor]:
        """Take one optimiser step; return the terms of the loss."""
        config = self.config
        rise = min(1.0, (self.step + 1) / config.warmup)
        fall = 0.5 * (1.0 + math.cos(math.pi * min(self.step / config.steps, 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * rise * fall
        loss, terms = loss_terms(self.network(batch.pairs, batch.grid), batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if torch.isfinite(norm):  # one bad batch must not end a run
            self.optimiser.step()
            # The first averages follow quickly, else they would remember the random start for ever.
            decay = min(EMA_DECAY, (1.0 + self.step) / (10.0 + self.step))
            self.averaged.multi_avg_fn = swa_utils.get_ema_multi_avg_fn(decay)
            self.averaged.update_parameters(self.network)
        self.step += 1
        self.pairs += len(batch.pairs)
        return terms


def train(args: argparse.Namespace) -> AlignTrainer:
    """Run until the steps are done, the minutes are over or a signal comes; return the state reached.

    Raises:
        InputError: if the checkpoint or the pool is not usable.
    """
    args.run.mkdir(parents=True, exist_ok=True)
    saved = read_checkpoint(args.run / CHECKPOINT, KEYS, what="a checkpoint of alignment")
    settings = dict(saved["config"]) if saved else {}
    settings |= {
        name: getattr(args, name) for name in ("steps", "stacks", "seed") if getattr(args, name) is not None
    }
    network = AlignConfig(**saved["network"]) if saved else None
    trainer = AlignTrainer(AlignTrainConfig(**settings), network, saved)
    start = kept = time.monotonic()
    before = trainer.seconds
    sums: dict[str, float] = {}
    with stop_on_signals() as stop, (args.run / "log.csv").open("a", encoding="utf-8") as log:
        for batch in batches(args.pool, trainer.config.stacks, trainer.config.seed, trainer.step):
            now = time.monotonic()
            if trainer.step >= trainer.config.steps or now - start > 60.0 * args.minutes or stop():
                break
            terms = trainer.train_step(batch)
            trainer.seconds = before + time.monotonic() - start
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term) / args.log_every
            if trainer.step % args.log_every == 0:
                words = ",".join(f"{name},{value:.4f}" for name, value in sums.items())
                log.write(f"{trainer.step},{trainer.seconds:.0f},{words}\n")
                log.flush()
                sums = {}
            if now - kept > SAVE_EVERY_S:
                trainer.save(args.run)
                kept = now
    trainer.save(args.run)
    return trainer


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    default = AlignTrainConfig()
    parser = argparse.ArgumentParser(description="Train the network of alignment; stop and resume at will.")
    parser.add_argument("run", type=Path, help="folder of the run: checkpoint and log")
    parser.add_argument("--pool", type=Path, required=True, help="stacks made by dualfocus_ros.learning.data")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, resumably, after so many")
    parser.add_argument("--steps", type=int, help=f"of the whole run (default: {default.steps})")
    parser.add_argument("--stacks", type=int, help=f"of a batch (default: {default.stacks})")
    parser.add_argument("--seed", type=int, help=f"of weights and data (default: {default.seed})")
    parser.add_argument("--log-every", type=int, default=50, help="steps")
    return parser


def main() -> None:
    """Train from the command line."""
    parser = make_parser()
    args = parser.parse_args()
    torch.set_num_threads(1)  # so small a network gains nothing by more
    try:
        trainer = train(args)
    except DualFocusError as error:
        parser.exit(1, f"align_train: {error}\n")
    print(f"{trainer.step} steps, {trainer.pairs} pairs, {trainer.seconds / 60.0:.1f} minutes")


if __name__ == "__main__":
    main()
