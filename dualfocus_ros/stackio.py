# SPDX-License-Identifier: Apache-2.0
"""Focal stacks on disk: `slice_00.png` (or .jpg) ..., `meta.json` and, where known, `depth.png`.

Lengths are metres. `K` per slice in meta.json is authoritative; without it `focal_breathing: true` means a thin
lens (fx = v / pixel pitch), else the field of view is constant (fx = f / pixel pitch). A focus distance of
infinity is written `null`, which strict JSON allows; `Infinity` is read too.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from dualfocus_ros import optics
from dualfocus_ros.align import Breathing
from dualfocus_ros.errors import DualFocusError, StackError
from dualfocus_ros.types import MIN_SLICES, FloatImage, FocalSlice, FocalStack, Image, Intrinsics, LensModel

META_NAME = "meta.json"
DEPTH_NAME = "depth.png"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Units that depth.png may be written in, finest first: the finest that holds the farthest depth is taken.
DEPTH_UNITS_M = (1e-4, 1e-3, 1e-2)
MAX_UINT16 = 65535
REQUIRED_KEYS = ("focal_length_m", "f_number", "pixel_pitch_m", "focus_distance_m")

Meta: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class StoredStack:
    """A focal stack as read from a folder.

    Attributes:
        path: the folder.
        stack: nearest focus first, images RGB or grey; `stack.reference` is the slice of the ground truth.
        ground_truth_m: (H, W) float32 true depth in the reference slice's pixels, NaN invalid; None unknown.
        breathing: what `align` should go by. The intrinsics of the slices are right, so `camera_info`.
    """

    path: Path
    stack: FocalStack
    ground_truth_m: FloatImage | None = None
    breathing: Breathing = "camera_info"

    @property
    def family(self) -> str:
        """Name of the folder that holds this one, which groups stacks in an evaluation."""
        return self.path.resolve().parent.name


def find_stacks(root: str | Path) -> tuple[Path, ...]:
    """Return the stack folders in and below `root` (which may be one itself), sorted by path.

    Raises:
        StackError: if `root` is not a readable folder or holds no stack.
    """
    root = Path(root)
    if not root.is_dir():
        raise StackError(f"expected a folder with focal stacks, {root} is not one: check the path")
    found: list[Path] = []

    def fail(error: OSError) -> None:
        raise StackError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders.sort()
        # A folder with images but no metadata counts, so that load_stack can say what is missing.
        if META_NAME in files or any(f"slice_00{suffix}" in files for suffix in IMAGE_SUFFIXES):
            found.append(Path(folder))
    if not found:
        raise StackError(f"found no focal stack in {root}: expected {META_NAME} and slice_00.png ... in a folder")
    return tuple(sorted(found))


def load_stack(path: str | Path) -> StoredStack:
    """Read one stack folder.

    Raises:
        StackError: if the folder, its metadata or an image is missing, unreadable or inconsistent. The
            message names the file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise StackError(f"expected a focal stack folder, {folder} is not one: check the path")
    meta_path = folder / META_NAME
    meta = _read_meta(meta_path)
    distances_m = _focus_distances_m(meta, meta_path)
    images = [_read_slice(folder, i) for i in range(len(distances_m))]
    _check_no_more(folder, len(distances_m))
    height, width = images[0].shape[:2]
    _check_size(meta, meta_path, width, height)
    try:
        lens = LensModel(*(_number(meta, key, meta_path) for key in REQUIRED_KEYS[:3]))
        for distance_m in distances_m:
            optics.image_distance_m(lens.focal_length_m, distance_m)  # says so where a unit is wrong
        intrinsics = _intrinsics(meta, meta_path, lens, distances_m, width, height)
        slices = [
            FocalSlice(image, i, distance_m, k)
            for i, (image, distance_m, k) in enumerate(zip(images, distances_m, intrinsics, strict=True))
        ]
        reference = _reference(meta, meta_path, slices)
        stack = FocalStack.from_slices(slices, lens, reference=reference, frame_id=folder.name)
    except StackError as error:
        raise error if str(folder) in str(error) else StackError(f"{folder}: {error}") from error
    except DualFocusError as error:
        raise StackError(f"{meta_path}: {error}") from error
    return StoredStack(folder, stack, _read_depth(folder, meta, meta_path, (height, width)))


def save_stack(
    path: str | Path,
    stack: FocalStack,
    ground_truth_m: FloatImage | None = None,
    extra: Meta | None = None,
) -> None:
    """Write a stack folder that `load_stack` reads back exactly (depth to half a unit of depth.png).

    Args:
        path: the folder; made if it is not there. Other files in it are left alone.
        stack: what to write, with `K` per slice.
        ground_truth_m: (H, W) metres in the reference slice's pixels; not finite or not above 0 is invalid.
        extra: more keys for meta.json.

    Raises:
        StackError: if the depth does not fit the stack or the format, or a file cannot be written.
    """
    folder = Path(path)
    reference = stack.slices[stack.reference].intrinsics
    meta: Meta = {
        "width": reference.width,
        "height": reference.height,
        "focal_length_m": stack.lens.focal_length_m,
        "f_number": stack.lens.f_number,
        "pixel_pitch_m": stack.lens.pixel_pitch_m,
        "focus_distance_m": [
            s.focus_distance_m if math.isfinite(s.focus_distance_m) else None for s in stack.slices
        ],
        "K": [
            {"fx": k.fx_px, "fy": k.fy_px, "cx": k.cx_px, "cy": k.cy_px}
            for k in (s.intrinsics for s in stack.slices)
        ],
        "reference_slice": stack.reference,
        **(extra or {}),
    }
    depth = None
    if ground_truth_m is not None:
        meta["depth_unit_m"], depth = _encode_depth(ground_truth_m, (reference.height, reference.width))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META_NAME).write_text(json.dumps(meta, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise StackError(f"cannot write {folder}: {error.strerror}; check path and permissions") from error
    for i, s in enumerate(stack.slices):
        bgr = s.image if s.image.ndim == 2 else cv2.cvtColor(s.image, cv2.COLOR_RGB2BGR)
        _write_png(folder / f"slice_{i:02d}.png", bgr)
    if depth is not None:
        _write_png(folder / DEPTH_NAME, depth)


def _write_png(path: Path, image: Image) -> None:
    if not cv2.imwrite(str(path), image):
        raise StackError(f"cannot write {path}: check free space and permissions")


def _encode_depth(depth_m: FloatImage, shape: tuple[int, int]) -> tuple[float, Image]:
    if depth_m.shape != shape:
        raise StackError(f"expected ground truth of shape {shape} as the reference slice, got {depth_m.shape}")
    valid = np.isfinite(depth_m) & (depth_m > 0.0)
    farthest_m = float(depth_m[valid].max()) if valid.any() else 0.0
    for unit_m in DEPTH_UNITS_M:
        if farthest_m <= MAX_UINT16 * unit_m:
            units = np.rint(np.where(valid, depth_m, 0.0) / unit_m)
            return unit_m, units.astype(np.uint16)
    raise StackError(f"expected depth of at most {MAX_UINT16 * DEPTH_UNITS_M[-1]} m, got {farthest_m} m")


def _read_meta(path: Path) -> Meta:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StackError(f"missing {path}: a focal stack needs it for focus distances and lens data") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise StackError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(meta, dict):
        raise StackError(f"expected a JSON object in {path}, got {type(meta).__name__}")
    missing = [key for key in REQUIRED_KEYS if key not in meta]
    if missing:
        raise StackError(f"missing in {path}: {', '.join(missing)} (lengths in metres)")
    return meta


def _number(meta: Meta, key: str, path: Path) -> float:
    value = meta[key]
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:  # JSON has integers of any length
        number = math.nan
    if math.isnan(number):
        raise StackError(f"expected a number for {key} in {path}, got {str(value)[:40]}")
    return number


def _focus_distances_m(meta: Meta, path: Path) -> list[float]:
    values = meta["focus_distance_m"]
    if not isinstance(values, list):
        raise StackError(f"expected a list for focus_distance_m in {path}, got {values!r}")
    if len(values) < MIN_SLICES:
        raise StackError(f"expected at least {MIN_SLICES} slices in {path}, focus_distance_m has {len(values)}")
    distances: list[float] = []
    for i, value in enumerate(values):
        number = math.inf if value is None else _number({"focus_distance_m": value}, "focus_distance_m", path)
        if not number > 0.0:
            raise StackError(f"expected focus_distance_m[{i}] in {path} above 0 m, got {value}")
        distances.append(number)
    return distances


def _check_size(meta: Meta, path: Path, width: int, height: int) -> None:
    told = (meta.get("width", width), meta.get("height", height))
    if told != (width, height):
        raise StackError(f"{path} says {told[0]} x {told[1]}, the slices have {width} x {height}: correct one")


def _read_image(path: Path) -> Image:
    # Raw values: no EXIF rotation, no change of bit depth. OpenCV logs nothing when it gets no bytes at all.
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise StackError(f"cannot read {path}: {error.strerror}") from error
    image: Image | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise StackError(f"cannot decode {path}: expected a PNG or JPEG image; is the file complete?")
    return image


def _check_no_more(folder: Path, count: int) -> None:
    extra = [p.name for suffix in IMAGE_SUFFIXES if (p := folder / f"slice_{count:02d}{suffix}").is_file()]
    if extra:
        raise StackError(f"{folder} has {extra[0]}, but {META_NAME} only {count} values of focus_distance_m")


def _read_slice(folder: Path, index: int) -> Image:
    candidates = [folder / f"slice_{index:02d}{suffix}" for suffix in IMAGE_SUFFIXES]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise StackError(f"missing {candidates[0]} (or .jpg): meta.json has a focus distance for it")
    image = _read_image(path)
    if image.ndim == 2:
        return image
    code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}.get(image.shape[2])
    if code is None:
        raise StackError(f"expected a grey or colour image in {path}, got {image.shape[2]} channels")
    rgb: Image = cv2.cvtColor(image, code)
    return rgb


def _intrinsics(
    meta: Meta, path: Path, lens: LensModel, distances_m: list[float], width: int, height: int
) -> list[Intrinsics]:
    if "K" in meta:
        return _reported_intrinsics(meta["K"], path, len(distances_m), width, height)
    centre = ((width - 1) / 2, (height - 1) / 2)
    f_px = [lens.focal_length_m / lens.pixel_pitch_m] * len(distances_m)
    breathing = meta.get("focal_breathing", False)
    if not isinstance(breathing, bool):
        raise StackError(f"expected true or false for focal_breathing in {path}, got {breathing!r}")
    if breathing:
        f_px = [optics.focal_length_px(lens.focal_length_m, lens.pixel_pitch_m, s) for s in distances_m]
    return [Intrinsics(width, height, f, f, *centre) for f in f_px]


def _reported_intrinsics(entries: Any, path: Path, count: int, width: int, height: int) -> list[Intrinsics]:
    if not isinstance(entries, list) or len(entries) != count:
        came = f"{len(entries)} entries" if isinstance(entries, list) else repr(entries)
        raise StackError(f"expected K in {path} to have {count} entries, one per focus distance, got {came}")
    names = ("fx", "fy", "cx", "cy")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(name not in entry for name in names):
            raise StackError(
                f"expected fx, fy, cx, cy in K[{i}] of {path}, as {{'fx': 740, 'fy': 740, 'cx': 160, 'cy': 120}}, "
                f"got {entry!r}"
            )
    rows = [[_number(entry, name, path) for name in names] for entry in entries]
    return [Intrinsics(width, height, fx, fy, cx, cy) for fx, fy, cx, cy in rows]


def _reference(meta: Meta, path: Path, slices: list[FocalSlice]) -> int | None:
    reference = meta.get("reference_slice")
    if reference is None:
        return None
    if isinstance(reference, bool) or not isinstance(reference, int) or not 0 <= reference < len(slices):
        raise StackError(f"expected reference_slice in {path} within 0..{len(slices) - 1}, got {reference!r}")
    return reference


def _read_depth(folder: Path, meta: Meta, meta_path: Path, shape: tuple[int, int]) -> FloatImage | None:
    path = folder / DEPTH_NAME
    if not path.is_file():
        return None
    if "depth_unit_m" not in meta:
        raise StackError(f"missing in {meta_path}: depth_unit_m, the metres per unit of {DEPTH_NAME}")
    unit_m = _number(meta, "depth_unit_m", meta_path)
    if not 0.0 < unit_m < math.inf:
        raise StackError(f"expected depth_unit_m in {meta_path} above 0 and finite, got {unit_m}")
    depth = _read_image(path)
    if depth.shape != shape:
        raise StackError(f"expected {path} of shape {shape} as the slices, got {depth.shape}")
    return np.where(depth > 0, depth * unit_m, np.nan).astype(np.float32)
