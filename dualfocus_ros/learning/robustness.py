# SPDX-License-Identifier: Apache-2.0
"""Measures how engines bear up against what cameras do: a table of AbsRel over one condition after the other.

Usage: python -m dualfocus_ros.learning.robustness [--engine onnx classical] [--scenes 16]

Every condition departs from the same base in one respect: a lens of 16 mm at f/1.4 on pixels of 22.5 um, ten
focus positions evenly spaced in dioptres from 0.4 to 5 m, a little noise, sRGB, no compression, no misalignment.
No training pool holds the random scenes, which all conditions share; where the range changes they are stretched to
it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from dualfocus_ros.camera.lightfield import pupil_points
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.errors import DualFocusError
from dualfocus_ros.evaluation.metrics import score, valid_mask
from dualfocus_ros.learning.camera_effects import Effects, expose, well_exposed
from dualfocus_ros.learning.scenes import SceneLimits, random_scene
from dualfocus_ros.learning.simulator import LightField, gaussian_blur
from dualfocus_ros.learning.textures import texture_bank
from dualfocus_ros.optics import blur_gain_px_per_dpt
from dualfocus_ros.types import AlignedStack, FloatImage, Intrinsics, LensModel

SIZE_PX = (256, 192)
FOCAL_LENGTH_M, PITCH_M = 0.016, 2.25e-5
VIEWS = 128
TEXTURES = 120
# Seeds of scenes and textures, far from any that `data` and `train` are given by default.
FIRST_SEED = 770_000_000
SHARPNESS_PX = 0.35  # standard deviation of a pixel's and a sharp lens's own blur


@dataclass(frozen=True)
class Condition:
    """A lens, a focus schedule and a camera.

    Attributes:
        name: of the condition.
        slices: N.
        range_m: nearest and farthest focus; the latter may be infinite.
        f_number: of the lens.
        full_well: electrons at full scale, inf: no noise.
        jpeg_quality: 0: none.
        flicker: standard deviation of the logarithm of the exposure from slice to slice.
        misalignment_px: length of the shift, in a random direction, of every slice but the first.
    """

    name: str = "base"
    slices: int = 10
    range_m: tuple[float, float] = (0.4, 5.0)
    f_number: float = 1.4
    full_well: float = 20_000.0
    jpeg_quality: int = 0
    flicker: float = 0.0
    misalignment_px: float = 0.0

    @property
    def blur_gain(self) -> float:
        """Kappa, pixels per dioptre."""
        return blur_gain_px_per_dpt(FOCAL_LENGTH_M, self.f_number, PITCH_M, self.range_m[0])

    @property
    def focus_dpt(self) -> tuple[float, ...]:
        """Focus positions, evenly spaced, nearest first."""
        return tuple(np.linspace(1.0 / self.range_m[0], 1.0 / self.range_m[1], self.slices).tolist())


@dataclass(frozen=True)
class Sweep:
    """Conditions that differ from the base in one respect."""

    title: str
    conditions: tuple[Condition, ...]


def _sweep(title: str, attribute: str, values: Mapping[str, Any]) -> Sweep:
    """Return the sweep over the values of an attribute, each with its name."""
    return Sweep(title, tuple(replace(Condition(), **{attribute: v, "name": name}) for name, v in values.items()))


def _named(*values: float) -> dict[str, float]:
    return {f"{value:g}": value for value in values}


SWEEPS = (
    _sweep(
        "full well, electrons (noise)", "full_well", {"no noise": math.inf, **_named(20_000, 5_000, 1_500, 500)}
    ),
    _sweep("slices", "slices", _named(3, 4, 5, 7, 10, 15)),
    _sweep(
        "range, m",
        "range_m",
        {"0.2 - 0.6": (0.2, 0.6), "0.4 - 5": (0.4, 5.0), "0.8 - inf": (0.8, math.inf), "1.5 - 10": (1.5, 10.0)},
    ),
    _sweep("f-number", "f_number", _named(1.0, 1.4, 2.0, 2.8, 4.0, 5.6)),
    _sweep("JPEG quality", "jpeg_quality", {"none": 0, **_named(95, 85, 70, 50)}),
    _sweep("flicker", "flicker", _named(0.0, 0.02, 0.05, 0.1)),
    _sweep("misalignment, px", "misalignment_px", _named(0.0, 0.5, 1.0, 2.0, 3.0)),
)


class Scenes:
    """Random scenes, rendered for any condition."""

    def __init__(self) -> None:
        """Paint the textures."""
        self._bank = torch.from_numpy(texture_bank(TEXTURES, FIRST_SEED, None))
        self._views = lru_cache(maxsize=1)(self._render)

    def stack(self, number: int, condition: Condition) -> tuple[AlignedStack, FloatImage]:
        """Return the stack of scene `number` under a condition, and its true depth in metres."""
        near, far = (1.0 / m for m in condition.range_m)
        views = self._views(number, near, far, condition.blur_gain)
        focus = condition.focus_dpt
        light = gaussian_blur(torch.stack([views.refocus(p) for p in focus]), SHARPNESS_PX)
        generator = torch.Generator().manual_seed(number)
        images = expose(well_exposed(light), _effects(condition, number), generator)
        coded = (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        width, height = SIZE_PX
        with np.errstate(divide="ignore"):
            focus_m, truth = 1.0 / np.array(focus), 1.0 / views.inverse_depth.numpy()
        lens = LensModel(FOCAL_LENGTH_M, condition.f_number, PITCH_M)
        fx = condition.blur_gain / lens.aperture_m  # so that kappa is that of the light field
        grid = Intrinsics(width, height, fx, fx, (width - 1) / 2, (height - 1) / 2)
        return AlignedStack(tuple(coded), None, focus_m, grid, lens), truth

    def _render(self, number: int, near_dpt: float, far_dpt: float, blur_gain: float) -> LightField:
        rng = np.random.default_rng(FIRST_SEED + number)
        surfaces = random_scene(rng, SceneLimits(SIZE_PX, near_dpt, far_dpt), TEXTURES)
        points = pupil_points(VIEWS, 2.0)
        return LightField(surfaces, self._bank, SIZE_PX, points, blur_gain, (far_dpt, near_dpt))


def _effects(condition: Condition, number: int) -> Effects:
    rng = np.random.default_rng(number)
    slices = condition.slices
    direction, flicker = rng.uniform(0.0, 2.0 * np.pi, slices), rng.normal(0.0, 1.0, slices)
    residual = np.zeros((slices, 3))
    residual[1:, 1] = condition.misalignment_px * np.cos(direction[1:])
    residual[1:, 2] = condition.misalignment_px * np.sin(direction[1:])
    return Effects(
        gain=1.0,
        flicker=np.exp(condition.flicker * flicker),
        vignetting=0.0,
        magnification=np.ones(slices),
        residual=residual,
        full_well=condition.full_well,
        read_noise=2.0,
        response="srgb",
        jpeg_quality=condition.jpeg_quality,
    )


def measure(
    engines: Sequence[DepthEngine], scenes: int, sweeps: Sequence[Sweep] = SWEEPS
) -> Iterator[list[object]]:
    """Yield a row for each condition: sweep, value, blur from slice to slice in pixels, AbsRel of each engine.

    Scenes with less than a tenth of their pixels in the focus range are left out.
    """
    source = Scenes()
    for sweep in sweeps:
        found: list[list[list[float]]] = [[] for _ in sweep.conditions]
        for number in range(scenes):  # the same lens sees a scene but once
            for scores, condition in zip(found, sweep.conditions, strict=True):
                stack, truth = source.stack(number, condition)
                if valid_mask(truth, condition.range_m).mean() < 0.1:
                    continue
                depths = [engine.infer(stack).depth_m for engine in engines]
                scores.append([score(depth, truth, condition.range_m).abs_rel for depth in depths])
        for scores, condition in zip(found, sweep.conditions, strict=True):
            span = condition.focus_dpt[0] - condition.focus_dpt[-1]
            step_px = condition.blur_gain * span / (condition.slices - 1)
            means = np.mean(scores, axis=0).tolist() if scores else [math.nan] * len(engines)
            yield [sweep.title, condition.name, step_px, *means]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", default=["onnx", "classical"], help="side by side")
    parser.add_argument("--scenes", type=int, default=16)
    args = parser.parse_args()
    if args.scenes < 1:
        parser.error(f"expected --scenes of at least 1, got {args.scenes}")
    try:
        with ExitStack() as stack:
            engines = [stack.enter_context(make_engine(name)) for name in args.engine]
            total = sum(len(sweep.conditions) for sweep in SWEEPS)
            rows = list(tqdm(measure(engines, args.scenes), total=total, unit="condition"))
    except DualFocusError as error:
        parser.exit(1, f"robustness: {error}\n")
    headers = ["departs in", "value", "blur step px", *args.engine]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", "", ".2f", *[".4f"] * len(engines))))


if __name__ == "__main__":
    main()
