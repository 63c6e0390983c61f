# SPDX-License-Identifier: Apache-2.0
"""Where the corners of a calibration board are in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.camera.target_board import Board, charuco_board
from dualfocus_ros.errors import CalibrationError

Grey = npt.NDArray[np.uint8]

# Fewer corners of a board say too little of its pose.
LEAST_CORNERS = 8
SMALL_PICTURE_PX = 1000


@dataclass(frozen=True)
class Corners:
    """Corners of a board in a picture.

    Attributes:
        ids: (K,) which corners of the board, see `Board.corners_m`.
        pixels: (K, 2) where, x and y.
    """

    ids: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.float64]


class BoardFinder:
    """Finds the corners of one board."""

    def __init__(self, board: Board) -> None:
        """Take the board.

        Raises:
            CalibrationError: if this OpenCV cannot find boards of that kind.
        """
        self.board = board
        self._charuco: Any = None
        if board.kind == "charuco":
            if not hasattr(cv2.aruco, "CharucoDetector"):
                raise CalibrationError(
                    f"to find ChArUco boards takes OpenCV 4.7 or newer, this is {cv2.__version__}: update it, or "
                    "take a checkerboard (--board checkerboard:8x5:0.03)"
                )
            self._charuco = cv2.aruco.CharucoDetector(charuco_board(board))

    def find(self, image: Grey) -> Corners | None:
        """Return the corners of the board in a grey picture (H, W) uint8; None: not enough are there."""
        found = self._find_charuco(image) if self._charuco is not None else self._find_checkerboard(image)
        return found if found is not None and len(found.ids) >= LEAST_CORNERS else None

    def _find_charuco(self, image: Grey) -> Corners | None:
        # Markers of a few pixels are only found in a picture that was made larger.
        scale = 2 if max(image.shape) < SMALL_PICTURE_PX else 1
        if scale > 1:
            image = np.asarray(
                cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8
            )
        pixels, ids, _, _ = self._charuco.detectBoard(image)
        if ids is None or pixels is None:
            return None
        at = (np.asarray(pixels, np.float64).reshape(-1, 2) + 0.5) / scale - 0.5
        return Corners(np.asarray(ids, np.int64).ravel(), at)

    def _find_checkerboard(self, image: Grey) -> Corners | None:
        size = self.board.columns, self.board.rows
        found, pixels = cv2.findChessboardCornersSB(image, size, flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
        if not found or pixels is None:
            return None
        at = np.asarray(pixels, np.float64).reshape(-1, 2)
        # The board may be found from either end: the first corner is the one up and left.
        return Corners(np.arange(len(at)), at if at[0].sum() <= at[-1].sum() else at[::-1].copy())
