# SPDX-License-Identifier: Apache-2.0
"""How exact `calibrate lens` is: on simulated lenses, each hidden from it, against the truth.

    python scripts/calibration_report.py                 # the table of docs/calibration.md
    python scripts/calibration_report.py --lenses 3 --width 640

Shape of the curve, play, drift, distortion, field curvature, axis, noise and dynamics are drawn for every
lens; two of five focus farther where the actuator goes up. The board stands about where `calibrate lens` asks for.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np

from dualfocus_ros.calibration.lens import LensResult, calibrate_lens
from dualfocus_ros.calibration.placements import Placement, PlacementMeter, SweepPlan
from dualfocus_ros.calibration.placing import wanted_placements
from dualfocus_ros.camera.simulated_lens import SimulatedLensDevice
from dualfocus_ros.camera.simulated_lens_config import SimulatedLensConfig
from dualfocus_ros.camera.simulated_plane import Placement as Pose
from dualfocus_ros.camera.target_board import parse_board
from dualfocus_ros.errors import CalibrationError

ENDS_DPT = (0.6, 6.2)
SETTLE_S = 0.2
HEADER = (
    f"{'lens':>4} {'told':>5} {'dpt':>10} {'worst dpt':>9} {'rms dpt':>8} {'play, steps':>13} {'mdpt/K':>13} "
    f"{'worst fx':>8}"
)


@dataclass(frozen=True)
class Score:
    """Errors of one calibration: of the focus in dioptres (largest and rms), and of fx (largest, relative)."""

    worst_dpt: float
    rms_dpt: float
    fx: float


def hidden_lens(seed: int, width: int, board: str, optics: tuple[float, float, float]) -> SimulatedLensConfig:
    """Return a lens drawn by a seed; `optics` are focal length, f-number and width of the sensor."""
    rng = np.random.default_rng(seed)
    far_dpt, near_dpt = ENDS_DPT[::-1] if rng.random() < 0.4 else ENDS_DPT
    return SimulatedLensConfig(
        width=width,
        height=width * 3 // 4,
        target=board,
        seed=seed,
        lens_seed=seed,
        far_dpt=far_dpt,
        near_dpt=near_dpt,
        hysteresis=float(rng.uniform(0.0, 40.0)),
        dpt_per_k=float(rng.uniform(-0.02, 0.02)),
        warmup_s=float(rng.uniform(60.0, 250.0)),
        k1=float(rng.uniform(-0.15, 0.05)),
        field_curvature_dpt=float(rng.uniform(-0.1, 0.1)),
        axis_shift_px=float(rng.uniform(-6.0, 6.0) * width / 320),
        full_scale_electrons=float(rng.uniform(3000.0, 20000.0)),
        motion=("slew", "ring")[seed % 2],
        focal_length_m=optics[0],
        f_number=optics[1],
        sensor_width_m=optics[2],
    )


def measure(device: SimulatedLensDevice, count: int, reach_m: tuple[float, float]) -> list[Placement]:
    """Measure placements about where they are asked for; those in which the board is not found are left out."""
    rng = np.random.default_rng(device.config.seed)
    meter = PlacementMeter(device, parse_board(device.config.target), SweepPlan(settle_s=SETTLE_S))
    found = []
    for want in wanted_placements(count, *reach_m):
        tilts = want.tilt_x_deg + rng.uniform(-5.0, 5.0), want.tilt_y_deg + rng.uniform(-5.0, 5.0)
        aside = rng.uniform(-0.05, 0.05, 2) * want.distance_m
        about_m = want.distance_m * rng.uniform(0.97, 1.03)
        device.place(Pose(about_m, *tilts, rng.uniform(-8.0, 8.0), *aside))
        try:
            found.append(meter.measure())
        except CalibrationError as error:
            print(f"     left out a placement at {about_m:.2f} m: {error}")
    return found


def score(device: SimulatedLensDevice, result: LensResult, end_c: float) -> Score:
    """Compare with the truth at the temperature of the curve, else at the end of the session."""
    c, size = result.calibration, (device.config.width, device.config.height)
    celsius = end_c if c.temperature_c is None else c.temperature_c
    at = np.linspace(c.curve.positions[0], c.curve.positions[-1], 200)
    truth = np.array([device.true_focus_dpt(float(u), celsius) for u in at])
    off = np.array([c.curve.dioptres_at(float(u)) for u in at]) - truth
    fx = []
    for focus_dpt in np.linspace(truth.min(), truth.max(), 20):
        found = c.intrinsics_at(float(focus_dpt), *size)
        if found is not None:
            fx.append(abs(found.fx_px / device.true_intrinsics(float(focus_dpt)).fx_px - 1.0))
    return Score(float(np.abs(off).max()), float(np.sqrt((off**2).mean())), max(fx))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="seed of the first")
    parser.add_argument("--width", type=int, default=320, help="of the pictures")
    parser.add_argument("--placements", type=int, default=8, help="of the board")
    parser.add_argument("--near", type=float, default=0.22, help="nearest placement, metres")
    parser.add_argument("--far", type=float, default=0.6, help="farthest placement, metres")
    parser.add_argument("--board", default="charuco:8x6:0.03:0.022:DICT_4X4_50", help="as in calibrate lens")
    parser.add_argument(
        "--optics",
        nargs=3,
        type=float,
        default=(0.008, 1.6, 0.0064),
        metavar=("FOCAL_M", "F_NUMBER", "SENSOR_M"),
        help="focal length, f-number and width of the sensor",
    )
    args = parser.parse_args()
    print(HEADER)
    scores: dict[bool, list[Score]] = {True: [], False: []}
    for seed in range(args.first, args.first + args.lenses):
        config = hidden_lens(seed, args.width, args.board, tuple(args.optics))
        with SimulatedLensDevice(config) as device:
            placements = measure(device, args.placements, (args.near, args.far))
            end_c = device.temperature_c(device.clock.now())
        silent = [replace(p, shots=tuple(replace(s, temperature_c=None) for s in p.shots)) for p in placements]
        for told, session in ((True, placements), (False, silent)):
            board, lens = parse_board(config.target), config.lens_model
            result = calibrate_lens(session, board, lens, name=f"lens {seed}", unit="step", date="")
            scores[told].append(score(device, result, end_c))
            print(row(seed, told, config, result, scores[told][-1]), flush=True)
    for told, found in scores.items():
        worst, fx = [s.worst_dpt for s in found], [100.0 * s.fx for s in found]
        rms = np.median([s.rms_dpt for s in found])
        print(
            f"temperature {'told' if told else 'not told'}: worst error of a lens: median {np.median(worst):.4f}, "
            f"largest {max(worst):.4f} dpt; rms: median {rms:.4f} dpt; fx: median {np.median(fx):.2f}, "
            f"largest {max(fx):.2f} %"
        )


def row(seed: int, told: bool, config: SimulatedLensConfig, result: LensResult, found: Score) -> str:
    """Return a line of the table."""
    c = result.calibration
    low, high = sorted((c.curve.focus_dpt[0], c.curve.focus_dpt[-1]))
    play = f"{c.hysteresis:.1f} ({config.hysteresis:.1f})"
    drift = f"{1e3 * c.dpt_per_k:.1f} ({1e3 * config.dpt_per_k:.1f})" if told else ""
    return (
        f"{seed:>4} {'yes' if told else 'no':>5} {low:4.2f}..{high:4.2f} {found.worst_dpt:9.4f} "
        f"{found.rms_dpt:8.4f} "
        f"{play:>13} {drift:>13} {100.0 * found.fx:6.2f} %"
    )


if __name__ == "__main__":
    main()
