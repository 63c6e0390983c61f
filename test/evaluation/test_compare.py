# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualfocus_ros.cli import main
from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.candidates import Row, pair_rows, read_candidates
from dualfocus_ros.evaluation.columns import LOOKS, RUNTIME, SCORES
from dualfocus_ros.evaluation.compare import (
    MIN_PAIRS,
    Comparison,
    bootstrap_interval,
    compare,
    comparison_text,
    difference,
)

ABS_REL = next(c for c in SCORES if c.key == "abs_rel")


def scored(engine: str, abs_rel: dict[str, float], **others: float) -> dict[str, Any]:
    """Return one engine as in a file: every other number is 0.5, unless it is given."""
    stacks = []
    for path, value in abs_rel.items():
        numbers = {c.key: others.get(c.key, 0.5) for c in (*SCORES, RUNTIME)}
        stacks.append({"path": path, "family": path.split("/")[-2], **numbers, "abs_rel": value})
    return {"engine": engine, "device": "cpu", "stacks": stacks}


def looked_at(engine: str, instability: Sequence[float | None], confidence: float) -> dict[str, Any]:
    numbers = {c.key: 0.5 for c in (*LOOKS, RUNTIME)}
    looks = [
        {"path": f"run/{i}", "family": "run", **numbers, "instability": v, "confidence": confidence}
        for i, v in enumerate(instability)
    ]
    return {"engine": engine, "device": "cpu", "stacks": [], "looks": looks}


def write(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text(json.dumps({"evaluations": list(entries)}))
    return str(path)


def numbers(seed: int, root: str = "root", count: int = 20) -> dict[str, float]:
    values = np.random.default_rng(seed).uniform(0.02, 0.2, count)
    return {f"{root}/{'near' if i % 2 else 'far'}/{i}": float(v) for i, v in enumerate(values)}


def shifted(values: dict[str, float], mean: float, noise: float, seed: int = 5) -> dict[str, float]:
    steps = np.random.default_rng(seed).normal(0.0, noise, len(values))
    steps += mean - steps.mean()
    return {path: v + float(s) for (path, v), s in zip(values.items(), steps, strict=True)}


def only(comparisons: list[Comparison]) -> Comparison:
    (found,) = comparisons
    return found


def test_a_small_shift_of_every_stack_is_told_apart(tmp_path: Path) -> None:
    """Stacks differ by 0.18 among each other, engines by 0.003 on each: only pairs can show it."""
    base = numbers(0)
    a = write(tmp_path / "a.json", scored("x", base))
    b = write(tmp_path / "b.json", scored("x", shifted(base, -0.003, 0.003)))
    found = only(compare(read_candidates([a, b])))
    assert (found.base, found.other, found.pairs) == ("a:x", "b:x", 20)
    by_key = {d.column.key: d for d in found.total}
    d = by_key["abs_rel"]
    assert d.difference == pytest.approx(-0.003)
    assert d.base == pytest.approx(np.mean(list(base.values())))
    # About 2 standard errors of the mean to both sides.
    assert (d.low, d.high) == pytest.approx((-0.003 - 0.0013, -0.003 + 0.0013), abs=4e-4)
    assert d.verdict == "better"
    assert {e.verdict for key, e in by_key.items() if key != "abs_rel"} == {"not told apart"}
    back = only(compare(read_candidates([b, a])))
    assert {d.column.key: d.verdict for d in back.total}["abs_rel"] == "worse"


def test_noise_is_not_told_apart(tmp_path: Path) -> None:
    base = numbers(0)
    a = write(tmp_path / "a.json", scored("x", base), scored("y", shifted(base, 0.001, 0.01)))
    found = only(compare(read_candidates([a])))
    assert (found.base, found.other) == ("x", "y")
    d = next(d for d in found.total if d.column is ABS_REL)
    assert d.low < 0.0 < d.high and d.verdict == "not told apart"


def test_higher_is_better_where_it_is(tmp_path: Path) -> None:
    base = numbers(0)
    a = write(tmp_path / "a.json", scored("x", base), scored("y", base, delta1=0.6, coverage=0.4, rmse_m=0.4))
    verdicts = {d.column.key: d.verdict for d in only(compare(read_candidates([a]))).total}
    assert (verdicts["delta1"], verdicts["coverage"], verdicts["rmse_m"]) == ("better", "worse", "better")


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(0.4, 1.0, 30))
        hits += low <= 0.4 <= high
    assert 0.90 <= hits / 300 <= 0.985
    skewed = [bootstrap_interval(rng.exponential(1.0, 40)) for _ in range(200)]
    assert 0.87 <= np.mean([low <= 1.0 <= high for low, high in skewed]) <= 0.985


def test_the_interval_is_the_same_at_every_call_and_exists_for_odd_data() -> None:
    change = np.random.default_rng(2).normal(size=12)
    assert bootstrap_interval(change) == bootstrap_interval(change)
    assert bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)
    for odd in ([0.0, 0.0, 1.0], [0.0] * 9 + [1.0], [1.0, 1.0 + 1e-16, 2.0]):
        low, high = bootstrap_interval(np.array(odd))
        assert min(odd) <= low <= high <= max(odd)


def test_fewer_than_three_pairs_have_no_interval(tmp_path: Path) -> None:
    base = numbers(0, count=2)
    a = write(tmp_path / "a.json", scored("x", base), scored("y", shifted(base, 0.1, 0.0)))
    found = only(compare(read_candidates([a])))
    d = next(d for d in found.total if d.column is ABS_REL)
    assert (d.pairs, d.verdict) == (2, "too few pairs") and math.isnan(d.low)
    assert d.difference == pytest.approx(0.1)
    assert "too few pairs" in comparison_text([found])


def test_what_one_of_the_two_does_not_have_is_left_out() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 9.0], [2.0, 3.0], [3.0, 4.0], [5.0, np.inf]])
    d = difference(ABS_REL, values)
    assert (d.pairs, d.base, d.other, d.low, d.high) == (MIN_PAIRS, 2.0, 3.0, 1.0, 1.0)
    assert difference(ABS_REL, values[1:2]).pairs == 0


def rows(*paths: str) -> list[Row]:
    return [Row(path, path.split("/")[-2], {}) for path in paths]


@pytest.mark.parametrize(
    ("base", "other", "expected"),
    [
        (["r/a/1", "r/a/2"], ["r/a/2", "r/a/1"], [("r/a/1", "r/a/1"), ("r/a/2", "r/a/2")]),
        (["/r/a/1", "/r/b/1"], ["s/t/b/1", "s/t/a/1"], [("/r/a/1", "s/t/a/1"), ("/r/b/1", "s/t/b/1")]),
        # Two of the other would do equally well, or one for two of ours: none is guessed.
        (["r/a/1"], ["s/a/1", "t/a/1"], []),
        (["r/a/1", "s/a/1"], ["t/a/1"], []),
        (["r/a/1", "s/a/1"], ["s/a/1"], [("s/a/1", "s/a/1")]),
        (["q/r/a/1", "q/s/a/1"], ["p/s/a/1", "p/r/a/1"], [("q/r/a/1", "p/r/a/1"), ("q/s/a/1", "p/s/a/1")]),
        # The same number of another family is another stack.
        (["r/a/1"], ["r/b/1"], []),
        (["./r/a/1"], ["r/a/1"], [("./r/a/1", "r/a/1")]),
        (["/r/a/1", "/x/r/a/1"], ["/x/r/a/1", "/r/a/1"], [("/r/a/1",) * 2, ("/x/r/a/1",) * 2]),
    ],
)
def test_pairs_by_the_end_of_the_path(base: list[str], other: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(a.path, b.path) for a, b in pair_rows(rows(*base), rows(*other))] == expected


def test_unmatched_stacks_are_told(tmp_path: Path) -> None:
    base = numbers(0)
    other = {path.replace("root", "elsewhere/deep"): v + 0.01 for path, v in list(base.items())[3:]}
    other["elsewhere/deep/near/77"] = 0.5
    a, b = write(tmp_path / "a.json", scored("x", base)), write(tmp_path / "b.json", scored("y", other))
    found = only(compare(read_candidates([a, b])))
    assert (found.pairs, len(found.only_base), found.only_other) == (17, 3, ("elsewhere/deep/near/77",))
    text = comparison_text([found])
    assert "y against x" in text and "17 stacks in both, 3 only in x (root/far/0 ...), 1 only in y (else" in text


def test_families(tmp_path: Path) -> None:
    base = numbers(0)
    other = {path: v + (0.02 if "near" in path else -0.02) for path, v in base.items()}
    a = write(tmp_path / "a.json", scored("x", base), scored("y", other))
    found = only(compare(read_candidates([a])))
    verdicts = {name: {d.column.key: d.verdict for d in ds}["abs_rel"] for name, ds in found.families.items()}
    assert verdicts == {"far": "better", "near": "worse"}
    assert "family far" in comparison_text([found], families=True)
    assert "family far" not in comparison_text([found])


def test_without_truth(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a.json",
        looked_at("x", [None, 0.1, 0.2, 0.3, 0.4], 0.5),
        looked_at("y", [None, 0.2, 0.3, 0.4, 0.5], 0.7),
    )
    found = only(compare(read_candidates([a])))
    by_key = {d.column.key: d for d in found.total}
    assert (found.kind, found.pairs, by_key["instability"].pairs) == ("looks", 5, 4)
    # More confidence is neither better nor worse.
    assert (by_key["instability"].verdict, by_key["confidence"].verdict) == ("worse", "higher")


def test_several_candidates_and_picking_one(tmp_path: Path) -> None:
    base = numbers(0)
    a = write(tmp_path / "a.json", scored("x", base), scored("y", base))
    b = write(tmp_path / "b:c.json", scored("x", base), scored("z", base))

    def names(*files: str) -> list[str]:
        return [name for name, _ in read_candidates(files)]

    assert names(a, f"{b}:z") == ["x", "y", "z"]
    assert names(f"{a}:y", b) == ["y", "x", "z"]
    assert names(a, b) == ["a:x", "a:y", "b:c:x", "b:c:z"]
    assert len(compare(read_candidates([a, b]))) == 3
    (tmp_path / "other").mkdir()
    again = write(tmp_path / "other" / "a.json", scored("x", base))
    assert names(f"{a}:x", again) == [f"{a}:x", f"{again}:x"]
    assert names(again, again) == [f"1 {again}:x", f"2 {again}:x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not"),
        ("{", "expected JSON as `evaluate --json` writes it"),
        ("[]", "another kind of JSON"),
        ("3", "another kind of JSON"),
        ("{}", "another kind of JSON"),
        ('{"evaluations": 3}', "another kind of JSON"),
        ('{"evaluations": [{"engine": "x"}]}', "another kind of JSON"),
        ('{"evaluations": [{"engine": "x", "stacks": [{"path": "p", "family": "f"}]}]}', "another kind of JSON"),
        ('{"evaluations": []}', "at least two evaluations"),
    ],
)
def test_files_that_are_no_evaluation(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EvaluationError, match=expected) as caught:
        read_candidates([str(tmp_path / "a.json")])
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", scored("x", numbers(0)))
    b = write(tmp_path / "b.json", scored("x", {"root/other/1": 0.1}))
    with pytest.raises(EvaluationError, match="stacks in common.*20 with truth.*1 with truth"):
        compare(read_candidates([a, b]))
    with pytest.raises(EvaluationError, match=r"one of the engines \['x'\].*'q'"):
        read_candidates([a, f"{b}:q"])
    with pytest.raises(EvaluationError, match="cannot read .*absent.json"):
        read_candidates([a, str(tmp_path / "absent.json")])
    with pytest.raises(EvaluationError, match="at least two"):
        read_candidates([a])
    twice = scored("x", numbers(0))
    twice["stacks"].append(twice["stacks"][0])
    with pytest.raises(EvaluationError, match="root/far/0 twice"):
        read_candidates([write(tmp_path / "c.json", twice)])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = numbers(0)
    a = write(tmp_path / "a.json", scored("x", base))
    b = write(tmp_path / "b.json", scored("y", shifted(base, -0.01, 0.001)))
    out = tmp_path / "new" / "c.json"
    assert main(["compare", a, b, "--families", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["", "better", "x", "y", "difference", "95% interval", "stacks", "verdict"]
    row = next(r for r in table if r[0] == "AbsRel")
    assert (row[1], row[4], row[6], row[7]) == ("lower", "-0.01000", "20", "better")
    document = json.loads(out.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    (found,) = document["comparisons"]
    assert found["total"]["abs_rel"]["verdict"] == "better"
    assert found["families"]["near"]["abs_rel"]["pairs"] == 10
    assert found["total"]["abs_rel"]["low"] < -0.01 < found["total"]["abs_rel"]["high"]
    assert main(["compare", a, str(tmp_path / "absent.json")]) == 1
    assert capsys.readouterr().err.startswith("dualfocus: cannot read")


def test_stacks_of_recordings_are_one_by_their_stamp(tmp_path: Path) -> None:
    """Live, in a replay, and in a part of the recording; never by their place in a list."""
    from dualfocus_ros.evaluation.candidates import Row, pair_rows

    def rows(family: str, *seconds: int) -> list[Row]:
        return [Row(f"{family}/{s}.000000001", family, {}) for s in seconds]

    offline, live, part = rows("run1", 10, 11, 12, 13), rows("live", 11, 12, 14), rows("run1", 12, 13)
    assert [(a.path, b.path) for a, b in pair_rows(offline, live)] == [
        ("run1/11.000000001", "live/11.000000001"),
        ("run1/12.000000001", "live/12.000000001"),
    ]
    assert [a.path for a, _ in pair_rows(offline, part)] == ["run1/12.000000001", "run1/13.000000001"]
    twice = [*rows("live", 11), *rows("live", 11)]
    assert pair_rows(offline, twice) == []
