# SPDX-License-Identifier: Apache-2.0
"""The manifest of an exported network: NAME.json beside NAME.onnx says what the file is and takes.

It is the contract between whoever trains a network and the engines that run it. One set of weights serves any
number of slices from 3 on, any focus positions, any lens and any image size:

    inputs   images         (slices, 3, height, width) RGB as the camera codes it, 0..1, nearest focus first
             focus_dpt      (slices,) focus positions in dioptres, strictly descending, 0 = infinity
             blur_gain      (1,) diameter of the blur circle in pixels per dioptre of defocus
    outputs  inverse_depth  (height, width) dioptres, 0 = infinity
             confidence     (height, width) 0..1: probability that depth is within 10 % of the truth
             all_in_focus   (3, height, width) RGB, 0..1

A model may also come in two stages, so that slices can be worked on while the others are still to come:
NAME_encoder.onnx takes images of any number of slices and gives ENCODED; NAME_head.onnx takes JOINED of all
slices, made of that by sums, focus_dpt and blur_gain and gives inverse_depth and confidence. The images are to be
padded below and on the right to multiples of STRIDE, by repeating the border.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import EngineError
from dualfocus_ros.model_files import file_beside, is_file_name, read_manifest, sha256_of
from dualfocus_ros.share import share_directory
from dualfocus_ros.types import MIN_SLICES

FORMAT = "dualfocus-model"
VERSION = 1
DEFAULT_MODEL = "dualfocus_small"
PRECISIONS = ("fp32", "fp16")
FOCUS = {"unit": "dioptre", "order": "nearest first"}
# What each tensor is: shape, in words where a size is free, and meaning. All are float32.
INPUTS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "images": (("slices", 3, "height", "width"), "RGB as the camera codes it, 0..1, nearest focus first"),
    "focus_dpt": (("slices",), "focus positions in dioptres, strictly descending, 0 = infinity"),
    "blur_gain": ((1,), "diameter of the blur circle in pixels per dioptre of defocus"),
}
OUTPUTS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "inverse_depth": (("height", "width"), "dioptres, 0 = infinity"),
    "confidence": (("height", "width"), "0..1, probability that depth is within 10 % of the truth"),
    "all_in_focus": ((3, "height", "width"), "RGB, 0..1"),
}
STRIDE = 32
SCALES = (4, 8, 16, 32)
# What the encoder gives and the head takes, all (slices, channels, height / d, width / d) with d at the end of the
# name. Between them, what slice n says is joined with what the one behind it says ahead:
# joined_d[n] = own_d[n] + ahead_d[n + 1], and of the last own_d[N] + 2 ahead_d[N] - ahead_d[N - 1].
ENCODED = (*(f"own_{d}" for d in SCALES), *(f"ahead_{d}" for d in SCALES), "energy_2", "cells_4")
JOINED = (*(f"joined_{d}" for d in SCALES), "energy_2", "cells_4")
KEYS = (
    *("name", "file", "sha256", "precision", "opset", "inputs", "outputs", "focus", "slices"),
    *("blur_step_px", "training", "parameters"),
)
SELF_CHECK_CELLS = (8, 12)  # rows and columns of the reference answer, see `engine.selfcheck`


@dataclass(frozen=True)
class SelfCheck:
    """What the network made of the stack of `engine.selfcheck` when it was exported.

    Attributes:
        inverse_depth_dpt: mean of each cell, SELF_CHECK_CELLS rows and columns, dioptres.
        tolerance: largest relative difference that an engine may have.
    """

    inverse_depth_dpt: tuple[tuple[float, ...], ...]
    tolerance: float


@dataclass(frozen=True)
class Stages:
    """The files of a network in two stages, in the folder of the manifest."""

    encoder_path: Path
    head_path: Path


@dataclass(frozen=True)
class ModelManifest:
    """What a network file is, checked.

    Attributes:
        name: of the model, e.g. `dualfocus_small`.
        onnx_path: the network file, in the folder of the manifest.
        sha256: of the network file, hexadecimal.
        precision: of the weights, fp32 or fp16; the tensors in and out are float32 always.
        opset: version of the ONNX operators.
        parameters: number of weights.
        min_slices: fewest slices that it takes.
        trained_max_slices: most slices of a stack that it was trained on.
        blur_step_px: smallest and largest blur (px) from slice to slice that it was trained on.
        training: how it came about; free form.
        self_check: its answer to a known stack; None where the manifest has none.
        stages: the network in two stages; None where there is but one file.
    """

    name: str
    onnx_path: Path
    sha256: str
    precision: str
    opset: int
    parameters: int
    min_slices: int
    trained_max_slices: int
    blur_step_px: tuple[float, float]
    training: Mapping[str, Any]
    self_check: SelfCheck | None = None
    stages: Stages | None = None

    def summary(self) -> str:
        """Return a line for reports, e.g. `1.20 M parameters, fp32, trained on 3 to 15 slices`."""
        slices = f"trained on {self.min_slices} to {self.trained_max_slices} slices"
        return f"{self.parameters / 1e6:.2f} M parameters, {self.precision}, {slices}"


def models_folder() -> Path:
    """Return the folder of the models that are installed with the package.

    Raises:
        InputError: if the package is not installed completely.
    """
    return share_directory() / "models"


def list_models(folder: str | Path) -> tuple[Path, ...]:
    """Return the manifests in a folder, unread, sorted by name; none where there is no such folder."""
    return tuple(sorted(Path(folder).glob("*.json")))


def find_model(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Return the manifest of a model, unread.

    Args:
        name_or_path: a name such as `dualfocus_small`, or the path of an .onnx or .json file.
        folder: where names are looked for; by default the models of the package.

    Raises:
        EngineError: if there is none.
        InputError: if the package is not installed completely.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix in (".onnx", ".json") or len(path.parts) > 1:
        manifest = path.with_suffix(".json")
        if path.suffix not in (".onnx", ".json"):
            raise EngineError(f"expected model to be a name, or the path of an .onnx or .json file, got {text!r}")
        if not manifest.is_file():
            raise EngineError(f"expected the manifest of the model at {manifest}, found none: NAME.onnx needs it")
        return manifest
    folder = models_folder() if folder is None else folder
    if text and (folder / f"{text}.json").is_file():
        return folder / f"{text}.json"
    names = [p.stem for p in list_models(folder)]
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {names}" if names else "; there are none"
    raise EngineError(
        f"no model {text!r} in {folder}{hint}. Put {text or 'NAME'}.onnx and its .json there, or name a file: "
        "model:=/path/to/model.onnx or --model; engine:=classical or --engine classical works without"
    )


def load_manifest(path: str | Path) -> ModelManifest:
    """Read a manifest and check it and the network file that it names.

    Raises:
        EngineError: if either is missing, damaged, of another format, or not what the engines can run.
    """
    path = Path(path)
    data = read_manifest(path)
    _check_contract(path, data)
    onnx_path = _checked_file(path, data)
    stages = None
    if (files := data.get("stages")) is not None:
        stages = Stages(_checked_file(path, files["encoder"]), _checked_file(path, files["head"]))
    return ModelManifest(
        name=data["name"],
        onnx_path=onnx_path,
        sha256=data["sha256"],
        precision=data["precision"],
        opset=data["opset"],
        parameters=data["parameters"],
        min_slices=data["slices"]["min"],
        trained_max_slices=data["slices"]["trained_max"],
        blur_step_px=(float(data["blur_step_px"]["min"]), float(data["blur_step_px"]["max"])),
        training=data["training"],
        self_check=_self_check(data.get("self_check")),
        stages=stages,
    )


def _checked_file(manifest: Path, entry: Mapping[str, Any]) -> Path:
    return file_beside(manifest, entry["file"], entry["sha256"], "copy all files of the model again")


def write_manifest(
    onnx_path: str | Path,
    *,
    precision: str,
    opset: int,
    parameters: int,
    trained_max_slices: int,
    blur_step_px: tuple[float, float],
    training: Mapping[str, Any],
    self_check: SelfCheck | None = None,
    stages: Stages | None = None,
) -> Path:
    """Write the manifest of a network file beside it and return its path; the name is that of the file.

    Args:
        onnx_path: NAME.onnx, complete: its SHA-256 goes into the manifest.
        precision: fp32 or fp16, of the weights.
        opset: version of the ONNX operators.
        parameters: number of weights.
        trained_max_slices: most slices of a stack in training.
        blur_step_px: smallest and largest blur (px) from slice to slice in training.
        training: how the weights came about; anything that JSON holds.
        self_check: what the network makes of the stack of `engine.selfcheck`.
        stages: the network in two stages, both files complete and beside the other.

    Raises:
        EngineError: if there is no such file or a value is not what `load_manifest` takes.
    """
    onnx_path = Path(onnx_path)
    if not onnx_path.is_file():
        raise EngineError(f"expected a network file to describe, found none at {onnx_path}: export it first")
    data = {
        "format": FORMAT,
        "version": VERSION,
        "name": onnx_path.stem,
        "file": onnx_path.name,
        "sha256": sha256_of(onnx_path),
        "precision": precision,
        "opset": opset,
        "inputs": _tensors(INPUTS),
        "outputs": _tensors(OUTPUTS),
        "focus": FOCUS,
        "slices": {"min": MIN_SLICES, "trained_max": trained_max_slices},
        "blur_step_px": {"min": blur_step_px[0], "max": blur_step_px[1]},
        "training": dict(training),
        "parameters": parameters,
    }
    if self_check is not None:
        data["self_check"] = dataclasses.asdict(self_check)
    if stages is not None:
        files = {"encoder": stages.encoder_path, "head": stages.head_path}
        data["stages"] = {key: {"file": f.name, "sha256": sha256_of(f)} for key, f in files.items()}
    path = onnx_path.with_suffix(".json")
    _check_contract(path, data)
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _tensors(tensors: Mapping[str, tuple[tuple[str | int, ...], str]]) -> dict[str, Any]:
    return {n: {"dtype": "float32", "shape": list(s), "meaning": meaning} for n, (s, meaning) in tensors.items()}


def _check_contract(path: Path, data: Mapping[str, Any]) -> None:
    """Raise EngineError where the manifest is not one of a network that the engines can run."""
    if data.get("format") != FORMAT:
        raise EngineError(
            f"{path}: expected format {FORMAT!r}, got {data.get('format')!r}: not a model's manifest"
        )
    if data.get("version") != VERSION:
        advice = "update this package, or export the model again with it"
        raise EngineError(f"{path}: expected manifest version {VERSION}, got {data.get('version')!r}: {advice}")
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise EngineError(f"{path}: {', '.join(missing)} missing in the manifest: export the model again")
    for key, tensors in (("inputs", INPUTS), ("outputs", OUTPUTS)):
        _check_tensors(f"{path}: {key}", data[key], tensors)
    _check_values(path, data)


def _check_tensors(where: str, found: Any, expected: Mapping[str, tuple[tuple[str | int, ...], str]]) -> None:
    if not isinstance(found, dict) or set(found) != set(expected):
        got = sorted(found) if isinstance(found, dict) else found
        raise EngineError(f"{where}: expected the tensors {sorted(expected)}, got {got}: export the model again")
    for name, (shape, _) in expected.items():
        tensor = found[name] if isinstance(found[name], dict) else {}
        got = (tensor.get("dtype"), tensor.get("shape"))
        if got != ("float32", list(shape)):
            raise EngineError(f"{where}: expected {name} to be float32 {list(shape)}, got {got[0]} {got[1]}")


def _check_values(path: Path, data: Mapping[str, Any]) -> None:
    slices, blur = data["slices"], data["blur_step_px"]
    checks = (
        ("name", "a text", lambda: _is_text(data["name"])),
        ("file", "the name of a file beside the manifest", lambda: is_file_name(data["file"])),
        ("sha256", "64 hexadecimal digits", lambda: _is_digest(data["sha256"])),
        ("precision", f"one of {PRECISIONS}", lambda: data["precision"] in PRECISIONS),
        ("opset", "a whole number above 0", lambda: _is_count(data["opset"])),
        ("parameters", "a whole number above 0", lambda: _is_count(data["parameters"])),
        ("focus", f"{FOCUS}", lambda: data["focus"] == FOCUS),
        (
            "slices",
            f"whole numbers {MIN_SLICES} <= min <= trained_max",
            lambda: (
                _is_count(slices["min"])
                and _is_count(slices["trained_max"])
                and MIN_SLICES <= slices["min"] <= slices["trained_max"]
            ),
        ),
        ("blur_step_px", "0 <= min <= max", lambda: 0 <= float(blur["min"]) <= float(blur["max"]) < float("inf")),
        ("training", "an object", lambda: isinstance(data["training"], dict)),
        (
            "self_check",
            f"{SELF_CHECK_CELLS[0]} rows of {SELF_CHECK_CELLS[1]} inverse_depth_dpt and a tolerance, above 0",
            lambda: _is_self_check(data.get("self_check")),
        ),
        (
            "stages",
            "files and their sha256 for encoder and head",
            lambda: (
                data.get("stages") is None or all(_is_file(data["stages"][key]) for key in ("encoder", "head"))
            ),
        ),
    )
    for key, expected, holds in checks:
        try:
            good = bool(holds())
        except (TypeError, ValueError, KeyError):
            good = False
        if not good:
            raise EngineError(f"{path}: expected {key} to be {expected}, got {data[key]!r}")


def _self_check(data: Any) -> SelfCheck | None:
    if data is None:
        return None
    rows = tuple(tuple(float(value) for value in row) for row in data["inverse_depth_dpt"])
    return SelfCheck(rows, float(data["tolerance"]))


def _is_self_check(data: Any) -> bool:
    found = _self_check(data)
    if found is None:
        return True
    rows, columns = SELF_CHECK_CELLS
    shape = [len(row) for row in found.inverse_depth_dpt]
    values = [value for row in found.inverse_depth_dpt for value in row]
    return shape == [columns] * rows and all(0.0 < v < float("inf") for v in (*values, found.tolerance))


def _is_file(entry: Any) -> bool:
    return is_file_name(entry["file"]) and _is_digest(entry["sha256"])


def _is_digest(value: Any) -> bool:
    return len(value) == 64 and int(value, 16) >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
