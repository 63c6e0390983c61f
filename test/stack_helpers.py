# SPDX-License-Identifier: Apache-2.0
"""Builders for the tests of the stack buffer and what follows it."""

from __future__ import annotations

import numpy as np

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.stack import FocalStackBuffer
from dualfocus_ros.types import FocalStack, Intrinsics, LensModel, LensState

LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=22.5e-6)
POSITIONS_DPT = (0.2, 0.5, 1.0, 1.5, 2.0)
PERIOD_NS = 66_666_667


def intrinsics(width: int = 32, height: int = 24, fx_px: float = 40.0) -> Intrinsics:
    return Intrinsics(width, height, fx_px, fx_px, (width - 1) / 2, (height - 1) / 2)


def image(value: int = 0, width: int = 32, height: int = 24) -> np.ndarray:
    return np.full((height, width, 3), value % 256, np.uint8)


def copy_of(output: EngineOutput) -> EngineOutput:
    assert output.all_in_focus is not None
    return EngineOutput(output.depth_m.copy(), output.confidence.copy(), output.all_in_focus.copy())


def assert_arrays_equal(output: EngineOutput, expected: EngineOutput) -> None:
    for name in ("depth_m", "confidence", "all_in_focus"):
        np.testing.assert_array_equal(getattr(output, name), getattr(expected, name))


class Player:
    """Feeds a buffer frame by frame, as a camera does, and keeps what comes out."""

    def __init__(self, buffer: FocalStackBuffer, start_ns: int = 1_000_000_000) -> None:
        self.buffer = buffer
        self.stamp_ns = start_ns
        self.stacks: list[FocalStack] = []
        self.count = 0

    def frame(
        self,
        focus_dpt: float,
        *,
        stamp_ns: int | None = None,
        speed_mps: float = 0.0,
        lens: bool = True,
        info: bool = True,
        size: tuple[int, int] = (32, 24),
        model: LensModel = LENS,
        told: int = 0,
    ) -> list[FocalStack]:
        stamp = self.stamp_ns if stamp_ns is None else stamp_ns
        out = []
        if lens:
            focus_m = np.inf if focus_dpt == 0.0 else 1.0 / focus_dpt
            out += self.buffer.add_lens_state(LensState(stamp, focus_m, model, speed_mps, told))
        if info:
            out += self.buffer.add_intrinsics(stamp, intrinsics(*size))
        out += self.buffer.add_image(stamp, image(self.count, *size), "camera")
        self.count += 1
        if stamp_ns is None:
            self.stamp_ns += PERIOD_NS
        self.stacks += out
        return out

    def sweep(self, positions=POSITIONS_DPT, **kwargs) -> list[FocalStack]:
        return [s for p in positions for s in self.frame(p, **kwargs)]


def focus_dpt(stack: FocalStack) -> list[float]:
    return [round(s.focus_dpt, 6) for s in stack.slices]
