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
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualfocus_ros.engine.manifest import (
    ENCODED,
    INPUTS,
    JOINED,
    OUTPUTS,
    SCALES,
    STRIDE,
    SelfCheck,
    Stages,
    write_manifest,
)
from dualfocus_ros.engine.selfcheck import check_stack, summary_of
from dualfocus_ros.errors import DualFocusError, EngineError
from dualfocus_ros.learning.data import SLICE_COUNTS
from dualfocus_ros.learning.focus import all_in_focus
from dualfocus_ros.learning.layers import pad_to_stride
from dualfocus_ros.learning.network import DualFocusNet, Encoded, Joined, join
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


class StartStage(nn.Module):
    """Pads images (slices, 3, height, width) to multiples of STRIDE."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images with the border repeated."""
        return pad_to_stride(images)


class EncoderStage(nn.Module):
    """The first stage: what is found in slices, each on its own, as ENCODED names it."""

    def __init__(self, network: DualFocusNet):
        """Wrap a network in evaluation mode."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return ENCODED of images (slices, 3, height, width), multiples of STRIDE in size."""
        encoded = self.network.encode(images)
        return (*encoded.own, *encoded.ahead, encoded.energy, encoded.cells)


class JoinStage(nn.Module):
    """From the own_d and ahead_d of ENCODED to the joined_d of JOINED."""

    def forward(self, encoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what is joined over the scales."""
        scales = len(SCALES)
        nothing = encoded[0]
        joined = join(Encoded(list(encoded[:scales]), list(encoded[scales:]), nothing, nothing), 1)
        return tuple(x[0] for x in joined.volume)


class HeadStage(nn.Module):
    """The second stage: what follows from JOINED, all slices of a stack."""

    def __init__(self, network: DualFocusNet):
        """Wrap a network in evaluation mode."""
        super().__init__()
        self.network = network

    def forward(self, joined: tuple[Tensor, ...], focus_dpt: Tensor, blur_gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return inverse depth and confidence (height, width)."""
        *volume, energy, cells = (x[None] for x in joined)
        found = self.network.head(Joined(volume, energy, cells), focus_dpt[None], blur_gain)
        return found.inverse_depth[0], found.confidence[0]


class EndStage(nn.Module):
    """From what the head says of padded images to the outputs."""

    def forward(
        self, images: Tensor, focus_dpt: Tensor, inverse_depth: Tensor, confidence: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return inverse depth, confidence and all-in-focus image without the padding."""
        height, width = images.shape[-2:]
        inverse_depth, confidence = inverse_depth[:height, :width], confidence[:height, :width]
        sharp = all_in_focus(images[None], focus_dpt[None], inverse_depth[None])
        return inverse_depth, confidence, sharp[0]


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


def export_onnx(network: DualFocusNet, path: Path, stages: Stages) -> int:
    """Write the network as one ONNX file and as two, dynamic in slices, height and width; return the opset.

    Padding, encoder, joining, head and what comes after are exported one by one: the exporter's time grows faster
    than the graph. The one graph is put together from them.
    """
    images, focus_dpt, blur_gain = torch.rand(5, 3, 90, 150), torch.linspace(5.0, 1.0, 5), torch.ones(1)
    some, slices = torch.export.Dim("some", min=1, max=256), torch.export.Dim("slices", min=3, max=256)
    height, width = (torch.export.Dim(side, min=1, max=16384) for side in ("height", "width"))
    rows, columns = (torch.export.Dim(side, min=1, max=512) for side in ("rows", "columns"))

    def padded(name: str, number: Any) -> dict[int, Any]:
        share = STRIDE // int(name.rpartition("_")[2])
        return {0: number, 2: share * rows, 3: share * columns}

    start, encoder, joiner, head = StartStage(), EncoderStage(network), JoinStage(), HeadStage(network)
    with torch.inference_mode():
        whole = start(images)
        encoded = encoder(whole)
        joined = (*joiner(encoded[: 2 * len(SCALES)]), *encoded[-2:])
        found = head(joined, focus_dpt, blur_gain)
    own_ahead, joined_names = ENCODED[: 2 * len(SCALES)], JOINED[: len(SCALES)]
    images_size, lens = {0: slices, 2: height, 3: width}, ("focus_dpt", "blur_gain")
    size = {0: STRIDE * rows, 1: STRIDE * columns}
    parts: list[tuple[nn.Module, tuple[Any, ...], Sequence[str], Sequence[str], tuple[Any, ...]]] = [
        (start, (images,), ("images",), ("padded",), (images_size,)),
        (encoder, (whole,), ("padded",), ENCODED, ({0: some, 2: STRIDE * rows, 3: STRIDE * columns},)),
        (joiner, (encoded[:-2],), own_ahead, joined_names, (tuple(padded(n, slices) for n in own_ahead),)),
        (
            head,
            (joined, focus_dpt, blur_gain),
            (*JOINED, *lens),
            ("inverse", "sure"),
            (tuple(padded(n, slices) for n in JOINED), {0: slices}, {}),
        ),
        (
            EndStage(),
            (images, focus_dpt, *found),
            ("images", "focus_dpt", "inverse", "sure"),
            OUTPUT_NAMES,
            (images_size, {0: slices}, size, size),
        ),
    ]
    graphs = [_export(*part) for part in parts]
    onnx.save(_renamed(graphs[1], {"padded": "images"}), str(stages.encoder_path))
    onnx.save(_renamed(graphs[3], {"inverse": OUTPUT_NAMES[0], "sure": OUTPUT_NAMES[1]}), str(stages.head_path))
    onnx.save(_in_one(graphs), str(path))
    return OPSET


def _export(
    stage: nn.Module,
    example: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: tuple[Any, ...],
) -> onnx.ModelProto:
    program = torch.onnx.export(
        stage.eval(),
        tuple(t.clone() if isinstance(t, Tensor) else tuple(u.clone() for u in t) for t in example),
        dynamo=True,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=sizes,
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise EngineError("the exporter returned no graph")
    return _stripped(program.model_proto)


def export_program(network: DualFocusNet, path: Path) -> None:
    """Write the network as a program of PyTorch, for `engine.torch`.

    It is dynamic in slices, height and width, both multiples of STRIDE.
    """
    images, focus_dpt, blur_gain = torch.rand(5, 3, 96, 160), torch.linspace(5.0, 1.0, 5), torch.ones(1)
    slices = torch.export.Dim("slices", min=3, max=256)
    rows, columns = (torch.export.Dim(side, min=1, max=512) for side in ("rows", "columns"))
    program = torch.export.export(
        Deployed(network).eval(),
        (images, focus_dpt, blur_gain),
        dynamic_shapes=({0: slices, 2: STRIDE * rows, 3: STRIDE * columns}, {0: slices}, {}),
    )
    torch.export.save(program, path)


def _renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return the model with other names of inputs and outputs."""
    model = copy.deepcopy(model)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.checker.check_model(model, full_check=True)
    return model


def _in_one(graphs: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return one model of several in a row; what two of them call alike, at their ends, is the same tensor."""
    nodes, given = [], []
    for i, model in enumerate(graphs):
        part = onnx.compose.add_prefix(model, f"{i}/", rename_inputs=False, rename_outputs=False).graph
        nodes += part.node
        given += part.initializer
    ends = {value.name: value for model in graphs for value in (*model.graph.input, *model.graph.output)}
    graph = onnx.helper.make_graph(
        nodes, "network", [ends[name] for name in INPUT_NAMES], [ends[name] for name in OUTPUT_NAMES], given
    )
    opsets, version = graphs[0].opset_import, graphs[0].ir_version
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=version)
    onnx.checker.check_model(model, full_check=True)
    return model


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what the exporter wrote about this machine: stack traces with paths."""
    for graph_part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        graph_part.ClearField("metadata_props")
        graph_part.ClearField("doc_string")
    for initialiser in model.graph.initializer:
        initialiser.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    return model


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
        for d in SCALES:
            own, ahead = rows.pop(f"own_{d}"), rows.pop(f"ahead_{d}")
            rows[f"joined_{d}"] = own + np.append(ahead[1:], 2.0 * ahead[-1:] - ahead[-2:-1], axis=0)
        staged = [t[:height, :width] for t in head.run(OUTPUT_NAMES[:2], {**rows, **lens})]
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
