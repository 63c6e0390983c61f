# SPDX-License-Identifier: Apache-2.0
"""`calibrate settle`: measures how long a lens takes to settle and writes it into its lens file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dualfocus_ros.commands.calibrate_device import add_device_arguments, device_settings, opened

if TYPE_CHECKING:
    from dualfocus_ros.calibration.settle import SettleResult
    from dualfocus_ros.lens_calibration import LensCalibration

NAME = "settle"
HELP = "measure how long the lens takes to settle after a move, by pictures of a scene that stands still"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_device_arguments(parser)
    parser.add_argument("--lens", required=True, metavar="LENS", help="lens file, by name or path")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, metavar="DPT", help="deviation that counts as settled, dioptres"
    )
    parser.add_argument(
        "--slices", type=int, default=10, help="slices of the sweep: the shortest move is one step of it"
    )
    parser.add_argument("--repetitions", type=int, default=24, help="of each move; more are made where noise asks")
    parser.add_argument(
        "--max-settle", type=float, default=3.0, metavar="S", help="longest settle time to look for, seconds"
    )
    parser.add_argument(
        "--output", type=Path, help="lens file to write; without: the one that was read, or its copy"
    )
    parser.add_argument("--plot", type=Path, help="picture to write; without: beside the lens file")


def run(args: argparse.Namespace) -> int:
    """Measure, show, write; return the exit code."""
    from dualfocus_ros.calibration.settle import SettleConfig, measure_settle
    from dualfocus_ros.calibration.settle_plot import render_settle
    from dualfocus_ros.lens_file import find_lens, load_lens, save_lens

    lens = load_lens(args.lens)
    output = args.output or output_path(find_lens(args.lens))
    plot = args.plot or output.with_name(f"{output.stem}_settle.png")
    config = SettleConfig(
        tolerance_dpt=args.tolerance,
        slices=args.slices,
        repetitions=args.repetitions,
        max_repetitions=max(96, args.repetitions),
        max_settle_s=args.max_settle,
    )
    with opened(args.camera, device_settings(args.camera, args.parameters, args.lens)) as device:
        result = measure_settle(device, lens.curve, config, lambda text: print(text, flush=True))
    show(result)
    save_lens(with_settle(lens, result), output)
    write_picture(plot, render_settle(result, f"{lens.name}: settling"))
    print(f"wrote {output}\nwrote {plot}")
    return 0


def output_path(read: Path) -> Path:
    """Return where to write a lens file that was read: itself, or, of those in the package, the user's copy."""
    from dualfocus_ros.lens_file import lens_folders

    user, package = lens_folders()
    return user / read.name if read.resolve().is_relative_to(package.resolve()) else read


def with_settle(lens: LensCalibration, result: SettleResult) -> LensCalibration:
    """Return a lens with these settle times."""
    import dataclasses

    spread_s = max(m.curve.spread_s for m in result.moves)
    tolerance_dpt = max(m.tolerance * (m.dpt_per_unit or 1.0) for m in result.moves)
    residuals = {**lens.residuals, "settle_tolerance_dpt": tolerance_dpt, "settle_spread_s": spread_s}
    return dataclasses.replace(lens, settle=result.settle, residuals=residuals)


def show(result: SettleResult) -> None:
    """Print the table."""
    unit = result.unit or "units"
    print(f"\n{'from':>9} {'to':>9}  {unit:<16} {'settled':>9} {'spread':>9} {'tolerance':>10} {'moves':>6}")
    for m in result.moves:
        dpt = f"{m.tolerance * m.dpt_per_unit:.3g} dpt" if m.dpt_per_unit is not None else f"{m.tolerance:.3g}"
        took = f"{1e3 * m.curve.settle_s:6.1f} ms {1e3 * m.curve.spread_s:6.1f} ms"
        print(f"{m.start:9.6g} {m.target:9.6g}  {'':<16} {took} {dpt:>10} {m.repetitions:>6}")
    print("\nsettle of the lens file, the slower side:")
    for move, settle_s in result.settle:
        print(f"{move:9.6g} {unit:<16} {1e3 * settle_s:6.1f} ms")
    for note in result.notes:
        print(f"note: {note}")


def write_picture(path: Path, content: bytes) -> None:
    """Write a picture; raise CalibrationError where that is not possible."""
    from dualfocus_ros.errors import CalibrationError

    try:
        path.write_bytes(content)
    except OSError as error:
        raise CalibrationError(f"cannot write the picture {path}: {error}") from error
