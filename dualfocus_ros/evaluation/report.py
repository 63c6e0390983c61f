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
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.stacks import Evaluation, GroupResult

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


def text_table(evaluations: Sequence[Evaluation]) -> str:
    """Return a table with a row per family and engine, and the total; engines side by side per family.

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
    return f"{table}\n\n{LEGEND}"


def as_json(evaluations: Sequence[Evaluation]) -> str:
    """Return all numbers as strict JSON (a number that does not exist is null).

    Raises:
        EvaluationError: as `text_table`.
    """
    _check_comparable(evaluations)
    document = {"evaluations": [_document(e) for e in evaluations]}
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
    return [*values, f"{1e3 * group.runtime_s:.0f}"]


def _document(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "engine": evaluation.engine,
        "device": evaluation.device,
        "total": _group(evaluation.total()),
        "families": {g.name: _group(g) for g in evaluation.families()},
        "stacks": [
            {"path": str(s.path), "family": s.family, "runtime_s": s.runtime_s, **_numbers(s.metrics)}
            for s in evaluation.stacks
        ],
        "without_truth": [str(p) for p in evaluation.without_truth],
    }


def _group(group: GroupResult) -> dict[str, Any]:
    return {"count": group.count, "runtime_s": group.runtime_s, **_numbers(group.metrics)}


def _numbers(metrics: DepthMetrics) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(metrics).items()}
