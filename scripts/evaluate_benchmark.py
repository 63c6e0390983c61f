# SPDX-License-Identifier: Apache-2.0
"""Measures `evaluate` on a recording: its time, how much of it outside of the engine, and its peak memory.

A recording of the simulated camera with true depth is made in a temporary folder, then `evaluate` runs on it in a
process of its own for each engine. `evaluating` is the time from the first message to the last score, to which the
shares refer; `wall` is all of it, with loading Python and the engine.

Usage: python scripts/evaluate_benchmark.py [--stacks 100] [--slices 8] [--width 320] [--engine onnx classical]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from dualfocus_ros.bags.writer import STORAGES

NEAR_M, FAR_M = 0.4, 3.0


def record(path: Path, args: argparse.Namespace) -> None:
    """Write a recording of the simulated camera, as the camera node publishes it, in simulated time."""
    from rclpy.serialization import serialize_message

    from dualfocus_ros import messages
    from dualfocus_ros.bags.writer import BagWriter
    from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
    from dualfocus_ros.focus_sweep import FocusSweep
    from dualfocus_ros.stack import FocalStackBuffer
    from dualfocus_ros.sweep import SweepConfig

    size = {"width": args.width, "height": args.width * 3 // 4, "pixel_pitch_m": 13.75e-6 * 640 / args.width}
    sweep_config = SweepConfig(slices=args.slices, near_m=NEAR_M, far_m=FAR_M)
    with (
        SimulatedCamera(SimulatedConfig(rate_hz=0.0, views=32, **size)) as camera,
        BagWriter(path, args.storage, compress=args.compress) as bag,
    ):
        # Not every frame makes it into a stack: the lens moves during some.
        buffer = FocalStackBuffer()
        for frame in FocusSweep(camera, sweep_config).frames():
            assert frame.ground_truth_m is not None
            at = (frame.stamp_ns, "optical")
            for topic, kind, message in (
                ("lens", "JointState", messages.lens_message(frame.lens_state, "optical")),
                ("camera_info", "CameraInfo", messages.camera_info_message(frame.intrinsics, *at)),
                ("image_raw", "Image", messages.camera_image_message(frame, "optical")),
                ("ground_truth/depth", "Image", messages.depth_message(frame.ground_truth_m, *at)),
            ):
                data = bytes(serialize_message(message))
                bag.write(f"/camera/{topic}", f"sensor_msgs/msg/{kind}", frame.stamp_ns, data)
            buffer.add_lens_state(frame.lens_state)
            buffer.add_intrinsics(frame.stamp_ns, frame.intrinsics)
            buffer.add_image(frame.stamp_ns, frame.image)
            if buffer.stacks_completed == args.stacks:
                return


def measure(bag: Path, engine: str, numbers: Path) -> tuple[float, int]:
    """Run `evaluate`; return its wall time in seconds and its peak memory in bytes.

    Raises:
        RuntimeError: if it fails.
    """
    command = [sys.executable, "-m", "dualfocus_ros", "evaluate", str(bag)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--engine", engine, "--json", str(numbers)])
    # Of this process alone: RUSAGE_CHILDREN would tell the most of all that have run.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"evaluate with {engine} ended with exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=100)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--width", type=int, default=320, help="pixels; the height is 3/4 of it")
    parser.add_argument("--storage", default="mcap", choices=STORAGES)
    parser.add_argument("--compress", action="store_true", help="the recording, with zstd")
    parser.add_argument("--engine", nargs="+", default=["onnx", "classical"], metavar="NAME")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bag, numbers = Path(folder) / "bag", Path(folder) / "numbers.json"
        # A process gives its own peak memory on to those that it starts: this one stays small.
        recorder = get_context("spawn").Process(target=record, args=(bag, args))
        recorder.start()
        recorder.join()
        if recorder.exitcode:
            return 1
        for engine in args.engine:
            wall_s, peak_bytes = measure(bag, engine, numbers)
            (found,) = json.loads(numbers.read_text())["evaluations"]
            total_s, engine_s, align_s = found["elapsed_s"], found["engine_s"], found["align_s"]
            outside, with_alignment = 1 - engine_s / total_s, 1 - (engine_s + align_s) / total_s
            print(
                f"{engine}: {len(found['stacks'])} stacks, wall {wall_s:.1f} s, evaluating {total_s:.1f} s, "
                f"engine {engine_s:.1f} s, alignment {align_s:.1f} s; outside of the engine {outside:.1%}, of "
                f"engine and alignment {with_alignment:.1%}; peak memory {peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
