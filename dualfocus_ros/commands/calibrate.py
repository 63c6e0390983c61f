# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: prints boards, measures focus curve and intrinsics of a lens, and how long it takes to settle."""

from __future__ import annotations

import argparse
import os

from dualfocus_ros.commands import calibrate_board, calibrate_lens, calibrate_settle

NAME = "calibrate"
HELP = (
    "calibrate a lens: board (print one), lens (units of the lens to dioptres, intrinsics), settle (settle time)"
)

PARTS = {part.NAME: part for part in (calibrate_board, calibrate_lens, calibrate_settle)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each part."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, part in PARTS.items():
        sub = parts.add_parser(
            name,
            help=part.HELP,
            description=part.HELP,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        part.add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Do the part; return the exit code."""
    # Its systems of equations are small: threads of BLAS would wait for each other most of the time (measured: 15
    # times as long on two busy cores). NumPy is not loaded yet.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return PARTS[args.part].run(args)
