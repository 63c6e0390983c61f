# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stack_helpers import intrinsics

from dualfocus_ros.engine.manifest import Stages, load_manifest
from dualfocus_ros.engine.onnx import OnnxEngine
from dualfocus_ros.engine.selfcheck import self_check
from dualfocus_ros.errors import EngineError, InputError
from dualfocus_ros.learning import export as exporting
from dualfocus_ros.learning.export import export, fold_batch_norms
from dualfocus_ros.learning.losses import LossWeights
from dualfocus_ros.learning.network import DualFocusNet, NetworkConfig
from dualfocus_ros.learning.settings import Settings, TrainConfig
from dualfocus_ros.learning.simulator import BLUR_STEP_PX
from dualfocus_ros.learning.train import CHECKPOINT, Trainer
from dualfocus_ros.learning.validate import NetworkEngine
from dualfocus_ros.learning.weights import load_mean, load_network
from dualfocus_ros.types import AlignedStack, LensModel

pytestmark = pytest.mark.timeout(400)  # exporting takes half a minute a graph, or more on a busy machine
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
CPU = torch.device("cpu")
# As small as goes, with everything that the shipped ones have; fp16 convolutions need some channels to be one.
TINY = NetworkConfig(widths=(8, 8, 8, 8), surfaces=2)
SIZES = [(3, 32, 32), (5, 45, 61), (10, 64, 96), (15, 40, 33)]


def lively(network: DualFocusNet) -> None:
    """Give the normalisations statistics and the scores a spread: else every answer is nearly the same."""
    with torch.no_grad():
        network.head.score.weight *= 8.0
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
        for part in (network.head.propagation, network.head.detail.snap):
            for layer in (part.embed, part.stay, part.trust):
                layer.weight.normal_(0.0, 0.1)
            part.lift.fill_(0.3)
        network.head.detail.correct.weight.normal_(0.0, 0.05)
        network.head.detail.doubt.weight.normal_(0.0, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint in run/ and all that is exported from it in models/."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    trainer = Trainer(Settings(TrainConfig(), TINY, LossWeights()), CPU)
    lively(trainer.averaged.module)
    trainer.step, trainer.stacks, trainer.seconds = 7, 70, 1.5
    (folder / "run").mkdir()
    trainer.save(folder / "run")
    errors = export([folder / "run" / CHECKPOINT], folder / "models", "tiny", {"hardware": "none"})
    assert errors["fp32"] < exporting.TOLERANCES["fp32"] and errors["fp16"] < exporting.TOLERANCES["fp16"]
    return folder


def stack(slices: int, height: int, width: int, seed: int = 0) -> AlignedStack:
    """Return noise, seen through a random lens."""
    rng = np.random.default_rng(seed)
    images = tuple(rng.integers(20, 230, (height, width, 3)).astype(np.uint8) for _ in range(slices))
    focus_dpt = np.linspace(rng.uniform(2.0, 9.0), rng.uniform(0.1, 1.0), slices)
    lens = LensModel(focal_length_m=0.016, f_number=rng.uniform(1.4, 8.0), pixel_pitch_m=10e-6)
    return AlignedStack(images, None, 1.0 / focus_dpt, intrinsics(width, height), lens)


@pytest.mark.parametrize(("slices", "height", "width"), SIZES)
def test_the_graph_is_the_network(folder: Path, slices: int, height: int, width: int) -> None:
    network, _ = load_network(folder / "run" / CHECKPOINT)
    given = stack(slices, height, width)
    expected = NetworkEngine(network, CPU).infer(given)
    with OnnxEngine(folder / "models" / "tiny.onnx") as engine:
        found = engine.infer(given)
    assert float(expected.depth_m.std() / expected.depth_m.mean()) > 0.02  # something to compare
    np.testing.assert_allclose(found.depth_m, expected.depth_m, rtol=1e-4)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
    assert np.abs(found.all_in_focus.astype(int) - expected.all_in_focus.astype(int)).max() <= 1


@pytest.mark.parametrize(("slices", "height", "width"), SIZES)
def test_half_precision_is_close(folder: Path, slices: int, height: int, width: int) -> None:
    given = stack(slices, height, width)
    with (
        OnnxEngine(folder / "models" / "tiny.onnx") as single,
        OnnxEngine(folder / "models" / "tiny_fp16.onnx") as half,
    ):
        expected, found = single.infer(given), half.infer(given)
    np.testing.assert_allclose(found.depth_m, expected.depth_m, rtol=0.02)


def test_half_precision_keeps_single_what_depends_on_numbers(folder: Path) -> None:
    model = onnx.load(str(folder / "models" / "tiny_fp16.onnx"))
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    half = [n for n, kind in kinds.items() if kind == onnx.TensorProto.FLOAT16]
    assert len(half) > 20
    tensors = [*model.graph.input, *model.graph.output]
    assert {t.type.tensor_type.elem_type for t in tensors} == {onnx.TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    operands = {
        kind: {
            found.get(name) or kinds.get(name)
            for node in model.graph.node
            if node.op_type == kind
            for name in node.input
        }
        for kind in ("Conv", "Softmax", "ReduceSum", "Exp", "Einsum", "Log")
    }
    assert onnx.TensorProto.FLOAT16 in operands["Conv"]
    for kind in ("Softmax", "ReduceSum", "Exp", "Einsum", "Log"):
        assert onnx.TensorProto.FLOAT16 not in operands[kind], kind


def test_the_manifest_says_what_the_file_is(folder: Path) -> None:
    for name, precision in (("tiny", "fp32"), ("tiny_fp16", "fp16")):
        manifest = load_manifest(folder / "models" / f"{name}.json")
        assert (manifest.name, manifest.precision, manifest.opset) == (name, precision, 18)
        assert (manifest.min_slices, manifest.trained_max_slices) == (3, 15)
        assert manifest.blur_step_px == BLUR_STEP_PX
        assert manifest.parameters == sum(p.numel() for p in DualFocusNet(TINY).parameters())
        assert manifest.training["step"] == 7 and manifest.training["stacks"] == 70
        assert manifest.training["hardware"] == "none"
        assert manifest.training["config"]["learning_rate"] == TrainConfig().learning_rate


@pytest.mark.parametrize("name", ["tiny", "tiny_fp16"])
def test_the_self_check_knows_the_answer_of_the_network(folder: Path, name: str) -> None:
    manifest = load_manifest(folder / "models" / f"{name}.json")
    with OnnxEngine(folder / "models" / f"{name}.onnx") as engine:
        off = self_check(engine, manifest)
    assert off is not None and manifest.self_check is not None
    assert off < 0.5 * manifest.self_check.tolerance


def test_no_file_names_this_machine(folder: Path) -> None:
    root = str(Path(exporting.__file__).resolve().parents[2]).encode()
    for path in (folder / "models").iterdir():
        content = path.read_bytes()
        assert root not in content and b"site-packages" not in content and b'.py"' not in content, path.name


def test_the_weights_file_is_read_like_the_checkpoint(folder: Path) -> None:
    averaged, run = load_network(folder / "run" / CHECKPOINT)
    shipped, record = load_network(folder / "models" / "tiny.pt")
    assert run == record
    assert all(torch.equal(v, shipped.state_dict()[k]) for k, v in averaged.state_dict().items())


def test_of_several_checkpoints_the_mean_is_taken(tmp_path: Path, folder: Path) -> None:
    first, _ = load_network(folder / "run" / CHECKPOINT)
    trainer = Trainer(Settings(TrainConfig(seed=5), TINY, LossWeights()), CPU)
    trainer.step = 9
    trainer.save(tmp_path)
    second, _ = load_network(tmp_path / CHECKPOINT)
    mean, record = load_mean([folder / "run" / CHECKPOINT, tmp_path / CHECKPOINT])
    for key, value in mean.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.5 * (first.state_dict()[key] + second.state_dict()[key]))
    assert record["step"] == 9 and [other["step"] for other in record["mean_with"]] == [7]
    assert load_mean([tmp_path / CHECKPOINT])[1] == load_network(tmp_path / CHECKPOINT)[1]


def test_a_mean_of_different_networks_is_refused(tmp_path: Path, folder: Path) -> None:
    other = NetworkConfig(widths=(8, 8, 8, 8), surfaces=3)
    Trainer(Settings(TrainConfig(), other, LossWeights()), CPU).save(tmp_path)
    with pytest.raises(InputError, match=r"expected weights of .*surfaces=3.* in .*run.*surfaces=2"):
        load_mean([folder / "run" / CHECKPOINT, tmp_path / CHECKPOINT])


def test_the_averaged_weights_are_exported_not_the_last(folder: Path) -> None:
    network, _ = load_network(folder / "run" / CHECKPOINT)
    saved = torch.load(folder / "run" / CHECKPOINT, weights_only=True)
    assert not torch.equal(network.head.score.weight, saved["model"]["head.score.weight"])
    assert torch.equal(network.head.score.weight, saved["averaged"]["module.head.score.weight"])


def test_folding_the_normalisations_changes_no_answer() -> None:
    network = DualFocusNet(TINY).eval()
    lively(network)
    given = stack(4, 32, 64)
    before = NetworkEngine(network, CPU).infer(given)
    fold_batch_norms(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    np.testing.assert_allclose(NetworkEngine(network, CPU).infer(given).depth_m, before.depth_m, rtol=1e-4)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"network": vars(TINY)}, tmp_path / "keys.pt")
    other = DualFocusNet(replace(TINY, surfaces=3)).state_dict()
    torch.save({"network": vars(TINY), "model": other, "training": {}}, tmp_path / "shapes.pt")
    for name in ("text.pt", "empty.pt", "tensor.pt", "keys.pt", "shapes.pt", "missing.pt"):
        with pytest.raises(InputError, match=rf"expected a checkpoint or weights of DualFocus in .*{name}"):
            load_network(tmp_path / name)


@pytest.mark.parametrize("damage", ["other weights", "NaN"])
def test_a_graph_that_disagrees_is_not_shipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    model = onnx.load(str(folder / "models" / "tiny.onnx"))
    bias = next(t for t in model.graph.initializer if t.name.endswith("spread.bias"))
    values = onnx.numpy_helper.to_array(bias) + (np.nan if damage == "NaN" else 1.0) * np.arange(bias.dims[0])
    bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), bias.name))

    def write_wrong(network: DualFocusNet, path: Path, stages: Stages) -> int:
        onnx.save(model, str(path))
        shutil.copy(folder / "models" / "tiny_encoder.onnx", stages.encoder_path)
        shutil.copy(folder / "models" / "tiny_head.onnx", stages.head_path)
        return 18

    monkeypatch.setattr(exporting, "export_onnx", write_wrong)
    with pytest.raises(EngineError, match=r"the fp32 graph of .* differs from PyTorch by .*nothing is written"):
        export([folder / "run" / CHECKPOINT], tmp_path, "wrong", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("name", ["tiny", "tiny_fp16"])
def test_tensorrt_compiles_the_graph_for_a_range_of_sizes(folder: Path, name: str) -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, logger)
    parsed = parser.parse((folder / "models" / f"{name}.onnx").read_bytes())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (3, 3, 240, 320), (10, 3, 480, 640), (15, 3, 720, 1280))
    profile.set_shape("focus_dpt", (3,), (10,), (15,))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(definition, config)
    assert plan is not None and plan.nbytes > 10_000
