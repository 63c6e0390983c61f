# SPDX-License-Identifier: Apache-2.0
"""The numbers that reports show: what each is called, its unit, and which way is better.

One table for all reports and for comparisons, so that none of them can have its own opinion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Column:
    """One number of a stack or of a group of stacks.

    Attributes:
        key: its field in `DepthMetrics` or `Plausibility`, or `runtime_s`; also its name in JSON.
        title: in plain text, with the unit.
        label: in typeset text, without.
        unit: typeset; empty: it has none.
        better: which way is better; `neither` where that is not to be said.
        spec: how it is formatted, after multiplication with `scale`.
        meaning: in words.
        scale: from the unit of the field to that shown.
    """

    key: str
    title: str
    label: str
    unit: str
    better: Better
    spec: str
    meaning: str
    scale: float = 1.0

    def format(self, value: float) -> str:
        """Return a value of the field as text, in the unit shown; a dash where it is not known."""
        return format(self.scale * value, self.spec) if math.isfinite(value) else "-"


# Against ground truth: the fields of DepthMetrics, in their order.
SCORES = (
    Column("mse_m2", "MSE m2", "MSE", "m²", "lower", ".4f", "mean squared error"),
    Column("rmse_m", "RMSE m", "RMSE", "m", "lower", ".4f", "root of the mean squared error"),
    Column("log_rmse", "log RMSE", "log RMSE", "", "lower", ".4f", "root mean squared difference of logarithms"),
    Column("abs_rel", "AbsRel", "AbsRel", "", "lower", ".4f", "mean of |error| / truth"),
    Column("sq_rel_m", "SqRel m", "SqRel", "m", "lower", ".4f", "mean of error² / truth"),
    Column("delta1", "delta1", "δ₁", "", "higher", ".4f", "share of the pixels within a factor of 1.25"),
    Column("delta2", "delta2", "δ₂", "", "higher", ".4f", "share of the pixels within a factor of 1.25²"),
    Column("delta3", "delta3", "δ₃", "", "higher", ".4f", "share of the pixels within a factor of 1.25³"),
    Column("bump", "Bump", "Bump", "", "lower", ".3f", "100 × clipped norm of the Hessian of the error"),
    Column("coverage", "coverage", "coverage", "", "higher", ".3f", "share of the pixels that have an estimate"),
    Column(
        "sparsification",
        "sparsif.",
        "sparsif.",
        "",
        "lower",
        ".3f",
        "how well the confidence sorts the error: 1 is not at all",
    ),
)
RUNTIME = Column("runtime_s", "ms", "time", "ms", "lower", ".0f", "median time of alignment and engine", 1e3)
# Without ground truth: the fields of Plausibility. More confidence or a larger plane is not better as such.
LOOKS = (
    Column("coverage", "coverage", "coverage", "", "higher", ".3f", "share of the pixels that have an estimate"),
    Column("confidence", "confidence", "confidence", "", "neither", ".3f", "mean confidence of these"),
    Column(
        "instability",
        "instability",
        "instability",
        "",
        "lower",
        ".4f",
        "median relative change of depth from the stack before; what moved counts, too",
    ),
    Column(
        "plane_residual",
        "plane residual",
        "plane residual",
        "",
        "lower",
        ".4f",
        "how far the points of the largest plane lie off it, relative to their depth",
    ),
    Column("plane_share", "plane share", "plane share", "", "neither", ".3f", "share of the points on that plane"),
)
