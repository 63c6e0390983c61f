# SPDX-License-Identifier: Apache-2.0
"""`compare`: which of several evaluations is better, and how sure that is."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "compare"
HELP = "compare evaluations of the same stacks: differences, how sure they are, and what they mean"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE[:ENGINE]",
        help="written by evaluate --json; without ENGINE each of its engines is compared; the first is the base",
    )
    parser.add_argument("--families", action="store_true", help="also compare every family of stacks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and print; return the exit code."""
    from dualfocus_ros.evaluation.candidates import read_candidates
    from dualfocus_ros.evaluation.compare import compare, comparison_text, write_comparison

    comparisons = compare(read_candidates(args.files))
    if args.json is not None:
        write_comparison(args.json, comparisons)  # first: whoever reads the tables may stop reading
    print(comparison_text(comparisons, args.families))
    return 0
