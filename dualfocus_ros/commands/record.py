# SPDX-License-Identifier: Apache-2.0
"""`record`: the live topics of a camera into a rosbag2 recording."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "record"
HELP = "record a camera that sweeps its focus: images, camera info, lens states and, where published, true depth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("output", type=Path, help="folder of the recording, which must not exist")
    parser.add_argument("--camera", default="camera", help="name of the camera, before its topics")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="record these topics too")
    parser.add_argument("--storage", default="mcap", choices=["mcap", "sqlite3"], help="format of the file")
    parser.add_argument("--compress", action="store_true", help="compress with zstd; takes time of a core")
    parser.add_argument(
        "--duration", type=float, metavar="S", help="seconds from the first message on; without: until Ctrl-C"
    )


def run(args: argparse.Namespace) -> int:
    """Record; return the exit code."""
    from dualfocus_ros.errors import BagError
    from dualfocus_ros.nodes.recorder import RecordOptions, record

    options = RecordOptions(
        args.output, args.camera, tuple(args.topics), args.storage, args.compress, args.duration
    )
    result = record(options)
    if not result.counts:
        topics = ", ".join((*result.silent, *result.missing))
        raise BagError(f"expected messages on {topics}, none came: is the camera running?")
    for topic, count in result.counts.items():
        print(f"{topic}: {count} messages, {result.lost.get(topic, 0)} lost")
    for topic in result.silent:
        print(f"{topic}: published, but no message came, {result.lost.get(topic, 0)} lost")
    for topic in result.missing:
        print(f"{topic}: nobody published it")
    print(f"wrote {args.output}")
    return 0
