# SPDX-License-Identifier: Apache-2.0
"""Exports a trained network: `python -m dualfocus_ros.learning.export RUN/checkpoint.pt --output models`.

Writes NAME.onnx and NAME_fp16.onnx with their manifests, both in two stages too (NAME_encoder.onnx and
NAME_head.onnx), and NAME.pt, the weights to go on training from. The graphs are dynamic in slices, height and
width. In those of half precision the convolutions are half and all that numbers depend on (the contrast energies,
the surface, the softmax, the sums for depth, tensors in and out) is single, stated by casts in the graph: builders
of strongly typed engines take it as it is.
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
import onnxruntime
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualfocus_ros.engine.manifest import ENCODED, JOINED, SCALES, STRIDE, SelfCheck, Stages, write_manifest
from dualfocus_ros.engine.selfcheck import check_stack, summary_of
from dualfocus_ros.errors import DualFocusError, EngineError
from dualfocus_ros.learning.data import SLICE_COUNTS
from dualfocus_ros.learning.graphs import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    Deployed,
    JoinStage,
    export_onnx,
    export_program,
)
from dualfocus_ros.learning.network import DualFocusNet
from dualfocus_ros.learning.simulator import BLUR_STEP_PX
from dualfocus_ros.learning.validate import NetworkEngine
from dualfocus_ros.learning.weights import load_mean

# Largest relative error of the exported graphs against PyTorch in single precision.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05}
# What engines may differ by on the self-check, whose cells average over pixels.
SELF_CHECK_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
# (N, H, W) of the stacks that the export is checked on.
CHECKS = ((3, 64, 96), (5, 45, 70), (10, 96, 128), (15, 64, 64))


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
    """Make the convolutions half precision, in place; those of contrast stay single."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.half()
    network.head.contrast.float()


def relative_error(path: Path, stages: Stages, network: DualFocusNet, seed: int = 0) -> float:
    """Return the largest relative error of all outputs, ONNX Runtime against PyTorch, over CHECKS; NaN if any is.

    Of the graph and of its two stages, the encoder of which gets one slice at a time. Confidence and the
    all-in-focus image are 0..1: of them it is the absolute error.
    """
    whole, encoder, head = (_session(p) for p in (path, stages.encoder_path, stages.head_path))
    rng = np.random.default_rng(seed)
    deployed, errors = Deployed(network).eval(), []
    for slices, height, width in CHECKS:
        images = rng.random((slices, 3, height, width), np.float32)
        focus = np.linspace(rng.uniform(2.0, 12.0), rng.uniform(0.0, 1.0), slices, dtype=np.float32)
        gain = np.array([rng.uniform(0.5, 20.0)], np.float32)
        lens = dict(zip(INPUT_NAMES[1:], (focus, gain), strict=True))
        found = whole.run(OUTPUT_NAMES, {"images": images, **lens})
        padded = np.pad(images, ((0, 0), (0, 0), (0, -height % STRIDE), (0, -width % STRIDE)), mode="edge")
        parts = zip(*(encoder.run(list(ENCODED), {"images": p[None]}) for p in padded), strict=True)
        rows = dict(zip(ENCODED, (np.concatenate(p) for p in parts), strict=True))
        own_ahead = tuple(torch.from_numpy(rows[name]) for name in ENCODED[: 2 * len(SCALES)])
        rows |= {name: t.numpy() for name, t in zip(JOINED, JoinStage()(own_ahead), strict=False)}
        feeds = {name: rows[name] for name in JOINED}
        staged = [t[:height, :width] for t in head.run(OUTPUT_NAMES[:2], {**feeds, **lens})]
        with torch.inference_mode():
            expected = [t.numpy() for t in deployed(*(torch.from_numpy(a) for a in (images, focus, gain)))]
        unit = (np.maximum(expected[0], 1e-3), 1.0, 1.0)
        for outputs in (found, staged):
            errors += [np.max(np.abs(f - e) / u) for f, e, u in zip(outputs, expected, unit, strict=False)]
    return float(np.max(errors))


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def export(
    checkpoints: Sequence[Path], output: Path, name: str, notes: Mapping[str, Any], *, program: bool = False
) -> dict[str, float]:
    """Write all files of a model; return the largest error of each graph against PyTorch in single precision.

    Of several checkpoints it is the mean. Nothing is written to `output` before all is checked. NAME.pt2, for the
    torch engine, is written where `program` is set.

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
            stages = Stages(*(path.with_name(f"{path.stem}_{part}.onnx") for part in ("encoder", "head")))
            opset = export_onnx(variant, path, stages)
            errors[precision] = relative_error(path, stages, network)
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
                stages=stages,
            )
        if program:
            export_program(folded, Path(folder) / f"{name}.pt2")
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
    parser.add_argument("--program", action="store_true", help="write NAME.pt2, too, for the torch engine")
    args = parser.parse_args()
    if wrong := [note for note in args.note if "=" not in note]:
        parser.error(f"expected --note KEY=VALUE, got {wrong[0]!r}")
    try:
        notes = dict(note.split("=", 1) for note in args.note)
        errors = export(args.checkpoint, args.output, args.name, notes, program=args.program)
    except DualFocusError as error:
        parser.exit(1, f"export: {error}\n")
    for precision, largest in errors.items():
        print(f"{precision}: largest error against PyTorch {largest:.2g}")


if __name__ == "__main__":
    main()
