# SPDX-License-Identifier: Apache-2.0
"""Runs an exported network on an NVIDIA GPU, compiled by TensorRT for the camera's image size and slices.

A network is compiled when the first stack of a new shape comes, on a thread of its own, and kept on disk
(`engine.plan_cache`). A plan must give the answer that its manifest holds each time before it is used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dualfocus_ros.engine.base import CompilerOptions, EngineOutput
from dualfocus_ros.engine.cuda import Cuda, Gpu
from dualfocus_ros.engine.manifest import DEFAULT_MODEL, ModelManifest, find_model, load_manifest
from dualfocus_ros.engine.plan import LIBRARIES, Profile, Progress, build_plan, import_library
from dualfocus_ros.engine.plan_cache import ANY, PlanCache, PlanKey, write_atomically
from dualfocus_ros.engine.program import Program, load_programs
from dualfocus_ros.engine.selfcheck import CHECK_SHAPE, self_check
from dualfocus_ros.errors import EngineError, EngineNotReady
from dualfocus_ros.types import MIN_SLICES, AlignedStack

# The second profile of every plan: the stack of the self-check.
CHECK_PROFILE = Profile(CHECK_SHAPE[1], CHECK_SHAPE[2], *(CHECK_SHAPE[0],) * 3)
# One of these is there with a driver: desktop, Jetson with JetPack 6 and with 7, Windows Subsystem for Linux.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
MORE_SLICES = 2  # than usual that a stack may have
TELL_EVERY_S = 5.0
PRECISION_SUFFIX = {"fp32": "", "fp16": "_fp16"}


class TensorRtEngine:
    """Implements `engine.base.DepthEngine` with TensorRT. One thread uses an engine at a time."""

    name = "tensorrt"

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        options: CompilerOptions | None = None,
        *,
        library: str | None = None,
        precision: str = "fp16",
    ) -> None:
        """Take a model by name or path; nothing is loaded before the engine is entered.

        Args:
            model: a name in the models folder of the package, or the path of an .onnx or .json file.
            options: where compiled engines are kept, whether to wait for them, who is told.
            library: one of `plan.LIBRARIES`; None: the first that is installed.
            precision: fp16 takes NAME_fp16 where the model is a name; a path is taken as it is.

        Raises:
            EngineError: if `precision` is none of fp32 and fp16.
        """
        if precision not in PRECISION_SUFFIX:
            raise EngineError(f"expected precision to be one of {list(PRECISION_SUFFIX)}, got {precision!r}")
        options = options or CompilerOptions()
        self._model, self._precision = model, precision
        self._wanted, self._wait, self._report = library, options.wait, options.report
        self._cache = PlanCache(options.cache or None, options.report)
        self._library: Any = None
        self._manifest: ModelManifest | None = None
        self._cuda: Cuda | None = None
        self._programs: list[Program] = []
        self._builder: _Background | None = None
        self._device = "not loaded"

    @property
    def device(self) -> str:
        """Where it runs and with what, in words, e.g. `Orin, TensorRT 10.3.0, dualfocus_small_fp16`."""
        return self._device

    def __enter__(self) -> TensorRtEngine:
        """Load TensorRT and the model.

        Raises:
            EngineError: if TensorRT, cuda-python, a GPU or the model is missing or not usable.
        """
        self._library = first_library(self._wanted)
        manifest = load_manifest(of_precision(self._model, self._precision))
        self._cuda = Cuda()
        self._manifest = manifest
        version = f"{self._library.__name__} {self._library.__version__}"
        self._device = f"{self._cuda.gpu.name}, {version}, {manifest.name}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop a compilation under way; free the GPU."""
        if self._builder is not None:
            self._builder.stop()
        self._programs, self._builder = [], None
        if self._cuda is not None:
            self._cuda.close()
        self._cuda = self._library = self._manifest = None
        self._device = "not loaded"

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image; dense but where under 3 slices see a pixel.

        A depth of +inf means infinitely far.

        Raises:
            EngineNotReady: if the engine for this shape of stack is being compiled and nobody is to wait.
            EngineError: if the engine is not entered, cannot be compiled, or fails.
            StackError: if the lens data of the stack is not usable.
        """
        if self._manifest is None:
            raise EngineError("expected the engine to be entered first: with TensorRtEngine() as engine")
        height, width = stack.images[0].shape[:2]
        return self._program(len(stack.images), height, width).infer(stack)

    def _program(self, slices: int, height: int, width: int) -> Program:
        """Return what runs a stack of that shape, compiling it first if there is none."""
        while True:
            for program in self._programs:
                if program.profile.fits(slices, height, width):
                    return program
            if self._builder is None:
                self._builder = _Background(profile_for(slices, height, width), self._fetch, self._tell)
            builder = self._builder
            if not self._wait and not builder.done:
                raise EngineNotReady(f"the engine is not ready: {builder.state}")
            self._builder = None
            try:
                self._load(builder.result(), builder.profile)
            except EngineError as error:
                if builder.profile.fits(slices, height, width):
                    raise
                self._report(f"no engine for {builder.profile}, of which a stack was seen: {error}")

    def _fetch(self, profile: Profile, tell: Progress, go_on: Callable[[], bool]) -> _Plan:
        """Return the plan for a profile, from disk or compiled; the buffers on the GPU are left alone."""
        assert self._manifest is not None and self._cuda is not None
        profiles = (profile, CHECK_PROFILE)
        key = plan_key(self._manifest, self._library, profiles, self._cuda.gpu)
        fresh = []

        def build() -> bytes:
            assert self._manifest is not None
            self._report(f"compiling {key.model} for {profile} on {key.gpu}: this takes a while, once")
            fresh.append(key)
            return compile_plan(
                self._library, self._manifest, key, profiles, self._cache.folder, tell, self._report
            )

        return _Plan(key, self._cache.get(key, build, go_on), bool(fresh))

    def _load(self, plan: _Plan, profile: Profile) -> None:
        """Take a plan into use, once it has given the answer of the manifest.

        One from disk that does not is removed: whoever asks next compiles it anew.
        """
        assert self._manifest is not None and self._cuda is not None
        name = plan.key.file_name
        jit_path = self._cache.folder / f"{name}.{self._cuda.gpu.compute_capability}.jit"
        jit = read_extra(jit_path, self._report)
        try:
            programs, cache = load_programs(
                self._library, self._cuda, plan.content, (profile, CHECK_PROFILE), jit, self._report
            )
            off = self_check(programs[-1], self._manifest)
        except EngineError as error:
            self._cache.discard(plan.key)
            if plan.fresh:
                raise
            self._report(f"{self._cache.folder / name} is of no use: {error}; it is removed and built anew")
            return
        if off is not None:
            self._report(f"{name} is off its reference by {100 * off:.2g} %")
        if (serialised := cache.serialised()) and serialised != jit:
            write_extra(jit_path, serialised, self._report)
        self._programs = programs[:-1] + self._programs

    def _tell(self, state: str) -> None:
        """Report how far a compilation is, where somebody waits for it."""
        if self._wait:
            self._report(state)


@dataclass(frozen=True)
class _Plan:
    """A plan, its key, and whether it was compiled just now."""

    key: PlanKey
    content: bytes
    fresh: bool


def profile_for(slices: int, height: int, width: int) -> Profile:
    """Return the profile for stacks that have so many slices; single ones may have more or less."""
    return Profile(height, width, MIN_SLICES, slices, slices + MORE_SLICES)


def plan_key(manifest: ModelManifest, library: Any, profiles: tuple[Profile, ...], gpu: Gpu | None) -> PlanKey:
    """Return what a plan depends on; those of TensorRT-RTX run on every GPU that it supports.

    Raises:
        EngineError: if the plan depends on the GPU and there is none.
    """
    if library.__name__ == "tensorrt_rtx":
        gpu = Gpu(ANY, ANY, ANY)
    if gpu is None:
        raise EngineError("TensorRT compiles for the GPU that it runs on, and there is none here")
    return PlanKey(
        model=manifest.name,
        onnx_sha256=manifest.sha256,
        precision=manifest.precision,
        library=library.__name__,
        library_version=library.__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
        profiles=tuple(map(str, profiles)),
    )


def compile_plan(
    library: Any,
    manifest: ModelManifest,
    key: PlanKey,
    profiles: tuple[Profile, ...],
    folder: Path,
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> bytes:
    """Compile a plan; what the library learnt of this GPU's speed is kept in the folder for the next one.

    Raises:
        EngineError: as `plan.build_plan`.
    """
    path = folder / f"{key.library}-{key.library_version}-{key.compute_capability}.timing"
    plan, timing = build_plan(library, manifest, profiles, progress, read_extra(path, report))
    if timing:
        write_extra(path, timing, report)
    return plan


def read_extra(path: Path, report: Callable[[str], None]) -> bytes:
    """Return a file that only makes things faster; empty if there is none or it cannot be read (reported)."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        report(f"cannot read {path}: {error.strerror}; it goes without")
        return b""


def write_extra(path: Path, content: bytes, report: Callable[[str], None]) -> None:
    """Write a file that only makes things faster; report if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        report(f"cannot write {path}: {error.strerror}; it goes without")


class _Background:
    """Fetches the plan of a profile on a thread of its own, and says how far that is."""

    def __init__(
        self,
        profile: Profile,
        fetch: Callable[[Profile, Progress, Callable[[], bool]], _Plan],
        tell: Callable[[str], None],
    ) -> None:
        self.profile = profile
        self.state = f"compiling for {profile}"
        self._fetch, self._tell_state, self._told_s = fetch, tell, time.monotonic()
        self._stopped = threading.Event()
        self._found: _Plan | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._go, name="engine build", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the result is there, or an error."""
        return not self._thread.is_alive()

    def result(self) -> _Plan:
        """Wait for the result and return it; raise what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def stop(self) -> None:
        """Ask the work to end and wait for that."""
        self._stopped.set()
        self._thread.join()

    def _go(self) -> None:
        try:
            self._found = self._fetch(self.profile, self._progress, lambda: not self._stopped.is_set())
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is taken
            self._error = error

    def _progress(self, phase: str, done: int, total: int) -> bool:
        self.state = f"compiling for {self.profile}: {phase}, {100 * done // max(total, 1)} %"
        if time.monotonic() > self._told_s + TELL_EVERY_S:
            self._told_s = time.monotonic()
            self._tell_state(self.state)
        return not self._stopped.is_set()


def obstacle() -> str:
    """Return why no network can be run this way here, in words; empty if one can."""
    if not any(Path(device).exists() for device in GPU_DEVICES):
        return "there is no NVIDIA GPU"
    try:
        with closing(Cuda()):
            first_library(None)
    except EngineError as error:
        return str(error)
    return ""


def first_library(wanted: str | None) -> Any:
    """Return the library asked for, or the first that is installed.

    Raises:
        EngineError: if there is none.
    """
    errors = []
    for name in (wanted,) if wanted is not None else LIBRARIES:
        try:
            return import_library(name)
        except EngineError as error:
            errors.append(str(error))
    raise EngineError("; ".join(errors))


def of_precision(model: str | Path, precision: str) -> Path:
    """Return the manifest of a model in a precision; a path is taken as it is.

    Raises:
        EngineError: if there is none.
    """
    text = str(model)
    is_name = len(Path(text).parts) == 1 and Path(text).suffix == ""
    suffix = PRECISION_SUFFIX[precision]
    if not is_name or text.endswith(suffix):
        return find_model(text)
    try:
        return find_model(text + suffix)
    except EngineError as error:
        raise EngineError(
            f"{error}; tensorrt takes a model in half precision by default, which learning.export writes beside "
            "the others; the path of an .onnx file is taken as it is"
        ) from error
