# SPDX-License-Identifier: Apache-2.0
"""What a depth engine must do."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dualfocus_ros.types import AlignedStack, FloatImage


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
            EngineError: if the engine cannot run on this stack or device.
        """

    def __enter__(self) -> DepthEngine:
        """Load the engine."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free what it holds."""
