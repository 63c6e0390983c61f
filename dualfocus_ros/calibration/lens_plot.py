# SPDX-License-Identifier: Apache-2.0
"""The picture that `calibrate lens` leaves: focus curve, what is left of its points, focal length."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from dualfocus_ros.calibration.lens import LensResult

DPI = 110
SIZE_INCHES = (11.0, 3.8)


def render_lens(result: LensResult, title: str = "") -> bytes:
    """Return a PNG with three panels.

    Args:
        result: of the calibration.
        title: above them.
    """
    # Imported here: pictures are the only use, and the object interface leaves global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES)
    canvas = FigureCanvasAgg(figure)
    if hasattr(figure, "set_layout_engine"):
        figure.set_layout_engine("compressed")
    else:  # matplotlib 3.5, Ubuntu 22.04
        figure.set_constrained_layout(True)  # type: ignore[attr-defined]
    for draw, axes in zip((_draw_curve, _draw_residuals, _draw_focal_length), figure.subplots(1, 3), strict=True):
        draw(axes, result)
        axes.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.set_dpi(DPI)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_curve(axes: Any, result: LensResult) -> None:
    points, curve = result.points, result.curve
    lens_position = points.position - 0.5 * curve.hysteresis * points.direction
    drift = points.focus_dpt + curve.residual_dpt - curve.dioptres_at(lens_position)
    u = np.asarray(np.linspace(*curve.reach, 300), np.float64)
    for direction, marker, name in ((1, "^", "from below"), (-1, "v", "from above")):
        own = points.direction == direction
        axes.scatter(
            points.position[own],
            (points.focus_dpt - drift)[own],
            c=points.placement[own],
            cmap="tab10",
            marker=marker,
            s=9,
            label=f"corners, lens {name}",
        )
        axes.plot(u + 0.5 * direction * curve.hysteresis, curve.dioptres_at(u), lw=0.8, color="0.4")
    axes.set_xlabel(f"actuator, {result.calibration.unit}", fontsize=8)
    axes.set_ylabel("focus, dpt", fontsize=8)
    axes.set_title(f"focus curve, hysteresis {curve.hysteresis:.3g} {result.calibration.unit}", fontsize=9)
    axes.legend(fontsize=7)


def _draw_residuals(axes: Any, result: LensResult) -> None:
    points, residual = result.points, result.curve.residual_dpt
    axes.axhline(0.0, lw=0.8, color="0.4")
    axes.scatter(points.focus_dpt, residual, c=points.placement, cmap="tab10", s=6)
    rms = float(np.sqrt((residual**2).mean()))
    axes.set_xlabel("focus, dpt", fontsize=8)
    axes.set_ylabel("curve - board, dpt", fontsize=8)
    axes.set_title(f"what is left: {rms:.4f} dpt rms (colours: placements)", fontsize=9)


def _draw_focal_length(axes: Any, result: LensResult) -> None:
    calibration = result.calibration
    axes.set_xlabel("focus, dpt", fontsize=8)
    axes.set_ylabel("fx, px", fontsize=8)
    if result.adjusted is None:
        axes.text(
            0.5, 0.5, "no board: intrinsics of a thin lens", ha="center", fontsize=8, transform=axes.transAxes
        )
        return
    fx = [row[0] for row in calibration.intrinsics]
    axes.plot(calibration.focus_dpt, fx, "o-", ms=3, lw=1.0)
    thin = [
        calibration.thin_lens_intrinsics(max(d, 0.0), *calibration.image_size).fx_px for d in calibration.focus_dpt
    ]
    scale = float(np.mean(fx) / np.mean(thin))
    axes.plot(calibration.focus_dpt, np.array(thin) * scale, "--", lw=0.8, color="0.5", label="thin lens, scaled")
    error = result.adjusted.geometry.focal_length_error
    axes.set_title(f"breathing; fx known to {100 * error:.2g} %", fontsize=9)
    axes.legend(fontsize=7)
