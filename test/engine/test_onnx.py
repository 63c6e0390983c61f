# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stack_helpers import assert_arrays_equal, copy_of
from synthetic_stacks import LENS, aligned, intrinsics

from dualfocus_ros import onnx_runtime
from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.manifest import write_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.errors import EngineError, StackError
from dualfocus_ros.types import AlignedStack, LensModel

onnxruntime = pytest.importorskip("onnxruntime")
tiny_models = pytest.importorskip("tiny_models")

FOCUS_M = (0.4, 0.6, 1.0, 2.5)
SHAPE = (24, 32)
# Single precision sums of a few terms.
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_model(tmp_path_factory.mktemp("model"))


def pictures(shape: Sequence[int] = (*SHAPE, 3), count: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Return images (H, W, 3) or (H, W) uint8 that are nowhere black."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 256, tuple(shape), dtype=np.uint8) for _ in range(count)]


def infer(model: Path, stack: AlignedStack) -> EngineOutput:
    with OnnxEngine(model) as engine:
        return engine.infer(stack)


def planes(images: Sequence[np.ndarray], white: float = 255.0) -> np.ndarray:
    """Return (N, 3, H, W) in 0..1."""
    colour = [np.stack([i, i, i], axis=-1) if i.ndim == 2 else i for i in images]
    return np.stack(colour).transpose(0, 3, 1, 2) / white


def check(output: EngineOutput, slices: np.ndarray, focus_m: Sequence[float] = FOCUS_M) -> None:
    """Compare an output with what the tiny model computes of slices (N, 3, H, W)."""
    gain = LENS.aperture_m * intrinsics(slices.shape[2:]).fx_px
    inverse, confidence, sharp = tiny_models.expected(slices, 1.0 / np.array(focus_m), gain)
    assert output.depth_m.dtype == output.confidence.dtype == np.float32
    assert output.all_in_focus.dtype == np.uint8
    np.testing.assert_allclose(output.depth_m, 1.0 / inverse, rtol=RELATIVE)
    np.testing.assert_allclose(output.confidence, confidence, rtol=RELATIVE)
    assert confidence.max() > 0.05 and confidence.min() < 0.95  # tells something about blur_gain
    difference = output.all_in_focus - sharp.transpose(1, 2, 0) * 255
    assert np.abs(difference).max() < 0.5 + 1e-3  # rounded


@pytest.mark.parametrize("shape", [SHAPE, (17, 23), (1, 1), (3, 200)])
def test_colour_of_any_size(model: Path, shape: tuple[int, int]) -> None:
    images = pictures((*shape, 3))
    check(infer(model, aligned(images, FOCUS_M)), planes(images))


@pytest.mark.parametrize("focus_m", [(0.5, 1.0, 3.0), tuple(1 / np.linspace(2.5, 0.25, 25))])
def test_any_number_of_slices(model: Path, focus_m: tuple[float, ...]) -> None:
    images = pictures(count=len(focus_m))
    check(infer(model, aligned(images, focus_m)), planes(images), focus_m)


def test_grey_goes_into_all_channels(model: Path) -> None:
    images = pictures(SHAPE)
    output = infer(model, aligned(images, FOCUS_M))
    check(output, planes(images))
    assert (output.all_in_focus == output.all_in_focus[..., :1]).all()


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("white", [200, 1023, 4095, 65535])
def test_16_bit_by_the_bits_used(model: Path, white: int, channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(1, white + 1, (*SHAPE, *channels)).astype(np.uint16) for _ in FOCUS_M]
    images[2][0, 0] = white
    check(infer(model, aligned(images, FOCUS_M)), planes(images, max(255, white)))


def test_views_of_larger_arrays_are_read_right(model: Path) -> None:
    images = [i[::2, 4:-4][:, ::-1] for i in pictures((2 * SHAPE[0], SHAPE[1] + 8, 3))]
    check(infer(model, aligned(images, FOCUS_M)), planes([np.ascontiguousarray(i) for i in images]))


def test_the_lens_reaches_the_model(model: Path) -> None:
    images = pictures()
    faint = infer(model, aligned(images, FOCUS_M, lens=replace_aperture(LENS, 4.0)))
    ratio = infer(model, aligned(images, FOCUS_M, lens=replace_aperture(LENS, 2.0))).confidence / faint.confidence
    np.testing.assert_allclose(ratio, 2.0, rtol=RELATIVE)


def replace_aperture(lens: LensModel, f_number: float) -> LensModel:
    return replace(lens, f_number=f_number)


def test_infinitely_far(model: Path) -> None:
    focus_m = (0.5, 1.0, 4.0, math.inf)
    images = pictures()
    for image in images[:3]:
        image[:5] = 0  # bright in the slice at infinity only
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = infer(model, aligned(images, focus_m))
    assert np.isposinf(output.depth_m[:5]).all()
    assert np.isfinite(output.depth_m[5:]).all()
    check_below = tiny_models.expected(planes(images), [2.0, 1.0, 0.25, 0.0], 1.0)[0]
    np.testing.assert_allclose(output.depth_m[5:], 1.0 / check_below[5:], rtol=RELATIVE)


@pytest.mark.parametrize("value", [-0.0, -1e-3, 1e-45])
def test_inverse_depths_at_and_below_zero_are_infinitely_far(tmp_path: Path, value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = infer(constant_depth(tmp_path, value), aligned(pictures(), FOCUS_M))
    assert np.isposinf(output.depth_m).all()


def constant_depth(folder: Path, value: float) -> Path:
    """Return a model that says this inverse depth for every pixel."""
    onnx = tiny_models.onnx

    def change(graph: Any) -> None:
        at = next(i for i, node in enumerate(graph.node) if "inverse_depth" in node.output)
        del graph.node[at]
        zero, constant = np.zeros(1, np.float32), np.array([value], np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(zero, "zero"))
        graph.initializer.append(onnx.numpy_helper.from_array(constant, "constant"))
        # Where(false, ..) keeps the sign of a zero, an addition would not.
        graph.node.append(onnx.helper.make_node("Less", ["bottom", "zero"], ["never"]))
        graph.node.append(onnx.helper.make_node("Where", ["never", "bottom", "constant"], ["inverse_depth"]))

    return tiny_models.tiny_model(folder, "constant", change=change)


def test_no_estimate_stays_no_estimate(model: Path) -> None:
    images = pictures()
    for image in images:
        image[3, 4] = 0  # 0 / 0 in the tiny model
    depth_m = infer(model, aligned(images, FOCUS_M)).depth_m
    assert np.isnan(depth_m[3, 4]) and np.isnan(depth_m).sum() == 1


def filled(slices: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return slices (N, 3, H, W) with unseen pixels taken from the nearest slice that sees, pixel by pixel."""
    result = slices.copy()
    count, _, height, width = slices.shape
    for n, y, x in zip(*np.nonzero(~seen), strict=True):
        others = [m for m in range(count) if seen[m, y, x]]
        if others:
            result[n, :, y, x] = slices[min(others, key=lambda m: (abs(m - n), m)), :, y, x]
    assert result.shape == (count, 3, height, width)
    return result


def test_unseen_pixels_are_filled_from_the_nearest_slice_that_sees(model: Path) -> None:
    focus_m = (0.4, 0.5, 0.7, 1.0, 2.0, 4.0)
    images = pictures((9, 11, 3), len(focus_m))
    seen = np.random.default_rng(4).random((len(focus_m), 9, 11)) < 0.7
    seen[:3, 0] = True  # so that rows 0 and 1 are surely 3 or more, and 2
    seen[:, 1] = np.arange(len(focus_m))[:, None] < 2
    output = infer(model, aligned(images, focus_m, valid=seen))
    enough = seen.sum(axis=0) >= 3
    assert 20 < enough.sum() < enough.size - 5
    gain = LENS.aperture_m * intrinsics((9, 11)).fx_px
    slices = filled(planes(images), seen)
    inverse, confidence, sharp = tiny_models.expected(slices, 1.0 / np.array(focus_m), gain)
    np.testing.assert_allclose(output.depth_m[enough], 1.0 / inverse[enough], rtol=RELATIVE)
    np.testing.assert_allclose(output.confidence[enough], confidence[enough], rtol=RELATIVE)
    assert np.isnan(output.depth_m[~enough]).all() and not output.confidence[~enough].any()
    assert np.abs(output.all_in_focus - sharp.transpose(1, 2, 0) * 255).max() < 0.5 + 1e-3


def test_results_are_fresh_inputs_left_alone_and_the_buffer_follows_the_shape(model: Path) -> None:
    small = pictures((17, 23, 3), 3, seed=2)
    seen = np.ones((4, *SHAPE), bool)
    seen[1, :, :6] = False
    first = pictures()
    copies = [i.copy() for i in first]
    with OnnxEngine(model) as engine:
        output = engine.infer(aligned(first, FOCUS_M, valid=seen))
        kept = copy_of(output)
        check(engine.infer(aligned(small, FOCUS_M[:3])), planes(small), FOCUS_M[:3])
        grey = pictures(SHAPE, seed=3)
        check(engine.infer(aligned(grey, FOCUS_M)), planes(grey))
        again = engine.infer(aligned(first, FOCUS_M, valid=seen))
    assert_arrays_equal(output, kept)
    assert_arrays_equal(again, kept)
    assert all((i == c).all() for i, c in zip(first, copies, strict=True))


def test_stacks_of_one_shape_share_one_input_buffer(model: Path) -> None:
    with OnnxEngine(model) as engine:
        buffers = []
        run = engine._run

        def spy(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            buffers.append(feeds["images"])
            return run(feeds)

        engine._run = spy  # type: ignore[method-assign]
        for seed in range(3):
            engine.infer(aligned(pictures(seed=seed), FOCUS_M))
        engine.infer(aligned(pictures((5, 6, 3)), FOCUS_M))
    assert buffers[0] is buffers[1] is buffers[2]
    assert buffers[3].shape == (4, 3, 5, 6)


@pytest.mark.parametrize("given", ["onnx", "json"])
def test_says_what_it_runs_on(model: Path, given: str) -> None:
    engine = OnnxEngine(str(model.with_suffix(f".{given}")), threads=1)
    assert (engine.name, engine.device) == ("onnx", "not loaded")
    with engine:
        assert engine.device == f"cpu, 1 thread, ONNX Runtime {onnxruntime.__version__}, tiny"
        check(engine.infer(aligned(pictures(), FOCUS_M)), planes(pictures()))
    assert engine.device == "not loaded"


def test_threads(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= onnx_runtime.physical_cores() <= (os.cpu_count() or 1)
    with pytest.raises(EngineError, match="at least 1 thread, got 0"):
        OnnxEngine(model, threads=0)
    # Four logical cores, two threads each.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6})
    for cpu, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (3, "3,7"), (6, "2,6")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(onnx_runtime, "TOPOLOGY", tmp_path)
    assert onnx_runtime.physical_cores() == 4
    with OnnxEngine(model) as engine:
        assert engine.device.startswith("cpu, 4 threads, ")
    monkeypatch.setattr(onnx_runtime, "TOPOLOGY", tmp_path / "nowhere")
    assert onnx_runtime.physical_cores() == 5


@pytest.mark.parametrize(
    ("usable", "device"), [(["CUDAExecutionProvider", "CPUExecutionProvider"], "gpu (CUDA), "), (None, "cpu, ")]
)
def test_takes_a_gpu_where_onnx_runtime_has_one(
    model: Path, monkeypatch: pytest.MonkeyPatch, usable: list[str] | None, device: str
) -> None:
    """ONNX Runtime itself goes on with the CPU where its CUDA libraries do not load."""
    asked = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
            asked.extend(name for name, _ in providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return usable or super().get_providers()

    fake = SimpleNamespace(
        __version__=onnxruntime.__version__,
        SessionOptions=onnxruntime.SessionOptions,
        GraphOptimizationLevel=onnxruntime.GraphOptimizationLevel,
        InferenceSession=Session,
        get_available_providers=lambda: [
            "TensorrtExecutionProvider",
            "CUDAExecutionProvider",
            "CPUExecutionProvider",
        ],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with OnnxEngine(model) as engine:
        assert engine.device.startswith(device)
    assert asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def refused(model: Path) -> str:
    """Return the one line with which entering ends."""
    with pytest.raises(EngineError) as caught, OnnxEngine(model):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_onnx_runtime(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    text = refused(model)
    assert "pip install onnxruntime" in text and "engine:=classical or --engine classical works without" in text


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"certainly no protocol buffer" * 10)
    write_manifest(path, **tiny_models.FACTS)
    text = refused(path)
    assert f"cannot load {path}" in text and "export the model again" in text


def test_a_network_that_changed_since_its_manifest(tmp_path: Path) -> None:
    path = tiny_models.tiny_model(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "SHA-256" in refused(path)


def test_a_network_without_manifest(tmp_path: Path) -> None:
    assert "expected the manifest" in refused(tiny_models.tiny_model(tmp_path, manifest=False))


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (
            {"focus_dpt": "positions"},
            ("expected inputs", "focus_dpt tensor(float) of 1D", "got", "positions tensor"),
        ),
        ({"confidence": "sureness"}, ("expected outputs", "sureness tensor(float) of 2D")),
    ],
)
def test_a_network_with_other_tensors(tmp_path: Path, rename: dict[str, str], words: tuple[str, ...]) -> None:
    text = refused(tiny_models.tiny_model(tmp_path, rename=rename))
    assert all(w in text for w in words) and "export the model again" in text


def test_a_network_that_fails_on_the_stack(tmp_path: Path) -> None:
    path = tiny_models.tiny_model(tmp_path, images_shape=(5, 3, "height", "width"))
    with pytest.raises(EngineError, match=r"model tiny on 4 slices of 32 x 24 failed: .*export the model again"):
        infer(path, aligned(pictures(), FOCUS_M))


def test_a_network_whose_depth_has_another_size(tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        node = next(n for n in graph.node if "confidence" in n.output)
        node.output[0] = "upright"
        graph.node.append(tiny_models.onnx.helper.make_node("Transpose", ["upright"], ["confidence"]))

    path = tiny_models.tiny_model(tmp_path, change=change)
    with pytest.raises(EngineError, match=r"expected confidence of shape \(24, 32\), got \(32, 24\)"):
        infer(path, aligned(pictures(), FOCUS_M))


@pytest.mark.parametrize(
    ("stack", "kind", "words"),
    [
        (lambda: aligned(pictures(count=2), FOCUS_M[:2]), EngineError, "at least 3 slices, got 2"),
        (lambda: aligned(pictures(), (0.4, 0.6, 0.6, 2.5)), StackError, "fall from slice to slice"),
        (lambda: aligned(pictures(), FOCUS_M[::-1]), StackError, "fall from slice to slice"),
        (
            lambda: replace(aligned(pictures(), FOCUS_M), intrinsics=nan_intrinsics()),
            StackError,
            "expected a blur gain above 0",
        ),
    ],
)
def test_stacks_that_cannot_be_used(
    model: Path, stack: Callable[[], AlignedStack], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        infer(model, stack())


def nan_intrinsics() -> Any:
    return SimpleNamespace(fx_px=math.nan)


def test_must_be_entered(model: Path) -> None:
    engine = OnnxEngine(model)
    with engine:
        pass
    with pytest.raises(EngineError, match="entered first"):
        engine.infer(aligned(pictures(), FOCUS_M))


def test_says_nothing_by_itself(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer(model, aligned(pictures(), FOCUS_M))
    assert capfd.readouterr() == ("", "")
