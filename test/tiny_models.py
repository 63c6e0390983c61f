# SPDX-License-Identifier: Apache-2.0
"""Tiny ONNX graphs that keep the contract of a model and whose outputs numpy can tell.

With grey the mean of the three planes of each slice, they compute

    inverse_depth = sum_n grey_n focus_n / sum_n grey_n
    confidence = min(1, mean_n grey_n * blur_gain / 20)
    all_in_focus = mean_n images_n
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualfocus_ros.engine.manifest import ENCODED, JOINED, SCALES, Stages, write_manifest

onnx = pytest.importorskip("onnx")
OPSET = 17
FACTS: dict[str, Any] = {
    "precision": "fp32",
    "opset": OPSET,
    "parameters": 1_234_567,
    "trained_max_slices": 15,
    "blur_step_px": (0.5, 6.0),
    "training": {"run": "none", "steps": 0},
}


def expected(
    images: np.ndarray, focus_dpt: Sequence[float], blur_gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inverse depth (H, W), confidence (H, W) and all in focus (3, H, W) of images (N, 3, H, W)."""
    grey = images.astype(np.float64).mean(axis=1)
    with np.errstate(invalid="ignore"):
        inverse = np.einsum("nhw,n->hw", grey, np.asarray(focus_dpt)) / grey.sum(axis=0)
    return inverse, np.minimum(1.0, grey.mean(axis=0) * blur_gain / 20), images.mean(axis=0)


def tiny_model(
    folder: Path,
    name: str = "tiny",
    *,
    rename: dict[str, str] | None = None,
    images_shape: Sequence[str | int] = ("slices", 3, "height", "width"),
    change: Callable[[Any], None] | None = None,
    manifest: bool = True,
) -> Path:
    """Write the graph and its manifest; return the path of the .onnx file.

    Args:
        folder: exists.
        name: of the model.
        rename: other names of inputs and outputs.
        images_shape: of the input.
        change: may edit the ONNX graph before it is written.
        manifest: whether to write one.
    """
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    names = rename or {}

    def tensor(tensor_name: str, shape: Sequence[str | int]) -> Any:
        return helper.make_tensor_value_info(names.get(tensor_name, tensor_name), float32, list(shape))

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        given = [names.get(i, i) for i in inputs.split()]
        return helper.make_node(kind, given, [names.get(output, output)], **attributes)

    graph = helper.make_graph(
        [
            node("ReduceMean", "images", "grey", axes=[1], keepdims=0),
            node("Reshape", "focus_dpt column", "focus"),
            node("Mul", "grey focus", "weighted"),
            node("ReduceMean", "weighted", "top", axes=[0], keepdims=0),
            node("ReduceMean", "grey", "bottom", axes=[0], keepdims=0),
            node("Div", "top bottom", "inverse_depth"),
            node("Mul", "bottom blur_gain", "product"),
            node("Mul", "product twentieth", "unlimited"),
            node("Min", "unlimited one", "confidence"),
            node("ReduceMean", "images", "all_in_focus", axes=[0], keepdims=0),
        ],
        name,
        [tensor("images", images_shape), tensor("focus_dpt", ["slices"]), tensor("blur_gain", [1])],
        [
            tensor("inverse_depth", ["height", "width"]),
            tensor("confidence", ["height", "width"]),
            tensor("all_in_focus", [3, "height", "width"]),
        ],
        [
            onnx.numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "column"),
            onnx.numpy_helper.from_array(np.array([0.05], np.float32), "twentieth"),
            onnx.numpy_helper.from_array(np.array([1.0], np.float32), "one"),
        ],
    )
    if change is not None:
        change(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    if manifest:
        write_manifest(path, **FACTS)
    return path


def expected_of_stages(
    images: np.ndarray, focus_dpt: Sequence[float], blur_gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return inverse depth and confidence (H, W) that `tiny_stages` give for images (N, 3, H, W).

    Inverse depth is made of what the encoder finds in slices of 2 x 2 pixels, confidence of all the rest.
    """
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (0, -height % 32), (0, -width % 32)), mode="edge")

    def pooled(planes: np.ndarray, size: int) -> np.ndarray:
        cells = planes.reshape(len(planes), planes.shape[1] // size, size, -1, size).mean(axis=(2, 4))
        return cells.repeat(size, axis=1).repeat(size, axis=2)[:, :height, :width]

    grey = padded.mean(axis=1)
    fine = pooled(grey, 2)
    inverse = np.einsum("nhw,n->hw", fine, np.asarray(focus_dpt)) / fine.sum(axis=0)
    total = pooled(grey, 4).mean(axis=0)
    for size in SCALES:
        own, ahead = pooled(grey, size), pooled(grey * grey, size)
        joined = own + np.append(ahead[1:], 2.0 * ahead[-1:] - ahead[-2:-1], axis=0)
        total = total + np.einsum("nhw,n->hw", joined, np.asarray(focus_dpt)) / size
    return inverse, np.minimum(1.0, total * blur_gain / 400)


def tiny_stages(folder: Path, name: str = "staged", drop: str = "") -> Path:
    """Write a model of one graph and two stages, which differ in their answer; return the path of the .onnx file.

    Args:
        folder: exists.
        name: of the model.
        drop: a tensor that the encoder does not give.
    """
    whole = tiny_model(folder, name, manifest=False)
    helper, make_node = onnx.helper, onnx.helper.make_node

    def tensor(tensor_name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(tensor_name, onnx.TensorProto.FLOAT, list(shape))

    def encoded(tensor_name: str) -> Any:
        divisor = tensor_name.rpartition("_")[2]
        return tensor(tensor_name, "n", 3 if tensor_name == "cells_4" else 1, f"h{divisor}", f"w{divisor}")

    def constants(**values: Sequence[float]) -> list[Any]:
        return [onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in values.items()]

    def save(part: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], given: list[Any]) -> Path:
        graph = helper.make_graph(nodes, part, inputs, outputs, given)
        path = folder / f"{name}_{part}.onnx"
        opset = helper.make_opsetid("", OPSET)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
        return path

    nodes = [
        make_node("ReduceMean", ["images"], ["grey"], axes=[1], keepdims=1),
        make_node("Mul", ["grey", "grey"], ["square"]),
    ]
    kept = [tensor_name for tensor_name in ENCODED if tensor_name != drop]
    for tensor_name in kept:
        kind, _, size = tensor_name.rpartition("_")
        source = {"cells": "images", "ahead": "square"}.get(kind, "grey")
        nodes.append(
            make_node(
                "AveragePool", [source], [tensor_name], kernel_shape=[int(size)] * 2, strides=[int(size)] * 2
            )
        )
    images = tensor("images", "n", 3, "height", "width")
    encoder = save("encoder", nodes, [images], [encoded(n) for n in kept], [])

    nodes, given = [], constants(part=[0.0025], one=[1.0])

    def pixels(tensor_name: str, size: int) -> None:
        """Add a node that makes NAME_full of a tensor: each cell as often as it has pixels."""
        nodes.append(
            make_node(
                "Resize",
                [tensor_name, "", f"{tensor_name}_by"],
                [f"{tensor_name}_full"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )
        given.extend(constants(**{f"{tensor_name}_by": [1, 1, size, size]}))

    def reduced(source: str, result: str, axes: list[int]) -> None:
        nodes.append(make_node("ReduceMean", [source], [result], axes=axes, keepdims=0))

    nodes.append(make_node("Reshape", ["focus_dpt", "column"], ["focus"]))
    given.append(onnx.numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"))
    pixels("energy_2", 2)
    reduced("energy_2_full", "bottom", [0, 1])
    nodes.append(make_node("Mul", ["energy_2_full", "focus"], ["weighted"]))
    reduced("weighted", "top", [0, 1])
    nodes.append(make_node("Div", ["top", "bottom"], ["inverse_depth"]))
    pixels("cells_4", 4)
    reduced("cells_4_full", "total", [0, 1])
    total = "total"
    for size in SCALES:
        joined = f"joined_{size}"
        pixels(joined, size)
        nodes.append(make_node("Mul", [f"{joined}_full", "focus"], [f"{joined}_weighted"]))
        nodes.append(make_node("ReduceSum", [f"{joined}_weighted", "slices"], [f"{joined}_sum"], keepdims=0))
        nodes.append(make_node("Mul", [f"{joined}_sum", f"{joined}_share"], [f"{joined}_part"]))
        nodes.append(make_node("Add", [total, f"{joined}_part"], [f"{joined}_total"]))
        given.extend(constants(**{f"{joined}_share": [1.0 / size]}))
        total = f"{joined}_total"
    given.append(onnx.numpy_helper.from_array(np.array([0, 1], np.int64), "slices"))
    nodes += [
        make_node("Mul", [total, "blur_gain"], ["product"]),
        make_node("Mul", ["product", "part"], ["unlimited"]),
        make_node("Min", ["unlimited", "one"], ["confidence"]),
    ]
    head = save(
        "head",
        nodes,
        [*(encoded(n) for n in JOINED), tensor("focus_dpt", "n"), tensor("blur_gain", 1)],
        [tensor("inverse_depth", "height", "width"), tensor("confidence", "height", "width")],
        given,
    )
    write_manifest(whole, **FACTS, stages=Stages(encoder, head))
    return whole
