# SPDX-License-Identifier: Apache-2.0
"""A CUDA runtime and a TensorRT runtime without a GPU, for what a GPU would be needed for.

They keep what the real ones keep: device memory that only copies reach, work that is done when the stream is
waited for and not before, memory that must live until then, shapes and addresses that must be set first. The
network itself is run by ONNX Runtime on what lies in device memory, so that the right answer comes out only of the
right calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

SUCCESS, INVALID = 0, 1


class Status(int):
    name = "cudaErrorInvalidValue"


class CudaStandIn:
    """Looks like `cuda.bindings.runtime`."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")

    def __init__(self, gpus: int = 1):
        self.gpus = gpus
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.graphs_launched = 0
        self.allocations = 0
        self.next_handle = 100

    def handle(self) -> int:
        self.next_handle += 1
        return self.next_handle

    def allocate(self, where: dict[int, Any], size: int) -> tuple[int, int]:
        block = (ctypes.c_byte * max(size, 1))()
        ctypes.memset(block, 0xFF, len(block))  # NaN: what nobody wrote must not look like an answer
        where[ctypes.addressof(block)] = block
        self.allocations += 1
        return SUCCESS, ctypes.addressof(block)

    def block(self, where: dict[int, Any], address: int, size: int) -> None:
        """Raise unless size bytes from that address are allocated there."""
        for start, block in where.items():
            if start <= address and address + size <= start + len(block):
                return
        raise AssertionError(f"{size} bytes at {address} are not allocated there")

    def begin(self, stream: int, work: Callable[[], None]) -> None:
        (self.queues[stream] if self.recording is None else self.recording).append(work)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return SUCCESS, self.gpus

    def cudaGetDeviceProperties(self, index: int) -> tuple[int, Any]:
        return SUCCESS, SimpleNamespace(name=b"Stand-in", major=8, minor=7)

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return SUCCESS, 12060

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        stream = self.handle()
        self.queues[stream] = []
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        assert not self.queues.pop(stream), "the stream is destroyed with work to do"
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.recording is None, "waiting is not allowed while recording"
        for work in self.queues[stream]:
            work()
        self.queues[stream].clear()
        return (SUCCESS,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        assert self.recording is None, "allocating is not allowed while recording"
        return self.allocate(self.device, size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self.allocate(self.host, size)

    def cudaFree(self, address: int) -> tuple[int]:
        assert not any(self.queues.values()), "memory is freed while there is work to do"
        del self.device[address]
        return (SUCCESS,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        assert not any(self.queues.values()), "memory is freed while there is work to do"
        del self.host[address]
        return (SUCCESS,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        up = kind == "up"

        def copy() -> None:
            self.block(self.device if up else self.host, to, size)
            self.block(self.host if up else self.device, source, size)
            ctypes.memmove(to, source, size)

        self.begin(stream, copy)
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[int]:
        assert not self.queues[stream], "recording begins with work to do"
        self.recording = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        assert self.recording is not None
        graph = self.handle()
        self.recorded[graph], self.recording = self.recording, None
        return SUCCESS, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        runnable = self.handle()
        self.recorded[runnable] = list(self.recorded[graph])
        return SUCCESS, runnable

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.recorded[graph]
        return (SUCCESS,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.graphs_launched += 1
        for work in self.recorded[graph]:
            self.begin(stream, work)
        return (SUCCESS,)


class TensorRtStandIn:
    """Looks like the module `tensorrt`: the plan that it builds holds the network file and the profiles."""

    __name__ = "tensorrt"
    __version__ = "10.3.0"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="TF32")

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class IProgressMonitor:
        pass

    def __init__(self, cuda: CudaStandIn):
        self.cuda = cuda
        self.builds = 0
        self.refuse = ""  # a step that fails: parse, build, deserialise, context, execute
        self.refuse_plans: set[bytes] = set()  # those that are refused, once each

    def Builder(self, logger: Any) -> Any:
        return _Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return _Parser(self, network)

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: _Engine.of(self, plan))


class _Parser:
    def __init__(self, library: TensorRtStandIn, network: Any):
        self.library, self.network, self.num_errors = library, network, 1

    def parse(self, content: bytes) -> bool:
        self.network.onnx = content
        return self.library.refuse != "parse"

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "a layer that it does not know")


class _Builder:
    def __init__(self, library: TensorRtStandIn, logger: Any):
        self.library, self.logger = library, logger

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << 1, "the network must be strongly typed"
        return SimpleNamespace(onnx=b"")

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *limits: shapes.__setitem__(name, limits))

    def create_builder_config(self) -> Any:
        config = SimpleNamespace(profiles=[], progress_monitor=None, flags={"TF32"})  # it is set by default
        config.clear_flag = config.flags.discard
        config.add_optimization_profile = lambda profile: config.profiles.append(profile.shapes)
        config.create_timing_cache = lambda content: SimpleNamespace(serialize=lambda: content + b"t")
        config.set_timing_cache = lambda cache, ignore_mismatch: None
        return config

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        assert not config.flags, "single precision must not be cut to the 10 bits of TF32"
        self.library.builds += 1
        if self.library.refuse == "build":
            self.logger.log(1, "not enough memory")
            return None
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building", None, 2)
            config.progress_monitor.phase_start("Layer", "Building", 7)
            for step in range(2):
                if not config.progress_monitor.step_complete("Building", step):
                    return None
            config.progress_monitor.phase_finish("Building")
        return repr(config.profiles).encode() + b"\n" + network.onnx


class _Engine:
    def __init__(self, library: TensorRtStandIn, profiles: list[dict[str, Any]], onnx: bytes):
        self.library, self.profiles = library, profiles
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])

    @classmethod
    def of(cls, library: TensorRtStandIn, plan: bytes) -> Any:
        if library.refuse == "deserialise" or plan in library.refuse_plans:
            library.refuse_plans -= {plan}
            return None
        first, _, onnx = plan.partition(b"\n")
        return cls(library, eval(first), onnx)  # noqa: S307 - written by the builder above

    def create_execution_context(self) -> Any:
        return None if self.library.refuse == "context" else _Context(self)


class _Context:
    def __init__(self, engine: _Engine):
        self.engine, self.cuda = engine, engine.library.cuda
        self.profile: dict[str, Any] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.cuda.queues
        self.profile, self.shapes = self.engine.profiles[index], {}
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        known = [t.name for t in (*self.engine.session.get_inputs(), *self.engine.session.get_outputs())]
        self.addresses[name] = address
        return name in known

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "a profile must be chosen first"
        least, _, most = self.profile[name]
        if not all(low <= n <= high for low, n, high in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.library.refuse == "execute":
            return False
        session = self.engine.session
        inputs, outputs = session.get_inputs(), session.get_outputs()
        assert set(self.shapes) == {t.name for t in inputs}, "all input shapes must be set first"
        assert set(self.addresses) == {t.name for t in (*inputs, *outputs)}, "all addresses must be set first"
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def run() -> None:
            feeds = {t.name: self._view(addresses[t.name], shapes[t.name]).copy() for t in inputs}
            for tensor, result in zip(outputs, session.run(None, feeds), strict=True):
                self._view(addresses[tensor.name], result.shape)[...] = result

        self.cuda.begin(stream, run)
        return True

    def _view(self, address: int, shape: tuple[int, ...]) -> Any:
        size = int(np.prod(shape))
        self.cuda.block(self.cuda.device, address, 4 * size)
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)


def install(monkeypatch: Any, folder: Path, gpus: int = 1) -> tuple[CudaStandIn, TensorRtStandIn]:
    """Put both in the place of the real modules; compiled engines go into the folder."""
    import sys

    cuda = CudaStandIn(gpus)
    library = TensorRtStandIn(cuda)
    monkeypatch.setattr("dualfocus_ros.engine.cuda._import_api", lambda: cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setenv("DUALFOCUS_ENGINE_CACHE", str(folder))
    return cuda, library
