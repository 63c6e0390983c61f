# SPDX-License-Identifier: Apache-2.0
"""What a depth engine must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import AlignedStack, FloatImage, Image


@dataclass(frozen=True)
class EngineOutput:
    """What an engine says about one stack.

    Attributes:
        depth_m: (H, W) float32 metres along z, NaN where there is no estimate.
        confidence: (H, W) float32 in 0..1.
        all_in_focus: (H, W, 3) uint8 RGB.
    """

    depth_m: FloatImage
    confidence: FloatImage
    all_in_focus: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CompilerOptions:
    """How an engine that compiles its network goes about it; others have no use for them.

    Attributes:
        cache: folder of compiled engines; empty: that of the user.
        wait: whether `infer` waits for a compilation, or raises EngineNotReady meanwhile.
        report: told, in sentences, what is compiled.
    """

    cache: str = ""
    wait: bool = True
    report: Callable[[str], None] = lambda text: None


class DepthEngine(Protocol):
    """Estimates depth from an aligned stack. Engines are context managers; leaving frees the device."""

    @property
    def name(self) -> str:
        """Name as in the `engine` parameter, e.g. `classical`; never `auto`."""

    @property
    def device(self) -> str:
        """Where it runs, in words, e.g. `cpu`."""

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image.

        The arrays returned are fresh: the engine does not write to them again.

        Raises:
            EngineNotReady: if the engine is being compiled and was told not to wait for that.
            EngineError: if the engine cannot run on this stack or device.
        """

    def __enter__(self) -> DepthEngine:
        """Load the engine."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free what it holds."""


@runtime_checkable
class StreamingEngine(DepthEngine, Protocol):
    """A depth engine that can begin with the slices of a stack while the others are still to come."""

    @property
    def streams(self) -> bool:
        """Whether it does so here, with this model; only then `prepare` is of use. Known once it is entered."""

    def prepare(self, image: Image, number: int, row: int, count: int) -> None:
        """Work on a slice ahead of its stack. It is a matter of time alone: no output depends on it.

        Args:
            image: the slice, aligned, seen as a whole.
            number: of it, see `AlignedStack.numbers`.
            row: which of the slices it will be, 0 is the nearest.
            count: how many there will be.

        Raises:
            EngineError: if the engine fails.
        """
