# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import builtins
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import SHAPE, errors, evaluation, observation, read, written

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.columns import LOOKS, SCORES
from dualfocus_ros.evaluation.html import HtmlReport
from dualfocus_ros.evaluation.report import as_json

pytest.importorskip("jinja2")


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    page = written(tmp_path / "new" / "r.html", errors(9), errors(9, "second"))
    assert page.unclosed == []
    assert page.headings[0] == "A title"
    assert {"Summary", "Ratios", "Error by distance", "Every stack", "Pictures", "Settings"} <= set(page.headings)
    # Only pictures in the page, and places in it.
    assert {re.split(r"[,;]|(?<=#)", a)[0] for a in page.addresses} == {
        "data:",
        "data:image/png",
        "data:image/jpeg",
        "#",
    }
    assert "://" not in page.source and "@import" not in page.source and "url(" not in page.source
    assert len(page.images) == 2 * 6 * 5 and all(alt for alt, _ in page.images)
    assert all(p.shape == (*SHAPE, 3) for p in page.pictures())
    assert len(page.charts) == 2 + 2 + len(page.images) // 5 * 4  # bands, sparsification, places
    assert "breathing" in page.text


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    first = written(tmp_path / "a.html", errors(5), errors(5, "second"))
    assert written(tmp_path / "b.html", errors(5), errors(5, "second")).source == first.source


def test_numbers_are_those_of_the_json(tmp_path: Path) -> None:
    engines = [errors(6), [observation("second", str(o.result.path), 0.1) for o in errors(6) if o.result]]
    page = written(tmp_path / "r.html", *engines)
    document = json.loads(as_json([evaluation(o) for o in engines]))
    found, group = {}, ""
    for row in page.tables["scores"][1:]:
        group = row[0][0].partition(" (")[0] if len(row) == len(SCORES) + 3 else group
        found[group, row[-len(SCORES) - 2][0]] = row[-len(SCORES) - 1 :]
    for e in document["evaluations"]:
        for name, group in {"total": e["total"], **e["families"]}.items():
            cells = found[name, e["engine"]]
            values = [group[c.key] for c in SCORES] + [group["runtime_s"]]
            assert [float(value) for _, value in cells] == values
            assert [text for text, _ in cells[:-1]] == [
                c.format(v) for c, v in zip(SCORES, values[:-1], strict=True)
            ]
    stacks = {(row[0][0], row[1][0]): row[2:] for row in page.tables["stacks"][1:]}
    for e in document["evaluations"]:
        for s in e["stacks"]:
            cells = stacks[s["path"].removeprefix("data/"), e["engine"]]
            assert [float(value) for _, value in cells[:-1]] == [s[c.key] for c in SCORES]
    ratio = next(r for r in page.tables["ratios"] if r[0][0] == "total (6)")
    assert float(ratio[4][1]) == document["ratios_to_first"]["second"]["total"]["abs_rel"]
    bands = [b for f in document["evaluations"][0]["families"].values() for b in f["bands"]]
    assert [float(row[-6][1]) for row in page.tables["bands"][1:]] == [b["abs_rel"] for b in bands]


def test_the_best_engine_of_a_group_is_marked(tmp_path: Path) -> None:
    others = [observation("second", str(o.result.path), 0.001) for o in errors(4) if o.result]
    source = written(tmp_path / "r.html", errors(4), others).source
    table = source[source.index('id="table-scores"') : source.index('id="table-ratios"')]
    rows = [re.findall(r"<td([^>]*)>", row) for row in re.findall(r"<tr.*?</tr>", table)]
    # AbsRel is third from the end of a row but for 8.
    assert ["best" in row[-9] for row in rows if row] == [False, True] * 3


def test_memory_is_bounded_however_many_stacks_come(tmp_path: Path) -> None:
    report, pictures = HtmlReport("many", 4), 4
    stack = errors(1)[0]
    observations = {engine: [] for engine in ("first", "second")}
    most = 0
    for engine, made in observations.items():
        for i in range(200):
            # Ever worse: each is the worst so far.
            o = observation(engine, f"d/a/{i}", 0.001 * (i + 1))
            made.append(o)
            report.observe(o)
            most = max(most, report.kept)
    assert 2 * pictures <= most <= (2 * pictures + 1) + (pictures + 2)
    report.write(tmp_path / "r.html", [evaluation(made) for made in observations.values()])
    names = [a.rpartition(" of ")[2] for a in read(tmp_path / "r.html").alts("Depth estimate")]
    by_first = [n.split(" by ")[0] for n in names if n.endswith("first")]
    by_second = [n.split(" by ")[0] for n in names if n.endswith("second")]
    # Half are the worst, worst first; the best is last; one is between.
    assert by_first[:2] == ["a/199", "a/198"] and by_first[3] == "a/0" and len(by_first) == pictures
    assert 0 < int(by_first[2].split("/")[1]) < 198
    assert by_second == by_first
    assert stack.result is not None


def test_the_worst_of_another_engine_is_shown_besides(tmp_path: Path) -> None:
    mine = [observation("first", f"d/a/{i}", 0.01 * (i + 1)) for i in range(20)]
    theirs = [observation("second", f"d/a/{i}", 0.9 if i == 5 else 0.01) for i in range(20)]
    page = written(tmp_path / "r.html", mine, theirs, pictures=3)
    assert "Depth estimate of a/5 by second" in page.alts("Depth")
    assert "Depth estimate of a/5 by first" not in page.alts("Depth")
    assert len(page.alts("Depth estimate")) == 3 + 4


@pytest.mark.parametrize("pictures", [0, 1, 2, 50])
def test_any_number_of_pictures(pictures: int, tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", errors(7), pictures=pictures)
    assert len(page.alts("Depth estimate")) == min(pictures, 7)
    assert ("Pictures" in page.headings) == (pictures > 0)


def test_without_truth_there_is_no_error(tmp_path: Path) -> None:
    observations = errors(5, truth=False, look=True)
    page = written(tmp_path / "r.html", observations)
    assert set(page.tables) == {"looks", "looked"}
    titles = {alt.split(" of ")[0] for alt, _ in page.images}
    assert titles == {"All-in-focus image", "Depth estimate", "Confidence"}
    assert "Error by distance" not in page.headings and "AbsRel" not in page.text
    (e,) = json.loads(as_json([evaluation(observations)]))["evaluations"]
    rows = {row[0][0]: row for row in page.tables["looked"][1:]}
    for look in e["looks"]:
        cells = rows[look["path"].removeprefix("data/")][2:]
        assert [float(v) if v else None for _, v in cells[:-1]] == [look[c.key] for c in LOOKS]


def test_a_stack_without_any_estimate_is_the_worst(tmp_path: Path) -> None:
    from dataclasses import replace

    from dualfocus_ros.evaluation.plausibility import look_at

    observations = errors(3, truth=False, look=True)
    empty = observation("first", "data/a/9", 0.1, truth=False, look=True)
    assert empty.look is not None
    estimate = replace(empty.estimate, depth_m=np.full(SHAPE, np.nan, np.float32))
    look = replace(empty.look, plausibility=look_at(estimate))
    page = written(tmp_path / "r.html", [*observations, replace(empty, estimate=estimate, look=look)])
    assert page.alts("Depth estimate")[0] == "Depth estimate of a/9 by first"
    assert len(page.charts) == 3 * 4


def test_truth_and_looks_together(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", errors(3, look=True))
    assert {"scores", "looks", "stacks", "looked"} <= set(page.tables)
    ids = re.findall(r'\bid="([^"]*)"', page.source)
    assert len(set(ids)) == len(ids) > 6
    assert page.alts("Signed relative error") and "Without ground truth" in page.headings


def test_names_are_escaped(tmp_path: Path) -> None:
    name, engine, bad = "d/<b>&'\"x/1 & 2", 'on<x>"&', "<script>alert(1)</script>"
    o = observation(engine, name, 0.1)
    report = HtmlReport(bad)
    report.observe(o)
    report.write(
        tmp_path / "r.html",
        [evaluation([o], notes=(bad,), failures=((Path(bad), bad),), counts={bad: 1})],
        {bad: bad},
    )
    page = read(tmp_path / "r.html")
    assert page.unclosed == [] and page.source.count("<script>") == 1
    assert page.headings[0] == bad
    assert f"Depth estimate of <b>&'\"x/1 & 2 by {engine}" in page.alts("Depth")
    assert page.tables["stacks"][1][0][0] == "<b>&'\"x/1 & 2"
    assert page.text.count(bad) >= 6


def test_notes_failures_counts_and_time(tmp_path: Path) -> None:
    o = errors(2)
    report = HtmlReport("notes")
    failures = ((Path("d/8"), "it moved"), (Path("d/9"), "it moved"))
    made = evaluation(
        o, notes=("no lens",), counts={"frames": 7}, failures=failures, elapsed_s=4.0, engine_s=1.0, align_s=0.5
    )
    report.write(tmp_path / "r.html", [made])
    text = " ".join(read(tmp_path / "r.html").text.split())
    for part in ("no lens", "7 frames", "no depth: it moved (2 stacks)", "d/8, d/9", "first: 4.0 s"):
        assert part in text, part
    assert "engine 1.0 s" in text and "alignment 0.5 s" in text and "rest 2.5 s" in text


def test_looking_is_cheap() -> None:
    report = HtmlReport("quick")
    made = errors(30)
    report.observe(made[0])
    start = time.perf_counter()
    for o in made[1:]:
        report.observe(o)
    assert (time.perf_counter() - start) / 29 < 0.05


def test_the_worst_places_are_where_the_error_is_and_apart() -> None:
    from dualfocus_ros.evaluation.kept import SPOT_DISTANCE, KeptStack, worst_places

    badness = np.zeros((60, 80), np.float32)
    badness[10, 10], badness[50, 70], badness[12, 12], badness[30:40, :20] = 5.0, 4.0, 4.5, np.nan
    places = worst_places(badness, 2)
    assert np.abs(np.subtract(places, [(11, 11), (50, 70)])).max() <= 1
    assert worst_places(np.full((4, 4), np.nan, np.float32)) == []
    kept = KeptStack.of(observation("x", "d/a/1", 0.5))
    assert kept.spots[0].x < 0.5  # the error is at the left
    assert kept.spots[0].depth_m > 1.1 * kept.spots[0].truth_m
    xy = np.array([(s.x * SHAPE[1], s.y * SHAPE[0]) for s in kept.spots])
    distances = np.linalg.norm(xy[:, None] - xy, axis=2)[np.triu_indices(len(xy), 1)]
    assert len(xy) > 2 and distances.min() >= SPOT_DISTANCE * np.hypot(*SHAPE) - 1.5


@pytest.mark.parametrize("breathing", ["none", "thin_lens", "camera_info"])
def test_sharpness_peaks_at_the_true_focus(breathing: Any) -> None:
    """Also where the field of view changes."""
    from dataclasses import replace

    import cv2
    from synthetic_stacks import FOCUS_M, captured, quantised, render, texture

    from dualfocus_ros.align import metadata_intrinsics, reference_to_slice
    from dualfocus_ros.evaluation.kept import sharpness_at

    slices, _ = render(texture((120, 160)), [0.65])
    stack = captured(quantised(slices))
    if breathing != "none":
        ks = metadata_intrinsics(stack, "thin_lens")
        moved = []
        for s, k in zip(stack.slices, ks, strict=True):
            m = reference_to_slice(ks[stack.reference], k)
            image = cv2.warpAffine(s.image, m, s.image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
            moved.append(replace(s, image=image, intrinsics=k if breathing == "camera_info" else s.intrinsics))
        stack = replace(stack, slices=tuple(moved))
    for curve in sharpness_at(stack, [(0.5, 0.5), (0.15, 0.2), (0.8, 0.85)], breathing):
        assert np.argmax(curve) == FOCUS_M.index(0.65) and curve.max() == 1.0


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = errors(2)
    report = HtmlReport("x")
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot write"):
        report.write(tmp_path / "file" / "r.html", [evaluation(made)])
    with pytest.raises(EvaluationError, match="at least one evaluation"):
        report.write(tmp_path / "r.html", [])
    with pytest.raises(EvaluationError, match="at least 0"):
        HtmlReport("x", -1)
    real = builtins.__import__
    for package in ("jinja2", "matplotlib"):

        def absent(name: str, *args: object, package: str = package, **kwargs: object) -> object:
            if name.partition(".")[0] == package:
                raise ImportError(f"No module named {name!r}")
            return real(name, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(builtins, "__import__", absent)
        with pytest.raises(EvaluationError, match=f"needs the package {package}"):
            report.write(tmp_path / "r.html", [evaluation(made)])
    assert not (tmp_path / "r.html").exists()
