# SPDX-License-Identifier: Apache-2.0
"""Exports a trained network: `python -m dualfocus_ros.learning.export RUN/checkpoint.pt --output models`.

Writes NAME.onnx and NAME_fp16.onnx with their manifests, and NAME.pt, the weights to go on training from. The
graphs are dynamic in slices, height and width. In that of half precision the convolutions are half and all that
numbers depend on (the contrast energies, the surface, the softmax, the sums for depth, tensors in and out) is
single, stated by casts in the graph: builders of strongly typed engines take it as it is.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualfocus_ros.engine.manifest import INPUTS, OUTPUTS, SelfCheck, write_manifest
from dualfocus_ros.engine.selfcheck import check_stack, summary_of
from dualfocus_ros.errors import DualFocusError, EngineError
from dualfocus_ros.learning.data import SLICE_COUNTS
from dualfocus_ros.learning.focus import all_in_focus
from dualfocus_ros.learning.network import DualFocusNet
from dualfocus_ros.learning.simulator import BLUR_STEP_PX
from dualfocus_ros.learning.validate import NetworkEngine
from dualfocus_ros.learning.weights import load_mean

OPSET = 18
INPUT_NAMES, OUTPUT_NAMES = list(INPUTS), list(OUTPUTS)
# Largest relative error of the exported graphs against PyTorch in single precision.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05}
# What engines may differ by on the self-check, whose cells average over pixels.
SELF_CHECK_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
# (N, H, W) of the stacks that the export is checked on.
CHECKS = ((3, 64, 96), (5, 45, 70), (10, 96, 128), (15, 64, 64))


class Deployed(nn.Module):
    """The network as the engines see it: one stack, no batch dimension, three outputs."""

    def __init__(self, network: DualFocusNet):
        """Wrap a network in evaluation mode."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, focus_dpt: Tensor, blur_gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return inverse depth (H, W), confidence (H, W) and sharp composite (3, H, W) of images (N, 3, H, W)."""
        found = self.network(images[None], focus_dpt[None], blur_gain)
        sharp = all_in_focus(images[None], focus_dpt[None], found.inverse_depth)
        return found.inverse_depth[0], found.confidence[0], sharp[0]


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place; evaluation mode only."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                conv, norm = module[i], module[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i] = fuse_conv_bn_eval(conv, norm)
                    module[i + 1] = nn.Identity()


def to_half(network: DualFocusNet) -> None:
    """Make the convolutions half precision, in place; the high-pass filters of the stem stay single."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.half()


def export_onnx(network: DualFocusNet, path: Path) -> int:
    """Write the network as ONNX, dynamic in slices, height and width; return the opset."""
    example = (torch.rand(5, 3, 96, 160), torch.linspace(5.0, 1.0, 5), torch.ones(1))
    slices = torch.export.Dim("slices", min=3, max=256)
    height, width = torch.export.Dim("height", min=32, max=16384), torch.export.Dim("width", min=32, max=16384)
    program = torch.onnx.export(
        Deployed(network).eval(),
        example,
        dynamo=True,
        input_names=INPUT_NAMES,
        output_names=OUTPUT_NAMES,
        dynamic_shapes=({0: slices, 2: height, 3: width}, {0: slices}, {}),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise EngineError("the exporter returned no graph")
    program.save(str(path), external_data=False)
    _strip(path)
    return OPSET


def _strip(path: Path) -> None:
    """Remove what the exporter wrote about this machine: stack traces with paths."""
    model = onnx.load(str(path))
    for graph_part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        graph_part.ClearField("metadata_props")
        graph_part.ClearField("doc_string")
    for initialiser in model.graph.initializer:
        initialiser.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def relative_error(path: Path, network: DualFocusNet, seed: int = 0) -> float:
    """Return the largest relative error of all outputs, ONNX Runtime against PyTorch, over CHECKS; NaN if any is.

    Confidence and the all-in-focus image are 0..1: of them it is the absolute error.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    deployed, errors = Deployed(network).eval(), []
    for slices, height, width in CHECKS:
        images = rng.random((slices, 3, height, width), np.float32)
        focus = np.linspace(rng.uniform(2.0, 12.0), rng.uniform(0.0, 1.0), slices, dtype=np.float32)
        gain = np.array([rng.uniform(0.5, 20.0)], np.float32)
        found = session.run(OUTPUT_NAMES, dict(zip(INPUT_NAMES, (images, focus, gain), strict=True)))
        with torch.inference_mode():
            expected = [t.numpy() for t in deployed(*(torch.from_numpy(a) for a in (images, focus, gain)))]
        unit = (np.maximum(expected[0], 1e-3), 1.0, 1.0)
        errors += [np.max(np.abs(f - e) / u) for f, e, u in zip(found, expected, unit, strict=True)]
    return float(np.max(errors))


def export(checkpoints: Sequence[Path], output: Path, name: str, notes: Mapping[str, Any]) -> dict[str, float]:
    """Write all files of a model; return the largest error of each graph against PyTorch in single precision.

    Of several checkpoints it is the mean. Nothing is written to `output` before all is checked.

    Raises:
        InputError: if a checkpoint cannot be read, or they are not of one network.
        EngineError: if a graph disagrees with PyTorch.
    """
    network, training = load_mean(checkpoints)
    found = NetworkEngine(network, torch.device("cpu")).infer(check_stack())
    answer = tuple(tuple(row) for row in summary_of(found))
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    errors = {}
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".export") as folder:
        weights = {"network": vars(network.config), "model": network.state_dict(), "training": training}
        torch.save(weights, Path(folder) / f"{name}.pt")
        for precision, suffix in (("fp32", ""), ("fp16", "_fp16")):
            variant = copy.deepcopy(folded)
            if precision == "fp16":
                to_half(variant)
            path = Path(folder) / f"{name}{suffix}.onnx"
            opset = export_onnx(variant, path)
            errors[precision] = relative_error(path, network)
            if not errors[precision] <= TOLERANCES[precision]:  # NaN is no agreement either
                raise EngineError(
                    f"the {precision} graph of {' and '.join(map(str, checkpoints))} differs from PyTorch by "
                    f"{errors[precision]:.2g}, "
                    f"allowed is {TOLERANCES[precision]}; nothing is written. Has the training diverged?"
                )
            write_manifest(
                path,
                precision=precision,
                opset=opset,
                parameters=sum(p.numel() for p in network.parameters()),
                trained_max_slices=int(SLICE_COUNTS.max()),
                blur_step_px=BLUR_STEP_PX,
                training={**training, **notes, "exported": datetime.date.today().isoformat()},
                self_check=SelfCheck(answer, SELF_CHECK_TOLERANCES[precision]),
            )
        for file in sorted(Path(folder).iterdir()):
            file.replace(output / file.name)
    return errors


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description="Export a trained network to ONNX with its manifest.")
    parser.add_argument("checkpoint", type=Path, nargs="+", help="of several, the mean of the weights is taken")
    parser.add_argument("--output", type=Path, default=Path("models"))
    parser.add_argument("--name", default="dualfocus_small")
    parser.add_argument("--note", action="append", default=[], help="KEY=VALUE for the manifest's training record")
    args = parser.parse_args()
    if wrong := [note for note in args.note if "=" not in note]:
        parser.error(f"expected --note KEY=VALUE, got {wrong[0]!r}")
    try:
        errors = export(args.checkpoint, args.output, args.name, dict(note.split("=", 1) for note in args.note))
    except DualFocusError as error:
        parser.exit(1, f"export: {error}\n")
    for precision, largest in errors.items():
        print(f"{precision}: largest error against PyTorch {largest:.2g}")


if __name__ == "__main__":
    main()
