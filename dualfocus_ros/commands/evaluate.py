# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: engines against focal stacks with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "evaluate"
HELP = "score engines on focal stacks with ground truth: per family and in total"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("stacks", type=Path, help="a folder <family>/<name>/ of stacks with depth.png")
    parser.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        help="depth engine, classical where not given; several times: side by side",
    )
    parser.add_argument(
        "--breathing",
        metavar="SOURCE",
        help="where the field of view of a slice comes from: auto, camera_info, thin_lens or none "
        "(camera_info: what meta.json says)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number, per stack, as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; return the exit code."""
    import sys

    from dualfocus_ros.engine.pick import make_engine
    from dualfocus_ros.evaluation.report import text_table, write_json
    from dualfocus_ros.evaluation.stacks import StackResult, evaluate_stacks
    from dualfocus_ros.stackio import find_stacks

    paths = find_stacks(args.stacks)
    engines = [make_engine(name) for name in dict.fromkeys(args.engine or ["classical"])]
    evaluations = []
    for engine in engines:

        def show(result: StackResult, name: str = engine.name) -> None:
            line = f"{name}: {result.path}  AbsRel {result.metrics.abs_rel:.4f}  {1e3 * result.runtime_s:.0f} ms"
            print(line, file=sys.stderr, flush=True)

        with engine:
            evaluations.append(evaluate_stacks(engine, paths, args.breathing, show))
    print(text_table(evaluations))
    skipped = evaluations[0].without_truth
    if skipped:
        print(f"\n{len(skipped)} stacks left out, they have no depth.png: {', '.join(map(str, skipped))}")
    if args.json is not None:
        write_json(args.json, evaluations)
    return 0
