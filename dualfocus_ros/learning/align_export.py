# SPDX-License-Identifier: Apache-2.0
"""Exports the network of alignment: `python -m dualfocus_ros.learning.align_export RUN/checkpoint.pt`.

Writes NAME.onnx with its manifest NAME.json, and NAME.pt, the weights to go on from. The graph is dynamic in
slices, pairs, height and width; see `alignment.network` for its tensors.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from dualfocus_ros.alignment.network import CELL, DEFAULT_MODEL, FORMAT, INPUTS, OUTPUTS, VERSION, described
from dualfocus_ros.errors import DualFocusError, EngineError
from dualfocus_ros.learning.align_network import AlignConfig, AlignNet
from dualfocus_ros.learning.weights import read_network
from dualfocus_ros.model_files import sha256_of
from dualfocus_ros.onnx_runtime import CPU, import_runtime, load_session

OPSET = 18
TOLERANCE = 1e-4  # largest error of the graph against PyTorch, relative to the largest number of an answer
CHECKS = ((2, 16, 24), (3, 60, 80), (5, 28, 44), (10, 120, 160))  # slices, height and width that it is compared on
RECORD = ("config", "step", "pairs", "seconds")  # of the run, for the manifest


class Deployed(nn.Module):
    """The network as the running system sees it: slices and which of them are pairs."""

    def __init__(self, network: AlignNet):
        """Wrap a network in evaluation mode."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, first: Tensor, second: Tensor, grid: Tensor) -> Tensor:
        """Return normal equations (P, 3, 4) of pairs (P,) and (P,) of images (N, h, w)."""
        octaves = self.network.filtered(images)
        return self.network.related([o[first] for o in octaves], [o[second] for o in octaves], grid)


def load_align_network(path: Path) -> tuple[AlignNet, dict[str, Any]]:
    """Return the averaged network of a checkpoint or weights file, in evaluation mode, and the record of its run.

    Raises:
        InputError: if the file is neither.
    """
    return read_network(path, lambda config: AlignNet(AlignConfig(**config)), RECORD, "alignment")


def export_onnx(network: AlignNet, path: Path) -> None:
    """Write the graph, dynamic in slices, pairs, height and width.

    Raises:
        EngineError: if the exporter returns none.
    """
    slices, pairs = torch.export.Dim("slices", min=2, max=4096), torch.export.Dim("pairs", min=1, max=16384)
    rows, columns = (torch.export.Dim(side, min=4, max=1024) for side in ("rows", "columns"))
    program = torch.onnx.export(
        Deployed(network).eval(),
        (torch.rand(4, 80, 96), torch.tensor([0, 1, 0]), torch.tensor([1, 2, 3]), torch.rand(2, 80, 96)),
        dynamo=True,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_shapes=(
            {0: slices, 1: CELL * rows, 2: CELL * columns},
            {0: pairs},
            {0: pairs},
            {1: CELL * rows, 2: CELL * columns},
        ),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise EngineError("the exporter returned no graph")
    model = program.model_proto
    parts = (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output)
    for part in (*parts, *model.graph.initializer, model.graph, model):  # traces with paths of this machine
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def relative_error(path: Path, network: AlignNet, seed: int = 0) -> float:
    """Return the largest error, ONNX Runtime against PyTorch, over CHECKS; NaN if any is.

    Raises:
        EngineError: if ONNX Runtime does not take the graph.
    """
    session = load_session(import_runtime(), path, 1, (CPU,))
    rng = np.random.default_rng(seed)
    deployed, errors = Deployed(network).eval(), []
    for slices, height, width in CHECKS:
        images = 0.5 + rng.random((slices, height, width), np.float32)
        first = np.arange(slices - 1)
        grid = rng.uniform(-1.0, 1.0, (2, height, width)).astype(np.float32)
        feeds = dict(zip(INPUTS, (images, first, first + 1, grid), strict=True))
        found = session.run(list(OUTPUTS), feeds)[0]
        with torch.inference_mode():
            expected = deployed(*(torch.from_numpy(feed) for feed in feeds.values())).numpy()
        errors.append(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    return float(np.max(errors))


def export(checkpoint: Path, output: Path, name: str, notes: Mapping[str, Any]) -> float:
    """Write all files of a model; return the error of the graph against PyTorch. Nothing is written unchecked.

    Raises:
        InputError: if the checkpoint cannot be read.
        EngineError: if the graph disagrees with PyTorch.
    """
    network, training = load_align_network(checkpoint)
    training = {**training, **notes, "exported": datetime.date.today().isoformat()}
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".export") as folder:
        path = Path(folder) / f"{name}.onnx"
        export_onnx(network, path)
        error = relative_error(path, network)
        if not error <= TOLERANCE:  # NaN is no agreement either
            raise EngineError(
                f"the graph of {checkpoint} differs from PyTorch by {error:.2g}, allowed is {TOLERANCE}; nothing "
                "is written. Has the training diverged?"
            )
        weights = {"network": asdict(network.config), "model": network.state_dict(), "training": training}
        torch.save(weights, path.with_suffix(".pt"))
        write_manifest(path, sum(p.numel() for p in network.parameters()), training)
        for file in sorted(Path(folder).iterdir()):
            file.replace(output / file.name)
    return error


def write_manifest(path: Path, parameters: int, training: Mapping[str, Any]) -> None:
    """Write the manifest of a graph beside it; the name is that of the file."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "name": path.stem,
        "file": path.name,
        "sha256": sha256_of(path),
        "opset": OPSET,
        "parameters": parameters,
        "inputs": described(INPUTS),
        "outputs": described(OUTPUTS),
        "training": dict(training),
    }
    path.with_suffix(".json").write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        description="Export a trained network of alignment to ONNX with its manifest."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, default=Path("models") / "alignment")
    parser.add_argument("--name", default=DEFAULT_MODEL)
    parser.add_argument("--note", action="append", default=[], help="KEY=VALUE for the manifest's training record")
    args = parser.parse_args()
    if wrong := [note for note in args.note if "=" not in note]:
        parser.error(f"expected --note KEY=VALUE, got {wrong[0]!r}")
    try:
        error = export(args.checkpoint, args.output, args.name, dict(note.split("=", 1) for note in args.note))
    except DualFocusError as problem:
        parser.exit(1, f"align_export: {problem}\n")
    print(f"largest error against PyTorch {error:.2g}")


if __name__ == "__main__":
    main()
