# SPDX-License-Identifier: Apache-2.0
"""Evaluations as text tables and as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.bands import BandScore
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.results import Evaluation, GroupResult

# Column title (with unit), field of DepthMetrics, format.
COLUMNS = (
    ("MSE m2", "mse_m2", ".4f"),
    ("RMSE m", "rmse_m", ".4f"),
    ("log RMSE", "log_rmse", ".4f"),
    ("AbsRel", "abs_rel", ".4f"),
    ("SqRel m", "sq_rel_m", ".4f"),
    ("delta1", "delta1", ".4f"),
    ("delta2", "delta2", ".4f"),
    ("delta3", "delta3", ".4f"),
    ("Bump", "bump", ".3f"),
    ("coverage", "coverage", ".3f"),
    ("sparsif.", "sparsification", ".3f"),
)
LEGEND = (
    "Mean over the stacks of each row. Bump: 100 x clipped Hessian norm of the error. sparsif.: how well the "
    "confidence sorts the error, 1 = not at all, lower is better. ms: median time of alignment + engine."
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

    More than one engine: a second table has each number of the others, divided by that of the first.

    Raises:
        EvaluationError: if there is no evaluation, or they are not of the same stacks.
    """
    _check_comparable(evaluations)
    groups = [(e.engine, [*e.families(), e.total()]) for e in evaluations]
    rows = []
    for i in range(len(groups[0][1])):
        for engine, results in groups:
            rows.append([f"{results[i].name} ({results[i].count})", engine, *_cells(results[i])])
    headers = ["stacks", "engine", *(title for title, _, _ in COLUMNS), "ms"]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    return f"{table}\n\n{LEGEND}" + (f"\n\n{_ratio_table(evaluations)}" if len(evaluations) > 1 else "")


def band_table(evaluations: Sequence[Evaluation]) -> str:
    """Return a table of the errors of every family in bands of distance, engines side by side.

    Raises:
        EvaluationError: as `text_table`.
    """
    _check_comparable(evaluations)
    rows = []
    for i, family in enumerate(evaluations[0].families()):
        for band, score in enumerate(family.bands):
            scores = [e.families()[i].bands[band] for e in evaluations]
            cells = [f"{s.abs_rel:.4f} ({s.bias:+.3f})" if s.pixels else "-" for s in scores]
            rows.append([family.name, f"{score.near_m:.2f} - {score.far_m:.2f}", score.pixels, *cells])
    headers = ["stacks", "true depth m", "pixels", *(e.engine for e in evaluations)]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    return f"{table}\n\nAbsRel and, in brackets, mean of error / truth: below 0, depth comes out too near."


def _ratio_table(evaluations: Sequence[Evaluation]) -> str:
    first, *others = evaluations
    rows = []
    for i, base in enumerate([*first.families(), first.total()]):
        for other in others:
            ratios = _ratios([*other.families(), other.total()][i], base)
            cells = ["-" if r is None else f"{r:.2f}" for r in ratios.values()]
            rows.append([f"{base.name} ({base.count})", f"{other.engine} / {first.engine}", *cells])
    headers = ["stacks", "ratio", *(title for title, _ in RATIO_COLUMNS)]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    return f"{table}\n\nRatios to {first.engine}: below 1 is a smaller error or a shorter time."


def _ratios(group: GroupResult, base: GroupResult) -> dict[str, float | None]:
    """Return each number of `RATIO_COLUMNS` divided by that of `base`; None where that does not exist."""
    ratios: dict[str, float | None] = {}
    for _, field in RATIO_COLUMNS:
        top, bottom = (g.runtime_s if field == "runtime_s" else getattr(g.metrics, field) for g in (group, base))
        ratio = top / bottom if bottom else math.nan
        ratios[field] = ratio if math.isfinite(ratio) else None
    return ratios


def as_json(evaluations: Sequence[Evaluation]) -> str:
    """Return all numbers as strict JSON (a number that does not exist is null).

    More than one engine: `ratios_to_first` has what the others reached relative to the first.

    Raises:
        EvaluationError: as `text_table`.
    """
    _check_comparable(evaluations)
    document: dict[str, Any] = {"evaluations": [_document(e) for e in evaluations]}
    if len(evaluations) > 1:
        document["ratios_to_first"] = {e.engine: _ratio_document(e, evaluations[0]) for e in evaluations[1:]}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def write_json(path: str | Path, evaluations: Sequence[Evaluation]) -> None:
    """Write `as_json` to a file, making its folder.

    Raises:
        EvaluationError: if the file cannot be written, or as `text_table`.
    """
    text = as_json(evaluations)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}; check path and permissions") from error


def _check_comparable(evaluations: Sequence[Evaluation]) -> None:
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
    values = [format(getattr(group.metrics, field), spec) for _, field, spec in COLUMNS]
    return [*values, f"{1e3 * group.runtime_s:.0f}" if math.isfinite(group.runtime_s) else "-"]


def _document(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "engine": evaluation.engine,
        "device": evaluation.device,
        "total": _group(evaluation.total()),
        "families": {g.name: _group(g) for g in evaluation.families()},
        "stacks": [
            {
                "path": str(s.path),
                "family": s.family,
                "runtime_s": _number(s.runtime_s),
                **_numbers(s.metrics),
                "bands": [_numbers(band) for band in s.bands],
            }
            for s in evaluation.stacks
        ],
        "without_truth": [str(p) for p in evaluation.without_truth],
    }


def _ratio_document(evaluation: Evaluation, first: Evaluation) -> dict[str, Any]:
    pairs = zip(evaluation.families(), first.families(), strict=True)
    return {
        "first": first.engine,
        "total": _ratios(evaluation.total(), first.total()),
        "families": {group.name: _ratios(group, base) for group, base in pairs},
    }


def _group(group: GroupResult) -> dict[str, Any]:
    return {
        "count": group.count,
        "runtime_s": _number(group.runtime_s),
        **_numbers(group.metrics),
        "bands": [_numbers(band) for band in group.bands],
    }


def _numbers(metrics: DepthMetrics | BandScore) -> dict[str, float | None]:
    return {name: _number(value) for name, value in asdict(metrics).items()}


def _number(value: float) -> float | None:
    """Return a number as JSON can have it: what is not finite is null."""
    return value if math.isfinite(value) else None
