# SPDX-License-Identifier: Apache-2.0
"""The picture that `calibrate settle` leaves: deviations over time, the curve through them, the tolerance."""

from __future__ import annotations

import io
import math

import numpy as np

from dualfocus_ros.calibration.settle import SettleResult
from dualfocus_ros.calibration.settle_moves import MoveResult

# Shown around the tolerance: so many times it, upwards and downwards.
SHOWN_TOLERANCES = 6.0
SHOWN_SETTLE_TIMES = 1.8
PANEL_INCHES = (4.6, 2.5)
DPI = 110


def render_settle(result: SettleResult, title: str = "") -> bytes:
    """Return a PNG: one panel a move, moves from below left, from above right.

    Args:
        result: of the measurement.
        title: above all panels.
    """
    # Imported here: pictures are the only use, and the object interface leaves global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2
    rows = math.ceil(len(result.moves) / columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.4))
    canvas = FigureCanvasAgg(figure)
    if hasattr(figure, "set_layout_engine"):
        figure.set_layout_engine("compressed")
    else:  # matplotlib 3.5, Ubuntu 22.04
        figure.set_constrained_layout(True)  # type: ignore[attr-defined]
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes, move in zip(panels, result.moves, strict=False):
        _draw(axes, move, result.unit)
    for axes in panels[len(result.moves) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    figure.set_dpi(DPI)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes, move: MoveResult, unit: str) -> None:  # type: ignore[no-untyped-def]
    scale = move.dpt_per_unit if move.dpt_per_unit is not None else 1.0
    shown_unit = "dpt" if move.dpt_per_unit is not None else unit or "units"
    tolerance = move.tolerance * scale
    settle_s = move.curve.settle_s
    axes.axhspan(-tolerance, tolerance, color="tab:green", alpha=0.18, lw=0, label=f"± {tolerance:.3g}")
    axes.plot(
        1e3 * move.samples.middle_s, move.samples.deviation * scale, ".", ms=2.5, color="0.55", label="exposures"
    )
    axes.plot(1e3 * move.curve.time_s, move.curve.deviation * scale, "-", lw=1.2, color="tab:blue", label="curve")
    axes.axvline(1e3 * settle_s, color="tab:red", lw=1.0, label="settled")
    end_s = max(SHOWN_SETTLE_TIMES * settle_s, settle_s + 0.03)
    axes.set_xlim(0.0, 1e3 * end_s)
    axes.set_ylim(-SHOWN_TOLERANCES * tolerance, SHOWN_TOLERANCES * tolerance)
    axes.set_title(f"{move.start:g} to {move.target:g} {unit}: {1e3 * settle_s:.1f} ms", fontsize=9)
    axes.set_xlabel("since the command, ms", fontsize=8)
    axes.set_ylabel(f"deviation, {shown_unit}", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper right")
