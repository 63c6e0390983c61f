# SPDX-License-Identifier: Apache-2.0
"""Calibration boards: what is printed on them, and where their corners are.

Board coordinates are metres on the print: x right, y down, z into the board, from its first inner corner.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import ParameterError

Points = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

KINDS = ("charuco", "checkerboard")
DEFAULT_DICTIONARY = "DICT_5X5_250"
_FORMS = "charuco:COLUMNSxROWS:SQUARE_M:MARKER_M[:DICTIONARY] or checkerboard:COLUMNSxROWS:SQUARE_M"
# Squares from those of a microscope slide to those of a wall.
_SQUARE_M = (1e-4, 2.0)


@dataclass(frozen=True)
class Board:
    """A calibration board.

    Attributes:
        kind: charuco, which is found also where only a part of it is in view, or checkerboard.
        columns: from left to right: squares of charuco; inner corners of a checkerboard, as ROS counts them.
        rows: the same from top to bottom.
        square_m: side of a square.
        marker_m: side of a marker; charuco only.
        dictionary: of the markers, by its name in cv2.aruco; charuco only.
    """

    kind: str
    columns: int
    rows: int
    square_m: float
    marker_m: float = 0.0
    dictionary: str = ""

    def __post_init__(self) -> None:
        """Check it; raise ParameterError."""
        if self.kind not in KINDS:
            raise ParameterError(f"expected a board as {_FORMS}, got the kind {self.kind!r}")
        low, high = _SQUARE_M
        if min(self.columns, self.rows) < 3 or not low <= self.square_m <= high:
            raise ParameterError(
                f"expected a board of at least 3 x 3, of squares of {low} to {high} m (metres, not millimetres), "
                f"got {self.columns} x {self.rows} of {self.square_m} m"
            )
        if self.kind == "checkerboard" and self.columns == self.rows:
            raise ParameterError(
                f"expected a checkerboard of more columns than rows or fewer, got {self.columns} x {self.rows}"
                ": which way it is turned would not be known"
            )
        if self.kind == "charuco" and not 0.0 < self.marker_m < self.square_m:
            raise ParameterError(
                f"expected markers smaller than the squares of {self.square_m} m, got {self.marker_m} m"
            )

    def __str__(self) -> str:
        """Return the description that `parse_board` reads."""
        sizes = f"{self.kind}:{self.columns}x{self.rows}:{self.square_m:g}"
        return f"{sizes}:{self.marker_m:g}:{self.dictionary}" if self.kind == "charuco" else sizes

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the squares together."""
        columns, rows = self.squares
        return columns * self.square_m, rows * self.square_m

    @property
    def squares(self) -> tuple[int, int]:
        """Squares from left to right and from top to bottom."""
        more = 0 if self.kind == "charuco" else 1
        return self.columns + more, self.rows + more

    @property
    def corners_m(self) -> Points:
        """Return the inner corners (N, 3) in board coordinates, row by row: their index is their name."""
        columns, rows = self.squares
        x, y = np.meshgrid(np.arange(columns - 1), np.arange(rows - 1))
        flat = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
        return np.asarray(flat * self.square_m, np.float64)

    def draw(self, square_px: int) -> Picture:
        """Return the print (height, width) of squares of so many pixels, black 0 and white 255, without a margin.

        Raises:
            ParameterError: if OpenCV has no such dictionary, or it has too few markers.
        """
        columns, rows = self.squares
        if self.kind == "checkerboard":
            cells = np.indices((rows, columns)).sum(axis=0) % 2
            return np.asarray(np.kron(cells, np.ones((square_px, square_px), int)) * 255, np.uint8)
        board = charuco_board(self)
        # OpenCV before 4.7 calls it draw.
        draw = board.generateImage if hasattr(board, "generateImage") else board.draw
        return np.asarray(draw((columns * square_px, rows * square_px)), np.uint8)


def parse_board(text: str) -> Board:
    """Read a description: charuco:7x5:0.03:0.021[:DICT_5X5_250] or checkerboard:9x6:0.03.

    Raises:
        ParameterError: if it is none.
    """
    kind, *parts = text.split(":")
    expected = {"charuco": (3, 4), "checkerboard": (2,)}.get(kind, ())
    try:
        if len(parts) not in expected:
            raise ValueError
        columns, rows = (int(n) for n in parts[0].lower().split("x"))
        sizes_m = [float(part) for part in parts[1:3]]
    except ValueError:
        raise ParameterError(f"expected a board as {_FORMS}, got {text!r}") from None
    if not all(math.isfinite(size) for size in sizes_m):
        raise ParameterError(f"expected finite sizes of a board in metres, got {text!r}")
    dictionary = parts[3] if len(parts) == 4 else (DEFAULT_DICTIONARY if kind == "charuco" else "")
    board = Board(kind, columns, rows, sizes_m[0], sizes_m[1] if kind == "charuco" else 0.0, dictionary)
    if kind == "charuco":
        charuco_board(board)
    return board


def charuco_board(board: Board) -> Any:
    """Return OpenCV's board.

    Raises:
        ParameterError: if this OpenCV has no ArUco, no such dictionary, or that has too few markers.
    """
    if not hasattr(cv2, "aruco"):
        raise ParameterError(
            f"this OpenCV ({cv2.__version__}) has no ArUco: use a checkerboard, or install opencv-contrib-python"
        )
    names = [name for name in dir(cv2.aruco) if name.startswith("DICT_")]
    if board.dictionary not in names:
        near = difflib.get_close_matches(board.dictionary, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise ParameterError(f"OpenCV has no dictionary {board.dictionary!r}: {hint}")
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, board.dictionary))
    there, needed = dictionary.bytesList.shape[0], board.columns * board.rows // 2
    if needed > there:
        raise ParameterError(
            f"expected a dictionary with {needed} markers for {board.columns} x {board.rows} squares, "
            f"{board.dictionary} has {there}"
        )
    sizes = (board.columns, board.rows), board.square_m, board.marker_m
    if hasattr(cv2.aruco, "CharucoBoard_create"):  # before OpenCV 4.7
        return cv2.aruco.CharucoBoard_create(*sizes[0], *sizes[1:], dictionary)
    return cv2.aruco.CharucoBoard(*sizes, dictionary)
