# SPDX-License-Identifier: Apache-2.0
"""`calibrate board`: a calibration board to be printed."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "board"
HELP = "write a calibration board, to be printed at 100 %% and glued to something flat"
DEFAULT_BOARD = "charuco:9x6:0.028:0.021"  # fits on A4 with a margin
BOARD_HELP = (
    "board: charuco:COLUMNSxROWS:SQUARE_M:MARKER_M[:DICTIONARY] (squares), or checkerboard:COLUMNSxROWS:SQUARE_M "
    "(inner corners)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--board", default=DEFAULT_BOARD, metavar="BOARD", help=BOARD_HELP)
    parser.add_argument("--output", type=Path, default=Path("board.pdf"), help="file to write: .pdf, .svg or .png")


def run(args: argparse.Namespace) -> int:
    """Write it; return the exit code."""
    from dualfocus_ros.calibration.board_print import print_board
    from dualfocus_ros.camera.target_board import parse_board

    board = parse_board(args.board)
    width_m, height_m = print_board(board, args.output)
    print(f"wrote {args.output}: {1e3 * width_m:.0f} x {1e3 * height_m:.0f} mm with its margin; print it at 100 %")
    print("and measure a square on the paper: if it is not as told, tell its true size with --board")
    return 0
