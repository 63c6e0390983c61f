# SPDX-License-Identifier: Apache-2.0
"""Reads evaluations back from JSON, and pairs their stacks, which may lie elsewhere by now."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.columns import LOOKS, RUNTIME, SCORES, Column

# What is compared, the list in JSON that holds it, and its numbers.
KINDS: dict[str, tuple[Column, ...]] = {"stacks": (*SCORES, RUNTIME), "looks": (*LOOKS, RUNTIME)}
# What a stack of a recording is called, see `results.StampNames`.
STAMP = re.compile(r"\d+\.\d{9}(-\d+)?")


@dataclass(frozen=True)
class Row:
    """The numbers of one stack, by key of the column; NaN: there is none."""

    path: str
    family: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """One engine of one file.

    Attributes:
        file: that it was read from.
        engine: its name.
        rows: for every kind of KINDS, what was found of each stack.
    """

    file: Path
    engine: str
    rows: Mapping[str, tuple[Row, ...]]


def read_candidates(names: Sequence[str]) -> list[tuple[str, Candidate]]:
    """Read what is to be compared, with names that tell them apart.

    Args:
        names: files that `report.write_json` wrote; `FILE:ENGINE` picks one of its engines, else each is one.

    Raises:
        EvaluationError: if a file cannot be read, is not an evaluation, or has no engine of that name; or if there
            are fewer than two to compare.
    """
    found: list[Candidate] = []
    for name in names:
        file, engine = (Path(name), "") if Path(name).exists() else _split(name)
        inside = _read(file)
        if engine:
            engines = [c.engine for c in inside]
            inside = [c for c in inside if c.engine == engine]
            if not inside:
                raise EvaluationError(f"expected one of the engines {engines} of {file}, got {engine!r}")
        found += inside
    if len(found) < 2:
        raise EvaluationError(
            f"expected at least two evaluations to compare, got {len(found)}: name another file, or one with "
            "several engines"
        )
    return list(zip(_labels(found), found, strict=True))


def _split(name: str) -> tuple[Path, str]:
    file, _, engine = name.rpartition(":")
    return (Path(file), engine) if file and Path(file).exists() else (Path(name), "")


def _labels(found: Sequence[Candidate]) -> list[str]:
    """Return engine, name of the file with engine, or path with engine: the first that is different for all."""
    for label in (lambda c: c.engine, lambda c: f"{c.file.stem}:{c.engine}", lambda c: f"{c.file}:{c.engine}"):
        labels = [label(c) for c in found]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{i + 1} {label}" for i, label in enumerate(labels)]


def _read(file: Path) -> list[Candidate]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"cannot read {file}: {error.strerror}; check path and permissions") from error
    except ValueError as error:
        raise EvaluationError(f"expected JSON as `evaluate --json` writes it, {file} is not: {error}") from error
    try:
        return [_candidate(file, entry) for entry in document["evaluations"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"expected an evaluation as `evaluate --json` writes it, {file} is another kind of JSON ({error!r})"
        ) from error


def _candidate(file: Path, entry: Mapping[str, Any]) -> Candidate:
    # Before evaluations without truth were possible, there were no looks.
    found = {"stacks": entry["stacks"], "looks": entry.get("looks", [])}
    rows = {kind: tuple(_row(row, KINDS[kind]) for row in found[kind]) for kind in KINDS}
    for kind in KINDS:
        paths = [row.path for row in rows[kind]]
        twice = (
            next((path for path in paths if paths.count(path) > 1), None) if len(set(paths)) < len(paths) else None
        )
        if twice is not None:
            raise EvaluationError(f"expected every stack once, {file} has {twice} twice")
    return Candidate(file, str(entry["engine"]), rows)


def _row(row: Mapping[str, Any], columns: Sequence[Column]) -> Row:
    values = {c.key: math.nan if row[c.key] is None else float(row[c.key]) for c in columns}
    return Row(str(row["path"]), str(row["family"]), values)


def pair_rows(base: Sequence[Row], other: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the stacks that both have, in the order of `base`.

    The same stack may have been reached by other paths. Two are one where they are of one family and each is, of
    all on its side, the only one that has the longest common end of the path (in whole names) with the other; so a
    stack for which two would do is left out rather than guessed.
    """
    to_other, to_base = _best(base, other), _best(other, base)
    return [(base[i], other[k]) for i, k in sorted(to_other.items()) if to_base.get(k) == i]


def _best(rows: Sequence[Row], others: Sequence[Row]) -> dict[int, int]:
    """Return for each row which other it shares the longest end of its path with, where that is only one."""
    ends: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for k, row in enumerate(others):
        for end in _ends(row):
            ends[end].append(k)
    best = {}
    for i, row in enumerate(rows):
        longest = next((ends[end] for end in _ends(row) if end in ends), [])
        if len(longest) == 1:
            best[i] = longest[0]
    return best


def _ends(row: Row) -> list[tuple[str, ...]]:
    """Return the ends of the path of a stack, longest first, each after its family.

    Of a recording it is the stamp alone: that is the same live and in a replay, whatever the recording is called.
    """
    names = [name for name in re.split(r"[/\\]+", row.path) if name not in ("", ".")]
    if names and STAMP.fullmatch(names[-1]):
        return [(names[-1],)]
    # The root makes an absolute path one that no other can be longer than.
    names = ["/", *names] if row.path.startswith(("/", "\\")) else names
    return [(row.family, *names[i:]) for i in range(len(names))]
