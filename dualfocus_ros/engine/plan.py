# SPDX-License-Identifier: Apache-2.0
"""Compiles a network with TensorRT: one way for `tensorrt` 10 and 11 and for `tensorrt_rtx`, GPU or not.

The precision is that of the network file: graphs are built strongly typed, which is all that TensorRT 11 does and
what 10 does best.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dualfocus_ros.engine.manifest import INPUTS, OUTPUTS, ModelManifest
from dualfocus_ros.errors import EngineError
from dualfocus_ros.types import MIN_SLICES

LIBRARIES = ("tensorrt", "tensorrt_rtx")
OLDEST = {"tensorrt": (10, 0), "tensorrt_rtx": (1, 0)}
INSTALL = {
    "tensorrt": "on a Jetson it comes with JetPack (this Python must see it), elsewhere pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13 (RTX GPUs from Turing on, x86-64)",
}


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine is compiled for: one image size, a range of numbers of slices.

    Attributes:
        height: of the images, pixels.
        width: likewise.
        min_slices: fewest slices.
        opt_slices: what it is made fast for.
        max_slices: most slices.
    """

    height: int
    width: int
    min_slices: int
    opt_slices: int
    max_slices: int

    def __post_init__(self) -> None:
        """Check the values; raise EngineError."""
        if self.height < 1 or self.width < 1:
            raise EngineError(f"expected a height and width above 0, got {self.height} and {self.width}")
        if not MIN_SLICES <= self.min_slices <= self.opt_slices <= self.max_slices:
            raise EngineError(
                f"expected slices {MIN_SLICES} <= min <= opt <= max, got {self.min_slices}, {self.opt_slices}, "
                f"{self.max_slices}"
            )

    def __str__(self) -> str:
        """Return it in words, e.g. `10 slices of 640 x 480, best at 10`."""
        few = f"{self.min_slices} to " if self.min_slices < self.max_slices else ""
        return f"{few}{self.max_slices} slices of {self.width} x {self.height}, best at {self.opt_slices}"

    def fits(self, slices: int, height: int, width: int) -> bool:
        """Say whether a stack of that shape can be run."""
        return (height, width) == (self.height, self.width) and self.min_slices <= slices <= self.max_slices

    def shapes(self, slices: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every input for a number of slices."""
        return {name: self.shape_of(name, slices) for name in INPUTS}

    def shape_of(self, tensor: str, slices: int) -> tuple[int, ...]:
        """Return the shape of an input or output for a number of slices."""
        sizes = {"slices": slices, "height": self.height, "width": self.width}
        shape = {**INPUTS, **OUTPUTS}[tensor][0]
        return tuple(n if isinstance(n, int) else sizes[n] for n in shape)


Progress = Callable[[str, int, int], bool]  # phase, steps done, steps in all; False asks to stop


def import_library(name: str) -> Any:
    """Return the module of a TensorRT library.

    Raises:
        EngineError: if it is not one, not installed, or too old.
    """
    if name not in LIBRARIES:
        raise EngineError(f"expected a TensorRT library out of {list(LIBRARIES)}, got {name!r}")
    try:
        library = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # its wheels load libraries by hand
        raise EngineError(f"{name} cannot be imported ({error}): {INSTALL[name]}") from error
    oldest = OLDEST[name]
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    if version < oldest:
        wanted = ".".join(map(str, oldest))
        raise EngineError(f"expected {name} {wanted} or newer, found {library.__version__}: {INSTALL[name]}")
    return library


def build_plan(
    library: Any,
    manifest: ModelManifest,
    profiles: Sequence[Profile],
    progress: Progress | None = None,
    timing_cache: bytes = b"",
) -> tuple[bytes, bytes]:
    """Compile a network; return the plan and the timing cache to use the next time (empty: the library has none).

    Args:
        library: from `import_library`.
        manifest: of the network.
        profiles: the shapes that it must run, at least one.
        progress: told how far it is.
        timing_cache: of an earlier build on this GPU.

    Raises:
        EngineError: if the library does not take the network, fails, or `progress` stopped it.
    """
    log = Log(library)
    builder = library.Builder(log.logger)
    flags = library.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log.logger)
    if not parser.parse(manifest.onnx_path.read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)) or log.last_error
        raise EngineError(
            f"{library.__name__} {library.__version__} does not take {manifest.onnx_path}: {errors}; update "
            "the library, or export the model again"
        )
    config = builder.create_builder_config()
    # What the network keeps in single precision it keeps so for a reason; 10 bits of mantissa are not enough.
    config.clear_flag(library.BuilderFlag.TF32)
    for profile in profiles:
        config.add_optimization_profile(_optimisation(builder, profile))
    cache = None
    if library.__name__ != "tensorrt_rtx":  # that measures nothing when it compiles
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, ignore_mismatch=False)
    monitor = None
    if progress is not None and hasattr(library, "IProgressMonitor"):
        monitor = _monitor(library, progress)
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if monitor is not None and monitor.stopped:
            raise EngineError(f"building the engine of {manifest.name} was stopped")
        raise EngineError(
            f"{library.__name__} {library.__version__} could not compile {manifest.name} for "
            f"{', '.join(map(str, profiles))}: {log.last_error or 'it does not say why'}; smaller images or fewer "
            "slices need less memory"
        )
    return bytes(memoryview(plan)), bytes(memoryview(cache.serialize())) if cache is not None else b""


class Log:
    """A logger for the library that remembers the last error, as its functions return nothing but failure."""

    def __init__(self, library: Any, report: Callable[[str], None] = lambda text: None) -> None:
        """Report warnings and errors, one by one."""
        self.last_error = ""
        severity = library.ILogger.Severity
        bad = (severity.INTERNAL_ERROR, severity.ERROR)
        owner = self

        class Logger(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                library.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in bad:
                    owner.last_error = text
                if level in bad or level == severity.WARNING:
                    report(text)

        self.logger = Logger()


def _optimisation(builder: Any, profile: Profile) -> Any:
    found = builder.create_optimization_profile()
    least, best, most = (profile.shapes(n) for n in (profile.min_slices, profile.opt_slices, profile.max_slices))
    for name in least:
        found.set_shape(name, least[name], best[name], most[name])
    return found


def _monitor(library: Any, progress: Progress) -> Any:
    """Return an IProgressMonitor that hands on the phases that have no parent; their children are many."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.stopped = False
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._steps[phase] = steps
                self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._steps:
                self._tell(phase, step + 1)
            return not self.stopped

        def phase_finish(self, phase: str) -> None:
            if phase in self._steps:
                self._tell(phase, self._steps[phase])
                del self._steps[phase]

        def _tell(self, phase: str, done: int) -> None:
            # An exception must not pass through the library.
            try:
                self.stopped = not progress(phase, done, self._steps[phase]) or self.stopped
            except Exception:  # noqa: BLE001
                self.stopped = True

    return Monitor()
