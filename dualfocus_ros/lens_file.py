# SPDX-License-Identifier: Apache-2.0
"""Lens files: what calibration found of a lens that moves, as YAML that people can read and write.

format: dualfocus-lens
version: 1
name: my_webcam
module: Logitech C920            # free text
calibrated: true                 # false: a starting point from data sheets, depth may be far off
date: 2026-11-28
method: board, 6 placements      # free text
lens: {focal_length_m: 0.00367, f_number: 2.0, pixel_pitch_m: 7.2e-06}
image_size: [640, 480]           # that pixel_pitch_m and intrinsics are for
focus:
  unit: focus_absolute           # of the actuator
  curve: [[0.0, 0.1], [125.0, 5.2], [250.0, 11.0]]     # actuator position, dioptres
  hysteresis: 3.0                # play of the actuator, in its unit
  temperature: {reference_c: 30.0, dpt_per_k: 0.004}   # added to the curve by (temperature - reference)
  settle: [[10.0, 0.05], [250.0, 0.18]]                # length of the move, seconds until the image is settled
intrinsics:                      # at focus positions; in between they are interpolated
  - {focus_dpt: 0.1, fx: 510.0, fy: 510.0, cx: 319.5, cy: 239.5}
distortion_model: plumb_bob
distortion: [0.01, -0.02, 0.0, 0.0, 0.0]
residuals: {focus_rms_dpt: 0.012}                      # what calibration left, free
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dualfocus_ros.errors import CalibrationError, DualFocusError
from dualfocus_ros.lens_calibration import FocusCurve, LensCalibration
from dualfocus_ros.share import share_directory
from dualfocus_ros.types import LensModel

FORMAT, VERSION = "dualfocus-lens", 1


def lens_folders() -> tuple[Path, ...]:
    """Return where lens files are looked for: the user's own folder, then that of the package."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "dualfocus_ros" / "lenses", share_directory() / "config" / "lenses"


def list_lenses() -> dict[str, Path]:
    """Return name and path of every lens file that can be named."""
    found: dict[str, Path] = {}
    for folder in lens_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_lens(name: str) -> Path:
    """Return the path of a lens file by its name, or by its path.

    Raises:
        CalibrationError: if there is none.
    """
    known = list_lenses()
    if name in known:
        return known[name]
    try:
        path = Path(name).expanduser()
        if name and path.is_file():
            return path
    except (OSError, RuntimeError, ValueError):  # ~nobody, names that no file can have
        pass
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    what = f"got {name!r}" if name else "got none"
    raise CalibrationError(
        f"expected lens to be a lens file, by name or path, {what}: {hint} "
        "(make one with: dualfocus calibrate lens)"
    )


def load_lens(name: str) -> LensCalibration:
    """Return the lens file of that name, or at that path.

    Raises:
        CalibrationError: if there is none, or it is not usable. The message names the file and the entry.
    """
    path = find_lens(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CalibrationError(f"expected {path} to be a lens file in YAML: {error}") from error
    try:
        return _from_yaml(content, path.stem)
    except DualFocusError as error:
        raise CalibrationError(f"{path}: {error}") from error


def save_lens(calibration: LensCalibration, path: Path) -> None:
    """Write a lens file; an existing one is replaced as a whole.

    Raises:
        CalibrationError: if it cannot be written.
    """
    text = yaml.safe_dump(_to_yaml(calibration), sort_keys=False, default_flow_style=None, width=110)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CalibrationError(f"cannot write the lens file {path}: {error}") from error


_KEYS = (
    *("format", "version", "name", "module", "calibrated", "date", "method", "lens", "image_size", "focus"),
    *("intrinsics", "distortion_model", "distortion", "residuals"),
)
_FOCUS_KEYS = ("unit", "curve", "hysteresis", "temperature", "settle")


def _from_yaml(content: Any, stem: str) -> LensCalibration:
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise CalibrationError(f"expected format: {FORMAT} and version: {VERSION}")
    _refuse_unknown(content, _KEYS)
    focus = content.get("focus")
    if not isinstance(focus, dict):
        raise CalibrationError("expected focus with a curve")
    _refuse_unknown(focus, _FOCUS_KEYS)
    lens = _numbers(content.get("lens"), ("focal_length_m", "f_number", "pixel_pitch_m"), "lens")
    size = _table([content.get("image_size")], 2, "image_size")[0]
    curve = _table(focus.get("curve"), 2, "focus.curve")
    rows = content.get("intrinsics") or []
    if not isinstance(rows, list):
        raise CalibrationError(f"expected intrinsics as a list, got {rows!r}")
    at = [_numbers(row, ("focus_dpt", "fx", "fy", "cx", "cy"), "intrinsics") for row in rows]
    warmth = focus.get("temperature")
    reference_c, dpt_per_k = (
        _numbers(warmth, ("reference_c", "dpt_per_k"), "focus.temperature") if warmth else (None, 0.0)
    )
    return LensCalibration(
        name=_text(content, "name") or stem,
        lens=LensModel(*lens),
        image_size=(_whole(size[0], "image_size"), _whole(size[1], "image_size")),
        curve=FocusCurve(tuple(row[0] for row in curve), tuple(row[1] for row in curve)),
        unit=_text(focus, "unit"),
        calibrated=_calibrated(content),
        date=_text(content, "date"),
        module=_text(content, "module"),
        method=_text(content, "method"),
        hysteresis=_number(focus.get("hysteresis", 0.0), "focus.hysteresis"),
        temperature_c=reference_c,
        dpt_per_k=dpt_per_k or 0.0,
        settle=tuple((row[0], row[1]) for row in _table(focus.get("settle") or [], 2, "focus.settle")),
        focus_dpt=tuple(row[0] for row in at),
        intrinsics=tuple((row[1], row[2], row[3], row[4]) for row in at),
        distortion_model=_text(content, "distortion_model"),
        distortion=tuple(row[0] for row in _table(_columns(content.get("distortion")), 1, "distortion")),
        residuals=_residuals(content.get("residuals") or {}),
    )


def _to_yaml(c: LensCalibration) -> dict[str, Any]:
    def short(value: float) -> float:
        return float(f"{value:.8g}")

    focus: dict[str, Any] = {
        "unit": c.unit,
        "curve": [[short(u), short(d)] for u, d in zip(c.curve.positions, c.curve.focus_dpt, strict=True)],
        "hysteresis": short(c.hysteresis),
        "settle": [[short(m), short(t)] for m, t in c.settle],
    }
    if c.temperature_c is not None:
        focus["temperature"] = {"reference_c": short(c.temperature_c), "dpt_per_k": short(c.dpt_per_k)}
    rows = zip(c.focus_dpt, c.intrinsics, strict=True)
    names = ("fx", "fy", "cx", "cy")
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": c.name,
        "module": c.module,
        "calibrated": bool(c.calibrated),
        "date": c.date,
        "method": c.method,
        "lens": {
            "focal_length_m": short(c.lens.focal_length_m),
            "f_number": short(c.lens.f_number),
            "pixel_pitch_m": short(c.lens.pixel_pitch_m),
        },
        "image_size": [int(side) for side in c.image_size],
        "focus": focus,
        "intrinsics": [
            {"focus_dpt": short(d), **{n: short(v) for n, v in zip(names, k, strict=True)}} for d, k in rows
        ],
        "distortion_model": c.distortion_model,
        "distortion": [short(d) for d in c.distortion],
        "residuals": {k: short(v) for k, v in c.residuals.items()},
    }


def _refuse_unknown(content: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in content:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            raise CalibrationError(
                f"unknown entry {key!r}: " + (f"did you mean {near[0]!r}?" if near else str(keys))
            )


def _number(value: Any, name: str) -> float:
    # YAML 1.1 reads 1e-6 as text.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CalibrationError(f"expected {name} to be a number, got {value!r}")
    return number


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return "" if value is None else str(value)


def _calibrated(content: Mapping[str, Any]) -> bool:
    value = content.get("calibrated", False)
    if not isinstance(value, bool):
        raise CalibrationError(f"expected calibrated to be true or false, got {value!r}")
    return value


def _whole(value: float, name: str) -> int:
    if value != int(value):
        raise CalibrationError(f"expected {name} in whole pixels, got {value}")
    return int(value)


def _columns(value: Any) -> Any:
    """Return a list of numbers as a table of one column; anything else as it is, for `_table` to refuse."""
    if value is None:
        return []
    return [[v] for v in value] if isinstance(value, list) else value


def _residuals(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise CalibrationError(f"expected residuals as name: number, got {value!r}")
    return {str(k): _number(v, f"residuals.{k}") for k, v in value.items()}


def _numbers(value: Any, keys: Sequence[str], name: str) -> tuple[float, ...]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise CalibrationError(f"expected {name} with the entries {', '.join(keys)}, got {value!r}")
    return tuple(_number(value[key], f"{name}.{key}") for key in keys)


def _table(value: Any, columns: int, name: str) -> list[tuple[float, ...]]:
    if not isinstance(value, list) or any(not isinstance(row, list) or len(row) != columns for row in value):
        raise CalibrationError(f"expected {name} as a list of [{', '.join(['number'] * columns)}], got {value!r}")
    return [tuple(_number(v, name) for v in row) for row in value]
