# SPDX-License-Identifier: Apache-2.0
"""Alignment: bring the slices of a stack into the pixel grid of its reference slice.

The field of view of most lenses changes with focus (breathing). What the metadata knows of it is
corrected here; a residual per slice (radial scale, x and y shift) can be added by an estimator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros import optics
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.noise import calmed
from dualfocus_ros.photometry import Gain
from dualfocus_ros.types import AlignedStack, FocalSlice, FocalStack, Image, Intrinsics, LensModel, Mask

Breathing = Literal["auto", "camera_info", "thin_lens", "none"]
BREATHING_CHOICES: tuple[str, ...] = get_args(Breathing)

# A warp that moves no pixel by more than this is left out: it would only blur.
NEGLIGIBLE_WARP_PX = 0.02
# How a slice is resampled: sharpened, then the mean of two bilinear samples to either side of the place, this far
# away along a diagonal. A single bilinear sample blurs by the sub-pixel phase (up to half of the sharpness is
# lost) and so fakes focus, and a cubic one still does. Of the pair, what one loses at its phase the other has; the
# sharpening makes up for the blur that remains. Measured in docs/alignment.md.
SHARPEN = 0.2
SPREAD_PX = 0.28
_SHARPENER = np.zeros((3, 3), np.float32)
_SHARPENER[1, :] = _SHARPENER[:, 1] = -SHARPEN
_SHARPENER[1, 1] = 1.0 + 4.0 * SHARPEN
_SPREAD = np.array([[0.0, 0.0, SPREAD_PX], [0.0, 0.0, -SPREAD_PX]])
_numbers = itertools.count()  # of aligned slices; no two in a process have the same
NO_WARP = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
# Relative change of fx from which camera_info counts as following the focus.
FOLLOWS_FOCUS = 1e-6


def breathing_source(stack: FocalStack, breathing: Breathing = "auto") -> Breathing:
    """Return where the field of view is taken from; tells what `auto` means for this stack.

    Raises:
        AlignmentError: if `breathing` is none of the known sources.
    """
    if breathing not in BREATHING_CHOICES:
        raise AlignmentError(f"expected breathing to be one of {BREATHING_CHOICES}, got {breathing!r}")
    if breathing != "auto":
        return breathing
    return "thin_lens" if has_constant_view([s.intrinsics for s in stack.slices]) else "camera_info"


def has_constant_view(intrinsics: Sequence[Intrinsics]) -> bool:
    """Say whether all slices have one field of view."""
    return all(abs(k.fx_px / intrinsics[0].fx_px - 1.0) <= FOLLOWS_FOCUS for k in intrinsics)


def metadata_intrinsics(stack: FocalStack, breathing: Breathing = "auto") -> tuple[Intrinsics, ...]:
    """Return the intrinsics of every slice, by the source that `breathing` names.

    `camera_info`: as reported with each slice. `thin_lens`: those of the reference slice, scaled by the
    image distance v = f s / (s - f) of each slice. `none`: those of the reference slice for all. `auto`:
    camera_info where its focal length follows the focus, else thin_lens.

    Raises:
        AlignmentError: if `breathing` is none of these.
    """
    source = breathing_source(stack, breathing)
    reference = stack.slices[stack.reference]
    return tuple(slice_intrinsics(s, reference, stack.lens, source) for s in stack.slices)


def slice_intrinsics(s: FocalSlice, reference: FocalSlice, lens: LensModel, source: Breathing) -> Intrinsics:
    """Return the intrinsics of one slice, by a source other than auto; see `metadata_intrinsics`."""
    if source == "camera_info":
        return s.intrinsics
    if source == "none":
        return reference.intrinsics
    v, v_ref = (optics.image_distance_m(lens.focal_length_m, x.focus_distance_m) for x in (s, reference))
    return _scaled(reference.intrinsics, v / v_ref)


class KeptSlices:
    """Slices as they are in the grid of the reference, so that each is warped once while it is of use.

    A slice is known by its image, as an object: whoever uses this must not write to images that were given away.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[int, AlignedSlice] = {}  # by identity of the image, which is held and so stays unique
        self._scratch: Image | None = None  # new memory costs as much as a warp

    def warp(
        self,
        image: Image,
        ref_to_slice: npt.NDArray[np.float64],
        *,
        resample: bool,
        noise: float = 0.0,
        gain: Gain | None = None,
    ) -> AlignedSlice:
        """Return the image in the reference grid, warped now or before; negligible differences are neglected.

        Args:
            image: of a slice.
            ref_to_slice: affine map (2, 3) from reference pixels to slice pixels.
            resample: whether to do so even if the image stays in its place, since others are resampled.
            noise: that the image is to be freed of, see `noise.calmed`; 0: none.
            gain: that its light is multiplied by first; None: none.
        """
        kept = self._kept.get(id(image))
        same = kept is not None and (kept.resampled, kept.noise, kept.gain) == (resample, noise, gain)
        if kept is None or not same or _largest_move(ref_to_slice, kept.ref_to_slice, image) > NEGLIGIBLE_WARP_PX:
            lit = image if gain is None else gain.applied_to(image)
            aligned, seen = self._warp(lit, ref_to_slice) if resample else (lit, None)
            if noise > 0.0:
                aligned = calmed(aligned, noise)
            kept = AlignedSlice(image, ref_to_slice, resample, noise, aligned, seen, next(_numbers), gain)
            self._kept[id(image)] = kept
        return kept

    def _warp(self, image: Image, ref_to_slice: npt.NDArray[np.float64]) -> tuple[Image, Mask | None]:
        if self._scratch is None or self._scratch.shape[1:] != image.shape or self._scratch.dtype != image.dtype:
            self._scratch = np.empty((2, *image.shape), image.dtype)
        return _warp(image, ref_to_slice, self._scratch)

    @property
    def resampled(self) -> bool:
        """Whether the slices that are kept went through the kernel of the warp."""
        return any(kept.resampled for kept in self._kept.values())

    def keep_only(self, slices: Iterable[FocalSlice]) -> None:
        """Forget all but these."""
        wanted = {id(s.image) for s in slices}
        self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}


@dataclass(frozen=True)
class AlignedSlice:
    """One slice in the grid of the reference.

    Attributes:
        image: as captured.
        ref_to_slice: affine map (2, 3) from reference pixels to slice pixels.
        resampled: whether the image went through the kernel of the warp.
        noise: that it was freed of, standard deviation in 1/255 of the full range.
        aligned: the slice in the grid of the reference.
        seen: (H, W) where that is seen; None: everywhere.
        number: see `AlignedStack.numbers`.
        gain: that its light was multiplied by; None: none.
    """

    image: Image
    ref_to_slice: npt.NDArray[np.float64]
    resampled: bool
    noise: float
    aligned: Image
    seen: Mask | None
    number: int
    gain: Gain | None = None


def align(
    stack: FocalStack,
    breathing: Breathing = "auto",
    residual: npt.NDArray[np.float64] | None = None,
    kept: KeptSlices | None = None,
    noise: float = 0.0,
) -> AlignedStack:
    """Warp every slice into the grid of the reference slice, once.

    A pixel (x0, y0) of the reference is found in slice n at x = cx_n + (x0 - cx_ref) fx_n / fx_ref, likewise y.
    Borders are replicated; where a slice does not see a pixel, `valid` is False. Where one slice is resampled, all
    are, the reference too: else it alone would keep its noise and look sharpest.

    Args:
        stack: as captured.
        breathing: see `metadata_intrinsics`.
        residual: (N, 3) per slice, applied on top of the metadata: radial scale (1 = none), x and y
            shift in pixels of the slice. None: nothing.
        kept: slices that were warped before, for the same or another stack.
        noise: that the slices are to be freed of, see `noise.calmed`; 0: none.

    Raises:
        AlignmentError: if the arguments do not fit the stack.
    """
    return align_by(stack, metadata_intrinsics(stack, breathing), residual, kept, noise)


def align_by(
    stack: FocalStack,
    intrinsics: Sequence[Intrinsics],
    residual: npt.NDArray[np.float64] | None = None,
    kept: KeptSlices | None = None,
    noise: float = 0.0,
    gains: Sequence[Gain | None] | None = None,
) -> AlignedStack:
    """Do what `align` does, by intrinsics that are known already.

    Args:
        stack: as captured.
        intrinsics: of every slice (N,), see `metadata_intrinsics`.
        residual: (N, 3), see `align`; None: nothing.
        kept: slices that were warped before, for the same or another stack.
        noise: that the slices are to be freed of, see `noise.calmed`; 0: none.
        gains: (N,) that the light of the slices is multiplied by; None: none.

    Raises:
        AlignmentError: if the arguments do not fit the stack.
    """
    count = len(stack.slices)
    gains = (None,) * count if gains is None else gains
    for name, given in (("intrinsics", intrinsics), ("gains", gains)):
        if len(given) != count:
            raise AlignmentError(f"expected {name} of {count} slices, got {len(given)}")
    reference = intrinsics[stack.reference]
    if residual is None:
        residual = np.tile([1.0, 0.0, 0.0], (count, 1))
    if residual.shape != (count, 3) or not np.all(np.isfinite(residual)) or not np.all(residual[:, 0] > 0):
        raise AlignmentError(
            f"expected a finite residual of shape {(count, 3)} with scales above 0, got shape {residual.shape}"
        )
    kept = kept or KeptSlices()
    maps = [reference_to_slice(reference, k, *r) for k, r in zip(intrinsics, residual, strict=True)]
    resample = any_moves(maps, reference)
    warped = [
        kept.warp(s.image, m, resample=resample, noise=noise, gain=gain)
        for s, m, gain in zip(stack.slices, maps, gains, strict=True)
    ]
    kept.keep_only(stack.slices)
    valid = None
    if any(w.seen is not None for w in warped):
        full = np.ones((reference.height, reference.width), dtype=bool)
        valid = np.stack([full if w.seen is None else w.seen for w in warped])
    return AlignedStack(
        images=tuple(w.aligned for w in warped),
        valid=valid,
        focus_distance_m=stack.focus_distance_m,
        intrinsics=reference,
        lens=stack.lens,
        stamp_ns=stack.stamp_ns,
        frame_id=stack.frame_id,
        residual_px=_residual_px(residual, reference),
        numbers=tuple(w.number for w in warped),
    )


def _scaled(k: Intrinsics, scale: float) -> Intrinsics:
    return Intrinsics(
        k.width,
        k.height,
        k.fx_px * scale,
        k.fy_px * scale,
        k.cx_px,
        k.cy_px,
        k.distortion_model,
        k.distortion,
    )


def reference_to_slice(
    reference: Intrinsics, k: Intrinsics, scale: float = 1.0, shift_x: float = 0.0, shift_y: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return the affine map (2, 3) from reference pixels to slice pixels."""
    ax = k.fx_px * scale / reference.fx_px
    ay = k.fy_px * scale / reference.fy_px
    return np.array(
        [
            [ax, 0.0, k.cx_px + shift_x - ax * reference.cx_px],
            [0.0, ay, k.cy_px + shift_y - ay * reference.cy_px],
        ]
    )


def any_moves(maps: Iterable[npt.NDArray[np.float64]], k: Intrinsics) -> bool:
    """Say whether any of the maps (2, 3) moves a pixel of an image by more than is negligible."""
    return any(_farthest(m - NO_WARP, k.width, k.height) > NEGLIGIBLE_WARP_PX for m in maps)


def _largest_move(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], image: Image) -> float:
    """Return how far apart, in pixels along x or y, two maps put a pixel of the image at most."""
    height, width = image.shape[:2]
    return _farthest(a - b, width, height)


def _farthest(difference: npt.NDArray[np.float64], width: int, height: int) -> float:
    corners = np.array([[0.0, 0.0, 1.0], [width - 1.0, height - 1.0, 1.0]]).T
    return float(np.abs(difference @ corners).max())


def _warp(image: Image, ref_to_slice: npt.NDArray[np.float64], scratch: Image) -> tuple[Image, Mask | None]:
    """Return the image in the reference grid, and where it is seen (None: everywhere).

    `scratch` holds two images like it and is overwritten.
    """
    height, width = image.shape[:2]
    xs = ref_to_slice[0, 0] * np.arange(width) + ref_to_slice[0, 2]
    ys = ref_to_slice[1, 1] * np.arange(height) + ref_to_slice[1, 2]
    sharp = cv2.filter2D(image, -1, _SHARPENER, dst=scratch[0], borderType=cv2.BORDER_REPLICATE)
    first, second = (
        cv2.warpAffine(
            sharp,
            ref_to_slice + sign * _SPREAD,
            (width, height),
            dst=into,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for sign, into in ((1.0, None), (-1.0, scratch[1]))
    )
    warped = cv2.addWeighted(first, 0.5, second, 0.5, 0.0, dst=first)
    if warped.dtype == np.uint16:
        np.minimum(warped, image.max(), out=warped)  # sharpening overshoots: 12 bits must not become 13
    seen_x = (xs >= -0.5) & (xs <= width - 0.5)
    seen_y = (ys >= -0.5) & (ys <= height - 0.5)
    if seen_x.all() and seen_y.all():
        return warped, None
    return warped, seen_y[:, None] & seen_x[None, :]


def _residual_px(residual: npt.NDArray[np.float64], k: Intrinsics) -> npt.NDArray[np.float64]:
    radius_px = math.hypot(max(k.cx_px, k.width - 1 - k.cx_px), max(k.cy_px, k.height - 1 - k.cy_px))
    return np.column_stack([(residual[:, 0] - 1.0) * radius_px, residual[:, 1], residual[:, 2]])
