# SPDX-License-Identifier: Apache-2.0
"""Runs an exported network with PyTorch, for development: what training sees, on the GPU where there is one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.manifest import DEFAULT_MODEL, STRIDE, ModelManifest, find_model, load_manifest
from dualfocus_ros.engine.network_io import check_slices, lens_inputs, to_8_bit, to_metres
from dualfocus_ros.engine.pixels import colour_planes, hide_unseen
from dualfocus_ros.engine.selfcheck import checked
from dualfocus_ros.errors import EngineError
from dualfocus_ros.onnx_runtime import first_line
from dualfocus_ros.types import AlignedStack, FloatImage


class TorchEngine:
    """Implements `engine.base.DepthEngine` with PyTorch. One thread uses an engine at a time.

    It takes NAME.pt2 beside the model, which `learning.export` writes when asked to. Such a file fits the PyTorch
    that wrote it, so none comes with the package.
    """

    name = "torch"

    def __init__(self, model: str | Path = DEFAULT_MODEL) -> None:
        """Take a model by name or path, of its .onnx or .json file; nothing is loaded before it is entered."""
        self._model = model
        self._torch: Any = None
        self._run: Any = None
        self._manifest: ModelManifest | None = None
        self._where = ""
        self._device = "not loaded"
        self._images: FloatImage = np.zeros((0, 3, 0, 0), np.float32)

    @property
    def device(self) -> str:
        """Where it runs and with what, in words, e.g. `cpu, PyTorch 2.13.0, dualfocus_small`."""
        return self._device

    def __enter__(self) -> TorchEngine:
        """Load PyTorch and the model, and check its answer.

        Raises:
            EngineError: if either is missing or not usable, or the answer is not that of the manifest.
        """
        manifest = load_manifest(find_model(self._model))
        path = manifest.onnx_path.with_suffix(".pt2")
        if not path.is_file():
            weights = manifest.onnx_path.with_suffix(".pt")
            raise EngineError(
                f"the torch engine needs {path}, which is made by: python -m dualfocus_ros.learning.export "
                f"{weights} --output {path.parent} --name {path.stem} --program"
            )
        torch = _import_torch()
        try:
            program = torch.export.load(path)
            if torch.cuda.is_available():
                self._where = "cuda"
                program = torch.export.passes.move_to_device_pass(program, self._where)
                device = torch.cuda.get_device_name()
            else:
                self._where = device = "cpu"
            self._run = program.module()
        except Exception as error:  # noqa: BLE001 - PyTorch's errors have no common root of their own
            raise EngineError(
                f"PyTorch {torch.__version__} cannot load {path}: {first_line(error)}; export it again, with "
                "this PyTorch"
            ) from error
        self._torch, self._manifest = torch, manifest
        self._device = f"{device}, PyTorch {torch.__version__}, {manifest.name}"
        return checked(self, manifest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model and the input buffer."""
        self._run = self._torch = self._manifest = None
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
            raise EngineError("expected the engine to be entered first: with TorchEngine() as engine")
        check_slices(stack, self._manifest)
        self._images = colour_planes(stack, self._images)
        height, width = stack.images[0].shape[:2]
        to_stride = (0, -width % STRIDE, 0, -height % STRIDE)
        torch = self._torch
        given = (self._images, *lens_inputs(stack))
        try:
            with torch.inference_mode():
                images, *lens = (torch.from_numpy(array).to(self._where) for array in given)
                images = torch.nn.functional.pad(images, to_stride, mode="replicate")
                found = [t[..., :height, :width].cpu().numpy() for t in self._run(images, *lens)]
        except Exception as error:  # noqa: BLE001 - PyTorch's errors have no common root of their own
            raise EngineError(
                f"model {self._manifest.name} on {len(stack.images)} slices of {width} x {height} failed: "
                f"{first_line(error)}; if memory is short, use smaller images or fewer slices"
            ) from error
        depth_m, confidence = hide_unseen(stack, to_metres(found[0]), found[1].copy())
        return EngineOutput(depth_m, confidence, to_8_bit(found[2]))


def _import_torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise EngineError(
            f"the torch engine needs PyTorch ({error}): pip install torch; engine:=onnx or --engine onnx works "
            "without"
        ) from error
