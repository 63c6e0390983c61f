# SPDX-License-Identifier: Apache-2.0
"""Evaluations as text tables and as strict JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.bands import BandScore
from dualfocus_ros.evaluation.columns import LOOKS, RUNTIME, SCORES
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.plausibility import Plausibility
from dualfocus_ros.evaluation.results import Evaluation, GroupResult, StackLook

LEGEND = (
    "Mean over the stacks of each row. Bump: 100 x clipped Hessian norm of the error. sparsif.: how well the "
    "confidence sorts the error, 1 = not at all, lower is better. ms: median time of alignment + engine."
)
LOOK_LEGEND = (
    "Without ground truth, none of these is an error. instability: median relative change from the stack before, "
    "with what moved. plane residual, share: of the largest plane. ms: median time of alignment + engine."
)
# Where smaller is better: what is worth a ratio. Column title, field of DepthMetrics or `runtime_s`.
RATIO_COLUMNS = (
    ("RMSE", "rmse_m"),
    ("log RMSE", "log_rmse"),
    ("AbsRel", "abs_rel"),
    ("SqRel", "sq_rel_m"),
    ("Bump", "bump"),
    ("sparsif.", "sparsification"),
    ("time", "runtime_s"),
)


def text_table(evaluations: Sequence[Evaluation]) -> str:
    """Return a table with a row per family and engine, and the total; engines side by side per family.

    More than one engine: a second table has each number of the others, divided by that of the first. Where it was
    asked what can be said without ground truth, `look_table` follows, or is all there is.

    Raises:
        EvaluationError: if there is no evaluation, nothing in it, or they are not of the same stacks.
    """
    check_comparable(evaluations)
    parts = [_score_table(evaluations)] if evaluations[0].stacks else []
    if any(e.looks for e in evaluations):
        parts.append(look_table(evaluations))
    if not parts:
        said = remarks(evaluations)
        raise EvaluationError(f"expected at least one stack that gave a depth to report, got none: {said}")
    return "\n\n".join(parts)


def _score_table(evaluations: Sequence[Evaluation]) -> str:
    groups = [(e.engine, [*e.families(), e.total()]) for e in evaluations]
    rows = []
    for i in range(len(groups[0][1])):
        for engine, results in groups:
            rows.append([f"{results[i].name} ({results[i].count})", engine, *_cells(results[i])])
    table = _table(rows, ["stacks", "engine", *(c.title for c in SCORES), RUNTIME.title])
    return f"{table}\n\n{LEGEND}" + (f"\n\n{_ratio_table(evaluations)}" if len(evaluations) > 1 else "")


def look_table(evaluations: Sequence[Evaluation]) -> str:
    """Return a table of what can be said without ground truth: a row per family and engine, and the total.

    Raises:
        EvaluationError: if that was not asked for.
    """
    names = dict.fromkeys(look.family for e in evaluations for look in e.looks)
    if not names:
        raise EvaluationError("expected evaluations that say what can be said without ground truth, got none")
    rows = []
    for name in (*names, None):
        for evaluation in evaluations:
            looks = [look for look in evaluation.looks if name in (look.family, None)]
            if looks:
                mean, runtime_s = mean_look(looks)
                cells = [c.format(getattr(mean, c.key)) for c in LOOKS]
                group = f"{'total' if name is None else name} ({len(looks)})"
                rows.append([group, evaluation.engine, *cells, RUNTIME.format(runtime_s)])
    table = _table(rows, ["stacks", "engine", *(c.title for c in LOOKS), RUNTIME.title])
    return f"{table}\n\n{LOOK_LEGEND}"


def mean_look(looks: Sequence[StackLook]) -> tuple[Plausibility, float]:
    """Return the mean over stacks, at least one, and their median runtime in seconds."""
    return Plausibility.mean([look.plausibility for look in looks]), statistics.median(s.runtime_s for s in looks)


def remarks(evaluations: Sequence[Evaluation]) -> str:
    """Return what else is to be known: notes, what was read and left out, what failed and why; a line each.

    A line that does not hold for all engines names those it holds for. Empty where nothing is to be said.
    """
    said: dict[str, list[str]] = {}
    for e in evaluations:
        lines = list(e.notes)
        if e.counts:
            lines.append(", ".join(f"{count} {name}" for name, count in e.counts.items()))
        if e.without_truth:
            lines.append(f"{len(e.without_truth)} stacks without ground truth")
        for reason, paths in reasons(e).items():
            others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines.append(f"no depth of {paths[0]}{others}: {reason}")
        for line in lines:
            said.setdefault(line, []).append(e.engine)
    everyone = len(evaluations)
    return "\n".join(f"{', '.join(who)}: {line}" if len(who) < everyone else line for line, who in said.items())


def reasons(evaluation: Evaluation) -> dict[str, list[Path]]:
    """Return the stacks that gave no depth, by the reason, in order of first appearance."""
    found: dict[str, list[Path]] = {}
    for path, reason in evaluation.failures:
        found.setdefault(reason, []).append(path)
    return found


def band_table(evaluations: Sequence[Evaluation]) -> str:
    """Return a table of the errors of every family in bands of distance, engines side by side.

    Raises:
        EvaluationError: as `text_table`.
    """
    check_comparable(evaluations)
    rows = []
    for i, family in enumerate(evaluations[0].families()):
        for band, score in enumerate(family.bands):
            scores = [e.families()[i].bands[band] for e in evaluations]
            cells = [f"{s.abs_rel:.4f} ({s.bias:+.3f})" if s.pixels else "-" for s in scores]
            rows.append([family.name, f"{score.near_m:.2f} - {score.far_m:.2f}", score.pixels, *cells])
    headers = ["stacks", "true depth m", "pixels", *(e.engine for e in evaluations)]
    table = _table(rows, headers)
    return f"{table}\n\nAbsRel and, in brackets, mean of error / truth: below 0, depth comes out too near."


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    return table


def _ratio_table(evaluations: Sequence[Evaluation]) -> str:
    first, *others = evaluations
    rows = []
    for i, base in enumerate([*first.families(), first.total()]):
        for other in others:
            found = ratios([*other.families(), other.total()][i], base)
            cells = ["-" if r is None else f"{r:.2f}" for r in found.values()]
            rows.append([f"{base.name} ({base.count})", f"{other.engine} / {first.engine}", *cells])
    headers = ["stacks", "ratio", *(title for title, _ in RATIO_COLUMNS)]
    table = _table(rows, headers)
    return f"{table}\n\nRatios to {first.engine}: below 1 is a smaller error or a shorter time."


def ratios(group: GroupResult, base: GroupResult) -> dict[str, float | None]:
    """Return each number of `RATIO_COLUMNS` divided by that of `base`; None where that does not exist."""
    found: dict[str, float | None] = {}
    for _, field in RATIO_COLUMNS:
        top, bottom = (g.runtime_s if field == "runtime_s" else getattr(g.metrics, field) for g in (group, base))
        ratio = top / bottom if bottom else math.nan
        found[field] = ratio if math.isfinite(ratio) else None
    return found


def as_json(evaluations: Sequence[Evaluation], settings: Mapping[str, str] | None = None) -> str:
    """Return all numbers as strict JSON (a number that does not exist is null).

    More than one engine: `ratios_to_first` has what the others reached relative to the first.

    Args:
        evaluations: of the same stacks.
        settings: with which they were made, by name.

    Raises:
        EvaluationError: as `text_table`.
    """
    check_comparable(evaluations)
    document: dict[str, Any] = {"evaluations": [_document(e) for e in evaluations]}
    if settings:
        document["settings"] = dict(settings)
    if len(evaluations) > 1 and evaluations[0].stacks:
        document["ratios_to_first"] = {e.engine: _ratio_document(e, evaluations[0]) for e in evaluations[1:]}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def write_json(
    path: str | Path, evaluations: Sequence[Evaluation], settings: Mapping[str, str] | None = None
) -> None:
    """Write `as_json` to a file, making its folder.

    Raises:
        EvaluationError: if the file cannot be written, or as `text_table`.
    """
    write_text(path, as_json(evaluations, settings))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, making its folder.

    Raises:
        EvaluationError: if it cannot be written.
    """
    with _writing(Path(path)) as file:
        file.write_text(text, encoding="utf-8")


def check_writable(path: str | Path) -> None:
    """Raise EvaluationError if a file cannot be written there; its folder is made."""
    with _writing(Path(path)) as file:
        new = not file.exists()
        with file.open("a"):
            pass
        if new:
            file.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Make the folder of a file; say in one way why it, or the file, cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}; check path and permissions") from error


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise EvaluationError if there is no evaluation, or they are not of the same stacks."""
    if not evaluations:
        raise EvaluationError("expected at least one evaluation to report, got none")
    first = [s.path for s in evaluations[0].stacks]
    for other in evaluations[1:]:
        if [s.path for s in other.stacks] != first:
            raise EvaluationError(
                f"expected engines to be compared on the same stacks, {evaluations[0].engine} has {len(first)}, "
                f"{other.engine} has {len(other.stacks)} or others"
            )


def _cells(group: GroupResult) -> list[str]:
    return [*(c.format(getattr(group.metrics, c.key)) for c in SCORES), RUNTIME.format(group.runtime_s)]


def _document(evaluation: Evaluation) -> dict[str, Any]:
    e = evaluation
    return {
        "engine": e.engine,
        "device": e.device,
        "total": _group(e.total()) if e.stacks else None,
        "families": {g.name: _group(g) for g in e.families()},
        "stacks": [
            {
                "path": str(s.path),
                "family": s.family,
                "runtime_s": _number(s.runtime_s),
                **_numbers(s.metrics),
                "bands": [_numbers(band) for band in s.bands],
            }
            for s in e.stacks
        ],
        "without_truth": [str(p) for p in e.without_truth],
        "looks": [
            {"path": str(s.path), "family": s.family, "runtime_s": s.runtime_s, **_numbers(s.plausibility)}
            for s in e.looks
        ],
        "failures": [{"path": str(path), "reason": reason} for path, reason in e.failures],
        "notes": list(e.notes),
        "counts": dict(e.counts),
        "elapsed_s": e.elapsed_s,
        "engine_s": e.engine_s,
        "align_s": e.align_s,
    }


def _ratio_document(evaluation: Evaluation, first: Evaluation) -> dict[str, Any]:
    pairs = zip(evaluation.families(), first.families(), strict=True)
    return {
        "first": first.engine,
        "total": ratios(evaluation.total(), first.total()),
        "families": {group.name: ratios(group, base) for group, base in pairs},
    }


def _group(group: GroupResult) -> dict[str, Any]:
    return {
        "count": group.count,
        "runtime_s": _number(group.runtime_s),
        **_numbers(group.metrics),
        "bands": [_numbers(band) for band in group.bands],
    }


def _numbers(metrics: DepthMetrics | BandScore | Plausibility) -> dict[str, float | None]:
    return {name: _number(value) for name, value in asdict(metrics).items()}


def _number(value: float) -> float | None:
    """Return a number as JSON can have it: what is not finite is null."""
    return value if math.isfinite(value) else None
