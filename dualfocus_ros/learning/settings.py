# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run: what the command line asks for, and what a run that goes on was started with."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.layers import STRIDE
from dualfocus_ros.learning.losses import LossWeights
from dualfocus_ros.learning.network import SIZES, NetworkConfig

SWITCHES = ("differences", "spatial", "conditioned")  # of NetworkConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; they are kept in its checkpoint.

    Attributes:
        size: of the network, small or base.
        steps: optimiser steps of the whole run; the learning rate falls to 0 over them as a cosine.
        slices_a_batch: slices in a batch, whatever their number in a stack.
        crop_px: side of the training crops, a multiple of 32.
        learning_rate: largest.
        weight_decay: of AdamW.
        warmup: steps until the largest learning rate.
        seed: of initialisation and data.
    """

    size: str = "small"
    steps: int = 20000
    slices_a_batch: int = 56
    crop_px: int = 160
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges; raise InputError."""
        if self.size not in SIZES:
            raise InputError(f"expected size to be one of {list(SIZES)}, got {self.size!r}")
        if self.crop_px < STRIDE or self.crop_px % STRIDE:
            raise InputError(f"expected crop_px to be a multiple of {STRIDE}, got {self.crop_px}")
        for name in ("steps", "slices_a_batch", "warmup"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} to be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Settings:
    """All that makes a run what it is."""

    config: TrainConfig
    network: NetworkConfig
    weights: LossWeights

    @classmethod
    def of(cls, args: argparse.Namespace, saved: dict[str, Any] | None) -> Settings:
        """Return what the command line asks for, or the settings of the checkpoint, if there is one.

        Raises:
            InputError: if a setting is out of range, or asked for and other than that of the checkpoint; only the
                length of a run may change on the way.
        """
        asked: dict[type[Any], dict[str, Any]] = {
            kind: {f.name: getattr(args, f.name) for f in fields(kind) if getattr(args, f.name) is not None}
            for kind in (TrainConfig, LossWeights)
        }
        config, weights = TrainConfig(**asked[TrainConfig]), LossWeights(**asked[LossWeights])
        if saved is None:
            return cls(config, _without(SIZES[config.size], args.without), weights)
        before = cls(
            TrainConfig(**saved["config"]), NetworkConfig(**saved["network"]), LossWeights(**saved["weights"])
        )
        steps = asked[TrainConfig].pop("steps", before.config.steps)
        wanted = (asked[TrainConfig], asked[LossWeights], dict.fromkeys(args.without, False))
        for settings, values in zip((before.config, before.weights, before.network), wanted, strict=True):
            for name, value in values.items():
                if value != getattr(settings, name):
                    raise InputError(
                        f"the run in {args.run} has {name} = {getattr(settings, name)}, not {value}: leave "
                        "that out to go on with it, or take another folder"
                    )
        return replace(before, config=replace(before.config, steps=steps))


def _without(network: NetworkConfig, parts: list[str]) -> NetworkConfig:
    left_out: dict[str, Any] = dict.fromkeys(parts, False)
    return replace(network, **left_out)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Train the DualFocus network; stop and resume at will.")
    parser.add_argument("run", type=Path, help="folder of the run: checkpoint and logs")
    parser.add_argument("--pool", type=Path, help="folder of stacks made by dualfocus_ros.learning.data")
    parser.add_argument("--init", type=Path, help="weights or checkpoint to start a new run from")
    parser.add_argument("--photos", type=Path, help="without --pool: photographs to use as textures, too")
    parser.add_argument("--stacks", type=Path, nargs="+", default=[], help="stored stacks to validate on")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, resumably, after so many")
    parser.add_argument("--workers", type=int, default=1, help="processes that read the pool; 0: this one")
    parser.add_argument("--log-every", type=_count, default=50, help="steps")
    parser.add_argument("--validate-every", type=_count, default=1000, help="steps")
    parser.add_argument("--print-every", type=float, default=0.5, help="seconds between redraws of the bar")
    parser.add_argument(
        "--without", action="append", default=[], choices=SWITCHES, help="leave out a part of the network"
    )
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of the dataclasses; None where it is not given."""
    for kind in (TrainConfig, LossWeights):
        # What an option means stands in the docstring of its dataclass.
        meanings = dict(re.findall(r"^ +(\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(kind) or "", re.MULTILINE))
        for field in fields(kind):
            prefix = "--weight-" if kind is LossWeights and isinstance(field.default, float) else "--"
            flag = prefix + field.name.replace("_", "-")
            meaning = f"{' '.join(meanings[field.name].split())} (default: {field.default})"
            if isinstance(field.default, bool):
                parser.add_argument(flag, dest=field.name, action="store_true", default=None, help=meaning)
            else:
                parser.add_argument(flag, dest=field.name, type=type(field.default), help=meaning)
