# SPDX-License-Identifier: Apache-2.0
"""Measures whether `record` keeps up with a camera, and what that costs.

A process sends images, camera info and lens states; `record` runs in another. A frame whose lens state was
recorded and whose image was not counts as lost; gaps in the stamps of over one and a half periods are counted.

Usage: python scripts/recording_benchmark.py [--width 640] [--height 480] [--rate 30] [--seconds 20] [--compress]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dualfocus_ros import dds, decoding
from dualfocus_ros.bags.library import deserialize
from dualfocus_ros.bags.reader import Bag
from dualfocus_ros.nodes.benchmark_peers import BenchmarkConfig, peer_process

TOPICS = ("/camera/image_raw", "/camera/camera_info", "/camera/lens")


def stamps(path: Path) -> dict[str, list[int]]:
    """Return the stamps of the messages of a recording in nanoseconds, by topic."""
    found: dict[str, list[int]] = {topic: [] for topic in TOPICS}
    with Bag(path) as bag:
        for message in bag.messages(TOPICS):
            decoded = deserialize(message.message_type, message.data)
            found[message.topic].append(decoding.stamp_to_ns(decoded.header.stamp))
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--storage", default="mcap", choices=["mcap", "sqlite3"])
    parser.add_argument("--compress", action="store_true")
    args = parser.parse_args()
    dds.use_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # What sleeps between two frames sends a little slower than it was told.
    config = BenchmarkConfig(width=args.width, height=args.height, rate_hz=1.08 * args.rate)
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "bag"
        command = [sys.executable, "-m", "dualfocus_ros", "record", str(bag), "--duration", str(args.seconds)]
        command += ["--storage", args.storage, *(["--compress"] if args.compress else [])]
        recorder = subprocess.Popen(command)
        with peer_process("send", config):
            code = recorder.wait()
        found = stamps(bag)
        size = sum(f.stat().st_size for f in bag.iterdir())
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    images, lens = found[TOPICS[0]], found[TOPICS[2]]
    gaps_ms = np.diff(images) * 1e-6
    period_ms = float(np.median(gaps_ms))
    within = [s for s in lens if images[0] <= s <= images[-1]]
    lost = len(set(within) - set(images))
    print(
        f"{len(images)} images in {(images[-1] - images[0]) * 1e-9:.1f} s ({1e3 / period_ms:.1f} Hz), "
        f"{lost} lost; "
        f"gaps over 1.5 periods: {int((gaps_ms > 1.5 * period_ms).sum())}; {size / 1e6:.0f} MB; "
        f"user time of all processes {cpu_s:.1f} s"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
