# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.columns import LOOKS, SCORES
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.plausibility import Plausibility
from dualfocus_ros.evaluation.report import as_json, look_table, remarks, text_table
from dualfocus_ros.evaluation.results import Evaluation, StackLook, StackResult


def looked_at(engine: str, instability: float) -> Evaluation:
    looks = tuple(
        StackLook(Path("bag") / str(i), f"run{i // 2}", Plausibility(0.5, 0.25, known, 0.01 * i, 0.3), 0.1)
        for i, known in enumerate((math.nan, instability, 3 * instability))
    )
    return Evaluation(
        engine,
        "cpu",
        (),
        tuple(look.path for look in looks),
        looks,
        ((Path("bag/3"), "moved"), (Path("bag/4"), "moved"), (Path("bag/5"), "dark")),
        ("the lens never reached 0.4 m",),
        {"frames read": 90, "frames dropped": 2},
        elapsed_s=3.0,
        engine_s=1.0,
        align_s=0.5,
    )


def scored(engine: str) -> Evaluation:
    result = StackResult(Path("a/1"), "a", DepthMetrics(*(0.1 * i for i in range(11))), 0.1)
    return Evaluation(engine, "cpu", (result,))


def rows(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]


def test_every_number_has_a_column() -> None:
    assert [c.key for c in SCORES] == [f.name for f in fields(DepthMetrics)]
    assert [c.key for c in LOOKS] == [f.name for f in fields(Plausibility)]


def test_a_table_without_truth() -> None:
    evaluations = [looked_at("x", 0.1), looked_at("y", 0.2)]
    table = text_table(evaluations)
    assert table == look_table(evaluations)
    head, _, *body = rows(table)
    assert [r[:2] for r in body] == [[g, e] for g in ("run0 (2)", "run1 (1)", "total (3)") for e in ("x", "y")]
    at = head.index("instability")
    assert [r[at] for r in body] == ["0.1000", "0.2000", "0.3000", "0.6000", "0.2000", "0.4000"]
    assert {r[head.index("ms")] for r in body} == {"100"}


def test_both_tables_where_both_were_asked_for() -> None:
    evaluation = scored("x")
    both = Evaluation("x", "cpu", evaluation.stacks, looks=looked_at("x", 0.1).looks)
    assert text_table([both]) == f"{text_table([evaluation])}\n\n{look_table([both])}"
    with pytest.raises(EvaluationError, match="without ground truth, got none"):
        look_table([evaluation])
    with pytest.raises(EvaluationError, match="at least one stack that gave a depth"):
        text_table([Evaluation("x", "cpu", (), failures=((Path("a"), "dark"),))])


def test_json_without_truth_has_all_that_was_found() -> None:
    document = json.loads(as_json([looked_at("x", 0.1), looked_at("y", 0.2)]))
    assert set(document) == {"evaluations"}
    first = document["evaluations"][0]
    assert (first["total"], first["families"], first["stacks"]) == (None, {}, [])
    assert first["looks"][1] == {
        "path": "bag/1",
        "family": "run0",
        "runtime_s": 0.1,
        "coverage": 0.5,
        "confidence": 0.25,
        "instability": 0.1,
        "plane_residual": 0.01,
        "plane_share": 0.3,
    }
    assert first["looks"][0]["instability"] is None
    assert first["failures"][2] == {"path": "bag/5", "reason": "dark"}
    assert first["notes"] == ["the lens never reached 0.4 m"]
    assert first["counts"] == {"frames read": 90, "frames dropped": 2}
    assert (first["elapsed_s"], first["engine_s"], first["align_s"]) == (3.0, 1.0, 0.5)


def test_remarks_say_once_what_holds_for_all() -> None:
    assert remarks([scored("x"), scored("y")]) == ""
    common = [
        "the lens never reached 0.4 m",
        "90 frames read, 2 frames dropped",
        "3 stacks without ground truth",
        "no depth of bag/3 and 1 more: moved",
        "no depth of bag/5: dark",
    ]
    assert remarks([looked_at("x", 0.1), looked_at("y", 0.2)]).splitlines() == common
    assert remarks([looked_at("x", 0.1), scored("y")]).splitlines() == [f"x: {line}" for line in common]
