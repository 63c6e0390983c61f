# SPDX-License-Identifier: Apache-2.0
"""`calibrate lens`: focus curve and intrinsics of a lens, by a board or by things at known distances."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualfocus_ros.commands.calibrate_board import BOARD_HELP, DEFAULT_BOARD
from dualfocus_ros.commands.calibrate_device import add_device_arguments, device_settings, opened
from dualfocus_ros.commands.calibrate_settle import write_picture

if TYPE_CHECKING:
    from dualfocus_ros.calibration.lens import LensResult
    from dualfocus_ros.calibration.placements import Placement
    from dualfocus_ros.calibration.session import Session
    from dualfocus_ros.camera.device import DeviceConfig
    from dualfocus_ros.camera.target_board import Board
    from dualfocus_ros.types import LensModel

NAME = "lens"
HELP = "find at which distance a lens is focused at each position of its actuator, and its intrinsics there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_device_arguments(parser)
    parser.add_argument("--name", required=True, help="name of the lens file to write")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="lens file to write; without: where it is found"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--lens-model",
        nargs=3,
        type=float,
        metavar=("FOCAL_M", "F_NUMBER", "PITCH_M"),
        help="focal length (m), f-number and pixel pitch (m) at the size of the pictures, of the data sheet",
    )
    model.add_argument("--like", metavar="LENS", help="take these, and the settle time, from a lens file")
    parser.add_argument("--board", default=DEFAULT_BOARD, metavar="BOARD", help=BOARD_HELP)
    parser.add_argument("--placements", type=int, default=8, help="how many times the board is placed")
    parser.add_argument("--near", type=float, default=0.25, metavar="M", help="nearest placement, metres")
    parser.add_argument("--far", type=float, default=2.0, metavar="M", help="farthest placement, metres")
    parser.add_argument(
        "--distances",
        nargs="+",
        type=float,
        metavar="M",
        help="no board: anything flat and textured, placed at these distances from the lens, metres",
    )
    parser.add_argument("--settle", type=float, metavar="S", help="time that the lens gets to settle, seconds")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="evaluate these measurements again; no camera is used",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, show, write; return the exit code."""
    from dualfocus_ros.calibration.lens import calibrate_lens
    from dualfocus_ros.calibration.lens_plot import render_lens
    from dualfocus_ros.calibration.session import load_session, save_session
    from dualfocus_ros.lens_file import save_lens

    output = args.output or output_path(args.name)
    measurements = output.with_name(f"{output.stem}_measurements.json")
    if args.source is not None:
        session = load_session(args.source)
    else:
        session = measure(args)
        save_session(session, measurements)
        print(f"wrote {measurements}")
    result = calibrate_lens(
        session.placements, session.board, session.lens, name=args.name, unit=session.unit, date=session.date
    )
    show(result)
    plot = output.with_name(f"{output.stem}_lens.png")
    save_lens(with_old_settle(result, args.like), output)
    write_picture(plot, render_lens(result, f"{args.name}: {result.calibration.method}"))
    print(f"wrote {output}\nwrote {plot}")
    return 0


def measure(args: argparse.Namespace) -> Session:
    """Measure all placements."""
    import datetime

    from dualfocus_ros.calibration.placements import PlacementMeter, SweepPlan
    from dualfocus_ros.calibration.session import Session
    from dualfocus_ros.camera.target_board import parse_board

    board = None if args.distances else parse_board(args.board)
    config = device_settings(args.camera, _with_target(args, board))
    lens, settle_s = lens_model(args, config)
    placements: list[Placement] = []
    with opened(args.camera, config) as device:
        plan = SweepPlan(frame_timeout_s=config.frame_timeout_s)
        if settle_s is not None:
            plan = SweepPlan(settle_s=settle_s, frame_timeout_s=config.frame_timeout_s)
        meter = PlacementMeter(device, board, plan)
        for number, distance_m in placing(args, device):
            placement = _measured(meter, number, distance_m)
            if placement is not None:
                placements.append(placement)
        unit = device.focus_range.unit
    date = datetime.date.today().isoformat()
    return Session(tuple(placements), board, lens, unit, date)


def lens_model(args: argparse.Namespace, config: DeviceConfig) -> tuple[LensModel, float | None]:
    """Return the data sheet values of the lens, and its settle time where that is known or given.

    Raises:
        ParameterError: if they are not told.
    """
    from dualfocus_ros.errors import ParameterError
    from dualfocus_ros.lens_file import load_lens
    from dualfocus_ros.types import LensModel

    settle_s: float | None = args.settle
    if args.lens_model is not None:
        return LensModel(*args.lens_model), settle_s
    if args.like is not None:
        like = load_lens(args.like)
        if settle_s is None and like.settle:
            settle_s = like.settle[-1][1]
        return like.lens_for(config.width, config.height), settle_s
    own = getattr(config, "lens_model", None)  # the simulated lens knows its data sheet
    if own is None:
        raise ParameterError(
            "expected --lens-model FOCAL_M F_NUMBER PITCH_M of the data sheet, or --like LENS, got neither: how a "
            "lens blurs depends on its pupil, which a board does not tell"
        )
    return own, settle_s


def placing(args: argparse.Namespace, device: Any) -> Iterator[tuple[str, float | None]]:
    """Yield number and typed-in distance of placement after placement, once the target is there.

    Raises:
        CalibrationError: if there is nobody to ask.
    """
    from dualfocus_ros.calibration.placing import wanted_placements
    from dualfocus_ros.errors import CalibrationError

    wanted: list[tuple[str, float | None, Any]]
    if args.distances:
        wanted = [(f"at exactly {d:g} m from the lens, straight on", d, None) for d in args.distances]
    else:
        wanted = [(w.words, None, w) for w in wanted_placements(args.placements, args.near, args.far)]
    simulated = hasattr(device, "place")
    if not simulated and not sys.stdin.isatty():
        raise CalibrationError("expected a terminal: somebody has to place the target and to press Enter")
    for i, (words, distance_m, want) in enumerate(wanted, start=1):
        number = f"{i}/{len(wanted)}"
        if simulated:
            _place(device, distance_m, want)
        else:
            print(f"\nplacement {number}: put the target {words}.")
            answer = input("Enter to measure, s to skip, d when done: ").strip().lower()
            if answer == "d":
                return
            if answer == "s":
                continue
        yield number, distance_m


def _measured(meter: Any, number: str, distance_m: float | None) -> Placement | None:
    """Measure one placement and say how good it is; None, said, where it is of no use."""
    from tqdm import tqdm

    from dualfocus_ros.errors import CalibrationError

    with tqdm(total=meter.pictures, desc=f"placement {number}", leave=False, disable=None) as bar:
        try:
            placement: Placement = meter.measure(distance_m, bar.update)
        except CalibrationError as error:
            print(f"placement {number}: left out: {error}")
            return None
    found = sum(shot.corners is not None for shot in placement.shots)
    seen = "" if distance_m is not None else f", board in {found} of {len(placement.shots)} pictures"
    print(
        f"placement {number}: {placement.windows_in_focus} of {len(placement.ids)} windows came into focus{seen}"
    )
    return placement


def _with_target(args: argparse.Namespace, board: Board | None) -> list[str]:
    """Return the settings of the driver; a simulated lens is shown the target that is asked for."""
    told = any(text.startswith("target:=") for text in args.parameters)
    if args.camera != "simulated_lens" or told:
        return list(args.parameters)
    return [*args.parameters, f"target:={board if board is not None else 'texture'}"]


def _place(device: Any, distance_m: float | None, want: Any) -> None:
    from dualfocus_ros.camera.simulated_plane import Placement as Place

    if distance_m is not None:
        device.place(Place(distance_m))
    else:
        device.place(Place(want.distance_m, want.tilt_x_deg, want.tilt_y_deg))


def output_path(name: str) -> Path:
    """Return where a lens file of that name is written: a checkout's config/lenses, else the user's folder."""
    from dualfocus_ros.lens_file import lens_folders

    user, package = lens_folders()
    in_checkout = (package.parent.parent / "package.xml").is_file() and (
        package.parent.parent / "setup.py"
    ).is_file()
    return (package if in_checkout else user) / f"{name}.yaml"


def with_old_settle(result: LensResult, like: str | None) -> Any:
    """Return the lens file with the settle times of the one that it was made like, where that was calibrated."""
    import dataclasses

    from dualfocus_ros.lens_file import load_lens

    if like is None:
        return result.calibration
    return dataclasses.replace(result.calibration, settle=load_lens(like).settle)


def show(result: LensResult) -> None:
    """Print what was found."""
    import numpy as np
    from tabulate import tabulate

    c, points = result.calibration, result.points
    rows = []
    for i in np.unique(points.placement):
        own = points.placement == i
        off = result.curve.residual_dpt[own]
        d = points.focus_dpt[own]
        rms = float(np.sqrt((off**2).mean()))
        rows.append([int(i) + 1, int(own.sum()), d.min(), d.max(), off.mean(), rms, float(np.abs(off).max())])
    names = ["placement", "points", "from dpt", "to dpt", "mean off", "rms off", "max off"]
    print("\n" + tabulate(rows, headers=names, floatfmt=".3f"))
    low, high = sorted((c.curve.focus_dpt[0], c.curve.focus_dpt[-1]))
    far = f"{1.0 / low:.3g} m" if low > 0.0 else "infinity"
    print(f"\nfocus {1.0 / high:.3g} m to {far}, {c.residuals['focus_rms_dpt']:.4f} dpt rms over all points")
    print(f"hysteresis {c.hysteresis:.3g} {c.unit}")
    if c.temperature_c is not None:
        print(f"{1e3 * c.dpt_per_k:.2f} mdpt per kelvin, curve for {c.temperature_c:.1f} degrees Celsius")
    if result.adjusted is not None:
        fx = [row[0] for row in c.intrinsics]
        error = 100.0 * result.adjusted.geometry.focal_length_error
        corners_px = c.residuals["corners_rms_px"]
        print(f"fx {min(fx):.1f} to {max(fx):.1f} px, known to {error:.2g} %; corners {corners_px:.3f} px rms")
    for note in result.notes:
        print(f"note: {note}")
