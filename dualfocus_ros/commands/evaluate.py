# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: engines against focal stacks with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dualfocus_ros.commands import DEFAULT_ENGINE, add_engines_arguments, add_residual_argument, told_on_stderr

if TYPE_CHECKING:
    from dualfocus_ros.engine.base import DepthEngine

NAME = "evaluate"
HELP = "score engines on focal stacks with ground truth: per family and in total"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("stacks", type=Path, help="a folder <family>/<name>/ of stacks with depth.png")
    add_engines_arguments(parser, "side by side")
    parser.add_argument(
        "--breathing",
        metavar="SOURCE",
        help="where the field of view of a slice comes from: auto, camera_info, thin_lens or none "
        "(camera_info: what meta.json says)",
    )
    add_residual_argument(parser)
    parser.add_argument("--bands", action="store_true", help="also show the errors by distance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number, per stack, as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; return the exit code."""
    import sys

    from dualfocus_ros.engine.pick import describe
    from dualfocus_ros.evaluation.report import band_table, text_table, write_json
    from dualfocus_ros.evaluation.stacks import StackResult, evaluate_stacks
    from dualfocus_ros.stackio import find_stacks

    paths = find_stacks(args.stacks)
    evaluations = []
    for asked, engine in _engines(args.engine or [DEFAULT_ENGINE], args.model):

        def show(result: StackResult, name: str = engine.name) -> None:
            line = f"{name}: {result.path}  AbsRel {result.metrics.abs_rel:.4f}  {1e3 * result.runtime_s:.0f} ms"
            print(line, file=sys.stderr, flush=True)

        with engine:
            print(describe(engine, asked), file=sys.stderr, flush=True)
            evaluations.append(evaluate_stacks(engine, paths, args.breathing, args.residual, show))
    if args.json is not None:
        write_json(args.json, evaluations)  # first: whoever reads the table may stop reading
    print(text_table(evaluations))
    if args.bands:
        print(f"\n{band_table(evaluations)}")
    skipped = evaluations[0].without_truth
    if skipped:
        print(f"\n{len(skipped)} stacks left out, they have no depth.png: {', '.join(map(str, skipped))}")
    return 0


def _engines(asked: list[str], model: str | None) -> list[tuple[str, DepthEngine]]:
    """Return every engine asked for once, with the name that asked; the model goes to those that take one."""
    from dualfocus_ros.engine.pick import make_engine, takes_model

    one_takes_it = any([takes_model(name) for name in asked])
    engines: dict[str, tuple[str, DepthEngine]] = {}
    for name in asked:
        engine = make_engine(name, model if takes_model(name) or not one_takes_it else None, told_on_stderr())
        engines.setdefault(engine.name, (name, engine))
    return list(engines.values())
