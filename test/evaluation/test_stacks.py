# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_stacks import FOCUS_M, captured, quantised, texture

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.metrics import DepthMetrics
from dualfocus_ros.evaluation.report import as_json, band_table, text_table, write_json
from dualfocus_ros.evaluation.results import in_common
from dualfocus_ros.evaluation.stacks import Evaluation, StackResult, evaluate_stacks
from dualfocus_ros.stackio import find_stacks, save_stack

SHAPE = (24, 32)


class ConstantDepth:
    """An engine that always answers 2 m."""

    name, device = "constant", "nowhere"

    def infer(self, stack) -> EngineOutput:
        depth = np.full(SHAPE, 2.0, np.float32)
        return EngineOutput(depth, np.ones(SHAPE, np.float32), np.zeros((*SHAPE, 3), np.uint8))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two stacks of family a (true depth 2 m and 1 m), one of b (1.6 m), one without truth."""
    stack = captured(quantised([texture(SHAPE, i) for i in range(len(FOCUS_M))]))
    for name, depth_m in (("a/1", 2.0), ("a/2", 1.0), ("b/1", 1.6), ("c/1", None)):
        truth = None if depth_m is None else np.full(SHAPE, depth_m, np.float32)
        save_stack(tmp_path / name, stack, truth)
    return tmp_path


def test_per_stack_family_and_total(tree: Path) -> None:
    seen: list[StackResult] = []
    evaluation = evaluate_stacks(ConstantDepth(), find_stacks(tree), progress=seen.append)
    assert [(s.path.relative_to(tree).as_posix(), s.family) for s in evaluation.stacks] == [
        ("a/1", "a"),
        ("a/2", "a"),
        ("b/1", "b"),
    ]
    assert [s.metrics.abs_rel for s in evaluation.stacks] == pytest.approx([0.0, 1.0, 0.25], abs=1e-3)
    assert tuple(seen) == evaluation.stacks
    assert evaluation.without_truth == (tree / "c/1",)
    a, b = evaluation.families()
    assert (a.name, a.count, b.name, b.count) == ("a", 2, "b", 1)
    assert a.metrics.abs_rel == pytest.approx(0.5, abs=1e-3)
    # Every stack counts the same, not every family.
    assert evaluation.total().metrics.abs_rel == pytest.approx(1.25 / 3, abs=1e-3)
    assert evaluation.total().count == 3
    assert all(s.runtime_s > 0 for s in evaluation.stacks)


def test_nothing_to_score(tree: Path) -> None:
    with pytest.raises(EvaluationError, match="no stack with ground truth"):
        evaluate_stacks(ConstantDepth(), [tree / "c/1"])


def test_truth_outside_the_range_names_the_stack(tree: Path) -> None:
    stack = captured(quantised([texture(SHAPE, i) for i in range(len(FOCUS_M))]))
    save_stack(tree / "a/2", stack, np.full(SHAPE, 6.0, np.float32))
    with pytest.raises(EvaluationError, match="a/2: no true depth inside the focus range"):
        evaluate_stacks(ConstantDepth(), find_stacks(tree))


def made_up(engine: str, abs_rel: float) -> Evaluation:
    def result(name: str, factor: float) -> StackResult:
        values = [0.0] * 11
        values[3], values[10] = abs_rel * factor, math.nan
        return StackResult(Path("root") / name, name.split("/")[0], DepthMetrics(*values), 0.1 * factor)

    return Evaluation(engine, "cpu", (result("a/1", 1), result("a/2", 3), result("b/1", 2)))


def test_table_has_engines_side_by_side() -> None:
    rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in text_table([made_up("x", 0.1), made_up("y", 0.2)]).partition("\n\n")[0].splitlines()
        if line.startswith("|")
    ]
    header = rows[0]
    found = [(r[0], r[1], r[header.index("AbsRel")], r[header.index("ms")]) for r in rows[2:]]
    assert found == [
        ("a (2)", "x", "0.2000", "200"),
        ("a (2)", "y", "0.4000", "200"),
        ("b (1)", "x", "0.2000", "200"),
        ("b (1)", "y", "0.4000", "200"),
        ("total (3)", "x", "0.2000", "200"),
        ("total (3)", "y", "0.4000", "200"),
    ]


def test_one_engine_is_compared_with_nothing() -> None:
    assert "ratio" not in text_table([made_up("x", 0.1)])
    assert set(json.loads(as_json([made_up("x", 0.1)]))) == {"evaluations"}


def test_ratios_to_the_first_engine() -> None:
    evaluations = [made_up("x", 0.1), made_up("y", 0.25), made_up("z", 0.05)]
    rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in text_table(evaluations).partition("ms: median")[2].splitlines()
        if line.startswith("|")
    ]
    header = rows[0]
    found = [(r[0], r[1], r[header.index("AbsRel")], r[header.index("time")]) for r in rows[2:]]
    assert found == [
        (name, f"{engine} / x", ratio, "1.00")
        for name in ("a (2)", "b (1)", "total (3)")
        for engine, ratio in (("y", "2.50"), ("z", "0.50"))
    ]
    # What is nought or does not exist has no ratio.
    assert {r[header.index(c)] for r in rows[2:] for c in ("RMSE", "Bump", "sparsif.")} == {"-"}
    ratios = json.loads(as_json(evaluations))["ratios_to_first"]
    assert list(ratios) == ["y", "z"] and {r["first"] for r in ratios.values()} == {"x"}
    assert ratios["y"]["families"]["b"]["abs_rel"] == pytest.approx(2.5)
    assert ratios["z"]["total"]["abs_rel"] == pytest.approx(0.5)
    assert ratios["z"]["total"]["rmse_m"] is None


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "e.json", [made_up("x", 0.1)])
    text = (tmp_path / "new" / "e.json").read_text()
    document = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    (evaluation,) = document["evaluations"]
    assert (evaluation["engine"], evaluation["device"]) == ("x", "cpu")
    assert evaluation["families"]["a"]["abs_rel"] == pytest.approx(0.2)
    assert evaluation["families"]["a"]["count"] == 2
    assert evaluation["total"]["abs_rel"] == pytest.approx(0.2)
    assert [s["path"] for s in evaluation["stacks"]] == ["root/a/1", "root/a/2", "root/b/1"]
    assert evaluation["stacks"][1]["abs_rel"] == pytest.approx(0.3)
    assert evaluation["stacks"][1]["sparsification"] is None


def test_reports_refuse_what_cannot_be_compared(tmp_path: Path) -> None:
    whole = made_up("x", 0.1)
    with pytest.raises(EvaluationError, match="same stacks"):
        text_table([whole, replace(whole, engine="y", stacks=whole.stacks[:2])])
    with pytest.raises(EvaluationError, match="at least one"):
        as_json([])
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot write"):
        write_json(tmp_path / "file" / "e.json", [whole])


def test_bands_of_families_side_by_side(tree: Path) -> None:
    """Focus reaches from 0.4 to 4 m: the true 1.0 m lies in the second band, 1.6 and 2.0 m in the third."""
    paths = find_stacks(tree)
    evaluations = [evaluate_stacks(ConstantDepth(), paths), evaluate_stacks(ConstantDepth(), paths)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in band_table(evaluations).splitlines()]
    pixels = str(SHAPE[0] * SHAPE[1])
    assert rows[0] == ["stacks", "true depth m", "pixels", "constant", "constant"]
    assert rows[2] == ["a", "0.40 - 0.71", "0", "-", "-"]
    assert rows[3] == ["a", "0.71 - 1.26", pixels, "1.0000 (+1.000)", "1.0000 (+1.000)"]
    assert rows[4] == ["a", "1.26 - 2.25", pixels, "0.0000 (+0.000)", "0.0000 (+0.000)"]
    assert rows[8][:4] == ["b", "1.26 - 2.25", pixels, "0.2500 (+0.250)"]
    document = json.loads(as_json(evaluations[:1]))["evaluations"][0]
    assert document["total"]["bands"] == []
    assert document["families"]["a"]["bands"][1]["abs_rel"] == pytest.approx(1.0, abs=1e-3)
    assert document["families"]["a"]["bands"][0]["abs_rel"] is None
    assert [band["pixels"] for band in document["stacks"][0]["bands"]] == [0, 0, int(pixels), 0]


def test_engines_are_compared_on_what_both_gave_a_depth_for() -> None:
    x, y = made_up("x", 0.1), made_up("y", 0.2)
    y = replace(y, stacks=y.stacks[1:], failures=((Path("root/a/1"), "moved"),))
    with pytest.raises(EvaluationError, match="on the same stacks"):
        text_table([x, y])
    both = in_common([x, y])
    assert [[s.path.name for s in e.stacks] for e in both] == [["2", "1"], ["2", "1"]]
    assert both[0].notes == ("1 stacks left out, for which another engine gave no depth",)
    assert both[1] is y
    assert "total (2)" in text_table(both)
    assert in_common([x]) == [x]
