# SPDX-License-Identifier: Apache-2.0
"""Charts as plain geometry in the units of an SVG's view box; a template draws them.

Colours and fonts are those of the page, so that charts follow its light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

MARGINS = (46.0, 10.0, 10.0, 36.0)  # left, top, right, bottom
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A line, with the style class that draws it; `dots` at its points if asked for."""

    path: str
    style: str
    dots: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Bar:
    """An upright bar."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str


@dataclass(frozen=True)
class Chart:
    """What a template draws: the frame is `left` .. `right`, `top` .. `bottom` of `width` x `height`."""

    alt: str
    width: float
    height: float
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    margins: tuple[float, float, float, float] = MARGINS

    @property
    def left(self) -> float:
        """Left edge of the frame."""
        return self.margins[0]

    @property
    def top(self) -> float:
        """Upper edge of the frame."""
        return self.margins[1]

    @property
    def right(self) -> float:
        """Right edge of the frame."""
        return self.width - self.margins[2]

    @property
    def bottom(self) -> float:
        """Lower edge of the frame."""
        return self.height - self.margins[3]


@dataclass(frozen=True)
class Series:
    """Points to be joined, x and y in the units of the axes; a point that is not finite breaks the line."""

    points: Sequence[Point]
    style: str
    dots: bool = False


def line_chart(
    series: Sequence[Series],
    size: Point,
    x_range: Point,
    y_range: Point,
    labels: tuple[str, str],
    alt: str,
    *,
    percent: tuple[bool, bool] = (False, False),
    ticks: tuple[int, int] = (5, 4),
    margins: tuple[float, float, float, float] = MARGINS,
) -> Chart:
    """Return a chart of lines.

    Args:
        series: what to draw; later ones over earlier ones.
        size: width and height in units of the view box.
        x_range: ends of the axis; the second may be the smaller one.
        y_range: ends of the axis, upwards.
        labels: of the axes.
        alt: what it shows, for those who do not see it.
        percent: whether ticks of the axes are to be written in percent.
        ticks: about how many on each axis; 0: none.
        margins: left, top, right, bottom.
    """
    frame = Chart(alt, *size, *labels, margins=margins)
    to_x = _scale(x_range, (frame.left, frame.right))
    to_y = _scale(y_range, (frame.bottom, frame.top))
    lines = []
    for s in series:
        at = [(to_x(x), to_y(y)) for x, y in s.points]
        known = tuple(p for p in at if all(map(math.isfinite, p)))
        lines.append(Line(_path(at), s.style, known if s.dots else ()))
    return Chart(
        alt,
        *size,
        *labels,
        tuple(Tick(to_x(v), _label(v, step, percent[0])) for v, step in round_values(x_range, ticks[0])),
        tuple(Tick(to_y(v), _label(v, step, percent[1])) for v, step in round_values(y_range, ticks[1])),
        tuple(lines),
        margins=margins,
    )


def bar_chart(
    groups: Sequence[Sequence[float]],
    edges: Sequence[str],
    names: Sequence[str],
    size: Point,
    labels: tuple[str, str],
    alt: str,
) -> Chart:
    """Return a chart of groups of bars, in percent, that stand between labelled edges.

    Args:
        groups: values of each group, fractions; not finite: no bar.
        edges: labels of the edges, one more than groups.
        names: of the bars in a group; also told by their style class `s0`, `s1` ...
        size: width and height in units of the view box.
        labels: of the axes.
        alt: what it shows, for those who do not see it.
    """
    frame = Chart(alt, *size)
    highest = max((v for group in groups for v in group if math.isfinite(v)), default=0.0) or 1.0
    y_range = (0.0, 1.06 * highest)
    to_y = _scale(y_range, (frame.bottom, frame.top))
    step = (frame.right - frame.left) / len(groups)
    bar = 0.72 * step / max(len(names), 1)
    bars = []
    for i, group in enumerate(groups):
        start = frame.left + (i + 0.14) * step
        for k, (value, name) in enumerate(zip(group, names, strict=True)):
            if math.isfinite(value):
                y = to_y(value)
                title = f"{name}, {edges[i]} to {edges[i + 1]} m: {value:.4f}"
                bars.append(Bar(_r(start + k * bar), _r(y), _r(0.9 * bar), _r(frame.bottom - y), f"s{k}", title))
    x_ticks = tuple(Tick(_r(frame.left + i * step), edge) for i, edge in enumerate(edges))
    y_ticks = tuple(Tick(to_y(v), _label(v, s, True)) for v, s in round_values(y_range, 4))
    return Chart(alt, *size, *labels, x_ticks, y_ticks, (), tuple(bars))


def round_values(ends: Point, count: int) -> list[tuple[float, float]]:
    """Return about `count` round values between two ends, both included, each with the step between them."""
    low, high = min(ends), max(ends)
    if count < 1 or not high > low:
        return []
    raw = (high - low) / count
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(s * decade for s in STEPS if s * decade >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, step) for i in range(first, last + 1)]


def _label(value: float, step: float, percent: bool) -> str:
    factor = 100.0 if percent else 1.0
    fraction = factor * step / 10.0 ** math.floor(math.log10(factor * step))
    digits = max(0, -math.floor(math.log10(factor * step)) + (1 if abs(fraction - 2.5) < 0.01 else 0))
    return f"{factor * value:.{digits}f}{' %' if percent else ''}"


class _scale:
    """A linear map between two ranges, rounded to a hundredth."""

    def __init__(self, of: Point, to: Point) -> None:
        self._of, self._to = of, to

    def __call__(self, value: float) -> float:
        (a, b), (c, d) = self._of, self._to
        return _r(c + (value - a) * (d - c) / (b - a)) if math.isfinite(value) else math.nan


def _path(points: Sequence[Point]) -> str:
    text, command = "", "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            command = "M"
            continue
        text += f"{command}{x:g} {y:g}"
        command = "L"
    return text


def _r(value: float) -> float:
    return round(value, 2)
