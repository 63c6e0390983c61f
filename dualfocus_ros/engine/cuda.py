# SPDX-License-Identifier: Apache-2.0
"""The few functions of the CUDA runtime that an engine needs: memory, copies, a stream, graphs.

By way of cuda-python, so that running a network on a GPU needs no learning framework.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import EngineError

INSTALL = "pip install cuda-python, of the major version of CUDA that the driver has (nvidia-smi names it)"
MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # since cuda-python 12.6, and before


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability (e.g. 8.7), and the CUDA version that its driver supports."""

    name: str
    compute_capability: str
    driver: str


class Cuda:
    """CUDA on the first GPU; frees what it handed out when it is closed."""

    def __init__(self, api: Any = None) -> None:
        """Take the module of the CUDA runtime; by default that of cuda-python.

        Raises:
            EngineError: if it is not installed, or there is no GPU that it can use.
        """
        self._api = _import_api() if api is None else api
        self._device: list[int] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        self.gpu = self._find_gpu()
        self.stream = int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking))

    def _find_gpu(self) -> Gpu:
        try:
            count = self._call("cudaGetDeviceCount")
        except (EngineError, RuntimeError) as error:  # without a driver, cuda-python raises the latter
            raise EngineError(f"no NVIDIA GPU can be used here: {error}; is the driver installed?") from error
        if count < 1:
            raise EngineError("expected an NVIDIA GPU, found none; onnx runs the network on the CPU")
        found = self._call("cudaGetDeviceProperties", 0)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        version = int(self._call("cudaDriverGetVersion"))
        return Gpu(name.strip("\0 "), f"{found.major}.{found.minor}", f"{version // 1000}.{version % 1000 // 10}")

    def device_buffer(self, size: int) -> int:
        """Return the address of `size` bytes of GPU memory."""
        address = int(self._call("cudaMalloc", size))
        self._device.append(address)
        return address

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return an array in memory that the GPU copies from and to without a detour; it lives until `close`."""
        size = 4 * int(np.prod(shape))
        address = int(self._call("cudaHostAlloc", size, self._api.cudaHostAllocDefault))
        self._pinned.append(address)
        block = (ctypes.c_float * (size // 4)).from_address(address)
        return np.ctypeslib.as_array(block).reshape(shape)

    def to_device(self, address: int, array: npt.NDArray[np.float32]) -> None:
        """Begin to copy a pinned array to the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def to_host(self, array: npt.NDArray[np.float32], address: int) -> None:
        """Begin to copy from the GPU into a pinned array."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def synchronise(self) -> None:
        """Wait until all that was begun is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def record(self, begin: Callable[[], None]) -> Any:
        """Return what `begin` begins, recorded instead of done, to be `launch`ed any number of times.

        Raises:
            EngineError: if it cannot be recorded, or as `begin`.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            begin()
        except BaseException:
            with suppress(EngineError):
                self._call("cudaStreamEndCapture", self.stream)
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            recorded = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        self._graphs.append(recorded)
        return recorded

    def launch(self, graph: Any) -> None:
        """Begin to do what was recorded."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def close(self) -> None:
        """Free everything, as far as the GPU still answers; arrays from `pinned` must not be used any more."""
        calls = [("cudaStreamSynchronize", self.stream)]
        calls += [("cudaGraphExecDestroy", graph) for graph in self._graphs]
        calls += [("cudaFree", address) for address in self._device]
        calls += [("cudaFreeHost", address) for address in self._pinned]
        calls.append(("cudaStreamDestroy", self.stream))
        self._device, self._pinned, self._graphs = [], [], []
        for name, argument in calls:
            with suppress(EngineError):  # after an error of CUDA all of them fail: that error is the one to tell
                self._call(name, argument)

    def _call(self, name: str, *args: Any) -> Any:
        """Call a function of the runtime; return what it returns beside its status.

        Raises:
            EngineError: if the status is not success.
        """
        status, *values = getattr(self._api, name)(*args)
        if status != self._api.cudaError_t.cudaSuccess:
            text = getattr(status, "name", str(status))
            raise EngineError(f"{name} of CUDA failed: {text}; nvidia-smi tells the state of the GPU")
        return values[0] if values else None


def _import_api() -> Any:
    last: Exception | None = None
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            last = error
    raise EngineError(f"an engine on the GPU needs cuda-python ({last}): {INSTALL}")
