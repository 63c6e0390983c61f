# SPDX-License-Identifier: Apache-2.0
"""From the network to graphs that engines run: ONNX, in one and in two stages, and programs of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from dualfocus_ros.engine.manifest import ENCODED, INPUTS, JOINED, OUTPUTS, SCALES, STRIDE, Stages
from dualfocus_ros.errors import EngineError
from dualfocus_ros.learning.focus import all_in_focus
from dualfocus_ros.learning.layers import pad_to_stride
from dualfocus_ros.learning.network import DualFocusNet, Encoded, Joined, join

OPSET = 18
INPUT_NAMES, OUTPUT_NAMES = list(INPUTS), list(OUTPUTS)


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
