# SPDX-License-Identifier: Apache-2.0
"""Tables of the HTML report: what stands in each cell, as text and as the number itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualfocus_ros.evaluation.columns import LOOKS, RUNTIME, SCORES, Column
from dualfocus_ros.evaluation.figures import metres
from dualfocus_ros.evaluation.report import RATIO_COLUMNS, mean_look, ratios
from dualfocus_ros.evaluation.results import Evaluation, GroupResult, StackLook, StackResult

ARROWS = {"lower": "↓", "higher": "↑", "neither": ""}
DASH = "–"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as shown.
        value: the number itself as JSON has it; empty: it is no number, or there is none.
        style: class names.
        rows: that it spans.
        title: more of it, shown on demand.
    """

    text: str
    value: str = ""
    style: str = ""
    rows: int = 1
    title: str = ""


@dataclass(frozen=True)
class Head:
    """Head of a column: label, unit, arrow to where it is better, and what it means."""

    label: str
    unit: str = ""
    arrow: str = ""
    title: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `starts` are the rows that a rule is drawn above."""

    name: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    starts: frozenset[int] = frozenset()
    sortable: bool = False


def number(value: float | None, show: Callable[[float], str]) -> Cell:
    """Return a cell with a number, or a dash where it does not exist."""
    if value is None or not math.isfinite(value):
        return Cell(DASH)
    return Cell(show(value).replace("-", "−"), repr(value))


def heads(columns: Iterable[Column]) -> tuple[Head, ...]:
    """Return the heads of number columns."""
    return tuple(Head(c.label, c.unit, ARROWS[c.better], c.meaning) for c in columns)


def mark_best(cells: Sequence[Cell], column: Column) -> list[Cell]:
    """Return cells that stand below each other, the best marked if there are several and one is."""
    known = [float(c.value) for c in cells if c.value]
    if len(known) < 2 or column.better == "neither" or len({c.text for c in cells if c.value}) < 2:
        return list(cells)
    best = (min if column.better == "lower" else max)(known)
    return [replace(c, style="best") if c.value and float(c.value) == best else c for c in cells]


def _grouped(
    name: str, columns: Sequence[Column], groups: Sequence[tuple[str, int, Sequence[tuple[str, Sequence[Cell]]]]]
) -> Table:
    """Return a table of groups, each with a row for every engine."""
    rows: list[tuple[Cell, ...]] = []
    starts = []
    for group, count, engines in groups:
        starts.append(len(rows))
        marked = [mark_best([cells[i] for _, cells in engines], c) for i, c in enumerate(columns)]
        for k, (engine, _) in enumerate(engines):
            first = (Cell(f"{group} ({count})", style="text group", rows=len(engines)),) if k == 0 else ()
            rows.append((*first, Cell(engine, style="text"), *(column[k] for column in marked)))
    titles = (Head("stacks", is_text=True), Head("engine", is_text=True), *heads(columns))
    return Table(name, titles, tuple(rows), frozenset(starts))


def score_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return all means against the truth, in total and by family, engines below each other."""
    columns = (*SCORES, RUNTIME)
    groups = [(e.engine, [e.total(), *e.families()]) for e in evaluations]

    def cells(group: GroupResult) -> list[Cell]:
        values = [getattr(group.metrics, c.key) for c in SCORES]
        return [number(v, c.format) for v, c in zip([*values, group.runtime_s], columns, strict=True)]

    return _grouped(
        "scores",
        columns,
        [
            (result.name, result.count, [(engine, cells(results[i])) for engine, results in groups])
            for i, result in enumerate(groups[0][1])
        ],
    )


def look_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return all means of what can be said without a truth, in total and by family, engines below each other."""
    columns = (*LOOKS, RUNTIME)

    def cells(looks: Sequence[StackLook]) -> list[Cell]:
        mean, runtime_s = mean_look(looks)
        values = [getattr(mean, c.key) for c in LOOKS]
        return [number(v, c.format) for v, c in zip([*values, runtime_s], columns, strict=True)]

    groups = []
    for family in (None, *dict.fromkeys(s.family for e in evaluations for s in e.looks)):
        found = [(e.engine, [s for s in e.looks if family in (None, s.family)]) for e in evaluations]
        engines = [(engine, cells(looks)) for engine, looks in found if looks]
        groups.append(("total" if family is None else family, max(len(looks) for _, looks in found), engines))
    return _grouped("looks", columns, groups)


def ratio_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return the numbers of the engines after the first, divided by its."""
    first, *others = evaluations
    rows: list[tuple[Cell, ...]] = []
    starts = []
    for i, base in enumerate([first.total(), *first.families()]):
        starts.append(len(rows))
        for k, other in enumerate(others):
            found = ratios([other.total(), *other.families()][i], base)
            name = (Cell(f"{base.name} ({base.count})", style="text group", rows=len(others)),) if k == 0 else ()
            cells = (number(v, lambda r: f"{r:.2f}") for v in found.values())
            rows.append((*name, Cell(f"{other.engine} / {first.engine}", style="text"), *cells))
    titles = tuple(Head(title, arrow=ARROWS["lower"]) for title, _ in RATIO_COLUMNS)
    return Table(
        "ratios",
        (Head("stacks", is_text=True), Head("ratio", is_text=True), *titles),
        tuple(rows),
        frozenset(starts),
    )


def band_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return the errors in bands of distance, of every family, engines beside each other."""
    rows: list[tuple[Cell, ...]] = []
    starts = []
    abs_rel = next(c for c in SCORES if c.key == "abs_rel")
    for i, family in enumerate(evaluations[0].families()):
        starts.append(len(rows))
        for k, band in enumerate(family.bands):
            name = (Cell(family.name, style="text group", rows=len(family.bands)),) if k == 0 else ()
            found = [e.families()[i].bands[k] for e in evaluations]
            errors = mark_best([number(b.abs_rel, abs_rel.format) for b in found], abs_rel)
            biases = [number(b.bias, lambda v: f"{v:+.3f}") for b in found]
            squares = [number(b.rmse_m, lambda v: f"{v:.4f}") for b in found]
            cells = [c for triple in zip(errors, biases, squares, strict=True) for c in triple]
            place = Cell(f"{metres(band.near_m)} {DASH} {metres(band.far_m)}", style="text")
            rows.append((*name, place, Cell(f"{band.pixels:,}".replace(",", "\u202f"), str(band.pixels)), *cells))
    titles: list[Head] = [Head("stacks", is_text=True), Head("true depth", "m", is_text=True), Head("pixels")]
    for e in evaluations:
        who = f"{e.engine} " if len(evaluations) > 1 else ""
        titles += [
            Head(f"{who}AbsRel", "", ARROWS["lower"], "mean of |error| / truth"),
            Head("bias", "", "", "mean of error / truth: below 0, depth comes out too near"),
            Head("RMSE", "m", ARROWS["lower"], "root of the mean squared error"),
        ]
    return Table("bands", tuple(titles), tuple(rows), frozenset(starts))


def stack_table(
    name: str, evaluations: Sequence[Evaluation], names: Mapping[str, str], *, looks: bool = False
) -> Table:
    """Return a row for every stack and engine, to be sorted.

    Args:
        name: of the table.
        evaluations: of which.
        names: what stacks are called, by path.
        looks: what can be said without a truth, instead of the scores.
    """
    columns = LOOKS if looks else SCORES
    families = {str(s.path): s.family for e in evaluations for s in (e.looks if looks else e.stacks)}
    # A name that says it need not be followed by it; the table is wide enough.
    with_family = not all(family in names[path].split("/")[:-1] for path, family in families.items())
    rows = []
    for e in evaluations:
        results: Sequence[StackResult | StackLook] = e.looks if looks else e.stacks
        for s in results:
            numbers = s.plausibility if isinstance(s, StackLook) else s.metrics
            cells = [number(getattr(numbers, c.key), c.format) for c in columns]
            first = Cell(names[str(s.path)], style="text", title=str(s.path))
            family = (Cell(s.family, style="text"),) if with_family else ()
            rows.append(
                (first, *family, Cell(e.engine, style="text"), *cells, number(s.runtime_s, RUNTIME.format))
            )
    titles = [Head(t, is_text=True) for t in ("stack", *(("family",) if with_family else ()), "engine")]
    return Table(name, (*titles, *heads((*columns, RUNTIME))), tuple(rows), sortable=True)


def short_names(paths: Iterable[Path]) -> dict[str, str]:
    """Return what stacks are to be called, by path: without what all paths begin with, but two names at least."""
    parts = {str(path): path.parts for path in paths}
    common = len(os.path.commonprefix([list(p) for p in parts.values()]))
    return {path: Path(*p[max(0, min(common, len(p) - 2)) :]).as_posix() for path, p in parts.items()}
