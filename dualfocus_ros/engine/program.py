# SPDX-License-Identifier: Apache-2.0
"""A compiled network on the GPU, ready to run stacks of one shape: contexts, buffers, copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.cuda import Cuda
from dualfocus_ros.engine.manifest import INPUTS, OUTPUTS
from dualfocus_ros.engine.network_io import lens_inputs, to_8_bit, to_metres
from dualfocus_ros.engine.pixels import colour_planes, hide_unseen
from dualfocus_ros.engine.plan import Log, Profile
from dualfocus_ros.errors import EngineError
from dualfocus_ros.types import AlignedStack, FloatImage


class Program:
    """One optimisation profile of a plan.

    Everything is allocated once, for the profile's largest stack. What happens for one number of slices is
    recorded when it comes the second time and played back from then on (a CUDA graph).
    """

    def __init__(self, cuda: Cuda, context: Any, index: int, profile: Profile, keep: object = None) -> None:
        """Take an execution context, which must be used by no one else, to run profile `index` of its engine.

        Args:
            cuda: where to run it.
            context: the execution context.
            index: of the profile in the plan.
            profile: the profile.
            keep: what must live as long as the context.

        Raises:
            EngineError: if TensorRT refuses.
        """
        self.profile, self.device = profile, cuda.gpu.name
        self._cuda, self._context, self._keep = cuda, context, keep
        if not context.set_optimization_profile_async(index, cuda.stream):
            raise EngineError(f"TensorRT refused profile {index} ({profile}) of its own plan")
        cuda.synchronise()
        tensors = (*INPUTS, *OUTPUTS)
        self._host = {name: cuda.pinned(profile.shape_of(name, profile.max_slices)) for name in tensors}
        self._gpu = {name: cuda.device_buffer(array.nbytes) for name, array in self._host.items()}
        for name, address in self._gpu.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT knows no tensor {name}: export the model again")
        self._slices, self._runs, self._graph = 0, 0, None

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image, as an engine does.

        Raises:
            EngineError: if it fails, or the stack has not the shape of the profile.
            StackError: if the lens data of the stack is not usable.
        """
        slices, (height, width) = len(stack.images), stack.images[0].shape[:2]
        if not self.profile.fits(slices, height, width):
            raise EngineError(f"expected {self.profile}, got {slices} slices of {width} x {height}")
        focus_dpt, blur_gain = lens_inputs(stack)
        feeds = self._inputs(slices)
        colour_planes(stack, feeds["images"])
        feeds["focus_dpt"][:], feeds["blur_gain"][:] = focus_dpt, blur_gain
        found = self._run(slices)
        # What comes back lies in buffers that the next stack overwrites.
        depth_m = to_metres(found["inverse_depth"].copy())
        depth_m, confidence = hide_unseen(stack, depth_m, found["confidence"].copy())
        return EngineOutput(depth_m, confidence, to_8_bit(found["all_in_focus"]))

    def _inputs(self, slices: int) -> dict[str, FloatImage]:
        """Return the pinned inputs for a number of slices, to be written to."""
        return {name: self._host[name][: shape[0]] for name, shape in self.profile.shapes(slices).items()}

    def _run(self, slices: int) -> dict[str, FloatImage]:
        """Run the network on what the inputs hold; return the pinned outputs, which the next run overwrites."""
        feeds = self._inputs(slices)
        if slices != self._slices:
            for name, array in feeds.items():
                if not self._context.set_input_shape(name, tuple(array.shape)):
                    raise EngineError(f"TensorRT refused {name} of shape {array.shape} for {self.profile}")
            self._slices, self._runs, self._graph = slices, 0, None
        if self._graph is None and self._runs > 0 and self._recordable():
            self._graph = self._cuda.record(lambda: self._begin(feeds))
        if self._graph is not None:
            self._cuda.launch(self._graph)
        else:
            self._begin(feeds)
        self._cuda.synchronise()
        self._runs += 1
        return {name: self._host[name] for name in OUTPUTS}

    def _recordable(self) -> bool:
        """Say whether a run can be recorded now; only TensorRT-RTX can be asked, which may still compile."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._cuda.stream))

    def _begin(self, feeds: dict[str, FloatImage]) -> None:
        """Begin to copy, run and copy back."""
        for name, array in feeds.items():
            self._cuda.to_device(self._gpu[name], array)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"TensorRT failed on {self._slices} slices: its log says why")
        for name in OUTPUTS:
            self._cuda.to_host(self._host[name], self._gpu[name])


class JitCache:
    """What TensorRT-RTX compiled for this very GPU while it ran; nothing for libraries that do not do so."""

    def __init__(self, engine: Any, content: bytes = b"") -> None:
        """Take an engine and what `serialised` gave another time."""
        self._engine = engine
        self._config = self._cache = None
        config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        if hasattr(config, "create_runtime_cache"):
            self._config, self._cache = config, config.create_runtime_cache()
            if content:
                self._cache.deserialize(content)
            config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        """Return a new execution context that uses it.

        Raises:
            EngineError: if TensorRT cannot make one.
        """
        arguments = (self._config,) if self._cache is not None else ()
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise EngineError("TensorRT could not make an execution context: is the memory of the GPU short?")
        return context

    def serialised(self) -> bytes:
        """Return it as bytes, empty if there is nothing."""
        return bytes(memoryview(self._cache.serialize())) if self._cache is not None else b""


def load_programs(
    library: Any,
    cuda: Cuda,
    plan: bytes,
    profiles: Sequence[Profile],
    jit: bytes = b"",
    report: Callable[[str], None] = lambda text: None,
) -> tuple[list[Program], JitCache]:
    """Return a program for each profile of a plan, in their order.

    Args:
        library: that built the plan, of the same version.
        cuda: where to run it.
        plan: from `plan.build_plan`.
        profiles: those it was built for.
        jit: of `JitCache.serialised`.
        report: told what TensorRT complains of.

    Raises:
        EngineError: if TensorRT does not take the plan.
    """
    log = Log(library, report)
    runtime = library.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT does not take the compiled engine: {log.last_error or 'it does not say why'}")
    cache = JitCache(engine, jit)
    keep = (engine, cache, runtime, log)
    return [Program(cuda, cache.context(), i, p, keep) for i, p in enumerate(profiles)], cache
