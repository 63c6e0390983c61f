# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendered import make_stack

from dualfocus_ros.alignment.motion import MotionMeter
from dualfocus_ros.types import FocalStack


def later(stack: FocalStack, seconds: float) -> FocalStack:
    """Return the same stack, taken later, in images of its own."""
    slices = [replace(s, image=s.image.copy(), stamp_ns=s.stamp_ns + round(seconds * 1e9)) for s in stack.slices]
    return FocalStack.from_slices(slices, stack.lens, reference=0)


def test_the_first_stack_has_no_motion() -> None:
    assert MotionMeter().measure(make_stack()) is None


def test_stillness_is_a_fraction_of_a_pixel() -> None:
    meter = MotionMeter()
    meter.measure(make_stack())
    motion = meter.measure(make_stack(start_s=0.5, noise_seed=1))
    assert motion is not None
    assert motion.fastest_px_s < 0.2


@pytest.mark.parametrize("speed_px_s", [-40.0, -3.0, 3.0, 12.0, 90.0])
def test_speed_of_a_pan(speed_px_s: float) -> None:
    meter = MotionMeter()
    meter.measure(make_stack(moved_px=lambda t: speed_px_s * t))
    motion = meter.measure(make_stack(start_s=0.5, moved_px=lambda t: speed_px_s * t, noise_seed=1))
    assert motion is not None
    assert motion.velocity_px_s[0] == pytest.approx(speed_px_s, rel=0.15)
    assert motion.velocity_px_s[1] == pytest.approx(0.0, abs=0.1)
    assert motion.fastest_px_s == pytest.approx(abs(speed_px_s), rel=0.15)


def test_images_with_nothing_in_common_moved_by_no_finite_amount() -> None:
    meter = MotionMeter()
    meter.measure(make_stack(0))
    motion = meter.measure(make_stack(5, start_s=0.5))
    assert motion is not None and motion.fastest_px_s == np.inf


@pytest.mark.parametrize("value", [0, 120, 255])
@pytest.mark.parametrize("deviation", [0.0, 3.0])
def test_what_shows_nothing_does_not_move(value: int, deviation: float) -> None:
    """A white wall, the dark, a slice with glare: the others tell."""
    stack, meter, rng = make_stack(), MotionMeter(), np.random.default_rng(0)

    def blank(sweep: int) -> FocalStack:
        """Return the stack with nothing to be seen in its last slice."""
        last = np.clip(rng.normal(value, deviation + 1e-9, stack.slices[0].image.shape), 0, 255).astype(np.uint8)
        slices = list(make_stack(start_s=0.5 * sweep, noise_seed=sweep).slices)
        return FocalStack.from_slices([*slices[:3], replace(slices[3], image=last)], stack.lens, reference=0)

    meter.measure(blank(0))
    motion = meter.measure(blank(1))
    assert motion is not None and motion.fastest_px_s < 0.2
    flat = np.full_like(stack.slices[0].image, value)
    empty = replace(stack, slices=tuple(replace(s, image=flat.copy()) for s in stack.slices))
    meter = MotionMeter()
    meter.measure(empty)
    assert meter.measure(later(empty, 0.5)) is None


def test_slices_that_were_seen_before_say_nothing_new() -> None:
    meter, stack = MotionMeter(), make_stack()
    meter.measure(stack)
    assert meter.measure(stack) is None
    sliding = FocalStack.from_slices([later(stack, 0.5).slices[0], *stack.slices[1:]], stack.lens, reference=0)
    motion = meter.measure(sliding)
    assert motion is not None and motion.fastest_px_s < 0.01


def test_images_of_another_size_start_anew() -> None:
    meter, stack = MotionMeter(), make_stack()
    meter.measure(stack)
    k = stack.slices[0].intrinsics.resized(160, 120)
    half = [replace(s, image=s.image[::2, ::2].copy(), intrinsics=k) for s in later(stack, 0.5).slices]
    assert meter.measure(FocalStack.from_slices(half, stack.lens, reference=0)) is None


def test_clocks_that_jump_back_say_nothing() -> None:
    meter, stack = MotionMeter(), make_stack(start_s=9.0)
    meter.measure(stack)
    assert meter.measure(later(stack, -5.0)) is None
    assert meter.measure(later(stack, -4.5)) is not None
