# SPDX-License-Identifier: Apache-2.0
"""The focus curve of a lens: actuator position to dioptres, with hysteresis and drift, from how sharp things were.

Each window of a picture shows something at a known distance. Blur is linear in dioptres, so its 1 / energy^2 is a
parabola in C(position - direction * hysteresis / 2) + drift - 1 / distance, with its lowest point at 0. Height and
width of the parabolas differ from window to window and follow from the rest; the curve C, hysteresis and drift are
those with which all parabolas fit best. To fit the peak of each window by itself is not as good: over a bent curve
peaks are lopsided in actuator units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from dualfocus_ros.calibration.focus_samples import FocusPoints, FocusSamples
from dualfocus_ros.calibration.sharpness import FloatArray
from dualfocus_ros.errors import CalibrationError

# Knots of the curve: no more than this, and no more than one for so many windows.
MAX_KNOTS, POINTS_A_KNOT = 16, 4
# Deviations of 1 / energy^2 from its parabola beyond this count less, relative.
ROBUST = 0.02
# How much the slope may change from knot to knot, as part of the mean slope: a weak belief.
PRIOR_BEND = 1.0
# Believed to be small, standard deviations in dioptres: drift over the session or ten kelvin; field curvature.
PRIOR_DRIFT_DPT, PRIOR_CURVATURE_DPT = 0.3, 0.15
# Temperatures that differ by less tell nothing of the drift with them, kelvin.
LEAST_WARMING_K = 1.0
LEAST_POINTS = 6
LEAST_RANGE_DPT = 0.2
KNOTS_OF_RESULT = 25
# Windows farther off than so many deviations, and than this, are left out and told.
OUTLIER_SIGMAS, OUTLIER_DPT = 6.0, 0.05
# Least part of the mean slope that the curve rises with.
_LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class FittedCurve:
    """The focus curve as fitted.

    Attributes:
        knots: positions of the lens, ascending; some lie beyond `reach`.
        values_dpt: there, strictly monotone.
        reach: lowest and highest position of the lens at which something of known distance was sharp.
        hysteresis: play, in units.
        reference_c: temperature of the curve; None: not told.
        dpt_per_k: drift with temperature.
        drift_dpt: (2,) drift with time where temperature is not told, even and bent part over the session: the
            curve is that of its end.
        field_curvature_dpt: by how much the corners of the picture are focused nearer; the curve is of its middle.
        residual_dpt: (K,) of the points: the curve where they are sharpest, less what it should be.
    """

    knots: FloatArray
    values_dpt: FloatArray
    reach: tuple[float, float]
    hysteresis: float
    reference_c: float | None
    dpt_per_k: float
    drift_dpt: FloatArray
    field_curvature_dpt: float
    residual_dpt: FloatArray

    def dioptres_at(self, lens_position: FloatArray | float) -> FloatArray:
        """Return the focus at positions of the lens, dioptres; beyond the ends it goes straight on."""
        return _curve(self.knots, self.values_dpt, np.asarray(lens_position, float))

    def sampled(self) -> tuple[FloatArray, FloatArray]:
        """Return positions and dioptres of points between which straight lines are good enough."""
        u = np.asarray(np.linspace(*self.reach, KNOTS_OF_RESULT), np.float64)
        return u, self.dioptres_at(u)


def fit_curve(samples: FocusSamples) -> tuple[FittedCurve, FocusPoints]:
    """Fit the curve, robustly and monotone: its knots only rise, or only fall, with a PCHIP in between.

    PCHIP: Fritsch and Carlson, Monotone piecewise cubic interpolation (1980).

    Returns:
        The curve, and the points as the fit has them.

    Raises:
        CalibrationError: if there are too few windows, or they lie in too small a range.
    """
    _check(samples.points)
    model = _Model(samples)
    x = model.solve(samples, model.start())
    off_dpt, error_dpt = model.offsets(samples, x)
    wrong = _outliers(off_dpt)
    if wrong.any() and (~wrong).sum() >= LEAST_POINTS:
        x = model.solve(samples.without(wrong), x)
        off_dpt, error_dpt = model.offsets(samples, x)
    return model.result(samples, x, off_dpt, error_dpt, wrong)


class _Model:
    """Parameters: first value of the curve, rises from knot to knot, play, drift (2), field curvature."""

    def __init__(self, samples: FocusSamples) -> None:
        p = samples.points
        u, d = p.position, p.focus_dpt
        self.sign = 1.0 if np.corrcoef(u, d)[0, 1] >= 0.0 else -1.0
        self.count = int(np.clip(len(u) // POINTS_A_KNOT, 3, MAX_KNOTS))
        low, high = float(samples.position.min()), float(samples.position.max())
        self.knots = np.asarray(np.linspace(low, high, self.count), np.float64)
        self.slope = float(np.ptp(d) / np.ptp(u))
        self.told = bool(np.isfinite(p.temperature_c).all()) and np.ptp(p.temperature_c) >= LEAST_WARMING_K
        self.reference_c = float(np.median(p.temperature_c)) if self.told else None
        self.times = float(p.time_s.min()), float(p.time_s.max())

    def start(self) -> FloatArray:
        """Return a straight line: the curve of the peaks is close enough only where they are many."""
        return np.concatenate([[np.nan], self.slope * np.diff(self.knots), np.zeros(4)])

    def solve(self, samples: FocusSamples, start: FloatArray) -> FloatArray:
        """Return the best parameters."""
        p = samples.points
        if np.isnan(start[0]):
            # The straight line through the middle of the points.
            middle = np.median(p.focus_dpt) - self.sign * self.slope * (np.median(p.position) - self.knots[0])
            start = np.concatenate([[middle], start[1:]])
            start = self._least(start, self._of_peaks(samples))
        return self._least(start, self._of_sharpness(samples))

    def _least(self, start: FloatArray, residuals: Callable[[FloatArray], FloatArray]) -> FloatArray:
        least = _LEAST_SLOPE * self.slope * np.diff(self.knots)
        low = np.concatenate([[-np.inf], least, [0.0], np.full(3, -np.inf)])
        inside = np.maximum(start, low + 1e-9)
        found = least_squares(residuals, inside, bounds=(low, np.inf), loss="soft_l1", x_scale="jac", max_nfev=100)
        x: FloatArray = found.x
        return x

    def values(self, x: FloatArray) -> FloatArray:
        """Return the curve at its knots."""
        rises = np.concatenate([[0.0], np.cumsum(x[1 : self.count])])
        values: FloatArray = x[0] + self.sign * rises
        return values

    def focus(
        self, x: FloatArray, position: FloatArray, direction: FloatArray, warming: FloatArray, off_axis: FloatArray
    ) -> FloatArray:
        """Return the focus in dioptres."""
        n = self.count
        lens = position - 0.5 * x[n] * direction
        drift = warming @ x[n + 1 : n + 3]
        focus: FloatArray = _curve(self.knots, self.values(x), lens) + drift + x[n + 3] * off_axis
        return focus

    def warming(self, time_s: FloatArray, temperature_c: FloatArray) -> FloatArray:
        """Return what drift is linear in (M, 2): temperature per ten kelvin, else time, even and bent."""
        if self.reference_c is not None:
            return np.column_stack([(temperature_c - self.reference_c) / 10.0, np.zeros_like(time_s)])
        ago = (time_s - self.times[1]) / max(self.times[1] - self.times[0], 1e-9)
        return np.column_stack([ago, ago**2])

    def _beliefs(self, x: FloatArray) -> FloatArray:
        n = self.count
        bends = np.diff(x[1:n] / np.diff(self.knots)) / self.slope / PRIOR_BEND
        return np.concatenate([bends, x[n + 1 : n + 3] / PRIOR_DRIFT_DPT, [x[n + 3] / PRIOR_CURVATURE_DPT]])

    def _of_peaks(self, samples: FocusSamples) -> Callable[[FloatArray], FloatArray]:
        p = samples.points
        warming = self.warming(p.time_s, p.temperature_c)

        def residuals(x: FloatArray) -> FloatArray:
            off = self.focus(x, p.position, p.direction, warming, samples.off_axis) - p.focus_dpt
            return np.concatenate([off / 0.03, self._beliefs(x)])

        return residuals

    def _of_sharpness(self, samples: FocusSamples) -> Callable[[FloatArray], FloatArray]:
        defocus = self._defocus(samples)

        def residuals(x: FloatArray) -> FloatArray:
            off, _ = _parabolas(samples, defocus(x), lopsided=False)
            return np.concatenate([off / ROBUST, self._beliefs(x)])

        return residuals

    def _defocus(self, samples: FocusSamples) -> Callable[[FloatArray], FloatArray]:
        warming = self.warming(samples.time_s, samples.temperature_c)
        direction, off_axis = samples.direction, samples.off_axis[samples.window]
        target = samples.points.focus_dpt[samples.window]
        return lambda x: self.focus(x, samples.position, direction, warming, off_axis) - target

    def offsets(self, samples: FocusSamples, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return how far from 0 the parabola of each window has its lowest point (K,), and the error of that."""
        off, fit = _parabolas(samples, self._defocus(samples)(x), lopsided=True)
        solution, inverse = fit
        free = np.maximum(np.bincount(samples.window, minlength=len(solution)) - 3, 1)
        variance = np.bincount(samples.window, off**2, len(solution)) / free
        with np.errstate(divide="ignore", invalid="ignore"):
            lowest = np.where(solution[:, 1] > 0.0, -0.5 * solution[:, 2] / solution[:, 1], np.nan)
            error = np.sqrt(variance * np.maximum(inverse[:, 2, 2], 0.0)) / (2.0 * np.abs(solution[:, 1]))
        return lowest, error

    def result(
        self,
        samples: FocusSamples,
        x: FloatArray,
        off_dpt: FloatArray,
        error_dpt: FloatArray,
        wrong: npt.NDArray[np.bool_],
    ) -> tuple[FittedCurve, FocusPoints]:
        """Return the curve and its points."""
        n, values = self.count, self.values(x)
        defocus = self._defocus(samples)(x)
        at = np.array([_where(samples, defocus, k, off) for k, off in enumerate(off_dpt)])
        p = samples.points
        slope = np.abs(
            PchipInterpolator(self.knots, values).derivative()(np.clip(at, self.knots[0], self.knots[-1]))
        )
        points = replace(p, position=at, error_units=error_dpt / np.maximum(slope, _LEAST_SLOPE * self.slope))
        lens = (at - 0.5 * x[n] * p.direction)[~wrong]
        curve = FittedCurve(
            knots=self.knots,
            values_dpt=values,
            reach=(float(lens.min()), float(lens.max())),
            hysteresis=float(x[n]),
            reference_c=self.reference_c,
            dpt_per_k=float(x[n + 1] / 10.0) if self.told else 0.0,
            drift_dpt=np.zeros(2) if self.told else x[n + 1 : n + 3],
            field_curvature_dpt=float(x[n + 3]),
            residual_dpt=np.where(np.isfinite(off_dpt), off_dpt, 0.0),
        )
        return curve, points


def _parabolas(
    samples: FocusSamples, x: FloatArray, lopsided: bool
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Fit each window's 1 / energy^2 = a + b x^2 (+ c x) by least squares of relative errors.

    Returns:
        Relative deviations (M,), and of each window the solution (K, 2 or 3) and the inverse of its normal matrix.
    """
    k, count = samples.window, len(samples.off_axis)
    y = samples.sharpness**-2.0
    columns = np.stack([np.ones_like(x), x * x, *([x] if lopsided else [])]) / y
    size = len(columns)
    normal, right = np.empty((count, size, size)), np.empty((count, size))
    for i in range(size):
        right[:, i] = np.bincount(k, columns[i], count)
        for j in range(size):
            normal[:, i, j] = np.bincount(k, columns[i] * columns[j], count)
    inverse = np.asarray(np.linalg.pinv(normal), np.float64)
    solution = np.einsum("kij,kj->ki", inverse, right)
    off: FloatArray = np.einsum("im,mi->m", columns, solution[k]) - 1.0
    return off, (solution, inverse)


def _where(samples: FocusSamples, defocus: FloatArray, window: int, off_dpt: float) -> float:
    """Return the position of the actuator at which a window is sharpest."""
    own = samples.window == window
    x, u = defocus[own], samples.position[own]
    order = np.argsort(x)
    return float(np.interp(off_dpt if np.isfinite(off_dpt) else 0.0, x[order], u[order]))


def _outliers(off_dpt: FloatArray) -> npt.NDArray[np.bool_]:
    known = off_dpt[np.isfinite(off_dpt)]
    deviation = 1.4826 * float(np.median(np.abs(known))) if known.size else 0.0
    wrong: npt.NDArray[np.bool_] = ~(np.abs(off_dpt) <= max(OUTLIER_SIGMAS * deviation, OUTLIER_DPT))
    return wrong


def _curve(knots: FloatArray, values: FloatArray, at: FloatArray) -> FloatArray:
    curve = PchipInterpolator(knots, values)
    ends = curve.derivative()(knots[[0, -1]])
    inside = curve(np.clip(at, knots[0], knots[-1]))
    result: FloatArray = (
        inside + np.minimum(at - knots[0], 0.0) * ends[0] + np.maximum(at - knots[-1], 0.0) * ends[1]
    )
    return result


def _check(points: FocusPoints) -> None:
    if len(points.position) < LEAST_POINTS:
        raise CalibrationError(
            f"expected {LEAST_POINTS} or more windows that are sharp somewhere, got {len(points.position)}: add "
            "placements, where the lens can focus"
        )
    reach = float(np.ptp(points.focus_dpt))
    if reach < LEAST_RANGE_DPT or np.ptp(points.position) <= 0.0:
        raise CalibrationError(
            f"expected placements over {LEAST_RANGE_DPT} dpt or more, got {reach:.3f} dpt: place the target "
            "nearer and farther"
        )
