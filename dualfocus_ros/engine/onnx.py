# SPDX-License-Identifier: Apache-2.0
"""Runs an exported network with ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.manifest import (
    DEFAULT_MODEL,
    ENCODED,
    INPUTS,
    JOINED,
    OUTPUTS,
    ModelManifest,
    find_model,
    load_manifest,
)
from dualfocus_ros.engine.network_io import check_slices, lens_inputs, to_8_bit, to_metres
from dualfocus_ros.engine.pixels import all_in_focus, colour_planes, hide_unseen, without_gaps
from dualfocus_ros.engine.selfcheck import checked
from dualfocus_ros.engine.staged import FOUND, StagedNetwork
from dualfocus_ros.errors import EngineError
from dualfocus_ros.onnx_runtime import CUDA, first_line, import_runtime, load_session, physical_cores
from dualfocus_ros.types import AlignedStack, FloatImage, Image

T = TypeVar("T")


class OnnxEngine:
    """Implements `engine.base.DepthEngine` with ONNX Runtime. One thread uses an engine at a time."""

    name = "onnx"

    def __init__(
        self, model: str | Path = DEFAULT_MODEL, threads: int | None = None, *, staged: bool = True
    ) -> None:
        """Take a model by name or path; nothing is loaded before the engine is entered.

        Args:
            model: a name in the models folder of the package, or the path of an .onnx or .json file.
            threads: how many CPU threads work on one stack; None: one for each core.
            staged: on the CPU, run the network in its two stages if it has them.

        Raises:
            EngineError: if `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise EngineError(f"expected at least 1 thread, got {threads}")
        self._model = model
        self._threads = threads
        self._staged = staged
        self._session: Any = None
        self._stages: StagedNetwork | None = None
        self._manifest: ModelManifest | None = None
        self._device = "not loaded"
        self._images: FloatImage = np.zeros((0, 3, 0, 0), np.float32)

    @property
    def device(self) -> str:
        """Where it runs and with what, in words, e.g. `cpu, 4 threads, ONNX Runtime 1.20.0, dualfocus_small`."""
        return self._device

    @property
    def streams(self) -> bool:
        """Whether the network is run in two stages, see `engine.base.StreamingEngine`."""
        return self._stages is not None

    def __enter__(self) -> OnnxEngine:
        """Load ONNX Runtime and the model, and check its answer.

        Raises:
            EngineError: if either is missing or not usable, or the answer is not that of the manifest.
        """
        runtime = import_runtime()
        manifest = load_manifest(find_model(self._model))
        threads = self._threads or physical_cores()
        stages = manifest.stages if self._staged else None
        on_gpu = False
        if stages is None or CUDA in runtime.get_available_providers():
            self._session = load_session(runtime, manifest.onnx_path, threads)
            _check_tensors(manifest.onnx_path, self._session)
            on_gpu = CUDA in self._session.get_providers()  # its libraries may not load
        if stages is not None and not on_gpu:
            files = (stages.encoder_path, stages.head_path)
            encoder, head = (load_session(runtime, path, threads) for path in files)
            _check_stages(files, encoder, head)
            self._session, self._stages = None, StagedNetwork(encoder, head)
        self._manifest = manifest
        where = "gpu (CUDA)" if on_gpu else f"cpu, {threads} thread{'s' if threads > 1 else ''}"
        self._device = f"{where}, ONNX Runtime {runtime.__version__}, {manifest.name}"
        return checked(self, manifest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model and the input buffer."""
        self._session = self._stages = self._manifest = None
        self._device = "not loaded"
        self._images = np.zeros((0, 3, 0, 0), np.float32)

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image; dense but where under 3 slices see a pixel.

        A depth of +inf means infinitely far.

        Raises:
            EngineError: if the engine is not entered, the stack has too few slices or the model fails on it.
            StackError: if the lens data of the stack is not usable.
        """
        if self._manifest is None:
            raise EngineError("expected the engine to be entered first: with OnnxEngine() as engine")
        check_slices(stack, self._manifest)
        focus_dpt, blur_gain = lens_inputs(stack)
        lens = {"focus_dpt": focus_dpt, "blur_gain": blur_gain}
        count, (height, width) = len(stack.images), stack.images[0].shape[:2]
        stages = self._stages
        if stages is not None:
            stack = replace(stack, images=without_gaps(stack))
            inverse_depth, confidence = self._guarded(
                f"{count} slices of {width} x {height}", lambda: stages.run(stack, lens)
            )
            sharp = all_in_focus(stack, inverse_depth)
        else:
            self._images = colour_planes(stack, self._images)
            inverse_depth, confidence, planes = self._run({"images": self._images, **lens})
            sharp = to_8_bit(planes)
        depth_m, confidence = hide_unseen(stack, to_metres(inverse_depth), confidence)
        return EngineOutput(depth_m, confidence, sharp)

    def prepare(self, image: Image, number: int, row: int, count: int) -> None:
        """Work on a slice of a stack to come, see `engine.base.StreamingEngine`."""
        stages = self._stages
        if stages is not None:
            self._guarded("a slice", lambda: stages.prepare(image, number, row, count))

    def _run(self, feeds: dict[str, FloatImage]) -> list[FloatImage]:
        count, _, height, width = feeds["images"].shape
        what = f"{count} slices of {width} x {height}"
        outputs: list[FloatImage] = self._guarded(what, lambda: self._session.run(list(OUTPUTS), feeds))
        for (name, (shape, _)), output in zip(OUTPUTS.items(), outputs, strict=True):
            expected = tuple({"height": height, "width": width}.get(str(n), n) for n in shape)
            if output.shape != expected:
                assert self._manifest is not None
                raise EngineError(
                    f"model {self._manifest.name} on {what}: expected {name} of shape {expected}, "
                    f"got {output.shape}: export it again"
                )
        return outputs

    def _guarded(self, what: str, run: Callable[[], T]) -> T:
        """Return what `run` does; raise EngineError, with what it was run on, if ONNX Runtime fails."""
        try:
            return run()
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common root of their own
            assert self._manifest is not None
            raise EngineError(
                f"model {self._manifest.name} on {what} failed: {first_line(error)}; if memory is short, use "
                "smaller images or fewer slices, else export the model again"
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


def _check_stages(files: tuple[Path, Path], encoder: Any, head: Any) -> None:
    """Raise EngineError where the tensors of the two stages are not those of the contract."""
    for path, kind, found, expected in (
        (files[0], "inputs", encoder.get_inputs(), ("images",)),
        (files[0], "outputs", encoder.get_outputs(), ENCODED),
        (files[1], "inputs", head.get_inputs(), (*JOINED, "focus_dpt", "blur_gain")),
        (files[1], "outputs", head.get_outputs(), FOUND),
    ):
        names = {t.name for t in found}
        if names != set(expected):
            raise EngineError(
                f"{path}: expected {kind} {sorted(expected)}, got {sorted(names)}: export the model again"
            )


def _in_words(tensors: dict[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name} {kind} of {rank}D" for name, (kind, rank) in sorted(tensors.items()))
