# SPDX-License-Identifier: Apache-2.0
"""A calibration board as a file to be printed in its true size."""

from __future__ import annotations

from pathlib import Path

from dualfocus_ros.camera.target_board import Board
from dualfocus_ros.errors import CalibrationError

INCH_M = 0.0254
DPI = 300
SUFFIXES = (".pdf", ".svg", ".png")
# White around the squares, and room for the line that says what they are.
MARGIN_M = 0.01
SQUARE_PX = 96  # a multiple of the cells of a marker and its border


def print_board(board: Board, path: Path) -> tuple[float, float]:
    """Write a board; return width and height of the page in metres.

    Raises:
        CalibrationError: if the file is of another kind, or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise CalibrationError(f"expected a file of {', '.join(SUFFIXES)}, got {path}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_m, height_m = (side + 2.0 * MARGIN_M for side in board.size_m)
    figure = Figure(figsize=(width_m / INCH_M, height_m / INCH_M), dpi=DPI)
    FigureCanvasAgg(figure)
    left, low = MARGIN_M / width_m, MARGIN_M / height_m
    axes = figure.add_axes((left, low, 1.0 - 2.0 * left, 1.0 - 2.0 * low))
    axes.imshow(board.draw(SQUARE_PX), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.text(left, 0.3 * low, f"{board}   one square is {1e3 * board.square_m:g} mm", fontsize=6)
    try:
        figure.savefig(path)
    except OSError as error:
        raise CalibrationError(f"cannot write {path}: {error}") from error
    return width_m, height_m
