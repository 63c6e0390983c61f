# SPDX-License-Identifier: Apache-2.0
"""Trains the network without one of its parts after the other, by equal short runs, and prints what each is worth.

Usage: python -m dualfocus_ros.learning.ablation OUT --pool POOL --held-out POOL --stacks STACKS [--steps 600] ...

Everything else is an option of `dualfocus_ros.learning.train`. Runs that are done are not repeated: the same
command goes on with the next.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from dualfocus_ros.errors import DualFocusError
from dualfocus_ros.learning.data import collate, find_pool, load_stack
from dualfocus_ros.learning.losses import FARTHEST
from dualfocus_ros.learning.runs import CHECKPOINT
from dualfocus_ros.learning.settings import make_parser
from dualfocus_ros.learning.train import train
from dualfocus_ros.learning.validate import validate
from dualfocus_ros.learning.weights import load_network
from dualfocus_ros.stackio import find_stacks

# What each run leaves out or does otherwise, as options of `train`. The second tells how much is chance; from
# there to 1 - q they are the paper's.
RUNS = {
    "complete": "",
    "complete, another seed": "--seed 1",
    "without both constraints": "--without spatial --weight-spatial 0 --weight-focal 0",
    "without the spatial constraint": "--without spatial --weight-spatial 0",
    "without the focal constraint": "--weight-focal 0",
    "spatial loss on Gamma itself": "--supervise-gamma",
    "without sharpness weight q": "--sharpness none",
    "with 1 - q": "--sharpness inverse",
    "without focal differences": "--without differences",
    "not told the blur (kappa)": "--without conditioned",
}
EXIT_STOPPED = 130
STACKS = 100  # held-out ones that are scored


def held_out_score(checkpoint: Path, pool: Path) -> float:
    """Return AbsRel over simulated stacks, the mean over stacks of the mean over pixels in the focus range."""
    network, _ = load_network(checkpoint)
    found = []
    for i, path in enumerate(find_pool(pool)[:STACKS]):
        stack = load_stack(path)
        size = min(stack.inverse_depth.shape) // 32 * 32
        batch = collate([stack], size, np.random.default_rng(i))  # the same camera for every network
        with torch.inference_mode():
            depth = network(batch.images, batch.focus_dpt, batch.blur_gain).inverse_depth
        truth, focus = batch.inverse_depth, batch.focus_dpt
        floor = FARTHEST * focus[0, 0]  # an estimate at infinity would outweigh all others
        valid = (truth <= focus[0, 0]) & (truth >= focus[0, -1].maximum(floor))
        if valid.float().mean() > 0.1:
            found.append(float(((truth - depth).abs() / depth.maximum(floor))[valid].mean()))
    return float(np.mean(found))


def scores(checkpoint: Path, stacks: list[Path], held_out: Path | None) -> dict[str, object]:
    """Return AbsRel on held-out simulated stacks, and AbsRel / Bump of every family of stored stacks."""
    found: dict[str, object] = {}
    if held_out is not None:
        found["simulated"] = f"{held_out_score(checkpoint, held_out):.4f}"
    if stacks:
        evaluation = validate(load_network(checkpoint)[0], stacks, torch.device("cpu"))
        for group in (*evaluation.families(), evaluation.total()):
            found[group.name] = f"{group.metrics.abs_rel:.4f} / {group.metrics.bump:.3f}"
    return found


def main() -> None:
    """Train all, score all, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--held-out", type=Path, help="pool of simulated stacks to score; not that of training")
    parser.add_argument("--stacks", type=Path, nargs="+", default=[], help="stored stacks to score")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="which; default: all")
    args, options = parser.parse_known_args()
    rows = []
    try:
        stacks = [path for folder in args.stacks for path in find_stacks(folder)]
        for name in args.runs:
            folder = args.out / name.replace(" ", "_")
            trainer = train(make_parser().parse_args([str(folder), *options, *RUNS[name].split()]))
            if trainer.step < trainer.config.steps:
                parser.exit(EXIT_STOPPED, "ablation: stopped; the same command goes on with it\n")
            rows.append({"network": name, **scores(folder / CHECKPOINT, stacks, args.held_out)})
    except DualFocusError as error:
        parser.exit(1, f"ablation: {error}\n")
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
