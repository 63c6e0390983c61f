# SPDX-License-Identifier: Apache-2.0
"""How near the graphs of a network come to what this machine's CPU can do at all.

After Williams, Waterman and Patterson, "Roofline" (CACM 2009): an operation takes at least as long as its
arithmetic at the largest rate, and as moving its data at the largest bandwidth. Both ceilings are measured here,
and operations follow one another, so the least time of a graph is the sum over them of the larger of the two.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from dualfocus_ros.engine.manifest import ENCODED, JOINED, SCALES, STRIDE, find_model, load_manifest
from dualfocus_ros.onnx_runtime import CPU, import_runtime, load_session, physical_cores
from dualfocus_ros.types import FloatImage

MATRIX = 1536  # rows and columns of the product by which arithmetic is measured
COPY_BYTES = 1 << 26  # that each core copies: more than caches hold
REPEATS = 5  # of which the best counts
ITEM_BYTES = {"float": 4, "float16": 2, "int64": 8, "int32": 4, "double": 8, "bool": 1}
# Operations that pass their data on as it lies.
FREE = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Shape")


@dataclass(frozen=True)
class Ceilings:
    """What the CPU does at most: `flop_per_s` in single precision, `bytes_per_s` read and written."""

    flop_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class GraphSpeed:
    """A graph against the ceilings.

    Attributes:
        name: of the graph.
        flop: floating-point operations of one run.
        bytes: that its operations read and write in one run.
        least_ms: that it takes by the ceilings.
        run_ms: that it took, each run.
    """

    name: str
    flop: float
    bytes: float
    least_ms: float
    run_ms: list[float]

    def summary(self) -> dict[str, Any]:
        """Return median, 99th percentile and the share of the roofline that is reached, for a table or JSON."""
        median = statistics.median(self.run_ms)
        return {
            "name": self.name,
            "gflop": self.flop / 1e9,
            "megabytes": self.bytes / 1e6,
            "median_ms": median,
            "p99_ms": float(np.quantile(self.run_ms, 0.99)),
            "least_ms": self.least_ms,
            "roofline_share": self.least_ms / median,
            "gflop_per_s": self.flop / median / 1e6,
        }


def measure_ceilings() -> Ceilings:
    """Measure by a product of matrices, and by copies on all cores at once; the best of several."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((MATRIX, MATRIX), np.float32) for _ in range(2))
    product = np.empty_like(a)
    arithmetic_s = _best(lambda: np.matmul(a, b, out=product))
    cores = physical_cores()
    arrays = [(np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        copy_s = _best(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), arrays)))
    return Ceilings(2.0 * MATRIX**3 / arithmetic_s, 2.0 * COPY_BYTES * cores / copy_s)


def _best(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_graphs(
    model: str, slices: int, height: int, width: int, runs: int, ceilings: Ceilings, threads: int | None = None
) -> list[GraphSpeed]:
    """Measure the one graph of a model and, where it has them, its encoder on one slice and its head, in turns.

    Args:
        model: name or path.
        slices: of the stack, of images of height x width; the stages are given what these are padded to.
        height: in pixels.
        width: in pixels.
        runs: of each graph.
        ceilings: of this machine.
        threads: how many work on a graph; None: one for each core.

    Raises:
        EngineError: if ONNX Runtime is missing or does not take the model.
    """
    runtime, manifest = import_runtime(), load_manifest(find_model(model))
    rng = np.random.default_rng(0)
    lens = {"focus_dpt": np.linspace(2.5, 0.2, slices, dtype=np.float32), "blur_gain": np.full(1, 5.0, np.float32)}
    graphs: dict[str, tuple[Path, dict[str, FloatImage]]] = {}
    images = rng.random((slices, 3, height, width), np.float32)
    graphs["one graph"] = (manifest.onnx_path, {"images": images, **lens})
    sessions: dict[str, Any] = {}

    def load(name: str, path: Path) -> Any:
        sessions[name] = load_session(runtime, path, threads or physical_cores(), (CPU,))
        return sessions[name]

    load("one graph", manifest.onnx_path)
    if manifest.stages is not None:
        padded = rng.random((1, 3, height + -height % STRIDE, width + -width % STRIDE), np.float32)
        encoder = load("encoder, one slice", manifest.stages.encoder_path)
        rows = dict(zip(ENCODED, encoder.run(list(ENCODED), {"images": padded}), strict=True))
        rows |= {f"joined_{scale}": rows[f"own_{scale}"] for scale in SCALES}
        stack = {name: np.repeat(rows[name], slices, axis=0) for name in JOINED}
        graphs["encoder, one slice"] = (manifest.stages.encoder_path, {"images": padded})
        graphs["head"] = (manifest.stages.head_path, {**stack, **lens})
        load("head", manifest.stages.head_path)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(runs):
        for name, (_, feeds) in graphs.items():
            sessions[name].run(None, feeds)  # another graph's data are still about: this run does not count
            start = time.perf_counter()
            sessions[name].run(None, feeds)
            times[name].append(1e3 * (time.perf_counter() - start))
    found = []
    for name, (path, feeds) in graphs.items():
        operations = profiled(runtime, path, feeds)
        flop, moved = (sum(operation[k] for operation in operations) for k in (0, 1))
        least_s = sum(max(f / ceilings.flop_per_s, m / ceilings.bytes_per_s) for f, m in operations)
        found.append(GraphSpeed(name, flop, moved, 1e3 * least_s, times[name]))
    return found


def profiled(runtime: Any, path: Path, feeds: dict[str, FloatImage]) -> list[tuple[float, float]]:
    """Return floating-point operations and bytes read and written of each operation of a graph in one run.

    The shapes are those that ONNX Runtime saw. Operations are fused where it does so on any CPU, and laid out as
    in the file: what a layout made for one CPU adds is not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")  # else weights are left out
        session = runtime.InferenceSession(str(path), options, providers=[CPU])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    operations = []
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        given = event["args"]
        inputs, outputs = (
            [next(iter(tensor.items())) for tensor in given[f"{kind}_type_shape"]] for kind in ("input", "output")
        )
        moved = sum(ITEM_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in (*inputs, *outputs))
        flop = _flop(given["op_name"], [s for _, s in inputs], [s for _, s in outputs])
        operations.append((flop, 0.0 if given["op_name"] in FREE else float(moved)))
    return operations


def _flop(kind: str, inputs: list[list[int]], outputs: list[list[int]]) -> float:
    """Return the floating-point operations; of what is neither convolution nor product, one a number."""
    if kind in FREE or not outputs:
        return 0.0
    numbers = float(math.prod(outputs[0]))
    if kind in ("Conv", "FusedConv"):
        return 2.0 * numbers * math.prod(inputs[1][1:])
    if kind in ("MatMul", "FusedMatMul", "Gemm"):
        return 2.0 * numbers * inputs[0][-1]
    return max([numbers, *(float(math.prod(shape)) for shape in inputs)])


def roofline_table(graphs: list[GraphSpeed], ceilings: Ceilings) -> str:
    """Return the numbers as a text table."""
    rows = [list(graph.summary().values()) for graph in graphs]
    for row in rows:
        row[6] = f"{100.0 * row[6]:.0f} %"
    head = ["graph", "GFLOP", "MB", "median ms", "p99", "least ms", "of roofline", "GFLOP/s"]
    text = tabulate(rows, headers=head, floatfmt=".1f")
    return (
        f"{text}\nleast: by the ceilings measured here, {ceilings.flop_per_s / 1e9:.0f} GFLOP/s and "
        f"{ceilings.bytes_per_s / 1e9:.1f} GB/s"
    )
