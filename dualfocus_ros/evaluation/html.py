# SPDX-License-Identifier: Apache-2.0
"""An evaluation as one HTML file that needs nothing else: tables, charts, and pictures of some of the stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation import figures, html_tables
from dualfocus_ros.evaluation.charts import Chart
from dualfocus_ros.evaluation.columns import LOOKS, RUNTIME, SCORES, Column
from dualfocus_ros.evaluation.curves import CurveMean
from dualfocus_ros.evaluation.figures import Panel
from dualfocus_ros.evaluation.html_tables import Cell, number, short_names
from dualfocus_ros.evaluation.kept import KeptStack, Spot
from dualfocus_ros.evaluation.picks import Picks, badness_of
from dualfocus_ros.evaluation.report import check_comparable, reasons, write_text
from dualfocus_ros.evaluation.results import Evaluation, Observation

TEMPLATE = "report.html.j2"
STYLES = 6  # colours of engines; further ones begin again
# What stands for an engine at the top, and below each picture.
HEADLINES = ("abs_rel", "rmse_m", "delta1", "coverage")
LOOK_HEADLINES = ("coverage", "confidence", "instability", "plane_residual")


class HtmlReport:
    """Watches evaluations, of one engine after the other, and writes what it saw together with their numbers.

    Of the first engine the stacks that `picks.Picks` chooses are shown; of every further one the same, so that
    they can be compared, and its own worst. Kept at any time are at most 2 `pictures` + 1 stacks of the first
    engine and `pictures` + 2 of each other, without their slices and in 480 pixels at most (3 MB each).
    """

    def __init__(self, title: str, pictures: int = 6) -> None:
        """Start empty.

        Args:
            title: of the page.
            pictures: how many stacks are shown in pictures; 0: none.

        Raises:
            EvaluationError: if `pictures` is negative.
        """
        if pictures < 0:
            raise EvaluationError(f"expected a number of stacks in pictures of at least 0, got {pictures}")
        self._title, self._pictures = title, pictures
        self._picks: dict[str, Picks] = {}
        self._curves: dict[str, CurveMean] = {}

    @property
    def kept(self) -> int:
        """How many stacks are kept now, over all engines."""
        return sum(len(picks.kept) for picks in self._picks.values())

    def observe(self, observation: Observation) -> None:
        """Look at one stack as it was evaluated; some milliseconds."""
        engine = observation.engine
        if engine not in self._picks:
            first = next(iter(self._picks.values()), None)
            if first is None:
                self._picks[engine] = Picks(self._pictures)
            else:
                self._picks[engine] = Picks(min(1, self._pictures), [k.path for k in first.chosen()])
            self._curves[engine] = CurveMean()
        self._picks[engine].offer(observation)
        self._curves[engine].add(observation)

    def write(self, path: str | Path, evaluations: Sequence[Evaluation], settings: Mapping[str, str] = {}) -> None:
        """Write the page, making its folder. The same input gives the same file.

        Args:
            path: of the file.
            evaluations: of the engines whose stacks were observed.
            settings: with which it was made, by name.

        Raises:
            EvaluationError: if the evaluations cannot be compared, the file cannot be written, or a package that
                it needs is not installed.
        """
        check_comparable(evaluations)
        figures.check_drawable()
        write_text(path, _render(self._context(evaluations, settings)))

    def _context(self, evaluations: Sequence[Evaluation], settings: Mapping[str, str]) -> dict[str, Any]:
        scored, looked = bool(evaluations[0].stacks), any(e.looks for e in evaluations)
        kept = {engine: picks.chosen() for engine, picks in self._picks.items()}
        names = short_names(path for e in evaluations for path in _paths(e))
        stack_tables = [html_tables.stack_table("stacks", evaluations, names)] if scored else []
        if looked:
            stack_tables.append(html_tables.stack_table("looked", evaluations, names, looks=True))
        return {
            "title": self._title,
            "lead": _lead(evaluations),
            "engines": [_headline(e, _style(i)) for i, e in enumerate(evaluations)],
            "scores": html_tables.score_table(evaluations) if scored else None,
            "looks": html_tables.look_table(evaluations) if looked else None,
            "ratios": html_tables.ratio_table(evaluations) if scored and len(evaluations) > 1 else None,
            "legend": [*(SCORES if scored else ()), *(LOOKS if looked else ()), RUNTIME],
            "bands": html_tables.band_table(evaluations) if _has_bands(evaluations) else None,
            "band_charts": _band_charts(evaluations) if _has_bands(evaluations) else [],
            "curves": self._curve_charts(evaluations),
            "stack_tables": stack_tables,
            "has_truth": scored,
            "stacks": _shown(kept, evaluations, names),
            "times": _times(evaluations),
            "remarks": _remarks(evaluations),
            "settings": dict(settings),
        }

    def _curve_charts(self, evaluations: Sequence[Evaluation]) -> list[tuple[str, str, Chart]]:
        found = [(e.engine, _style(i), self._curves.get(e.engine)) for i, e in enumerate(evaluations)]
        known = [(engine, style, c) for engine, style, c in found if c is not None and c.count]
        highest = max((float(c.curve.max()) for _, _, c in known), default=0.0) or 1.0
        return [
            (engine, style, figures.sparsification_chart(c.curve, c.oracle, highest, engine, style))
            for engine, style, c in known
        ]


def _render(context: Mapping[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise EvaluationError(
            f"the HTML report needs the package jinja2 (apt: python3-jinja2, pip: Jinja2): {error}"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        text: str = environment.get_template(TEMPLATE).render(context)
    except jinja2.TemplateNotFound as error:
        raise EvaluationError(
            f"expected the template {error.name} beside the code: install the package again"
        ) from error
    return text


def _paths(e: Evaluation) -> list[Path]:
    return [*(s.path for s in e.stacks), *(s.path for s in e.looks)]


def _style(index: int) -> str:
    return f"s{index % STYLES}"


def _lead(evaluations: Sequence[Evaluation]) -> str:
    first = evaluations[0]
    stacks = first.stacks or first.looks
    families = list(dict.fromkeys(s.family for s in stacks))
    engines = "One engine" if len(evaluations) == 1 else f"{len(evaluations)} engines"
    of = f"of {len(families)} families ({', '.join(families)})" if len(families) > 1 else "of one family"
    count = "one focal stack" if len(stacks) == 1 else f"{len(stacks)} focal stacks"
    text = f"{engines} on {count} {of}."
    if first.stacks:
        return (
            f"{text} Every pixel whose true depth lies inside the focus range counts; where an estimate leaves "
            "one out, the nearest stands in."
        )
    return f"{text} No true depth is known: nothing here is an error, it tells engines and settings apart."


@dataclass(frozen=True)
class Fact:
    """A number with its name, for a headline or a caption."""

    head: html_tables.Head
    cell: Cell


@dataclass(frozen=True)
class Headline:
    """An engine with its most telling numbers."""

    engine: str
    device: str
    style: str
    facts: tuple[Fact, ...]


def _facts(numbers: Any, columns: Sequence[Column], keys: Sequence[str]) -> tuple[Fact, ...]:
    chosen = [next(c for c in columns if c.key == key) for key in keys]
    return tuple(
        Fact(head, number(getattr(numbers, c.key), c.format))
        for c, head in zip(chosen, html_tables.heads(chosen), strict=True)
    )


def _headline(e: Evaluation, style: str) -> Headline:
    facts: tuple[Fact, ...] = ()
    if e.stacks:
        total = e.total()
        facts = _facts(total.metrics, SCORES, HEADLINES) + _facts(total, [RUNTIME], ["runtime_s"])
    elif e.looks:
        facts = _facts(e.look(), LOOKS, LOOK_HEADLINES)
    return Headline(e.engine, e.device, style, facts)


def _has_bands(evaluations: Sequence[Evaluation]) -> bool:
    return bool(evaluations[0].stacks) and all(family.bands for e in evaluations for family in e.families())


def _band_charts(evaluations: Sequence[Evaluation]) -> list[tuple[str, Chart]]:
    names = [e.engine for e in evaluations]
    families = zip(*(e.families() for e in evaluations), strict=True)
    return [(same[0].name, figures.band_chart(same, names)) for same in families]


@dataclass(frozen=True)
class Place:
    """One of the worst places of a stack, with its chart."""

    spot: Spot
    chart: Chart
    error: str


@dataclass(frozen=True)
class Shown:
    """What one engine made of a stack that is shown in pictures."""

    engine: str
    style: str
    rank: str
    facts: tuple[Fact, ...]
    panels: tuple[Panel, ...]
    places: tuple[Place, ...]


def _shown(
    kept: Mapping[str, Sequence[KeptStack]], evaluations: Sequence[Evaluation], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the stacks in pictures, the worst of the first engine first, with what each engine made of them."""
    paths = dict.fromkeys(k.path for found in kept.values() for k in found)
    stacks = []
    for path in (p for p in paths if p in names):
        same = [
            (_style(i), e, k) for i, e in enumerate(evaluations) for k in kept.get(e.engine, ()) if k.path == path
        ]
        if same:
            engines = [_shown_by(k, e, style, names[path]) for style, e, k in same]
            stacks.append({"name": names[path], "path": path, "family": same[0][2].family, "engines": engines})
    return stacks


def _shown_by(k: KeptStack, e: Evaluation, style: str, name: str) -> Shown:
    rank = ""
    facts: tuple[Fact, ...] = ()
    if k.result is not None:
        better = sum(s.metrics.abs_rel < badness_of(k)[1] for s in e.stacks)
        rank = f"rank {better + 1} of {len(e.stacks)} by AbsRel"
        facts = _facts(k.result.metrics, SCORES, HEADLINES)
    elif k.look is not None:
        facts = _facts(k.look.plausibility, LOOKS, LOOK_HEADLINES)
    places = tuple(
        Place(
            spot,
            figures.focus_chart(k, spot, i + 1),
            f"{100 * (spot.depth_m / spot.truth_m - 1.0):+.0f}\u00a0%".replace("-", "−")
            if spot.truth_m > 0.0
            else "",
        )
        for i, spot in enumerate(k.spots)
    )
    return Shown(e.engine, style, rank, facts, tuple(figures.panels(k, name)), places)


def _times(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return for each evaluation whose time was measured the parts of it, and their shares of the longest."""
    longest = max(e.elapsed_s for e in evaluations)
    times = []
    for e in evaluations:
        if e.elapsed_s > 0.0:
            rest_s = max(0.0, e.elapsed_s - e.engine_s - e.align_s)
            parts = (("engine", e.engine_s), ("alignment", e.align_s), ("rest", rest_s))
            shares = [(name, seconds, round(100.0 * seconds / longest, 2)) for name, seconds in parts]
            times.append({"engine": e.engine, "elapsed_s": e.elapsed_s, "parts": shares})
    return times


def _remarks(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return notes, counts, and stacks left out or failed; what holds for all engines names none."""
    said: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for e in evaluations:
        entries: list[tuple[str, tuple[str, ...]]] = [(note, ()) for note in e.notes]
        if e.counts:
            entries.append((", ".join(f"{count} {name}" for name, count in e.counts.items()), ()))
        if e.without_truth and e.stacks:
            entries.append(("not scored, as there is no ground truth", tuple(map(str, e.without_truth))))
        entries += [(f"no depth: {reason}", tuple(map(str, paths))) for reason, paths in reasons(e).items()]
        for entry in entries:
            said.setdefault(entry, []).append(e.engine)
    return [
        {"text": text, "paths": paths, "engines": who if len(who) < len(evaluations) else []}
        for (text, paths), who in said.items()
    ]
