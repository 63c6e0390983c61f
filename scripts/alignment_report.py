# SPDX-License-Identifier: Apache-2.0
"""Measures what docs/alignment.md says of alignment, and makes its pictures.

Usage: python scripts/alignment_report.py STACKS [--real STACK --pictures FOLDER]

STACKS holds the families `breathing` and `room` of rendered stacks; the true errors of the lens, which the package
never sees, are in `hidden` of their meta.json. STACK is a focal stack of a real camera, with no truth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from tabulate import tabulate

from dualfocus_ros import align as alignment
from dualfocus_ros.alignment.aligner import make_residual_estimator
from dualfocus_ros.alignment.residual import NO_RESIDUAL, estimate_residual
from dualfocus_ros.engine import classical
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.evaluation.metrics import score
from dualfocus_ros.noise import NEGLIGIBLE_NOISE, calmed, noise_level
from dualfocus_ros.stackio import StoredStack, load_stack
from dualfocus_ros.types import AlignedStack, FocalStack, Image

FloatArray = npt.NDArray[np.float64]
Kernel = Callable[[Image, FloatArray], Image]
ENGINES = ("onnx", "classical")
MAGNIFICATION = 1.02
REALISATIONS = 300
TIMED = 30


def true_residual(stored: StoredStack) -> FloatArray:
    """Return what the lens of a rendered stack really did (N, 3)."""
    errors = json.loads((stored.path / "meta.json").read_text())["hidden"]["slice_errors"]
    return np.array([[e["scale"], e["shift_x_px"], e["shift_y_px"]] for e in errors])


def corner_error_px(found: FloatArray, truth: FloatArray, stack: FocalStack) -> float:
    """Return the RMS displacement of the corners of the image over the slices but the reference."""
    k = stack.slices[stack.reference].intrinsics
    corners = np.array([[x, y] for x in (0, k.width - 1) for y in (0, k.height - 1)]) - (k.cx_px, k.cy_px)
    squares = []
    for n, s in enumerate(stack.slices):
        if n != stack.reference:
            off = found[n] - truth[n]
            moved = corners * s.intrinsics.fx_px / k.fx_px * off[0] + off[1:]
            squares.append(np.square(moved).sum(axis=1).mean())
    return float(np.sqrt(np.mean(squares)))


def estimated(stack: FocalStack, name: str) -> tuple[FloatArray, float]:
    """Return the residual (N, 3) that an estimator finds, and the time it took a slice, in ms."""
    with make_residual_estimator(name) as estimator:
        start = time.perf_counter()
        found = estimate_residual(stack, alignment.metadata_intrinsics(stack), estimator)
        return found.residual, 1e3 * (time.perf_counter() - start) / len(stack.slices)


def residual_table(stacks: Sequence[StoredStack]) -> str:
    """Return errors of the estimators at the corners of the image."""
    rows = []
    for name in ("none", "classical", "network"):
        errors, times = [], []
        for stored in stacks:
            found, ms = np.tile(NO_RESIDUAL, (len(stored.stack.slices), 1)), 0.0
            if name != "none":
                found, ms = estimated(stored.stack, name)
            errors.append(corner_error_px(found, true_residual(stored), stored.stack))
            times.append(ms)
        rms = float(np.sqrt(np.mean(np.square(errors))))
        rows.append([name, np.mean(errors), rms, max(errors), np.median(times)])
    head = ["residual", "mean of stacks px", "RMS px", "worst stack px", "ms a slice"]
    return tabulate(rows, head, "github", floatfmt=(".0f", ".3f", ".3f", ".3f", ".1f"))


def with_kernel(stack: FocalStack, residual: FloatArray | None, kernel: Kernel | None) -> AlignedStack:
    """Return an aligned stack; by another kernel than that of the package the reference stays as it is."""
    noise = noise_of(stack)
    aligned = alignment.align(stack, "camera_info", residual, noise=noise)
    if kernel is None:
        return aligned
    maps = _maps(stack, residual)
    images = [
        s.image if n == stack.reference else kernel(s.image, m)
        for n, (s, m) in enumerate(zip(stack.slices, maps, strict=True))
    ]
    images = [calmed(image, noise) for image in images] if noise else images
    return replace(aligned, images=tuple(images), numbers=())


def noise_of(stack: FocalStack) -> float:
    """Return the noise that slices are freed of; 0 where there is little."""
    found = noise_level(s.image for s in stack.slices)
    return found if found > NEGLIGIBLE_NOISE else 0.0


def _maps(stack: FocalStack, residual: FloatArray | None) -> list[FloatArray]:
    reference = stack.slices[stack.reference].intrinsics
    residual = np.tile(NO_RESIDUAL, (len(stack.slices), 1)) if residual is None else residual
    pairs = zip(stack.slices, residual, strict=True)
    return [alignment.reference_to_slice(reference, s.intrinsics, *r) for s, r in pairs]


def opencv(flag: int) -> Kernel:
    """Return a plain warp of OpenCV."""

    def warp(image: Image, ref_to_slice: FloatArray) -> Image:
        size, flags = (image.shape[1], image.shape[0]), flag | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, ref_to_slice, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    return warp


KERNELS: dict[str, Kernel | None] = {
    "of the package": None,
    "bilinear": opencv(cv2.INTER_LINEAR),
    "cubic": opencv(cv2.INTER_CUBIC),
    "Lanczos": opencv(cv2.INTER_LANCZOS4),
}


def abs_rel(engine: DepthEngine, stored: Sequence[StoredStack], aligned: Sequence[AlignedStack]) -> float:
    """Return the mean AbsRel of an engine over stacks."""
    found = []
    for one, stack in zip(stored, aligned, strict=True):
        assert one.ground_truth_m is not None
        output, focus_m = engine.infer(stack), one.stack.focus_distance_m
        span_m = (float(focus_m.min()), float(focus_m.max()))
        found.append(score(output.depth_m, one.ground_truth_m, span_m, output.confidence).abs_rel)
    return float(np.mean(found))


def depth_table(breathing: Sequence[StoredStack], room: Sequence[StoredStack]) -> str:
    """Return errors of depth by how the stacks were aligned."""
    ways: dict[str, list[AlignedStack]] = {
        "none": [alignment.align(s.stack, "none", noise=noise_of(s.stack)) for s in breathing],
        "metadata": [with_kernel(s.stack, None, None) for s in breathing],
    }
    for name in ("network", "classical"):
        residuals = [estimated(s.stack, name)[0] for s in breathing]
        pairs = list(zip(breathing, residuals, strict=True))
        ways[f"metadata, {name}"] = [with_kernel(s.stack, r, None) for s, r in pairs]
    ways["metadata, classical, with the noise"] = [alignment.align(s.stack, "camera_info", r) for s, r in pairs]
    for name, kernel in KERNELS.items():
        label = "metadata, truth" + ("" if kernel is None else f", {name} warp")
        ways[label] = [with_kernel(s.stack, true_residual(s), kernel) for s in breathing]
    rows = [[label] for label in (*ways, "room, which needs no alignment")]
    for name in ENGINES:
        with make_engine(name) as engine:
            for row, stacks in zip(rows, ways.values(), strict=False):
                row.append(f"{abs_rel(engine, breathing, stacks):.4f}")
            rows[-1].append(f"{abs_rel(engine, room, [alignment.align(s.stack, 'none') for s in room]):.4f}")
    return tabulate(rows, ["alignment", *ENGINES], "github", disable_numparse=True)


def noise_table() -> str:
    """Return how much a warp changes the sharpness of white noise over the image, and against the reference."""
    c = (159.5, 119.5)
    m = 1.0 / MAGNIFICATION
    shrink = np.array([[m, 0.0, c[0] * (1.0 - m)], [0.0, m, c[1] * (1.0 - m)]])
    rng = np.random.default_rng(0)
    kernels: dict[str, Kernel] = {name: k or _package_warp for name, k in KERNELS.items()}
    total = {name: np.zeros((240, 320)) for name in kernels}
    still = dict.fromkeys(kernels, 0.0)
    times: dict[str, list[float]] = {name: [] for name in kernels}
    colour = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for number in range(REALISATIONS):
        image = np.clip(rng.normal(128.0, 30.0, (240, 320)), 0, 255).astype(np.uint8)
        for name, kernel in kernels.items():
            total[name] += _sharpness(kernel(image, shrink))
            if number < TIMED:
                start = time.perf_counter()
                kernel(colour, shrink)
                times[name].append(1e3 * (time.perf_counter() - start))
            reference = image if KERNELS[name] is not None else kernel(image, alignment.NO_WARP)
            still[name] += float(_sharpness(reference).mean())
    rows = []
    for name, one in total.items():
        smooth = cv2.blur(one, (15, 15))[20:-20, 20:-20]
        rows.append([name, 100 * smooth.std() / smooth.mean(), 100 * (smooth.mean() / still[name] - 1)])
        rows[-1].append(np.median(times[name]))
    head = ["warp", "varies over the image by %", "differs from the reference by %", "ms, 640 x 480"]
    return tabulate(rows, head, "github", floatfmt=".1f")


def _package_warp(image: Image, ref_to_slice: FloatArray) -> Image:
    return _KEPT._warp(image, ref_to_slice)[0]


_KEPT = alignment.KeptSlices()


def _sharpness(image: Image) -> FloatArray:
    """Return the focus measure of the classical engine, with the least that it smooths."""
    calm = cv2.GaussianBlur(image.astype(np.float32), (0, 0), classical.PRESMOOTH_SIGMA_PX)
    kernel = np.array([[-1.0, 2.0, -1.0]])
    return np.asarray(np.abs(cv2.filter2D(calm, -1, kernel)) + np.abs(cv2.filter2D(calm, -1, kernel.T)), float)


def real_stack(path: Path, pictures: Path | None) -> str:
    """Return how much neighbouring slices of a real stack differ, and write pictures of that."""
    stored = load_stack(path)
    ways = {
        "none": alignment.align(stored.stack, "none"),
        "metadata": alignment.align(stored.stack, stored.breathing),
        "metadata, classical": alignment.align(
            stored.stack, stored.breathing, estimated(stored.stack, "classical")[0]
        ),
        "metadata, network": alignment.align(
            stored.stack, stored.breathing, estimated(stored.stack, "network")[0]
        ),
    }
    left = {name: neighbour_difference(aligned) for name, aligned in ways.items()}
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        difference_picture(ways, pictures / "alignment_balls.png")
        flicker(ways, pictures / "alignment_balls.gif")
    rows = [[name, value, left["metadata"] / value] for name, value in left.items()]
    return tabulate(rows, ["alignment", "difference, grey levels", "metadata over this"], "github", floatfmt=".2f")


def neighbour_difference(aligned: AlignedStack) -> float:
    """Return the mean difference between neighbouring slices where there is texture, in grey levels.

    Both are blurred, so that what differs in focus alone counts little; texture is the 30 % of steepest gradients.
    """
    calm = [_calm_grey(image) for image in aligned.images]
    found = []
    for a, b in zip(calm, calm[1:], strict=False):
        slope = np.hypot(cv2.Scharr(a, -1, 1, 0), cv2.Scharr(a, -1, 0, 1))
        found.append(np.abs(a - b)[slope > np.percentile(slope, 70)].mean())
    return float(np.mean(found))


def _calm_grey(image: Image) -> npt.NDArray[np.float32]:
    return cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 3.0)


def difference_picture(ways: dict[str, AlignedStack], path: Path) -> None:
    """Write the difference of the last slice to the reference, before and after."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), layout="constrained")
    for axis, name in zip(axes, ("none", "metadata", "metadata, classical"), strict=True):
        a, b = (ways[name].images[i] for i in (len(ways[name].images) // 2, 0))
        calm = [_calm_grey(i) for i in (a, b)]
        shown = cv2.resize(calm[0] - calm[1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        axis.imshow(shown, cmap="RdBu", vmin=-60, vmax=60)
        axis.set_title(f"alignment: {name}")
        axis.axis("off")
    figure.savefig(path, dpi=60)
    plt.close(figure)


def flicker(ways: dict[str, AlignedStack], path: Path) -> None:
    """Write the sweep as an animation, aligned by metadata beside aligned by estimate."""
    frames = []
    for a, b in zip(ways["metadata"].images, ways["metadata, classical"].images, strict=True):
        pair = [cv2.resize(i, (232, 130), interpolation=cv2.INTER_AREA) for i in (a, b)]
        frames.append(PillowImage.fromarray(np.hstack(pair)).quantize(40))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0, optimize=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Measure alignment.")
    parser.add_argument("stacks", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    breathing, room = (
        [load_stack(p) for p in sorted((args.stacks / f).iterdir()) if p.is_dir()] for f in ("breathing", "room")
    )
    for title, table in (
        ("Residual error at the corners of the image, `breathing`", residual_table(breathing)),
        ("AbsRel of depth, `breathing`", depth_table(breathing, room)),
        (f"Sharpness of white noise after a warp of {100 * (MAGNIFICATION - 1):.0f} %", noise_table()),
    ):
        print(f"{title}\n\n{table}\n")
    if args.real is not None:
        print(f"Neighbouring slices of {args.real.name}\n\n{real_stack(args.real, args.pictures)}")


if __name__ == "__main__":
    main()
