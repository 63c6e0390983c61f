# SPDX-License-Identifier: Apache-2.0
"""`infer`: depth of focal stacks on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dualfocus_ros.commands import add_engine_arguments, add_residual_argument, told_on_stderr

if TYPE_CHECKING:
    from dualfocus_ros.engine.base import DepthEngine

NAME = "infer"
HELP = "estimate depth from a focal stack on disk, or from a folder of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("stack", type=Path, help="a stack folder (slice_00.png ..., meta.json), or a tree of them")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for depth.npy, confidence.npy, all_in_focus.png, preview.png, points.ply; mirrors a tree",
    )
    add_engine_arguments(parser)
    parser.add_argument(
        "--breathing",
        metavar="SOURCE",
        help="where the field of view of a slice comes from: auto, camera_info, thin_lens or none "
        "(camera_info: what meta.json says)",
    )
    add_residual_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Estimate and write; return the exit code."""
    import sys

    from dualfocus_ros.engine.pick import describe, make_engine
    from dualfocus_ros.errors import DualFocusError
    from dualfocus_ros.stackio import find_stacks

    paths = find_stacks(args.stack)
    failed: list[DualFocusError] = []
    told = False
    with make_engine(args.engine, args.model, told_on_stderr()) as engine:
        for path in paths:
            target = args.output / path.relative_to(args.stack)
            try:
                line = f"{path} -> {target}: {_infer_one(engine, path, target, args)}"
                if not told:  # not before: an error is to be one line
                    print(describe(engine, args.engine), file=sys.stderr, flush=True)
                    told = True
                print(line, flush=True)
            except DualFocusError as error:
                if len(paths) == 1:
                    raise
                failed.append(error)
    if failed:
        list_of_errors = "\n  ".join(map(str, failed))
        raise DualFocusError(f"{len(failed)} of {len(paths)} stacks failed:\n  {list_of_errors}")
    return 0


def _infer_one(engine: DepthEngine, path: Path, target: Path, args: argparse.Namespace) -> str:
    """Process one stack; return a line that sums it up."""
    import math

    import numpy as np

    from dualfocus_ros.alignment.aligner import make_aligner
    from dualfocus_ros.estimator import DepthEstimator, EstimatorConfig
    from dualfocus_ros.outputs import write_estimate
    from dualfocus_ros.stackio import load_stack

    stored = load_stack(path)
    breathing = args.breathing or stored.breathing
    config = EstimatorConfig(breathing=breathing, residual=args.residual, max_motion_px=math.inf)
    with make_aligner(config.residual) as aligner:
        estimator = DepthEstimator(engine, config, aligner)
        estimate = estimator.estimate(stored.stack)
    title = f"{path.name}, engine {engine.name}"
    write_estimate(target, estimate, stored.ground_truth_m, stored.stack.focus_range_m, title)
    known = estimate.depth_m[np.isfinite(estimate.depth_m)]
    span = f"{known.min():.3g} to {known.max():.3g} m" if known.size else "no depth"
    ms = 1e3 * (estimator.timing.align_s + estimator.timing.engine_s)
    return f"{span}, {100 * known.size / estimate.depth_m.size:.0f} % of the pixels, {ms:.0f} ms"
