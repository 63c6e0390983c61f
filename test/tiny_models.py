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

from dualfocus_ros.engine.manifest import write_manifest

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
