# SPDX-License-Identifier: Apache-2.0
"""Corners of boards are found where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dualfocus_ros.calibration import boards
from dualfocus_ros.calibration.boards import BoardFinder
from dualfocus_ros.camera.target_board import Board, parse_board
from dualfocus_ros.errors import CalibrationError

BOARDS = ("charuco:8x6:0.03:0.022:DICT_4X4_50", "checkerboard:7x5:0.03")


def seen(board: Board, warp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (480, 640) of a board under a homography of board pixels (40 a square), and corners."""
    print_px = np.pad(board.draw(40), 40, constant_values=255)
    larger = cv2.resize(print_px, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    to_large = np.array([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])  # pixel centres
    fine = np.diag([3.0, 3.0, 1.0]) @ warp @ np.linalg.inv(to_large)
    picture = cv2.warpPerspective(larger, fine, (1920, 1440), flags=cv2.INTER_AREA, borderValue=200)
    picture = cv2.warpAffine(cv2.blur(picture, (3, 3)), np.array([[1 / 3, 0, 0], [0, 1 / 3, 0]]), (640, 480))
    corners = board.corners_m[:, :2] / board.square_m * 40 + 79.5
    at = cv2.perspectiveTransform(corners[:, None], warp)[:, 0]
    return picture, at


TILTED = np.array([[1.05, 0.10, 40.0], [0.05, 1.0, 30.0], [3e-4, 2e-4, 1.0]])


@pytest.mark.parametrize("text", BOARDS)
def test_corners_are_found_where_they_are(text: str) -> None:
    board = parse_board(text)
    picture, at = seen(board, TILTED)
    found = BoardFinder(board).find(picture)
    assert found is not None
    assert len(found.ids) == len(board.corners_m)
    off = np.hypot(*(found.pixels - at[found.ids]).T)
    assert float(np.median(off)) < 0.25
    assert float(off.max()) < 0.8


@pytest.mark.parametrize("text", BOARDS)
def test_they_are_found_in_a_blurred_and_noisy_picture(text: str) -> None:
    board = parse_board(text)
    picture, at = seen(board, TILTED)
    noise = np.random.default_rng(1).normal(0.0, 4.0, picture.shape)
    blurred = np.clip(cv2.GaussianBlur(picture, (0, 0), 1.5) + noise, 0, 255).astype(np.uint8)
    found = BoardFinder(board).find(blurred)
    assert found is not None and len(found.ids) >= 12
    assert float(np.median(np.hypot(*(found.pixels - at[found.ids]).T))) < 0.35


def test_a_part_of_a_charuco_board_is_enough_and_keeps_its_names() -> None:
    board = parse_board(BOARDS[0])
    picture, at = seen(board, TILTED)
    picture[:, :240] = 200
    found = BoardFinder(board).find(picture)
    assert found is not None and boards.LEAST_CORNERS <= len(found.ids) < len(board.corners_m)
    assert float(np.hypot(*(found.pixels - at[found.ids]).T).max()) < 1.0


def test_a_checkerboard_upside_down_begins_at_its_upper_left() -> None:
    board = parse_board(BOARDS[1])
    picture, _ = seen(board, TILTED)
    found, turned = (BoardFinder(board).find(p) for p in (picture, np.ascontiguousarray(picture[::-1, ::-1])))
    assert found is not None and turned is not None
    assert turned.pixels[0].sum() < turned.pixels[-1].sum()
    # The first corner there is what was the last.
    assert turned.pixels[0] == pytest.approx(np.array([639, 479]) - found.pixels[-1], abs=0.5)


@pytest.mark.parametrize("text", BOARDS)
def test_there_is_none_in_a_wall(text: str) -> None:
    wall = np.random.default_rng(2).integers(0, 255, (480, 640), np.uint8)
    assert BoardFinder(parse_board(text)).find(wall) is None


def test_an_old_opencv_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2.aruco, "CharucoDetector")
    with pytest.raises(CalibrationError, match="4.7|checkerboard"):
        BoardFinder(parse_board(BOARDS[0]))
