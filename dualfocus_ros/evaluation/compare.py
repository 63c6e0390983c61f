# SPDX-License-Identifier: Apache-2.0
"""Compares evaluations of the same stacks: differences, how sure they are, and what that means.

What differs between two engines on one stack differs less than stacks do among each other, so the differences are
taken stack by stack, and the interval of their mean comes from drawing stacks anew (the bootstrap: Efron and
Tibshirani, An Introduction to the Bootstrap, 1993; bias corrected and accelerated, chapter 14).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from dualfocus_ros.errors import EvaluationError
from dualfocus_ros.evaluation.candidates import KINDS, Candidate, Row, pair_rows
from dualfocus_ros.evaluation.columns import Better, Column
from dualfocus_ros.evaluation.report import write_text

CONFIDENCE = 0.95
MIN_PAIRS = 3
RESAMPLES = 9999
SEED = 0
BATCH_NUMBERS = 2_000_000  # drawn at a time: memory
TITLES = {"stacks": "against ground truth", "looks": "what can be said without ground truth"}

Verdict = Literal["better", "worse", "higher", "lower", "not told apart", "too few pairs"]


@dataclass(frozen=True)
class Difference:
    """One number of a candidate and of the base, over the stacks where both have it.

    Attributes:
        column: which number.
        pairs: how many stacks.
        base: mean of the base; NaN without stacks.
        other: mean of the candidate.
        difference: of these, candidate - base.
        low: start of the interval in which the true mean difference lies with a confidence of 95 %; NaN with fewer
            than MIN_PAIRS.
        high: its end.
    """

    column: Column
    pairs: int
    base: float
    other: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What the interval says; `higher` and `lower` where neither is better."""
        if self.pairs < MIN_PAIRS:
            return "too few pairs"
        if self.low <= 0.0 <= self.high:
            return "not told apart"
        return _verdict(self.difference > 0.0, self.column.better)


def _verdict(is_higher: bool, better: Better) -> Verdict:
    if better == "neither":
        return "higher" if is_higher else "lower"
    return "better" if is_higher == (better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """A candidate against the base, of one kind of number.

    Attributes:
        kind: `stacks` (against ground truth) or `looks`.
        base: its name.
        other: name of the candidate.
        pairs: stacks that both have.
        only_base: paths of stacks that only the base has.
        only_other: paths of stacks that only the candidate has.
        total: differences over all pairs.
        families: the same for every family.
    """

    kind: str
    base: str
    other: str
    pairs: int
    only_base: tuple[str, ...]
    only_other: tuple[str, ...]
    total: tuple[Difference, ...]
    families: dict[str, tuple[Difference, ...]]


def compare(candidates: Sequence[tuple[str, Candidate]]) -> list[Comparison]:
    """Compare every candidate with the first, in all that both have.

    Args:
        candidates: as `read_candidates` gives them.

    Raises:
        EvaluationError: if a candidate has no stack in common with the first.
    """
    (base_name, base), *others = candidates
    found = []
    for name, other in others:
        kinds = [_compare_kind(kind, (base_name, base), (name, other)) for kind in KINDS]
        both = [comparison for comparison in kinds if comparison is not None]
        if not both:
            raise EvaluationError(
                f"expected stacks in common, {base_name} of {base.file} has {_count(base)}, {name} of "
                f"{other.file} has {_count(other)}. Stacks are matched by the ends of paths in a family, "
                "those of recordings by their stamps: evaluate the same recording or folder with both settings"
            )
        found += both
    return found


def _count(candidate: Candidate) -> str:
    stacks, looks = candidate.rows["stacks"], candidate.rows["looks"]
    first = next((f", the first {row.path}" for row in (*stacks, *looks)), "")
    return f"{len(stacks)} with truth and {len(looks)} looked at without{first}"


def _compare_kind(kind: str, base: tuple[str, Candidate], other: tuple[str, Candidate]) -> Comparison | None:
    mine, theirs = base[1].rows[kind], other[1].rows[kind]
    pairs = pair_rows(mine, theirs)
    if not pairs:
        return None
    paired_base, paired_other = ({pair[side].path for pair in pairs} for side in (0, 1))
    return Comparison(
        kind,
        base[0],
        other[0],
        len(pairs),
        tuple(row.path for row in mine if row.path not in paired_base),
        tuple(row.path for row in theirs if row.path not in paired_other),
        _differences(kind, pairs),
        {
            family: _differences(kind, [p for p in pairs if p[0].family == family])
            for family in dict.fromkeys(row.family for row, _ in pairs)
        },
    )


def _differences(kind: str, pairs: Sequence[tuple[Row, Row]]) -> tuple[Difference, ...]:
    return tuple(
        difference(c, np.array([(a.values[c.key], b.values[c.key]) for a, b in pairs])) for c in KINDS[kind]
    )


def difference(column: Column, values: npt.NDArray[np.float64]) -> Difference:
    """Compare one number.

    Args:
        column: which it is.
        values: (K, 2) of base and candidate for each stack; a stack for which either is not finite is left out.
    """
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        return Difference(column, 0, *[math.nan] * 5)
    change = known[:, 1] - known[:, 0]
    low, high = bootstrap_interval(change) if len(known) >= MIN_PAIRS else (math.nan, math.nan)
    base, other = (float(mean) for mean in known.mean(axis=0))
    return Difference(column, len(known), base, other, float(change.mean()), low, high)


def bootstrap_interval(change: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the interval of the mean of (K,) differences, K at least 2; the same at every call.

    Where the data are too much alike for the corrections to exist, it is that between percentiles.
    """
    from scipy import stats

    if np.ptp(change) == 0.0:
        return float(change[0]), float(change[0])
    ends = (math.nan, math.nan)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (change,),
                np.mean,
                n_resamples=RESAMPLES,
                batch=max(1, BATCH_NUMBERS // len(change)),
                vectorized=True,
                confidence_level=CONFIDENCE,
                method=method,
                random_state=np.random.default_rng(SEED),
            ).confidence_interval
        ends = float(found.low), float(found.high)
        if all(math.isfinite(end) for end in ends):
            break
    return ends


def comparison_text(comparisons: Sequence[Comparison], families: bool = False) -> str:
    """Return tables: one for each candidate, and one for each of its families if asked for."""
    parts = []
    for c in comparisons:
        parts.append(f"{c.other} against {c.base}, {TITLES[c.kind]}: {_pairing(c)}\n\n{_table(c, c.total)}")
        if families:
            parts += [f"family {name}:\n\n{_table(c, found)}" for name, found in c.families.items()]
    parts.append(
        "difference: mean over the stacks that both have, the second minus the first; interval: bootstrap over "
        "stacks. Where it holds 0, the two are not told apart. Of twenty numbers that do not differ, one is "
        "expected to seem to."
    )
    return "\n\n".join(parts)


def _pairing(c: Comparison) -> str:
    text = f"{c.pairs} stacks in both"
    for name, paths in ((c.base, c.only_base), (c.other, c.only_other)):
        if paths:
            text += f", {len(paths)} only in {name} ({paths[0]}{' ...' if len(paths) > 1 else ''})"
    return text


def _table(c: Comparison, found: Sequence[Difference]) -> str:
    rows = []
    for d in found:
        column = d.column
        interval = f"{_signed(column, d.low)} .. {_signed(column, d.high)}" if d.pairs >= MIN_PAIRS else "-"
        means = [column.format(v) if d.pairs else "-" for v in (d.base, d.other)]
        better = "" if column.better == "neither" else column.better
        change = _signed(column, d.difference) if d.pairs else "-"
        rows.append([column.title, better, *means, change, interval, d.pairs, d.verdict])
    headers = ["", "better", c.base, c.other, "difference", f"{CONFIDENCE:.0%} interval", "stacks", "verdict"]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    return table


def _signed(column: Column, value: float) -> str:
    """Return a difference with one more digit than the number itself, as it is smaller."""
    digits = int(column.spec[1:-1]) + 1
    return f"{column.scale * value:+.{digits}f}"


def comparison_json(comparisons: Sequence[Comparison]) -> str:
    """Return all comparisons as strict JSON (a number that does not exist is null), in the units of the keys."""
    document = {
        "confidence": CONFIDENCE,
        "comparisons": [
            {
                "kind": c.kind,
                "base": c.base,
                "other": c.other,
                "pairs": c.pairs,
                "only_base": list(c.only_base),
                "only_other": list(c.only_other),
                "total": _documents(c.total),
                "families": {name: _documents(found) for name, found in c.families.items()},
            }
            for c in comparisons
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _documents(found: Sequence[Difference]) -> dict[str, dict[str, Any]]:
    numbers = ("base", "other", "difference", "low", "high")
    return {
        d.column.key: {
            "better": d.column.better,
            "pairs": d.pairs,
            **{name: v if math.isfinite(v := getattr(d, name)) else None for name in numbers},
            "verdict": d.verdict,
        }
        for d in found
    }


def write_comparison(path: str | Path, comparisons: Sequence[Comparison]) -> None:
    """Write `comparison_json` to a file, making its folder.

    Raises:
        EvaluationError: if the file cannot be written.
    """
    write_text(path, comparison_json(comparisons))
