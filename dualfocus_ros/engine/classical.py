# SPDX-License-Identifier: Apache-2.0
"""Depth from focus without learned weights: the baseline, and an explicit choice where no model is at hand.

Two cues are combined for a set of depth hypotheses, spaced in dioptres:

- reblurring: an all-in-focus image, blurred by the disc that the lens model predicts for the hypothesis, must
  look like every slice (after Suwajanakorn et al., CVPR 2015);
- focus measure: the modified Laplacian (Nayar and Nakagawa, PAMI 1994) must peak there.

Both enter as logarithms, so that strong edges do not drown their surroundings, and are aggregated with a guided
filter (He et al., PAMI 2013). The posterior over the hypotheses gives depth and its uncertainty; uncertain
pixels are then filled from certain ones with weighted guided filters of growing size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.guided import box_mean, guided_filter, weighted_guided_filter
from dualfocus_ros.engine.pixels import hide_unseen
from dualfocus_ros.engine.reblur import blur_level_px, reblurred
from dualfocus_ros.errors import EngineError, StackError
from dualfocus_ros.image_encodings import bits_used
from dualfocus_ros.types import MIN_SLICES, AlignedStack, FloatImage, Image, Mask

FloatVector: TypeAlias = npt.NDArray[np.float64]

# Large images with strong blur are worked on at a lower resolution: never below this many pixels, nor where
# neighbouring slices would then differ by less than this blur.
WORK_PIXELS = 320 * 240
WORK_BLUR_STEP_PX = 1.0
MAX_WORK_PIXELS = 640 * 480  # never above, for speed
MAX_HYPOTHESES = 30
HYPOTHESES_PER_SLICE = 3
# Brightness that counts as white: a high percentile, of every 4th pixel for speed.
WHITE_PERCENTILE = 99.5
WHITE_STRIDE = 4

PRESMOOTH_SIGMA_PX = 0.7  # takes the noise that resampling spares in one slice and removes in others
AIF_SIGMA_PX = 3.0  # window of the focus measure that chooses the first all-in-focus image
AIF_BLUR_PX = 1.0  # slices blurred by less than about this make up that image
CUE_SIGMA_PX = 1.5  # window of both cues before the logarithm
REBLUR_FLOOR = 1e-2  # added to the sum of reblur errors: differences at the level of noise tell nothing
SHARPNESS_FLOOR = 1e-4  # added to the focus measure, keeps its logarithm finite
GUIDE_RADIUS_PX = 8
GUIDE_EPSILON = 1e-2  # contrast^2 of the guide that counts as an edge
SHARPNESS_OF_POSTERIOR = 24.0
VARIANCE_FLOOR_SLICES2 = 0.02
FILL_RADII_PX = (8, 16, 32)
FILL_GAIN = 0.012  # weight of the first radius against the pixel itself; halves with each radius
FILL_EPSILON = 1e-2
EDGE_RADIUS_PX = 4  # depth that varies this near is less sure: windows straddle the edge
EDGE_DOUBT = 4.0  # how much variance (slices^2) that adds, per slice^2 of variance inside the window
MIN_DEPTH_DPT = 1e-3  # farther than this is reported as 1000 m


@dataclass(frozen=True)
class _Scene:
    """A stack at working resolution: grey slices (h, w) with gamma, 1 = white; `seen` as `AlignedStack.valid`."""

    grey: list[FloatImage]
    seen: Mask | None
    focus_dpt: FloatVector
    kappa: float


class ClassicalEngine:
    """Implements `engine.base.DepthEngine` on the CPU with OpenCV. One thread uses an engine at a time."""

    name = "classical"
    device = "cpu"

    def __init__(self) -> None:
        self._volume: FloatImage = np.zeros((0, 0, 0), np.float32)

    def __enter__(self) -> ClassicalEngine:
        """Nothing to load."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the work buffer."""
        self._volume = np.zeros((0, 0, 0), np.float32)

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth, confidence and the all-in-focus image; dense but where under 3 slices see a pixel.

        Raises:
            EngineError: if the stack has fewer than 3 slices.
        """
        if len(stack.images) < MIN_SLICES:
            raise EngineError(f"expected at least {MIN_SLICES} slices, got {len(stack.images)}")
        scene = _working_scene(stack)
        hypotheses_dpt = _hypotheses_dpt(scene.focus_dpt)
        sharpness = _focus_measures(scene)
        first_dpt = _sharpest_dpt(sharpness, scene.focus_dpt)
        sharp = _first_all_in_focus(scene, first_dpt)
        guide = np.sqrt(np.maximum(sharp, 0.0))
        cost = self._costs(scene, sharp, sharpness, hypotheses_dpt)
        guided_filter(cost, guide, GUIDE_RADIUS_PX, GUIDE_EPSILON)
        mean_dpt, variance_dpt2 = _posterior(cost, hypotheses_dpt)
        step_dpt = float(scene.focus_dpt[0] - scene.focus_dpt[-1]) / (len(scene.focus_dpt) - 1)
        weight = 1.0 / (variance_dpt2 / step_dpt**2 + VARIANCE_FLOOR_SLICES2) ** 2
        depth_dpt = _fill(mean_dpt, weight, guide)
        nearest_dpt, farthest_dpt = float(hypotheses_dpt.max()), float(hypotheses_dpt.min())
        depth_dpt = np.clip(depth_dpt, max(farthest_dpt, MIN_DEPTH_DPT), nearest_dpt)
        confidence = _confidence(variance_dpt2 / step_dpt**2, depth_dpt / step_dpt)
        return _output(stack, depth_dpt, confidence)

    def _costs(
        self, scene: _Scene, sharp: FloatImage, sharpness: list[FloatImage], hypotheses_dpt: FloatVector
    ) -> FloatImage:
        """Return (D, h, w) the negative log evidence of every hypothesis, in the buffer of this engine."""
        shape = (len(hypotheses_dpt), *sharp.shape)
        if self._volume.shape != shape:
            self._volume = np.empty(shape, np.float32)
        cost = self._volume
        cost.fill(0.0)
        _add_reblur_errors(cost, scene, sharp, hypotheses_dpt)
        logs = [np.log(_smooth(s, CUE_SIGMA_PX) + np.float32(SHARPNESS_FLOOR)) for s in sharpness]
        mix = _interpolation(scene.focus_dpt, hypotheses_dpt)
        for plane, weights in zip(cost, mix, strict=True):
            np.log(_smooth(plane, CUE_SIGMA_PX) + np.float32(REBLUR_FLOOR), out=plane)
            for n in np.flatnonzero(weights):
                cv2.scaleAdd(logs[n], -float(weights[n]), plane, plane)
        return cost


def _working_scene(stack: AlignedStack) -> _Scene:
    """Convert to grey floats, scaled so that white is 1, at the resolution that pays."""
    height, width = stack.images[0].shape[:2]
    focus_dpt = np.asarray(stack.focus_dpt, dtype=np.float64)
    step_px = stack.blur_gain_px_per_dpt * float(np.mean(np.abs(np.diff(focus_dpt))))
    shrink = _shrink(height * width, step_px)
    size = (width // shrink, height // shrink)
    corner = [np.ascontiguousarray(image[::WHITE_STRIDE, ::WHITE_STRIDE]) for image in stack.images]
    white = max(float(np.percentile(np.stack(corner), WHITE_PERCENTILE)), 1.0)
    grey = []
    for image in stack.images:
        small = image if shrink == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        value = np.multiply(small, np.float32(1.0 / white), dtype=np.float32)
        grey.append(value if value.ndim == 2 else cv2.cvtColor(value, cv2.COLOR_RGB2GRAY))
    seen = stack.valid
    if seen is not None and shrink > 1:
        shrunk = [cv2.resize(s.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for s in seen]
        seen = np.stack(shrunk)
    return _Scene(grey, seen, focus_dpt, stack.blur_gain_px_per_dpt / shrink)


def _shrink(pixels: int, blur_step_px: float) -> int:
    """Return the whole number by which the image is made smaller to work on it."""
    if not math.isfinite(blur_step_px):
        raise StackError(f"expected a finite blur between slices, got {blur_step_px} px: check the lens data")
    shrink = max(1, math.ceil(math.sqrt(pixels / MAX_WORK_PIXELS)))
    while pixels >= WORK_PIXELS * (shrink + 1) ** 2 and blur_step_px >= WORK_BLUR_STEP_PX * (shrink + 1):
        shrink += 1
    return shrink


def _hypotheses_dpt(focus_dpt: FloatVector) -> FloatVector:
    """Return (D,) hypotheses: the focus positions and equal steps between them, descending."""
    per_slice = int(np.clip(MAX_HYPOTHESES // (len(focus_dpt) - 1), 1, HYPOTHESES_PER_SLICE))
    index = np.arange((len(focus_dpt) - 1) * per_slice + 1) / per_slice
    return np.interp(index, np.arange(len(focus_dpt)), focus_dpt)


def _interpolation(focus_dpt: FloatVector, hypotheses_dpt: FloatVector) -> FloatVector:
    """Return (D, N): weights that interpolate values at the slices to the hypotheses by parabolas."""
    nearest = np.abs(hypotheses_dpt[:, None] - focus_dpt[None, :]).argmin(axis=1)
    middle = np.clip(nearest, 1, len(focus_dpt) - 2)
    weights = np.zeros((len(hypotheses_dpt), len(focus_dpt)))
    rows = np.arange(len(hypotheses_dpt))
    for a, b, c in ((-1, 0, 1), (0, -1, 1), (1, -1, 0)):  # Lagrange's basis of three neighbours
        xa, xb, xc = (focus_dpt[middle + i] for i in (a, b, c))
        weights[rows, middle + a] = (hypotheses_dpt - xb) * (hypotheses_dpt - xc) / ((xa - xb) * (xa - xc))
    return weights


def _smooth(image: FloatImage, sigma_px: float) -> FloatImage:
    smoothed: FloatImage = cv2.GaussianBlur(image, (0, 0), sigma_px)
    return smoothed


def _focus_measures(scene: _Scene) -> list[FloatImage]:
    """Return the modified Laplacian |I_xx| + |I_yy| of every slice, 0 where the slice does not see."""
    kernel = np.array([[-1.0, 2.0, -1.0]], np.float32)
    measures: list[FloatImage] = []
    for n, grey in enumerate(scene.grey):
        calm = _smooth(grey, PRESMOOTH_SIGMA_PX)
        measure = np.abs(cv2.filter2D(calm, -1, kernel)) + np.abs(cv2.filter2D(calm, -1, kernel.T))
        measures.append(measure if scene.seen is None else measure * scene.seen[n])
    return measures


def _sharpest_dpt(sharpness: list[FloatImage], focus_dpt: FloatVector) -> FloatImage:
    best = _smooth(sharpness[0], AIF_SIGMA_PX)
    index = np.zeros(best.shape, np.uint8 if len(sharpness) < 256 else np.intp)
    for n, measure in enumerate(sharpness[1:], start=1):
        smoothed = _smooth(measure, AIF_SIGMA_PX)
        index[smoothed > best] = n
        cv2.max(best, smoothed, dst=best)
    sharpest: FloatImage = focus_dpt.astype(np.float32)[index]
    return sharpest


def _first_all_in_focus(scene: _Scene, depth_dpt: FloatImage) -> FloatImage:
    """Return the slices in linear light, (h, w), averaged where they are in focus: that calms their noise."""
    total = np.zeros_like(depth_dpt)
    weights = np.zeros_like(depth_dpt)
    for grey, focus_dpt in zip(scene.grey, scene.focus_dpt, strict=True):
        blur = (depth_dpt - np.float32(focus_dpt)) * np.float32(scene.kappa / AIF_BLUR_PX)
        weight = np.exp(-0.5 * np.square(blur))
        total += np.square(grey) * weight
        weights += weight
    total /= weights
    return total


def _blend(images: Sequence[Image], focus_dpt: FloatVector, depth_dpt: FloatImage) -> FloatImage | Image:
    """Return the images blended between the two slices whose focus encloses the depth; 8 bit, or float."""
    ascending = focus_dpt[::-1]
    position = np.interp(depth_dpt, ascending, np.arange(len(ascending))[::-1]).astype(np.float32)
    # blendLinear knows 8 bit and float only; where a pixel is past a slice, that slice is replaced altogether.
    layers = [image if image.dtype == np.uint8 else image.astype(np.float32) for image in images]
    total = layers[0]
    for n, layer in enumerate(layers[1:]):
        share = np.clip(position - np.float32(n), 0.0, 1.0)
        total = cv2.blendLinear(total, layer, 1.0 - share, share)
    return total


def _add_reblur_errors(cost: FloatImage, scene: _Scene, sharp: FloatImage, hypotheses_dpt: FloatVector) -> None:
    """Add the sum over slices of |sharp image blurred as the hypothesis says - slice|, in linear light."""
    blurred: dict[float, FloatImage] = {}
    for n, grey in enumerate(scene.grey):
        linear = np.square(grey)  # close to the sRGB curve, and fast
        errors: dict[float, FloatImage] = {}
        for plane, hypothesis_dpt in zip(cost, hypotheses_dpt, strict=True):
            level = blur_level_px(scene.kappa * abs(hypothesis_dpt - scene.focus_dpt[n]))
            if level not in blurred:
                blurred[level] = reblurred(sharp, level)
            if level not in errors:
                error = cv2.absdiff(blurred[level], linear)
                errors[level] = error if scene.seen is None else error * scene.seen[n]
            cv2.add(plane, errors[level], dst=plane)
    if scene.seen is not None:
        cost *= np.float32(len(scene.grey)) / np.maximum(scene.seen.sum(axis=0), 1).astype(np.float32)


def _posterior(cost: FloatImage, hypotheses_dpt: FloatVector) -> tuple[FloatImage, FloatImage]:
    """Return mean (dpt) and variance (dpt^2) over the hypotheses, each (h, w); overwrites the costs."""
    cost -= cost.min(axis=0)
    cost *= np.float32(-SHARPNESS_OF_POSTERIOR)
    cv2.exp(cost.reshape(len(cost), -1), dst=cost.reshape(len(cost), -1))
    flat = cost.reshape(len(cost), -1)
    # Moments about the middle: single precision would lose small variances of large dioptres.
    middle = float(hypotheses_dpt.mean())
    away = (hypotheses_dpt - middle).astype(np.float32)
    total, first, second = np.stack([np.ones_like(away), away, away * away]) @ flat
    mean = first / total
    variance = np.maximum(second / total - mean * mean, 0.0)
    shape = cost.shape[1:]
    return (mean + np.float32(middle)).reshape(shape), variance.reshape(shape)


def _fill(depth_dpt: FloatImage, weight: FloatImage, guide: FloatImage) -> FloatImage:
    """Return the depth, drawn to that of surely known neighbours of like brightness where it is unsure."""
    weight = weight.astype(np.float32)
    numerator, denominator, gain = depth_dpt * weight, weight.copy(), FILL_GAIN
    for radius in FILL_RADII_PX:
        value, support = weighted_guided_filter(depth_dpt, weight, guide, radius, FILL_EPSILON)
        numerator += gain * support * value
        denominator += gain * support
        gain /= 2
    numerator /= denominator
    return numerator


def _confidence(variance_slices2: FloatImage, depth_slices: FloatImage) -> FloatImage:
    """Return 0..1 (h, w): 0.5 where the error is expected to be as large as the step between two slices."""
    mean = box_mean(depth_slices, EDGE_RADIUS_PX)
    edge = np.maximum(box_mean(depth_slices * depth_slices, EDGE_RADIUS_PX) - mean * mean, 0.0)
    return np.divide(1.0, 1.0 + variance_slices2 + EDGE_DOUBT * edge)


def _output(stack: AlignedStack, depth_dpt: FloatImage, confidence: FloatImage) -> EngineOutput:
    """Bring the result to the resolution of the stack; no depth where fewer than 3 slices see."""
    height, width = stack.images[0].shape[:2]
    depth_dpt = cv2.resize(depth_dpt.astype(np.float32), (width, height))
    confidence = cv2.resize(confidence.astype(np.float32), (width, height))
    sharp = _to_8_bit(_blend(stack.images, np.asarray(stack.focus_dpt), depth_dpt), stack.images)
    depth_m, confidence = hide_unseen(stack, 1.0 / depth_dpt, confidence)
    return EngineOutput(depth_m, confidence, sharp)


def _to_8_bit(blend: FloatImage | Image, images: Sequence[Image]) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3) RGB of 8 bits."""
    if images[0].dtype == np.uint16:
        blend = cv2.convertScaleAbs(blend, alpha=2.0 ** (8 - bits_used(images)))
    if blend.ndim == 2:
        blend = cv2.cvtColor(blend, cv2.COLOR_GRAY2RGB)
    return np.asarray(blend, dtype=np.uint8)
