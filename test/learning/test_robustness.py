# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.learning import robustness
from dualfocus_ros.learning.robustness import SWEEPS, Condition, Scenes, Sweep, measure
from dualfocus_ros.types import AlignedStack


@pytest.fixture(scope="module", autouse=True)
def few() -> None:
    """Render small pictures from few views."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SIZE_PX", (64, 48)), ("VIEWS", 24), ("TEXTURES", 6)):
            patch.setattr(robustness, name, value)
        yield  # type: ignore[misc]


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes()


def noise_level(stack: AlignedStack, clean: AlignedStack) -> float:
    return float(np.std(np.stack(stack.images).astype(float) - np.stack(clean.images)))


def test_the_stack_is_that_of_the_condition(scenes: Scenes) -> None:
    condition = Condition(slices=5, range_m=(0.8, math.inf), f_number=2.0)
    stack, truth = scenes.stack(0, condition)
    assert len(stack.images) == 5 and stack.images[0].shape == (48, 64, 3) and truth.shape == (48, 64)
    assert stack.blur_gain_px_per_dpt == pytest.approx(condition.blur_gain)
    assert stack.focus_distance_m[0] == pytest.approx(0.8) and math.isinf(stack.focus_distance_m[-1])
    assert stack.lens.f_number == 2.0


def test_each_sweep_changes_one_thing_and_holds_the_base() -> None:
    for sweep in SWEEPS:
        assert Condition() in [replace(c, name="base") for c in sweep.conditions], sweep.title
        for condition in sweep.conditions:
            same = [getattr(condition, f) == getattr(Condition(), f) for f in Condition.__dataclass_fields__]
            assert same.count(False) <= 2, condition  # its name, and that one thing


def test_cameras_do_what_the_condition_says(scenes: Scenes) -> None:
    clean = scenes.stack(0, Condition(full_well=math.inf))[0]
    some, more = (scenes.stack(0, Condition(full_well=electrons))[0] for electrons in (20_000.0, 500.0))
    assert 0.0 < noise_level(some, clean) < 0.3 * noise_level(more, clean)
    flickering = scenes.stack(0, Condition(full_well=math.inf, flicker=0.1))[0]
    assert np.std([image.mean() for image in flickering.images]) > 2 * np.std([i.mean() for i in clean.images])
    assert noise_level(scenes.stack(0, Condition(full_well=math.inf, jpeg_quality=50))[0], clean) > 1.0
    shifted = scenes.stack(0, Condition(full_well=math.inf, misalignment_px=3.0))[0]
    for before, after in zip(clean.images[1:], shifted.images[1:], strict=True):
        window = cv2.createHanningWindow((64, 48), cv2.CV_64F)
        pair = (image.mean(axis=2).astype(np.float64) for image in (before, after))
        (dx, dy), _ = cv2.phaseCorrelate(*pair, window)
        assert math.hypot(dx, dy) == pytest.approx(3.0, abs=1.0)


class Knowing:
    """An engine that answers the truth times a factor."""

    name, device = "knowing", "here"

    def __init__(self, scenes: Scenes, factor: float):
        self.scenes, self.factor, self.asked = scenes, factor, 0

    def infer(self, stack: AlignedStack) -> EngineOutput:
        condition = Condition(slices=len(stack.images))
        depth = self.factor * self.scenes.stack(self.asked // 2, condition)[1]  # scene by scene
        self.asked += 1
        return EngineOutput(depth, np.ones_like(depth), None)


def test_rows_hold_the_scores_of_every_engine() -> None:
    sweep = Sweep("slices", (Condition("three", 3), Condition("ten", 10)))
    engines = [Knowing(Scenes(), factor) for factor in (1.0, 1.25)]
    rows = list(measure(engines, 2, [sweep]))  # type: ignore[arg-type]
    assert [row[:2] for row in rows] == [["slices", "three"], ["slices", "ten"]]
    span_px = Condition().blur_gain * (2.5 - 0.2)
    assert [row[2] for row in rows] == pytest.approx([span_px / 2, span_px / 9])
    for row in rows:
        assert row[3:] == pytest.approx([0.0, 0.25], abs=1e-5)
