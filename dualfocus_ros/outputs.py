# SPDX-License-Identifier: Apache-2.0
"""Writes a depth estimate to files: arrays, pictures and a point cloud."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import InputError
from dualfocus_ros.geometry import depth_to_points
from dualfocus_ros.types import DepthEstimate, FloatImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

DEPTH_COLOURS = "turbo_r"  # near is warm, far is cold
ERROR_COLOURS = "magma"
HOLE_COLOUR = "0.75"
# Depth is shown between these percentiles; with a ratio above this the scale is logarithmic.
SHOWN_PERCENTILES = (1.0, 99.0)
LOG_SCALE_RATIO = 4.0
DIOPTRE_SCALE_RATIO = 20.0
SHOWN_ERROR = 0.25
TICKS = 6
TICK_DIGITS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
PANEL_INCHES = 3.6
PREVIEW_DPI = 110

PLY_VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])


def write_estimate(
    out_dir: str | Path,
    estimate: DepthEstimate,
    truth_m: FloatImage | None = None,
    focus_range_m: tuple[float, float] = (0.0, math.inf),
    title: str = "",
) -> None:
    """Write depth.npy, confidence.npy, all_in_focus.png, preview.png and points.ply.

    depth.npy holds float32 metres; NaN is no estimate, an infinity (too near, too far) is written as NaN too.

    Args:
        out_dir: folder; made if it is not there.
        estimate: what to write.
        truth_m: (H, W) metres, NaN invalid; adds a panel with the error to the preview.
        focus_range_m: truth outside of it is not shown, as it is not scored.
        title: a line over the preview.

    Raises:
        InputError: if the ground truth does not fit, or a file cannot be written.
    """
    folder = Path(out_dir)
    depth_m = np.where(np.isfinite(estimate.depth_m), estimate.depth_m, np.nan).astype(np.float32)
    preview = render_preview(estimate, truth_m, focus_range_m, title)
    ok, sharp = cv2.imencode(".png", cv2.cvtColor(estimate.all_in_focus, cv2.COLOR_RGB2BGR))
    if not ok:
        raise InputError(f"cannot encode an all-in-focus image of shape {estimate.all_in_focus.shape}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "depth.npy", depth_m)
        np.save(folder / "confidence.npy", estimate.confidence.astype(np.float32))
        (folder / "all_in_focus.png").write_bytes(sharp.tobytes())
        (folder / "preview.png").write_bytes(preview)
        write_ply(folder / "points.ply", depth_to_points(depth_m, estimate.intrinsics), estimate.all_in_focus)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; check path and permissions") from error


def write_ply(path: str | Path, points_m: FloatImage, colours: npt.NDArray[np.uint8]) -> None:
    """Write a binary little-endian PLY of the finite points, in the optical frame (z forward).

    Args:
        path: file to write.
        points_m: (H, W, 3) metres; points that are not finite are left out.
        colours: (H, W, 3) RGB.

    Raises:
        InputError: if the shapes differ.
        OSError: if the file cannot be written.
    """
    if points_m.shape != colours.shape or points_m.shape[-1] != 3:
        raise InputError(f"expected points and colours (H, W, 3), got {points_m.shape} and {colours.shape}")
    keep = np.isfinite(points_m).all(axis=-1)
    vertices = np.empty(int(keep.sum()), PLY_VERTEX)
    for i, (axis, colour) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        vertices[axis] = points_m[..., i][keep]
        vertices[colour] = colours[..., i][keep]
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment optical frame: x right, y down, z forward, metres",
    ]
    header += [f"element vertex {len(vertices)}", *properties, "end_header"]
    Path(path).write_bytes(("\n".join(header) + "\n").encode("ascii") + vertices.tobytes())


def render_preview(
    estimate: DepthEstimate,
    truth_m: FloatImage | None = None,
    focus_range_m: tuple[float, float] = (0.0, math.inf),
    title: str = "",
) -> bytes:
    """Return a PNG: all-in-focus image | depth with a scale in metres | relative error where truth is known.

    Arguments as those of `write_estimate`.

    Raises:
        InputError: if the ground truth has another size than the depth.
    """
    # Imported here: pictures are the only use, and the object interface leaves global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = estimate.depth_m.shape
    if truth_m is not None and truth_m.shape != shape:
        raise InputError(f"expected ground truth of shape {shape} as the depth, got {truth_m.shape}")
    if truth_m is not None:
        truth_m = np.where((truth_m >= focus_range_m[0]) & (truth_m <= focus_range_m[1]), truth_m, np.nan)
    panels = 2 if truth_m is None else 3
    figure = Figure(figsize=(PANEL_INCHES * panels + 0.6, PANEL_INCHES * shape[0] / shape[1] + 0.5))
    canvas = FigureCanvasAgg(figure)
    if hasattr(figure, "set_layout_engine"):
        figure.set_layout_engine("compressed")
    else:  # matplotlib 3.5, Ubuntu 22.04
        figure.set_constrained_layout(True)  # type: ignore[attr-defined]
    axes = figure.subplots(1, panels)
    if title:
        figure.suptitle(title, fontsize=10)
    axes[0].imshow(estimate.all_in_focus)
    _decorate(axes[0], "all in focus")
    _draw_depth(figure, axes[1], estimate.depth_m, truth_m)
    if truth_m is not None:
        _draw_error(figure, axes[2], estimate.depth_m, truth_m)
    figure.set_dpi(PREVIEW_DPI)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_depth(figure: Figure, axes: Axes, depth_m: FloatImage, truth_m: FloatImage | None) -> None:
    from matplotlib import colormaps

    norm, ticks = depth_scale(depth_m if truth_m is None else truth_m)
    colours = colormaps[DEPTH_COLOURS].with_extremes(bad=HOLE_COLOUR)
    shown = np.ma.masked_invalid(depth_m)
    picture = axes.imshow(shown, cmap=colours, norm=norm, interpolation="nearest")
    _decorate(axes, "depth")
    bar = figure.colorbar(picture, ax=axes, ticks=ticks, shrink=0.95)
    bar.minorticks_off()
    bar.ax.set_yticklabels([f"{t:.3g} m" for t in ticks], fontsize=8)


def depth_scale(depth_m: FloatImage) -> tuple[Normalize, list[float]]:
    """Return the scale that depth is shown on: a matplotlib norm from metres to 0..1, and round distances on it.

    Args:
        depth_m: (H, W) metres, of what decides: the truth where it is known; may be without any estimate.
    """
    from matplotlib.colors import FuncNorm, LogNorm, Normalize

    low_m, high_m = _shown_range_m(depth_m)
    ratio = high_m / low_m
    norm = Normalize(low_m, high_m)
    if ratio > DIOPTRE_SCALE_RATIO:  # what a lens resolves: even steps of dioptres
        norm = FuncNorm((_reciprocal, _reciprocal), low_m, high_m)
    elif ratio > LOG_SCALE_RATIO:
        norm = LogNorm(low_m, high_m)
    return norm, _round_ticks(low_m, high_m, norm)


def _draw_error(figure: Figure, axes: Axes, depth_m: FloatImage, truth_m: FloatImage) -> None:
    from matplotlib import colormaps

    error = np.abs(np.where(np.isfinite(depth_m), depth_m, np.nan) - truth_m) / truth_m
    colours = colormaps[ERROR_COLOURS].with_extremes(bad=HOLE_COLOUR)
    picture = axes.imshow(
        np.ma.masked_invalid(error), cmap=colours, vmin=0.0, vmax=SHOWN_ERROR, interpolation="nearest"
    )
    known = error[np.isfinite(error)]
    _decorate(axes, f"relative error, mean {100 * known.mean():.1f} %" if known.size else "relative error")
    ticks = np.linspace(0.0, SHOWN_ERROR, TICKS)
    bar = figure.colorbar(picture, ax=axes, ticks=ticks, shrink=0.95, extend="max")
    bar.ax.set_yticklabels([f"{100 * t:.0f} %" for t in ticks], fontsize=8)


def _reciprocal(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return 1.0 / np.maximum(np.asarray(values, np.float64), 1e-9)  # matplotlib asks for 0, too


def _round_ticks(low_m: float, high_m: float, norm: Callable[[float], float]) -> list[float]:
    """Return round distances in the range that are not too near each other on the colour bar."""
    decades = range(math.floor(math.log10(low_m)), math.ceil(math.log10(high_m)) + 1)
    ticks: list[float] = []
    for tick in (digits * 10.0**decade for decade in decades for digits in TICK_DIGITS):
        if low_m <= tick <= high_m and (not ticks or abs(norm(tick) - norm(ticks[-1])) >= 1.0 / TICKS):
            ticks.append(tick)
    return ticks or [low_m, high_m]


def _shown_range_m(depth_m: FloatImage) -> tuple[float, float]:
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0.0)]
    if not known.size:
        return 1.0, 2.0
    low_m, high_m = (float(v) for v in np.percentile(known, SHOWN_PERCENTILES))
    # A flat scene still needs a scale with two ends.
    return (low_m, high_m) if high_m > low_m * 1.01 else (low_m / math.sqrt(1.1), low_m * math.sqrt(1.1))
