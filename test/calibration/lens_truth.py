# SPDX-License-Identifier: Apache-2.0
"""Placements of a board before a lens that is known exactly: corners and sharpness by formula, no pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from dualfocus_ros.calibration.boards import Corners
from dualfocus_ros.calibration.placements import Placement, Shot
from dualfocus_ros.camera.simulated_plane import Placement as Pose
from dualfocus_ros.camera.target_board import Board, parse_board
from dualfocus_ros.types import LensModel

SIZE = (640, 480)
BOARD = parse_board("checkerboard:7x4:0.035")
LENS = LensModel(0.008, 1.6, 1e-5)
# Near and far in turns.
POSES = (
    Pose(0.40, 25.0, 0.0),
    Pose(0.22, 0.0, -30.0),
    Pose(0.60, -30.0, 10.0),
    Pose(0.28, 0.0, 30.0),
    Pose(0.20, 20.0, 20.0),
    Pose(0.33, -20.0, -30.0),
)


def rising(lens_position: float) -> float:
    """Return dioptres: bent, 0.6 to 6.6 over 0 to 1000."""
    part = lens_position / 1000.0
    return 0.6 + 4.2 * part + 1.8 * part**2


@dataclass
class KnownLens:
    """A lens.

    Attributes:
        curve: lens position to dioptres.
        play: of the actuator.
        dpt_per_k: drift with temperature, against that at the end of the session.
        warming_k: how much colder it is at its start.
        told: whether pictures tell the temperature.
        curvature_dpt: how much nearer the corners of the picture are focused.
        k1: radial distortion.
        breathing: fx at 0 dpt, and what its change with the focus is, relative per dioptre.
        noise: relative, of sharpness; and pixels, of corners.
        blur: of sharpness, parts of a dioptre that halve the energy.
    """

    curve: Callable[[float], float] = rising
    play: float = 0.0
    dpt_per_k: float = 0.0
    warming_k: float = 10.0
    told: bool = True
    curvature_dpt: float = 0.0
    k1: float = 0.0
    breathing: tuple[float, float] = (800.0, 0.008)
    noise: tuple[float, float] = (0.005, 0.05)
    blur_dpt: float = 0.6
    board: Board = field(default_factory=lambda: BOARD)

    def fx_px(self, focus_dpt: float) -> float:
        return self.breathing[0] * (1.0 + self.breathing[1] * focus_dpt)

    def celsius(self, part: float) -> float:
        return 40.0 - self.warming_k * (1.0 - part)

    def focus_dpt(self, position: float, direction: int, part: float) -> float:
        drift = self.dpt_per_k * (self.celsius(part) - 40.0)
        return self.curve(position - 0.5 * direction * self.play) + drift

    def measure(self, poses: tuple[Pose, ...] = POSES, steps: int = 48) -> tuple[Placement, ...]:
        """Return what the pictures of a session would tell."""
        rng = np.random.default_rng(5)
        positions = np.linspace(0.0, 1000.0, steps)
        moves = [*((u, 1) for u in positions), *((u, -1) for u in positions[::-1])]
        total = len(poses) * len(moves)
        return tuple(
            self._placement(pose, moves, i * len(moves) / total, len(moves) / total, rng)
            for i, pose in enumerate(poses)
        )

    def _placement(self, pose, moves, begin: float, takes: float, rng: np.random.Generator) -> Placement:
        corners = self.board.corners_m
        seen = (corners - 0.5 * (corners[0] + corners[-1])) @ pose.rotation().T + pose.middle()
        z_dpt = 1.0 / seen[:, 2]
        half = 0.5 * (np.array(SIZE) - 1.0)
        shots, rows, places = [], [], []
        for j, (u, direction) in enumerate(moves):
            part = begin + takes * j / len(moves)
            focus_dpt = self.focus_dpt(u, direction, part)
            f = self.fx_px(focus_dpt)
            k = np.array([[f, 0.0, half[0]], [0.0, f, half[1]], [0.0, 0.0, 1.0]])
            distortion = np.array([self.k1, 0.0, 0.0, 0.0, 0.0])
            pixels = cv2.projectPoints(seen, np.zeros(3), np.zeros(3), k, distortion)[0].reshape(-1, 2)
            off_axis = ((pixels - half) ** 2).sum(axis=1) / (half**2).sum()
            defocus = (focus_dpt + self.curvature_dpt * off_axis - z_dpt) / self.blur_dpt
            energy = 1.0 / np.sqrt(1.0 + 3.0 * defocus**2)
            rows.append(energy * (1.0 + self.noise[0] * rng.standard_normal(len(energy))))
            found = None
            if abs(defocus.mean()) < 2.0:
                noisy = pixels + self.noise[1] * rng.standard_normal(pixels.shape)
                found = Corners(np.arange(len(corners)), noisy)
            shots.append(Shot(float(u), direction, 100.0 * part, self.celsius(part) if self.told else None, found))
            places.append(pixels)
        centres = np.median(places, axis=0)
        return Placement(tuple(shots), np.arange(float(len(corners))), np.array(rows), None, SIZE, centres)
