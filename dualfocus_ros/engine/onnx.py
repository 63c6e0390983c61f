# SPDX-License-Identifier: Apache-2.0
"""Runs an exported network with ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.manifest import (
    DEFAULT_MODEL,
    INPUTS,
    OUTPUTS,
    ModelManifest,
    find_model,
    load_manifest,
)
from dualfocus_ros.engine.pixels import colour_planes, hide_unseen
from dualfocus_ros.errors import EngineError, StackError
from dualfocus_ros.types import AlignedStack, FloatImage

ERRORS_ONLY = 3  # log severity of ONNX Runtime
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TOPOLOGY = Path("/sys/devices/system/cpu")


class OnnxEngine:
    """Implements `engine.base.DepthEngine` with ONNX Runtime. One thread uses an engine at a time."""

    name = "onnx"

    def __init__(self, model: str | Path = DEFAULT_MODEL, threads: int | None = None) -> None:
        """Take a model by name or path; nothing is loaded before the engine is entered.

        Args:
            model: a name in the models folder of the package, or the path of an .onnx or .json file.
            threads: how many CPU threads work on one stack; None: one for each core.

        Raises:
            EngineError: if `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise EngineError(f"expected at least 1 thread, got {threads}")
        self._model = model
        self._threads = threads
        self._session: Any = None
        self._manifest: ModelManifest | None = None
        self._device = "not loaded"
        self._images: FloatImage = np.zeros((0, 3, 0, 0), np.float32)

    @property
    def device(self) -> str:
        """Where it runs and with what, in words, e.g. `cpu, 4 threads, ONNX Runtime 1.20.0, dualfocus_small`."""
        return self._device

    def __enter__(self) -> OnnxEngine:
        """Load ONNX Runtime and the model.

        Raises:
            EngineError: if either is missing or not usable.
        """
        runtime = _import_runtime()
        manifest = load_manifest(find_model(self._model))
        threads = self._threads or physical_cores()
        session = _load(runtime, manifest.onnx_path, threads)
        _check_tensors(manifest.onnx_path, session)
        self._manifest, self._session = manifest, session
        where = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
        if CUDA in session.get_providers():
            where = "gpu (CUDA)"
        self._device = f"{where}, ONNX Runtime {runtime.__version__}, {manifest.name}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model and the input buffer."""
        self._session = self._manifest = None
        self._device = "not loaded"
        self._images = np.zeros((0, 3, 0, 0), np.float32)

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image; dense but where under 3 slices see a pixel.

        A depth of +inf means infinitely far.

        Raises:
            EngineError: if the engine is not entered, the stack has too few slices or the model fails on it.
            StackError: if the lens data of the stack is not usable.
        """
        if self._session is None or self._manifest is None:
            raise EngineError("expected the engine to be entered first: with OnnxEngine() as engine")
        if len(stack.images) < self._manifest.min_slices:
            raise EngineError(f"expected at least {self._manifest.min_slices} slices, got {len(stack.images)}")
        focus_dpt, blur_gain = _lens_inputs(stack)
        self._images = colour_planes(stack, self._images)
        feeds = {"images": self._images, "focus_dpt": focus_dpt, "blur_gain": blur_gain}
        inverse_depth, confidence, sharp = self._run(feeds)
        depth_m, confidence = hide_unseen(stack, _depth_m(inverse_depth), confidence)
        return EngineOutput(depth_m, confidence, _to_8_bit(sharp))

    def _run(self, feeds: dict[str, FloatImage]) -> list[FloatImage]:
        assert self._manifest is not None
        count, _, height, width = feeds["images"].shape
        what = f"model {self._manifest.name} on {count} slices of {width} x {height}"
        try:
            outputs: list[FloatImage] = self._session.run(list(OUTPUTS), feeds)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common root of their own
            raise EngineError(
                f"{what} failed: {_first_line(error)}; if memory is short, use smaller images or fewer slices, "
                "else export the model again"
            ) from error
        for (name, (shape, _)), output in zip(OUTPUTS.items(), outputs, strict=True):
            expected = tuple({"height": height, "width": width}.get(str(n), n) for n in shape)
            if output.shape != expected:
                raise EngineError(
                    f"{what}: expected {name} of shape {expected}, got {output.shape}: export it again"
                )
        return outputs


def physical_cores() -> int:
    """Return the number of cores that this process may use, two threads of one core counting once."""
    usable = os.sched_getaffinity(0)
    cores = set()
    for cpu in usable:
        try:
            cores.add((TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            return max(1, len(usable))
    return max(1, len(cores))


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"the onnx engine needs ONNX Runtime ({error}): pip install onnxruntime (or onnxruntime-gpu with an "
            "NVIDIA GPU); engine:=classical or --engine classical works without"
        ) from error
    return onnxruntime


def _load(runtime: Any, path: Path, threads: int) -> Any:
    """Return the session of a model.

    Raises:
        EngineError: if ONNX Runtime does not take the file.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Between two stacks the cores belong to the camera and the messages.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = [p for p in (CUDA, CPU) if p in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common root of their own
        raise EngineError(
            f"ONNX Runtime {runtime.__version__} cannot load {path}: {_first_line(error)}; export the model "
            "again, or update: pip install -U onnxruntime"
        ) from error


def _check_tensors(path: Path, session: Any) -> None:
    """Raise EngineError where the tensors of the graph are not those that the manifest promises."""
    for kind, found, expected in (
        ("inputs", session.get_inputs(), INPUTS),
        ("outputs", session.get_outputs(), OUTPUTS),
    ):
        wanted = {name: ("tensor(float)", len(shape)) for name, (shape, _) in expected.items()}
        got = {t.name: (t.type, len(t.shape)) for t in found}
        if got != wanted:
            raise EngineError(
                f"{path}: expected {kind} {_in_words(wanted)}, got {_in_words(got)}: export the model again"
            )


def _in_words(tensors: dict[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name} {kind} of {rank}D" for name, (kind, rank) in sorted(tensors.items()))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _lens_inputs(stack: AlignedStack) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return focus positions (N,) in dioptres and blur gain (1,) in px/dpt; raise StackError if not usable."""
    focus_dpt = np.asarray(stack.focus_dpt, dtype=np.float32)
    if not (np.all(np.isfinite(focus_dpt)) and np.all(np.diff(focus_dpt) < 0.0) and focus_dpt[-1] >= 0.0):
        raise StackError(f"expected focus positions that fall from slice to slice, got {focus_dpt} dpt")
    blur_gain = np.array([stack.blur_gain_px_per_dpt], np.float32)
    if not (np.isfinite(blur_gain[0]) and blur_gain[0] > 0.0):
        raise StackError(f"expected a blur gain above 0 px/dpt, got {blur_gain[0]}: check the lens data")
    return focus_dpt, blur_gain


def _depth_m(inverse_depth: FloatImage) -> FloatImage:
    """Return metres, +inf for 0 dioptres and below."""
    dpt = np.maximum(inverse_depth, np.float32(0.0))
    dpt += np.float32(0.0)  # turns -0 into 0, whose inverse is +inf
    with np.errstate(divide="ignore", over="ignore"):
        return np.divide(np.float32(1.0), dpt, out=dpt)


def _to_8_bit(planes: FloatImage) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3) RGB of 8 bits from (3, H, W) in 0..1."""
    merged = cv2.merge([cv2.convertScaleAbs(plane, alpha=255.0) for plane in planes])
    return np.asarray(merged, dtype=np.uint8)
