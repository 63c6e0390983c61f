# SPDX-License-Identifier: Apache-2.0
"""Measures a network with ONNX Runtime on the CPU: medians, and the share of its encoder.

Usage: python -m dualfocus_ros.learning.benchmark [--model models/dualfocus_small] [--threads 2] [--slices 10] ...

The encoder is exported on its own from NAME.pt for this. The graphs run in turns, so that whatever else the
machine does slows them alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tabulate import tabulate

from dualfocus_ros.engine.onnx import physical_cores
from dualfocus_ros.errors import DualFocusError
from dualfocus_ros.learning.export import INPUT_NAMES, fold_batch_norms
from dualfocus_ros.learning.network import DualFocusNet
from dualfocus_ros.learning.weights import load_network


def export_encoder(network: DualFocusNet, path: Path, images: torch.Tensor) -> None:
    """Write the encoder alone, for images (slices, 3, height, width) of this one shape; folds its norms."""
    encoder = network.encoder
    fold_batch_norms(encoder)
    program = torch.onnx.export(encoder, (images,), input_names=INPUT_NAMES[:1], dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return a session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/dualfocus_small"))
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"expected --runs of at least 1, got {args.runs}")
    try:
        network, _ = load_network(args.model.with_suffix(".pt"))
    except DualFocusError as error:
        parser.exit(1, f"benchmark: {error}\n")
    shape = (args.slices, 3, args.height, args.width)
    images = np.random.default_rng(0).random(shape, np.float32)
    focus_dpt = np.linspace(5.0, 0.5, args.slices, dtype=np.float32)
    inputs = dict(zip(INPUT_NAMES, (images, focus_dpt, np.array([5.0], np.float32)), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        # The network pads its images to multiples of 32; the encoder alone is given such.
        padded = torch.zeros(*shape[:2], *(-(-side // 32) * 32 for side in shape[2:]))
        export_encoder(network, Path(folder) / "encoder.onnx", padded)
        graphs = {
            args.model.name: (session(args.model.with_suffix(".onnx"), args.threads), inputs),
            "its encoder": (session(Path(folder) / "encoder.onnx", args.threads), {"images": padded.numpy()}),
        }
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(args.runs + 2):
        for name, (graph, feeds) in graphs.items():
            start = time.perf_counter()
            graph.run(None, feeds)
            times[name].append(1e3 * (time.perf_counter() - start))
    whole = statistics.median(times[args.model.name][2:])  # two runs to warm up
    rows = []
    for name, values in times.items():
        median = statistics.median(values[2:])
        rows.append([name, median, min(values[2:]), max(values[2:]), f"{100 * median / whole:.0f} %"])
    print(f"{args.slices} slices of {args.width} x {args.height}, {args.threads} threads, {args.runs} runs")
    print(tabulate(rows, headers=["graph", "median ms", "least", "most", "share"], floatfmt=".0f"))


if __name__ == "__main__":
    main()
