# SPDX-License-Identifier: Apache-2.0
"""What a lens gets wrong at each focus position, learned from sweep to sweep.

Mechanical errors repeat, so the estimate of each focus position is a recursive mean: every sweep counts by its
information, old sweeps are forgotten slowly, a sweep that says something else counts less (Huber, 1964), and where
two sweeps in a row say the same other thing the lens has changed and the estimate starts anew.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.alignment.base import corner_radius_px
from dualfocus_ros.alignment.residual import NO_RESIDUAL, StackResidual
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.types import FocalStack, Intrinsics

FloatArray = npt.NDArray[np.float64]

FORMAT, VERSION = "dualfocus-lens-errors", 1
LARGEST_ERROR = 0.25  # of the diagonal of the image; no lens is that bad
CAMERA_KEYS = ("width", "height", "focal_length_m", "reference_dpt")
CONVERGED_SWEEPS = 5
FORGETTING = 1.0 / 40.0  # share of what is known that a new sweep makes old
HUBER = 2.8  # standard deviations of three coefficients beyond which a sweep counts less: 95 % are within
JUMP = 5.0  # standard deviations beyond which a sweep contradicts what is known ...
LEAST_JUMP_PX = 0.5  # ... if it is also this far off
SAME_POSITION = 0.25  # of the smallest step: slices this near are of one focus position
LEAST_STEP_DPT = 0.005  # and so are those nearer than this
LEAST_INFORMATION = 0.25  # 1/px^2, in the worst direction: a sweep that says less of a slice does not count
FORGOTTEN_SWEEPS = 20  # a position that so many sweeps did not have is forgotten


@dataclass
class _Position:
    """What is known of one focus position: mean corner displacement, x and y shift (px), their information."""

    focus_dpt: float
    mean: FloatArray
    information: FloatArray
    sweeps: int
    rival: FloatArray | None = None
    unseen: int = 0  # sweeps since it was one of their positions

    def add(self, found: FloatArray, information: FloatArray) -> None:
        """Take in one sweep's estimate."""
        off = found - self.mean
        away = _deviations(off, self.information, information)
        if away > JUMP and np.linalg.norm(off) > LEAST_JUMP_PX:
            # A sweep that goes wrong is an exception; two that agree are a lens that has changed.
            if self.rival is not None and np.linalg.norm(found - self.rival) < 0.5 * np.linalg.norm(off):
                self.mean, self.information, self.sweeps, self.rival = found, information, 1, None
            else:
                self.rival = found
            return
        self.rival = None
        weight = information * min(1.0, HUBER / max(away, 1e-9))
        known = self.information * (1.0 - FORGETTING)
        self.information = known + weight
        self.mean = self.mean + np.linalg.solve(self.information, weight @ off)
        self.sweeps += 1


def _deviations(off: FloatArray, a: FloatArray, b: FloatArray) -> float:
    """Return by how many standard deviations two estimates of information a and b, `off` apart, differ."""
    covariance = np.linalg.inv(a) + np.linalg.inv(b)
    return math.sqrt(max(float(off @ np.linalg.solve(covariance, off)), 0.0))


class LensMemory:
    """Running estimate of the residual at every focus position, against that of the reference slice."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Start empty, or with what a file holds; it need not exist yet.

        Raises:
            AlignmentError: if the file is not readable, or not one of these.
        """
        self._path: Path | None = None
        self._positions: list[_Position] = []
        self._camera: dict[str, Any] = {}  # what the estimates are valid for
        self._from_file = False  # and not yet found to be of this camera
        self.trouble = ""  # why the file could not be written the last time
        if path:
            self._path = _usable(path)
            if self._path.exists():
                self._camera, self._positions = _read(self._path)
                self._from_file = True

    def recall(
        self, stack: FocalStack, k: Intrinsics, source: str = ""
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return the residual (N, 3), see `align.align`, and of how many sweeps (N,) each slice's is.

        What is left beyond the metadata is another thing for other metadata: `source` says which. Where nothing
        is known the residual is none; the reference has none by definition, and counts as known.

        Raises:
            AlignmentError: if the estimates were read from a file and are of another camera or sweep.
        """
        self._check_camera(stack, k, source)
        residual = np.tile(NO_RESIDUAL, (len(stack.slices), 1))
        sweeps = np.zeros(len(stack.slices), np.int64)
        for n, known in enumerate(self._of(stack)):
            if n == stack.reference:
                sweeps[n] = CONVERGED_SWEEPS
            elif known is not None:
                residual[n] = _as_residual(known.mean, k)
                sweeps[n] = known.sweeps
        return residual, sweeps

    def learn(self, stack: FocalStack, k: Intrinsics, found: StackResidual, source: str = "") -> None:
        """Take in what one sweep says, and write the file, if there is one, once all of the sweep is well known.

        A slice that shows too little does not count. If the file cannot be written, `trouble` says why.

        Raises:
            AlignmentError: as `recall`.
        """
        self._check_camera(stack, k, source)
        for position in self._positions:
            position.unseen += 1
        told = tells(found.information)
        for n, known in enumerate(self._of(stack)):
            if n == stack.reference or not told[n]:
                continue
            seen = _as_pixels(found.residual[n], k)
            if known is None:
                position = _Position(stack.slices[n].focus_dpt, seen, found.information[n], 1)
                self._positions.append(position)
            else:
                known.add(seen, found.information[n])
        now = [p for n, p in enumerate(self._of(stack)) if n != stack.reference]
        for known in now:
            if known is not None:
                known.unseen = 0
        self._positions = [p for p in self._positions if p.unseen < FORGOTTEN_SWEEPS]
        if self._path is not None and all(p is not None and p.sweeps >= CONVERGED_SWEEPS for p in now):
            self.trouble = _write(self._path, self._camera, [p for p in now if p is not None])

    def contradicted(self, stack: FocalStack) -> bool:
        """Say whether the newest sweep said something else than those before, at any position of this stack."""
        return any(p is not None and p.rival is not None for p in self._of(stack))

    def _of(self, stack: FocalStack) -> list[_Position | None]:
        """Return what is known of every slice's position."""
        focus_dpt = 1.0 / stack.focus_distance_m
        reach_dpt = same_position_dpt(focus_dpt)
        found: list[_Position | None] = []
        for dpt in focus_dpt:
            nearest = min(self._positions, key=lambda p: abs(p.focus_dpt - dpt), default=None)
            found.append(nearest if nearest is not None and abs(nearest.focus_dpt - dpt) <= reach_dpt else None)
        return found

    def _check_camera(self, stack: FocalStack, k: Intrinsics, source: str) -> None:
        """Start anew where camera, reference or metadata are others; refuse what a file holds of another one."""
        reference_dpt = stack.slices[stack.reference].focus_dpt
        camera = {
            "width": k.width,
            "height": k.height,
            "focal_length_m": stack.lens.focal_length_m,
            "reference_dpt": reference_dpt,
            "source": source,
        }
        if not self._camera:
            self._camera = camera
        pairs = [(float(self._camera[key]), float(camera[key])) for key in CAMERA_KEYS]  # type: ignore[arg-type]
        same = all(math.isclose(a, b, rel_tol=0.01, abs_tol=1e-4) for a, b in pairs)
        if same and self._camera["source"] == source:
            self._from_file = False
            return
        if self._from_file:
            raise AlignmentError(
                f"{self._path}: expected lens errors of this camera ({camera}), got those of {self._camera}: "
                "delete the file, or name another (alignment_file)"
            )
        self._positions, self._camera = [], camera


def same_position_dpt(focus_dpt: FloatArray) -> float:
    """Return how far from a focus position of a sweep (N,) a slice may be and still be of it, all in dioptres."""
    return max(SAME_POSITION * float(np.abs(np.diff(focus_dpt)).min()), LEAST_STEP_DPT)


def tells(information: FloatArray) -> npt.NDArray[np.bool_]:
    """Say of which slices (N,) an estimate with that information (N, 3, 3) is worth something."""
    return np.asarray(np.linalg.eigvalsh(information)[:, 0] >= LEAST_INFORMATION)


def _as_pixels(residual: FloatArray, k: Intrinsics) -> FloatArray:
    radius = corner_radius_px(k.width, k.height, k.cx_px, k.cy_px)
    return np.array([(residual[0] - 1.0) * radius, residual[1], residual[2]])


def _as_residual(pixels: FloatArray, k: Intrinsics) -> FloatArray:
    radius = corner_radius_px(k.width, k.height, k.cx_px, k.cy_px)
    return np.array([1.0 + pixels[0] / radius, pixels[1], pixels[2]])


def _usable(path: str | Path) -> Path:
    """Return the path of a file that can be written; raise AlignmentError where it cannot."""
    try:
        found = Path(path).expanduser()
        folder = found.parent
        with suppress(FileNotFoundError, NotADirectoryError):
            found.stat()
        if folder.is_dir() and not found.is_dir() and os.access(folder, os.W_OK):
            return found
        why = f"{found} is a folder" if found.is_dir() else f"{folder} is no folder that can be written"
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error)
    raise AlignmentError(
        f"expected alignment_file to be a file in a folder that can be written, got {path}: {why}"
    )


def _write(path: Path, camera: dict[str, Any], positions: Sequence[_Position]) -> str:
    """Write the file whole or not at all; return why that failed, empty if it did not."""
    entries = [
        {
            "focus_dpt": p.focus_dpt,
            "corner_px": p.mean[0],
            "shift_x_px": p.mean[1],
            "shift_y_px": p.mean[2],
            "information": p.information.tolist(),
            "sweeps": p.sweeps,
        }
        for p in sorted(positions, key=lambda p: -p.focus_dpt)
    ]
    data = {"format": FORMAT, "version": VERSION, "camera": camera, "positions": entries}
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        return f"cannot write {path}: {error.strerror}; what was learned of the lens is not kept (alignment_file)"
    return ""


def _read(path: Path) -> tuple[dict[str, Any], list[_Position]]:
    try:
        data = json.loads(path.read_text())
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
        camera: dict[str, Any] = {key: float(data["camera"][key]) for key in CAMERA_KEYS}
        if not all(math.isfinite(value) for value in camera.values()):
            raise ValueError(f"camera {camera}")
        largest_px = LARGEST_ERROR * math.hypot(camera["width"], camera["height"])
        camera["source"] = str(data["camera"]["source"])
        positions = [_read_position(entry, largest_px) for entry in data["positions"]]
    except OSError as error:
        raise AlignmentError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise AlignmentError(
            f"{path}: expected lens errors ({FORMAT}, version {VERSION}), got something else ({error}): delete "
            "the file, or name another (alignment_file)"
        ) from error
    return camera, positions


def _read_position(entry: dict[str, Any], largest_px: float) -> _Position:
    focus_dpt, sweeps = float(entry["focus_dpt"]), int(entry["sweeps"])
    mean = np.array([entry["corner_px"], entry["shift_x_px"], entry["shift_y_px"]], float)
    information = np.array(entry["information"], float)
    sound = (
        information.shape == (3, 3) and np.isfinite(information).all() and bool(np.abs(mean).max() < largest_px)
    )
    if not (sound and math.isfinite(focus_dpt) and sweeps > 0) or np.linalg.eigvalsh(information).min() <= 0.0:
        raise ValueError(f"no usable estimate at {entry['focus_dpt']} dpt")
    return _Position(focus_dpt, mean, information, sweeps)
