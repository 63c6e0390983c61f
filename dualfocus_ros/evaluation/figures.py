# SPDX-License-Identifier: Apache-2.0
"""Pictures and charts of the report: maps as coloured images within the page, and what their colours mean."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.charts import Chart, Series, bar_chart, line_chart
from dualfocus_ros.evaluation.kept import KeptStack, Spot
from dualfocus_ros.evaluation.metrics import SPARSIFICATION_STEPS
from dualfocus_ros.evaluation.results import GroupResult
from dualfocus_ros.outputs import DEPTH_COLOURS, HOLE_COLOUR, SHOWN_ERROR, depth_scale
from dualfocus_ros.types import FloatImage

Rgb = npt.NDArray[np.uint8]

# As with depth, near is warm: where depth comes out too near, the error is red.
SIGNED_ERROR_COLOURS = "RdBu"
CONFIDENCE_COLOURS = "viridis"
BAR_STOPS = 17
TICK_DISTANCE = 0.16  # of the length of a colour bar
JPEG_QUALITY = 88
SPARSIFICATION_SIZE = (340.0, 230.0)
BAND_SIZE = (300.0, 210.0)
FOCUS_SIZE = (250.0, 150.0)
FOCUS_MARGINS = (10.0, 8.0, 10.0, 34.0)
FOCUS_RANGE = 0.08  # of the range of focus is added at both ends


@dataclass(frozen=True)
class Legend:
    """A colour bar: a CSS gradient from left to right, and labels at percentages of its length."""

    gradient: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Panel:
    """One picture of a kept stack.

    Attributes:
        title: what it shows.
        alt: the same, for those who do not see it.
        uri: the picture itself, as a data URI.
        width: of the picture, pixels.
        height: of the picture, pixels.
        legend: what its colours mean; None for a photograph.
        marked: whether the worst places are marked in it.
    """

    title: str
    alt: str
    uri: str
    width: int
    height: int
    legend: Legend | None = None
    marked: bool = False


def panels(kept: KeptStack, name: str) -> list[Panel]:
    """Return the pictures of a kept stack: all in focus, depth, truth and error where it is known, confidence.

    Args:
        kept: the stack.
        name: what it is called in the page.

    Raises:
        EvaluationError: if matplotlib, which knows the colours, is not installed.
    """
    height, width = kept.depth_m.shape
    by = f"of {name} by {kept.engine}"

    def panel(
        title: str, alt: str, image: Rgb, legend: Legend | None = None, *, marked: bool = False, kind: str = "png"
    ) -> Panel:
        return Panel(title, alt, _data_uri(image, kind), width, height, legend, marked)

    norm, ticks_m = depth_scale(kept.depth_m if kept.truth_m is None else kept.truth_m)
    legend = _legend(DEPTH_COLOURS, _spread([(float(norm(t)), f"{t:.3g}") for t in ticks_m]))

    def depth(depth_m: FloatImage) -> Rgb:
        return _coloured(
            np.ma.filled(norm(np.ma.masked_invalid(depth_m)).astype(np.float64), np.nan), DEPTH_COLOURS
        )

    found = [
        panel("All in focus", f"All-in-focus image {by}", kept.all_in_focus, marked=True, kind="jpeg"),
        panel("Estimated depth, m", f"Depth estimate {by}", depth(kept.depth_m), legend),
    ]
    if kept.truth_m is not None:
        error = (kept.depth_m - kept.truth_m) / kept.truth_m
        shown = _coloured(0.5 + 0.5 * error.astype(np.float64) / SHOWN_ERROR, SIGNED_ERROR_COLOURS)
        ends = [
            (0.5 + 0.5 * e / SHOWN_ERROR, f"{100 * e:+.0f} %".replace("-", "−"))
            for e in (-SHOWN_ERROR, 0.0, SHOWN_ERROR)
        ]
        error_legend = _legend(SIGNED_ERROR_COLOURS, [(at, "0" if "+0" in text else text) for at, text in ends])
        found += [
            panel("True depth, m", f"True depth of {name}", depth(kept.truth_m), legend),
            panel("Relative error", f"Signed relative error {by}", shown, error_legend, marked=True),
        ]
    confidence_legend = _legend(CONFIDENCE_COLOURS, [(0.0, "0"), (0.5, "0.5"), (1.0, "1")])
    shown = _coloured(kept.confidence.astype(np.float64), CONFIDENCE_COLOURS)
    found.append(panel("Confidence", f"Confidence {by}", shown, confidence_legend, marked=kept.truth_m is None))
    return found


def _colours(name: str) -> Any:
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise EvaluationError(
            f"the HTML report needs the package matplotlib (apt: python3-matplotlib, pip: matplotlib): {error}"
        ) from error
    return colormaps[name].with_extremes(bad=HOLE_COLOUR)


def check_drawable() -> None:
    """Raise EvaluationError if matplotlib is not installed, before anything long is done."""
    _colours(DEPTH_COLOURS)


def _coloured(values: npt.NDArray[np.float64], name: str) -> Rgb:
    """Return (H, W, 3) RGB of values in 0..1, clipped; not finite is a hole."""
    coloured: Rgb = _colours(name)(np.ma.masked_invalid(np.clip(values, 0.0, 1.0)), bytes=True)[..., :3]
    return coloured


def _spread(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the ticks that are far enough from those before them to be read."""
    found: list[tuple[float, str]] = []
    for tick in sorted(ticks):
        if not found or tick[0] - found[-1][0] >= TICK_DISTANCE:
            found.append(tick)
    return found


def _legend(name: str, ticks: Sequence[tuple[float, str]]) -> Legend:
    stops = _colours(name)(np.linspace(0.0, 1.0, BAR_STOPS), bytes=True)[:, :3]
    gradient = ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in stops.tolist())
    return Legend(
        f"linear-gradient(to right, {gradient})", tuple((round(100 * at, 1), text) for at, text in ticks)
    )


def _data_uri(image: Rgb, kind: str) -> str:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    ok, data = cv2.imencode(f".{kind}", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise EvaluationError(f"cannot encode a picture of shape {image.shape}")
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def focus_chart(kept: KeptStack, spot: Spot, number: int) -> Chart:
    """Return how sharp a place is over focus, with the true and the estimated depth as upright lines."""
    low, high = float(kept.focus_dpt.min()), float(kept.focus_dpt.max())
    margin = FOCUS_RANGE * (high - low)
    x_range = (max(0.0, low - margin), high + margin)
    marks = []
    for depth_m, style in ((spot.truth_m, "true"), (spot.depth_m, "estimated")):
        if math.isfinite(depth_m):
            at = min(max(1.0 / depth_m, x_range[0]), x_range[1])
            marks.append(Series([(at, 0.0), (at, 1.08)], style))
    curve = Series(list(zip(kept.focus_dpt.tolist(), spot.sharpness.tolist(), strict=True)), "curve", dots=True)
    alt = (
        f"Sharpness at place {number} against focus position from {low:.2f} to {high:.2f} dioptres: "
        f"highest at {_sharpest(kept, spot)}"
    )
    return line_chart(
        [*marks, curve],
        FOCUS_SIZE,
        x_range,
        (0.0, 1.08),
        ("focus, dioptres", ""),
        alt,
        ticks=(5, 0),
        margins=FOCUS_MARGINS,
    )


def _sharpest(kept: KeptStack, spot: Spot) -> str:
    if not np.isfinite(spot.sharpness).any():
        return "none of them"
    return f"{kept.focus_dpt[int(np.nanargmax(spot.sharpness))]:.2f}"


def sparsification_chart(
    curve: npt.NDArray[np.float64], oracle: npt.NDArray[np.float64], highest: float, engine: str, style: str
) -> Chart:
    """Return the mean error of the pixels that remain when the least confident ones are removed.

    Args:
        curve: (SPARSIFICATION_STEPS,) as `metrics.sparsification_curve`, mean over the stacks.
        oracle: the same where the largest errors go first.
        highest: end of the axis of the error, the same for all engines.
        engine: its name.
        style: that it is drawn in.
    """
    removed = 1.0 - np.arange(1, SPARSIFICATION_STEPS + 1) / SPARSIFICATION_STEPS

    def points(errors: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
        return list(zip(removed[::-1].tolist(), errors[::-1].tolist(), strict=True))

    whole = float(curve[-1])
    alt = (
        f"Sparsification of {engine}: mean relative error {whole:.4f} with all pixels, {curve[49]:.4f} with the "
        f"more confident half, {oracle[49]:.4f} with the better half"
    )
    series = [
        Series([(0.0, whole), (1.0, whole)], "random"),
        Series(points(oracle), "oracle"),
        Series(points(curve), style),
    ]
    labels = ("pixels removed, least confident first", "AbsRel of the rest")
    return line_chart(
        series, SPARSIFICATION_SIZE, (0.0, 1.0), (0.0, 1.08 * highest), labels, alt, percent=(True, True)
    )


def band_chart(families: Sequence[GroupResult], names: Sequence[str]) -> Chart:
    """Return the relative errors of one family in bands of distance.

    Args:
        families: the same one of each engine.
        names: of the engines.
    """
    bands = families[0].bands
    edges = [metres(bands[0].near_m), *(metres(b.far_m) for b in bands)]
    groups = [[f.bands[i].abs_rel for f in families] for i in range(len(bands))]
    told = "; ".join(
        f"{edges[i]} to {edges[i + 1]} m: "
        + ", ".join(f"{name} {v:.3f}" for name, v in zip(names, group, strict=True))
        for i, group in enumerate(groups)
        if all(map(math.isfinite, group))
    )
    alt = f"AbsRel of {families[0].name} by true distance. {told}"
    return bar_chart(groups, edges, names, BAND_SIZE, ("true depth, m", "AbsRel"), alt)


def metres(value_m: float) -> str:
    """Return a distance as text, without the unit."""
    return f"{value_m:.2f}" if math.isfinite(value_m) else "∞"
