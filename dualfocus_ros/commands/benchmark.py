# SPDX-License-Identifier: Apache-2.0
"""`benchmark`: what the chain costs on this machine, in milliseconds and in percent of a core."""

from __future__ import annotations

import argparse

from dualfocus_ros.commands import DEFAULT_ENGINE, add_engines_arguments

NAME = "benchmark"
HELP = "measure the cost of the ROS side and of the engines on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--width", type=int, default=640, help="image width in pixels")
    parser.add_argument("--height", type=int, default=480, help="image height in pixels")
    parser.add_argument("--slices", type=int, default=10, help="slices of a stack")
    parser.add_argument("--rate", type=float, default=30.0, help="camera frames per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the live part")
    parser.add_argument("--runs", type=int, default=20, help="of each engine")
    add_engines_arguments(parser, "all are measured")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")


def run(args: argparse.Namespace) -> int:
    """Measure and print; return the exit code."""
    import json
    from pathlib import Path

    from dualfocus_ros.errors import ParameterError
    from dualfocus_ros.nodes.benchmark import measure, report
    from dualfocus_ros.nodes.benchmark_peers import BenchmarkConfig

    if args.json and not Path(args.json).parent.is_dir():
        raise ParameterError(f"expected --json in a folder that exists, got {args.json}")
    config = BenchmarkConfig(
        args.width,
        args.height,
        args.slices,
        args.rate,
        args.seconds,
        tuple(args.engine or [DEFAULT_ENGINE]),
        args.model,
        args.runs,
    )
    result = measure(config)
    print(report(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0
