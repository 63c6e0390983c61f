# SPDX-License-Identifier: Apache-2.0
"""`dataset`: published data sets as focal stacks on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "dataset"
HELP = "write a published data set as focal stacks, for evaluate and infer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="which data set; see --list")
    parser.add_argument(
        "--list", action="store_true", help="show all data sets, where to get them and their splits"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the data as they were downloaded")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="stacks go to DIR/NAME/SPLIT/, which must be empty"
    )
    parser.add_argument(
        "--split", metavar="SPLIT", help="part of the data; what the literature reports, if not given"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N stacks")


def run(args: argparse.Namespace) -> int:
    """Write the stacks, or list the data sets; return the exit code."""
    from dualfocus_ros.datasets.export import export_dataset
    from dualfocus_ros.datasets.files import need
    from dualfocus_ros.datasets.registry import find_dataset
    from dualfocus_ros.errors import ParameterError

    if args.list:
        print(_table())
        return 0
    missing = [option for option in ("name", "root", "out") if getattr(args, option) is None]
    if missing:
        words = ", ".join("NAME" if option == "name" else f"--{option}" for option in missing)
        raise ParameterError(
            f"expected NAME --root DIR --out DIR, missing: {words}; `dataset --list` shows the names"
        )
    dataset = find_dataset(args.name)
    bar = need("tqdm").tqdm
    done = export_dataset(
        dataset,
        args.root,
        args.out,
        args.split,
        args.limit,
        lambda sources: bar(sources, unit="stack", desc=dataset.name),
    )
    without = f", {done.without_truth} of them without truth" if done.without_truth else ""
    print(f"{done.stacks} stacks{without} in {done.folder}")
    return 0


def _table() -> str:
    """Return all data sets as a table."""
    from tabulate import tabulate

    from dualfocus_ros.datasets.registry import DATASETS

    headers = ("name", "splits (* default)", "depth", "data set", "to be had from")
    rows = [
        (d.name, ", ".join(s + "*" * (s == d.default_split) for s in d.splits), d.scale, d.title, d.url)
        for d in DATASETS
    ]
    return tabulate(rows, headers=headers, tablefmt="pipe")
