# SPDX-License-Identifier: Apache-2.0
"""What a published data set is to this package: where it is from, how it is laid out, and its focal stacks.

A loader lists its stacks first, which is cheap and finds out what is missing, and reads each when it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dualfocus_ros import optics
from dualfocus_ros.errors import DatasetError, DualFocusError
from dualfocus_ros.stackio import DEPTH_UNITS_M, MAX_UINT16, Meta, StoredStack
from dualfocus_ros.types import FloatImage, FocalSlice, FocalStack, Image, Intrinsics, LensModel

Scale = Literal["metric", "relative"]
# What depth.png can hold at most.
FARTHEST_M = MAX_UINT16 * DEPTH_UNITS_M[-1]


@dataclass(frozen=True)
class DatasetStack(StoredStack):
    """One focal stack of a data set, of the same form as one read from a folder.

    Attributes:
        name: `<split>/<stack>`, where it belongs below the folder of the data set; `path` is that below the name
            of the data set, and is no file.
        meta: what meta.json is to say besides lens and focus: data set, protocol, source file, scale.
    """

    name: str = ""
    meta: Meta = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A stack that is there and not read yet; `load` reads it and may raise DualFocusError."""

    name: str
    load: Callable[[], DatasetStack]


Finder: TypeAlias = Callable[[Path, str], Sequence[Source]]


@dataclass(frozen=True)
class Dataset:
    """A published data set.

    Attributes:
        name: for the command line.
        title: for people, with paper and year.
        url: the page it is to be had from.
        licence: as far as known.
        layout: the files that `find` expects below its root, in words.
        protocol: slices, crop, mask and focus distances, in words; goes to every meta.json.
        splits: what it is divided into.
        default_split: what the literature reports.
        find: lists the stacks of a split below a root.
        scale: whether metres are metres, or depth is known up to scale (or to an assumed mapping) only.
    """

    name: str
    title: str
    url: str
    licence: str
    layout: str
    protocol: str
    splits: tuple[str, ...]
    default_split: str
    find: Finder
    scale: Scale = "metric"

    def sources(self, root: str | Path, split: str | None = None) -> tuple[Source, ...]:
        """Return the stacks of a split, in order, none of them read yet.

        Args:
            root: folder of the data.
            split: one of `splits`; None is `default_split`.

        Raises:
            DatasetError: if there is no such split, or the data are not there in the layout expected.
        """
        split = split or self.default_split
        if split not in self.splits:
            raise DatasetError(f"expected a split of {self.name} out of {', '.join(self.splits)}, got {split!r}")
        try:
            if not Path(root).is_dir():
                raise DatasetError(f"expected the folder of the data, {root} is not one")
            found = self.find(Path(root), split)
            if not found:
                raise DatasetError(f"found no stack of split {split} in {root}")
            twice = [name for name, n in Counter(s.name for s in found).items() if n > 1]
            if twice:
                raise DatasetError(f"expected each stack once, {twice[0]} is there several times in {root}")
        except DatasetError as error:
            raise DatasetError(f"{error}; expected layout: {self.layout}; {self._origin()}") from error
        return tuple(Source(s.name, lambda s=s: self._load(s)) for s in found)  # type: ignore[misc]

    def stacks(self, root: str | Path, split: str | None = None) -> Iterator[DatasetStack]:
        """Return the stacks of a split one by one, each read when it is asked for.

        Raises:
            DatasetError: at once, as `sources`; while iterating, if a file is damaged or not as expected.
        """
        sources = self.sources(root, split)
        return (source.load() for source in sources)

    def _load(self, source: Source) -> DatasetStack:
        try:
            loaded = source.load()
        except DualFocusError as error:
            raise DatasetError(f"{self.name} {source.name}: {error}; {self._origin()}") from error
        meta = {"data_set": self.name, "title": self.title, "protocol": self.protocol, "scale": self.scale}
        return replace(loaded, name=source.name, path=Path(self.name) / source.name, meta={**meta, **loaded.meta})

    def _origin(self) -> str:
        return f"{self.title} is to be had from {self.url}"


def dataset_stack(stack: FocalStack, truth_m: FloatImage | None, **meta: object) -> DatasetStack:
    """Return a stack with what only its loader knows; `Dataset` adds the rest."""
    return DatasetStack(Path(), stack, truth_m, meta=dict(meta))


def focal_stack(
    images: Sequence[Image],
    focus_m: Sequence[float] | npt.NDArray[np.float64],
    lens: LensModel,
    centre_px: tuple[float, float] | None = None,
) -> FocalStack:
    """Return a stack whose slices share one field of view, fx = f / pixel pitch.

    Args:
        images: (H, W, 3) or (H, W), in any order.
        focus_m: focus distance of each.
        lens: that took them, or that they are as if taken by.
        centre_px: principal point; the middle of the image where not given.

    Raises:
        DatasetError: if there are not as many images as distances.
        StackError: if they form no stack.
        LensError: if a distance is not beyond the focal length.
    """
    if len(images) != len(focus_m):
        raise DatasetError(f"expected as many slices as focus distances, got {len(images)} and {len(focus_m)}")
    height, width = images[0].shape[:2]
    f_px = lens.focal_length_m / lens.pixel_pitch_m
    cx_px, cy_px = centre_px or ((width - 1) / 2, (height - 1) / 2)
    k = Intrinsics(width, height, f_px, f_px, cx_px, cy_px)
    slices = [FocalSlice(image, i, float(s), k) for i, (image, s) in enumerate(zip(images, focus_m, strict=True))]
    for s in focus_m:
        optics.image_distance_m(lens.focal_length_m, float(s))  # says so where it is not beyond the focal length
    return FocalStack.from_slices(slices, lens)


def truth(depth_m: npt.ArrayLike, valid: npt.ArrayLike) -> FloatImage:
    """Return depth (H, W) float32 in metres, NaN where not `valid`, not finite, not above 0, or beyond 655 m.

    That is where depth.png ends; nothing that can be focused on is as far.
    """
    depth = np.asarray(depth_m, np.float64)
    kept = np.asarray(valid, bool) & np.isfinite(depth) & (depth > 0.0) & (depth <= FARTHEST_M)
    return np.where(kept, depth, np.nan).astype(np.float32)


def leaking_focus_m(truth_m: FloatImage, count: int) -> npt.NDArray[np.float64]:
    """Return focus distances from the nearest to the farthest true depth, evenly spaced in metres.

    This tells the method under test the range of the answer. Published numbers are of such lists (HybridDepth,
    dataloader/NYU/loader.py).

    Raises:
        DatasetError: if the truth has no range.
    """
    known = truth_m[np.isfinite(truth_m)]
    near_m, far_m = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if not far_m > near_m:
        raise DatasetError("expected true depths of some range, to spread the focus distances over, got none")
    return np.linspace(near_m, far_m, count, dtype=np.float64)
