# SPDX-License-Identifier: Apache-2.0
"""Residual alignment by a small network, run by ONNX Runtime on the CPU.

The network finds by itself where least squares can be trusted: `learning.align_network` says how. Its graph
filters every slice once, however many pairs the slice is in:

    inputs   images     (slices, height, width) linear light of mean 1; height and width multiples of CELL
             first      (pairs,) int64, index of the first image of each pair
             second     (pairs,) int64, of the second
             grid       (2, height, width) the radial basis flow along x and y, see `alignment.base.Grid`
    outputs  equations  (pairs, 3, 4) normal equations, see `alignment.base.ResidualEstimator`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.alignment.base import Grid, Pair
from dualfocus_ros.errors import EngineError
from dualfocus_ros.model_files import file_beside, is_file_name, read_manifest
from dualfocus_ros.model_files import sha256_of as sha256_of  # for those who write a manifest
from dualfocus_ros.onnx_runtime import CPU, first_line, import_runtime, load_session, physical_cores
from dualfocus_ros.share import share_directory
from dualfocus_ros.types import FloatImage

FORMAT = "dualfocus-alignment"
VERSION = 1
DEFAULT_MODEL = "align_small"
CELL = 4  # pixels; what is left over of an image is not looked at
LEAST_SIDE_PX = 4 * CELL
KEYS = ("name", "file", "sha256", "opset", "parameters", "inputs", "outputs", "training")
# What each tensor is: type, shape, in words where a size is free, and meaning.
INPUTS: dict[str, tuple[str, tuple[str | int, ...], str]] = {
    "images": ("float32", ("slices", "height", "width"), "linear light of mean 1"),
    "first": ("int64", ("pairs",), "index of the first image of each pair"),
    "second": ("int64", ("pairs",), "index of the second image of each pair"),
    "grid": ("float32", (2, "height", "width"), "radial basis flow along x and y"),
}
OUTPUTS: dict[str, tuple[str, tuple[str | int, ...], str]] = {
    "equations": (
        "float32",
        ("pairs", 3, 4),
        "normal equations [A | b] of radial displacement, x, y shift, px",
    ),
}
AGAIN = "copy all its files again, or export it again: python -m dualfocus_ros.learning.align_export"


class NetworkResidual:
    """Implements `alignment.base.ResidualEstimator` with a network. One thread uses it at a time."""

    name = "network"

    def __init__(self, model: str | Path = DEFAULT_MODEL, threads: int | None = None) -> None:
        """Take a model by name or path; nothing is loaded before the estimator is entered.

        Args:
            model: a name in models/alignment of the package, or the path of an .onnx or .json file.
            threads: how many CPU threads work on it; None: one for each core.

        Raises:
            EngineError: if `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise EngineError(f"expected at least 1 thread, got {threads}")
        self._model = model
        self._threads = threads
        self._session: Any = None

    def __enter__(self) -> NetworkResidual:
        """Load ONNX Runtime and the model.

        Raises:
            EngineError: if either is missing or not usable.
            InputError: if the package is not installed completely.
        """
        runtime = import_runtime()
        path = checked_file(find_align_model(self._model))
        session = load_session(runtime, path, self._threads or physical_cores(), (CPU,))
        _check_tensors(path, session)
        self._session = session
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model."""
        self._session = None

    def relate(self, images: Sequence[FloatImage], pairs: Sequence[Pair], grid: Grid) -> npt.NDArray[np.float64]:
        """Return normal equations (P, 3, 4) of every pair, see `ResidualEstimator`.

        Raises:
            EngineError: if it is not entered, the images are too small or the network fails on them.
        """
        if self._session is None:
            raise EngineError("expected the estimator to be entered first: with NetworkResidual() as estimator")
        height, width = (side // CELL * CELL for side in images[0].shape)
        if min(height, width) < LEAST_SIDE_PX:
            raise EngineError(
                f"expected images of at least {LEAST_SIDE_PX} pixels a side, got {images[0].shape[1]} x "
                f"{images[0].shape[0]}: use residual classical, or none"
            )
        inside = np.s_[:height, :width]
        first, second = np.array(pairs, np.int64).reshape(-1, 2).T
        feeds = {
            "images": np.stack([image[inside] for image in images]),
            "first": np.ascontiguousarray(first),
            "second": np.ascontiguousarray(second),
            "grid": np.stack([grid.x[inside], grid.y[inside]]),
        }
        try:
            equations = self._session.run(list(OUTPUTS), feeds)[0]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common root of their own
            raise EngineError(
                f"the alignment network {self._model} on {len(images)} slices of {width} x {height} failed: "
                f"{first_line(error)}; {AGAIN}"
            ) from error
        return np.asarray(equations, np.float64)


def models_folder() -> Path:
    """Return the folder of the alignment networks that are installed with the package.

    Raises:
        InputError: if the package is not installed completely.
    """
    return share_directory() / "models" / "alignment"


def find_align_model(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Return the manifest of a model, unread.

    Args:
        name_or_path: a name such as `align_small`, or the path of an .onnx or .json file.
        folder: where names are looked for; by default that of the package.

    Raises:
        EngineError: if there is none.
        InputError: if the package is not installed completely.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".onnx", ".json"):
        folder = models_folder() if folder is None else folder
        path = folder / f"{name_or_path}.json"
    manifest = path.with_suffix(".json")
    if not manifest.is_file():
        raise EngineError(
            f"expected the manifest of an alignment network at {manifest}, found none: put NAME.onnx and its "
            "NAME.json there, or use residual classical"
        )
    return manifest


def checked_file(manifest: Path) -> Path:
    """Return the network file that a manifest names, after checking both.

    Raises:
        EngineError: if either is missing, damaged or not of this format.
    """
    data = read_manifest(manifest)
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        if data.get(key) != expected:
            raise EngineError(f"{manifest}: expected {key} {expected!r}, got {data.get(key)!r}: {AGAIN}")
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise EngineError(f"{manifest}: {', '.join(missing)} missing in the manifest: {AGAIN}")
    for key, tensors in (("inputs", INPUTS), ("outputs", OUTPUTS)):
        if data[key] != described(tensors):
            raise EngineError(f"{manifest}: expected {key} {described(tensors)}, got {data[key]}: {AGAIN}")
    name = data["file"]
    if not is_file_name(name):
        raise EngineError(f"{manifest}: expected file to be the name of a file beside it, got {name!r}: {AGAIN}")
    return file_beside(manifest, name, data["sha256"], AGAIN)


def described(tensors: Mapping[str, tuple[str, tuple[str | int, ...], str]]) -> dict[str, Any]:
    """Return tensors as the manifest describes them."""
    return {name: {"dtype": d, "shape": list(s), "meaning": meaning} for name, (d, s, meaning) in tensors.items()}


def _check_tensors(path: Path, session: Any) -> None:
    """Raise EngineError where the tensors of the graph are not those that the manifest promises."""
    kinds = {"float32": "tensor(float)", "int64": "tensor(int64)"}
    for what, found, expected in (
        ("inputs", session.get_inputs(), INPUTS),
        ("outputs", session.get_outputs(), OUTPUTS),
    ):
        wanted = {name: (kinds[dtype], len(shape)) for name, (dtype, shape, _) in expected.items()}
        got = {t.name: (t.type, len(t.shape)) for t in found}
        if got != wanted:
            raise EngineError(f"{path}: expected {what} {wanted}, got {got}: {AGAIN}")
