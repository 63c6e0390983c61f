# SPDX-License-Identifier: Apache-2.0
"""Measures what docs/exposure.md says: depth from slices of unequal exposure, and the time it takes.

Usage: python scripts/exposure_report.py STACKS [--engine onnx classical] [--draws 2] [--noise LEVELS]

STACKS is a folder of focal stacks with true depth, all of one exposure. Their slices are disturbed in linear
light, as by an automatic exposure or white balance that is not locked, and may get noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from dualfocus_ros.alignment.exposure import ExposureMeter
from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.evaluation.stacks import Sample, evaluate
from dualfocus_ros.photometry import Gain, light_cells
from dualfocus_ros.stackio import find_stacks, load_stack
from dualfocus_ros.types import FocalStack, Image

FloatArray = npt.NDArray[np.float64]
# Name, share by which exposure changes, by which white balance does, and how.
DISTURBANCES = (
    ("none", 0.0, 0.0, "ramp"),
    ("ramp of 1 %", 0.01, 0.0, "ramp"),
    ("ramp of 2 %", 0.02, 0.0, "ramp"),
    ("ramp of 5 %, white balance 2 %", 0.05, 0.02, "ramp"),
    ("ramp of 15 %, white balance 5 %", 0.15, 0.05, "ramp"),
    ("random 5 %, white balance 2 %", 0.05, 0.02, "random"),
    ("random 15 %, white balance 5 %", 0.15, 0.05, "random"),
    ("random 40 %, white balance 5 %", 0.40, 0.05, "random"),
)
TIMED = 60


def gains(rng: np.random.Generator, count: int, exposure: float, balance: float, kind: str) -> FloatArray:
    """Return (N, 3) what the light of the slices is multiplied by; the white balance drifts over the sweep."""
    ramp = np.linspace(-1.0, 1.0, count)
    level = rng.uniform(-1.0, 1.0, count) if kind == "random" else ramp * rng.choice([-1, 1])
    drift = balance * ramp * rng.choice([-1, 1])
    return (1.0 + exposure * level)[:, None] * np.stack([1.0 + drift, np.ones(count), 1.0 - drift], axis=1)


def exposed(image: Image, factors: FloatArray, noise: float, rng: np.random.Generator) -> Image:
    """Return an sRGB image of 8 bits with other exposure, clipped and rounded as a camera does."""
    light = srgb_to_linear(np.arange(256) / 255.0)[:, None] * factors
    coded = cv2.LUT(image, 255.0 * linear_to_srgb(light)[None])
    if noise > 0.0:
        coded += rng.normal(0.0, noise, coded.shape)
    return np.rint(np.clip(coded, 0.0, 255.0)).astype(np.uint8)


def disturbed(
    samples: Sequence[Sample], case: tuple[str, float, float, str], draws: int, noise: float
) -> Iterator[Sample]:
    """Yield every sample with exposures of its own, as often as asked."""
    _, exposure, balance, kind = case
    for draw in range(draws):
        for n, sample in enumerate(samples):
            stack = sample.stack
            rng = np.random.default_rng((draw, n))
            factors = gains(rng, len(stack.slices), exposure, balance, kind)
            slices = [
                replace(s, image=exposed(s.image, f, noise, rng))
                for s, f in zip(stack.slices, factors, strict=True)
            ]
            yield replace(sample, stack=replace(stack, slices=tuple(slices)))


def abs_rel(engine: DepthEngine, samples: Iterator[Sample], *, normalise: bool) -> float:
    """Return the mean absolute relative error of depth."""
    config = EstimatorConfig(max_motion_px=math.inf, normalise_exposure=normalise)
    found = evaluate(engine, samples, config)
    return statistics.fmean(stack.metrics.abs_rel for stack in found.stacks)


def error_table(samples: Sequence[Sample], engines: Sequence[str], draws: int, noise: float) -> str:
    """Return errors with and without normalisation, by engine and disturbance."""
    rows = [[name] for name, *_ in DISTURBANCES]
    for engine_name in engines:
        with make_engine(engine_name) as engine:
            for row, case in zip(rows, DISTURBANCES, strict=True):
                for normalise in (False, True):
                    row.append(abs_rel(engine, disturbed(samples, case, draws, noise), normalise=normalise))
    headers = ["exposure", *(f"{name}, {how}" for name in engines for how in ("as captured", "normalised"))]
    return tabulate(rows, headers, tablefmt="github", floatfmt=".4f")


def time_table(stack: FocalStack) -> str:
    """Return what measuring and applying cost a frame of 640 x 480 on one core, in ms."""
    cv2.setNumThreads(1)
    kinds: tuple[tuple[str, Callable[[Image], Image]], ...] = (
        ("rgb8", lambda image: image),
        ("mono8", lambda image: image[..., 1].copy()),
        ("rgb of 12 bits in 16", lambda image: image.astype(np.uint16) * 16),
    )
    rows = [[name, *_times_ms(stack, convert)] for name, convert in kinds]
    return tabulate(rows, ["640 x 480", "measure, ms", "apply, ms"], tablefmt="github", floatfmt=".2f")


def _times_ms(stack: FocalStack, convert: Callable[[Image], Image]) -> tuple[float, float]:
    slices = [
        replace(s, image=convert(cv2.resize(s.image, (640, 480))), intrinsics=s.intrinsics.resized(640, 480))
        for s in stack.slices
    ]
    large = replace(stack, slices=tuple(slices))
    image, intrinsics, none = (
        slices[0].image,
        [s.intrinsics for s in slices],
        np.tile([1.0, 0.0, 0.0], (len(slices), 1)),
    )
    gain = Gain((40, 20, -30)[: 1 if image.ndim == 2 else 3], 255 if image.dtype == np.uint8 else 4095)
    meter = ExposureMeter()
    meter.measure(large, intrinsics, none)
    comparing_ms = _median_ms(lambda: meter.measure(large, intrinsics, none)) / len(slices)
    return _median_ms(lambda: light_cells(image)) + comparing_ms, _median_ms(lambda: gain.applied_to(image))


def _median_ms(action: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path)
    parser.add_argument("--engine", nargs="+", default=["onnx", "classical"], metavar="NAME")
    parser.add_argument("--draws", type=int, default=2, help="of the disturbances, for each stack")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, of 255 levels")
    args = parser.parse_args()
    samples = [Sample.of(load_stack(path)) for path in find_stacks(args.stacks)]
    print(error_table(samples, args.engine, args.draws, args.noise), flush=True)
    print(f"\n{time_table(samples[0].stack)}")


if __name__ == "__main__":
    main()
