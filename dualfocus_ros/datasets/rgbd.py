# SPDX-License-Identifier: Apache-2.0
"""Stacks rendered from one RGB-D image with the focus list and the virtual lens of a published protocol."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dualfocus_ros import optics
from dualfocus_ros.datasets.base import DatasetStack, dataset_stack, focal_stack, leaking_focus_m
from dualfocus_ros.datasets.render import published_stack, thin_lens_stack
from dualfocus_ros.types import FloatImage, Image, LensModel

LEAK = (
    "The focus distances go from the nearest to the farthest true depth of that very image, evenly in metres: the "
    "list tells the range of the answer. Published numbers are of such lists, so this set repeats them."
)
RENDERED = (
    "Rendered as a thin lens forms it: disc of the circle of confusion, in linear light, layers from back to "
    "front. The published renderer does less (a Gaussian cut to 7 x 7 pixels, no occlusion, sRGB codes): numbers "
    "of the two are not comparable; the set named -published repeats it."
)
PUBLISHED = (
    "Rendered as the published code does: a Gaussian with standard deviation of half the blur's radius, cut to 7 "
    "x 7 pixels, no occlusion, on sRGB codes; slices are rounded to 8 bits, which the original's are not."
)


def rendered(
    image: Image,
    truth_m: FloatImage,
    lens: LensModel,
    slices: int,
    published: bool,
    **meta: object,
) -> DatasetStack:
    """Return a stack of `slices` slices focused from the nearest to the farthest true depth.

    Args:
        image: (H, W, 3) uint8, RGB.
        truth_m: (H, W), NaN invalid.
        lens: the virtual one of the protocol; all slices have the field of view f / pixel pitch.
        slices: how many.
        published: as `published_stack`; else as `thin_lens_stack`.
        meta: for meta.json.

    Raises:
        DatasetError: if the truth has no range.
        LensError: if a depth is nearer than the focal length.
    """
    focus_m: npt.NDArray[np.float64] = leaking_focus_m(truth_m, slices)
    gains = [
        optics.blur_gain_px_per_dpt(lens.focal_length_m, lens.f_number, lens.pixel_pitch_m, float(s))
        for s in focus_m
    ]
    images = (published_stack if published else thin_lens_stack)(image, truth_m, focus_m, gains)
    return dataset_stack(focal_stack(images, focus_m, lens), truth_m, focus_leaks_truth_range=True, **meta)
