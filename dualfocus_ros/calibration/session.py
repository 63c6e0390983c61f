# SPDX-License-Identifier: Apache-2.0
"""What a calibration measured, as a file: so that it can be evaluated again without the camera."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualfocus_ros.calibration.boards import Corners
from dualfocus_ros.calibration.placements import Placement, Shot
from dualfocus_ros.camera.target_board import Board, parse_board
from dualfocus_ros.errors import CalibrationError, DualFocusError
from dualfocus_ros.types import LensModel

FORMAT, VERSION = "dualfocus-calibration", 1


@dataclass(frozen=True)
class Session:
    """Measured placements and what belongs to them.

    Attributes:
        placements: in the order in which they were measured.
        board: None: there was none.
        lens: data sheet values, with the pixel pitch of the pictures.
        unit: of the actuator.
        date: ISO 8601.
    """

    placements: tuple[Placement, ...]
    board: Board | None
    lens: LensModel
    unit: str
    date: str


def save_session(session: Session, path: Path) -> None:
    """Write a session as JSON.

    Raises:
        CalibrationError: if it cannot be written.
    """
    lens = session.lens
    content = {
        "format": FORMAT,
        "version": VERSION,
        "date": session.date,
        "board": str(session.board) if session.board is not None else "",
        "lens": [lens.focal_length_m, lens.f_number, lens.pixel_pitch_m],
        "unit": session.unit,
        "placements": [_placement_to_json(p) for p in session.placements],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"cannot write the measurements {path}: {error}") from error


def load_session(path: Path) -> Session:
    """Read a session.

    Raises:
        CalibrationError: if it cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {content['format']!r} {content['version']!r}")
        return Session(
            placements=tuple(_placement_from_json(p) for p in content["placements"]),
            board=parse_board(content["board"]) if content["board"] else None,
            lens=LensModel(*content["lens"]),
            unit=str(content["unit"]),
            date=str(content["date"]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, DualFocusError) as error:
        raise CalibrationError(
            f"expected {path} to hold the measurements of calibrate lens ({FORMAT}, version {VERSION}): "
            f"{type(error).__name__}: {error}"
        ) from error


def _placement_to_json(placement: Placement) -> dict[str, Any]:
    return {
        "image_size": list(placement.image_size),
        "distance_m": placement.distance_m,
        "ids": placement.ids.tolist(),
        "centres_px": np.round(placement.centres_px, 3).tolist(),
        "sharpness": [[_rounded(v) for v in row] for row in placement.sharpness],
        "shots": [_shot_to_json(shot) for shot in placement.shots],
    }


def _placement_from_json(content: dict[str, Any]) -> Placement:
    rows = [[math.nan if v is None else float(v) for v in row] for row in content["sharpness"]]
    shots = tuple(_shot_from_json(shot) for shot in content["shots"])
    ids, sharpness = np.array(content["ids"], np.float64), np.array(rows, np.float64)
    if sharpness.shape != (len(shots), len(ids)):
        raise ValueError(f"sharpness of shape {sharpness.shape} for {len(shots)} pictures and {len(ids)} windows")
    width, height = content["image_size"]
    centres_px = np.array(content["centres_px"], np.float64).reshape(-1, 2)
    return Placement(shots, ids, sharpness, content["distance_m"], (int(width), int(height)), centres_px)


def _shot_to_json(shot: Shot) -> list[Any]:
    found = shot.corners
    corners = None if found is None else [found.ids.tolist(), np.round(found.pixels, 3).tolist()]
    return [shot.position, shot.direction, round(shot.time_s, 4), shot.temperature_c, corners]


def _shot_from_json(content: Sequence[Any]) -> Shot:
    position, direction, time_s, temperature_c, corners = content
    found = None
    if corners is not None:
        found = Corners(np.array(corners[0], np.int64), np.array(corners[1], np.float64).reshape(-1, 2))
    return Shot(float(position), int(direction), float(time_s), temperature_c, found)


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
