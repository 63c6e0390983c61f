# SPDX-License-Identifier: Apache-2.0
"""`demo`: the whole chain live in one process, on a simulated camera, checked against its true depth."""

from __future__ import annotations

import argparse

from dualfocus_ros.commands import add_engine_arguments

NAME = "demo"
HELP = "run a simulated focus-sweeping camera and the depth node live, and check the depth against the truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--duration", type=float, default=30.0, metavar="S", help="seconds of live running")
    parser.add_argument("--output", default="demo_output", metavar="DIR", help="folder for the pictures")
    add_engine_arguments(parser)
    parser.add_argument("--mode", default="sweep", help="sweep: one depth a sweep, sliding: one a frame")


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    from dualfocus_ros.nodes.signals import hold_stop_signals

    hold_stop_signals()  # before the long import of ROS, which a Ctrl-C would tear apart
    from dualfocus_ros.nodes.demo import run_demo

    return run_demo(args.duration, args.output, args.engine, args.model, args.mode)
