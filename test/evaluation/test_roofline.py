# SPDX-License-Identifier: Apache-2.0
"""The least time of a graph: its operations and bytes counted by hand, and ceilings that a machine can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualfocus_ros.evaluation.roofline import (
    Ceilings,
    GraphSpeed,
    measure_ceilings,
    measure_graphs,
    profiled,
    roofline_table,
)
from dualfocus_ros.onnx_runtime import import_runtime

pytest.importorskip("onnxruntime")
tiny_models = pytest.importorskip("tiny_models")
onnx = pytest.importorskip("onnx")


def save(path: Path, nodes: list[Any], shape: tuple[int, ...], **given: np.ndarray) -> Path:
    """Write a graph of one input x and one output y of 4 sizes."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [None] * 4)],
        [onnx.numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_convolution_is_counted(tmp_path: Path) -> None:
    weight = np.ones((5, 3, 3, 3), np.float32)
    path = save(
        tmp_path / "conv.onnx", [onnx.helper.make_node("Conv", ["x", "w"], ["y"])], (2, 3, 10, 12), w=weight
    )
    (found,) = profiled(import_runtime(), path, {"x": np.ones((2, 3, 10, 12), np.float32)})
    out = 2 * 5 * 8 * 10
    assert found == (2 * out * 27, 4.0 * (2 * 3 * 10 * 12 + weight.size + out))


def test_a_product_and_single_numbers_are_counted_and_a_new_shape_is_free(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("Exp", ["a"], ["b"]), make("Reshape", ["b", "s"], ["y"])]
    given = {"w": np.ones((7, 4), np.float32), "s": np.array([4, 6, 1, 1])}
    path = save(tmp_path / "product.onnx", nodes, (1, 2, 3, 7), **given)
    found = profiled(import_runtime(), path, {"x": np.ones((1, 2, 3, 7), np.float32)})
    assert found == [(2.0 * 24 * 7, 4.0 * (42 + 28 + 24)), (24.0, 4.0 * 48), (0.0, 0.0)]


def test_the_least_time_is_the_sum_over_operations_of_the_larger(tmp_path: Path) -> None:
    model = tiny_models.tiny_stages(tmp_path)
    by_bytes = measure_graphs(str(model), 3, 40, 56, 2, Ceilings(1e30, 1e9))
    by_flop = measure_graphs(str(model), 3, 40, 56, 2, Ceilings(1e9, 1e30))
    assert [g.name for g in by_bytes] == ["one graph", "encoder, one slice", "head"]
    for bytes_, flop in zip(by_bytes, by_flop, strict=True):
        assert bytes_.least_ms == pytest.approx(bytes_.bytes / 1e6) and bytes_.flop == flop.flop > 0
        assert flop.least_ms == pytest.approx(flop.flop / 1e6)
        assert len(flop.run_ms) == 2 and min(flop.run_ms) > 0
    # The encoder is given one slice, of the padded size: grey, its square and ten poolings.
    assert by_bytes[1].bytes > 4 * 3 * 64 * 64


def test_the_ceilings_are_those_of_a_machine() -> None:
    found = measure_ceilings()
    assert 1e8 < found.flop_per_s < 1e15 and 1e8 < found.bytes_per_s < 1e13


def test_the_table_tells_the_share() -> None:
    graph = GraphSpeed("head", 4e9, 2e9, 20.0, [50.0, 30.0, 40.0])
    summary = graph.summary()
    assert summary["median_ms"] == 40.0 and summary["roofline_share"] == 0.5
    assert summary["gflop_per_s"] == pytest.approx(100.0) and summary["megabytes"] == 2000.0
    text = roofline_table([graph], Ceilings(2e11, 3e10))
    assert "50 %" in text and "200 GFLOP/s and 30.0 GB/s" in text
