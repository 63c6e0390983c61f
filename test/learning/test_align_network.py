# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from dualfocus_ros.alignment.base import Grid
from dualfocus_ros.alignment.network import checked_file
from dualfocus_ros.errors import EngineError, InputError
from dualfocus_ros.learning import align_data, align_export
from dualfocus_ros.learning.align_data import PairBatch, View, batches, pairs_of, places
from dualfocus_ros.learning.align_export import export, load_align_network
from dualfocus_ros.learning.align_network import AlignNet, filters
from dualfocus_ros.learning.align_train import (
    CHECKPOINT,
    AlignTrainConfig,
    AlignTrainer,
    corner_error,
    loss_terms,
    make_parser,
    negative_log_likelihood,
    solved,
    train,
)
from dualfocus_ros.learning.data import save_stack
from dualfocus_ros.learning.simulator import Optics, Stack

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "alignment" / "align_small.pt"
SIZE = (96, 80)


def texture(width: int, height: int, grain_px: float = 1.5, seed: int = 0) -> np.ndarray:
    """Return linear light (height, width) of mean 1."""
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), grain_px) - 0.5, -0.4, 0.4) * 3.0 + 1.3
    return np.asarray(image / image.mean())


def grid_of(width: int, height: int) -> Tensor:
    grid = Grid.of(width, height, (width - 1) / 2, (height - 1) / 2)
    return torch.from_numpy(np.stack([grid.x, grid.y]))


def shifted_pair(shift_px: int, width: int = SIZE[0], height: int = SIZE[1]) -> Tensor:
    """Return two views (1, 2, height, width) of a texture; the second sees it further to the right."""
    big = texture(width + 16, height)
    views = np.stack([big[:, 8 : 8 + width], big[:, 8 - shift_px : 8 - shift_px + width]])
    return torch.from_numpy(views)[None]


@pytest.fixture(scope="module")
def shipped() -> AlignNet:
    return load_align_network(WEIGHTS)[0]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return stacks of a textured plane, blurred more from slice to slice."""
    folder = tmp_path_factory.mktemp("pool")
    for i in range(3):
        sharp = np.stack([texture(96, 96, seed=3 * i + c) for c in range(3)], axis=-1)
        slices = [cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (0.4, 0.8, 1.4, 2.0)]
        light = torch.from_numpy(np.stack(slices)).permute(0, 3, 1, 2).contiguous()
        optics = Optics((2.0, 1.5, 1.0, 0.5), 4.0, 0.0)
        save_stack(folder / f"{i:07d}_0_04.npz", Stack(light, torch.full((96, 96), 2.0), optics))
    return folder


def test_equal_images_are_not_displaced_whatever_the_weights() -> None:
    network = AlignNet()
    for parameter in network.parameters():
        parameter.data.normal_(0.0, 0.1)
    image = torch.from_numpy(texture(*SIZE))
    with torch.no_grad():
        equations = network(image.expand(1, 2, -1, -1), grid_of(*SIZE))
    assert float(equations[0, :, 3].abs().max()) == 0.0
    assert float(torch.linalg.eigvalsh(equations[0, :, :3]).min()) > 0.0


@pytest.mark.parametrize("shift_px", [-1, 1])
def test_a_shift_is_found(shipped: AlignNet, shift_px: int) -> None:
    with torch.no_grad():
        found, _ = solved(shipped(shifted_pair(shift_px), grid_of(*SIZE)))
    np.testing.assert_allclose(found[0], (0.0, shift_px, 0.0), atol=0.2)


def test_the_two_images_are_told_apart(shipped: AlignNet) -> None:
    pair, grid = shifted_pair(1), grid_of(*SIZE)
    with torch.no_grad():
        there, back = (solved(shipped(p, grid))[0] for p in (pair, pair.flip(1)))
    np.testing.assert_allclose(there, -back, atol=0.1)
    assert float(there[0, 1]) > 0.5


def test_the_answer_does_not_depend_on_the_resolution(shipped: AlignNet) -> None:
    with torch.no_grad():
        small, large = (solved(shipped(shifted_pair(1, w, h), grid_of(w, h))) for w, h in ((64, 48), (160, 120)))
    np.testing.assert_allclose(small[0], large[0], atol=0.15)
    assert 0.3 < float(small[1][0, 1, 1] / large[1][0, 1, 1]) < 3.0


def test_slices_filtered_once_give_what_pairs_give(shipped: AlignNet) -> None:
    pair, grid = shifted_pair(1), grid_of(*SIZE)
    deployed = align_export.Deployed(shipped)
    with torch.no_grad():
        at_once = deployed(pair[0], torch.tensor([0, 1]), torch.tensor([1, 0]), grid)
        torch.testing.assert_close(at_once[:1], shipped(pair, grid))
        torch.testing.assert_close(at_once[1:], shipped(pair.flip(1), grid))


def test_the_filters_differentiate_the_band() -> None:
    band, along_x, along_y, laplacian = filters()[:, 0]
    assert float(band.sum()) == pytest.approx(0.0, abs=1e-6)
    wave = torch.cos(0.3 * torch.arange(-5.0, 6.0))  # along x; its derivative at 0.1 wavelengths is known
    later = torch.cos(0.3 * torch.arange(-5.0, 6.0) + 1.0)
    amplitude = float((band * wave).sum())
    assert float((along_x * later).sum()) == pytest.approx(-0.3 * amplitude * np.sin(1.0), rel=0.01)
    assert float((along_y * later[:, None]).sum()) == pytest.approx(-0.3 * amplitude * np.sin(1.0), rel=0.01)
    assert float((laplacian * wave).sum()) == pytest.approx(-0.09 * amplitude, rel=0.01)


def test_gradients_reach_every_parameter() -> None:
    network = AlignNet()
    torch.nn.init.normal_(network.tell.weight, 0.0, 0.05)
    batch = PairBatch(shifted_pair(1), grid_of(*SIZE), torch.tensor([[0.0, 0.5, 0.2]]))
    loss_terms(network(batch.pairs, batch.grid), batch)[0].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0.0, name


def test_the_loss_is_least_at_the_truth_and_at_the_true_spread() -> None:
    truth = torch.tensor([[0.3, -0.2, 0.1]])
    assert float(corner_error(truth, truth, grid_of(*SIZE))) < 1e-5
    off = truth + torch.tensor([[0.0, 0.3, 0.4]])
    assert float(corner_error(off, truth, grid_of(*SIZE))) == pytest.approx(0.5, rel=1e-5)
    torch.manual_seed(0)
    sample = 0.1 * torch.randn(2000, 3)
    means = [
        float(negative_log_likelihood(torch.zeros(1, 3), (torch.eye(3) / s**2)[None], sample).mean())
        for s in (0.05, 0.11, 0.2)
    ]
    assert means[1] < min(means[0], means[2])


def test_pairs_are_displaced_by_what_the_labels_say() -> None:
    """Of a stack without any blur, through a camera without noise, least squares must find the labels."""
    light = torch.from_numpy(texture(96, 96, 2.5)).expand(3, 3, -1, -1).clone()
    stack = Stack(light, torch.ones(96, 96), Optics((2.0, 1.0, 0.5), 4.0, 0.0))
    view = View(40, 2, (12.0, 25.0), 60.0)
    grid = torch.from_numpy(np.stack([view.grid.x, view.grid.y]))
    network, errors, sizes = AlignNet(), [], []
    for seed in range(12):
        pairs, truths = pairs_of(stack, np.zeros((3, 2)), view, np.random.default_rng(seed))
        truth = torch.from_numpy(np.stack(truths)).float()
        with torch.no_grad():
            found, _ = solved(network(torch.from_numpy(np.stack(pairs)), grid))
        errors += corner_error(found, truth, grid).tolist()
        sizes += corner_error(torch.zeros_like(truth), truth, grid).tolist()
    large = np.array(sizes) > 0.15
    assert large.sum() > 5
    assert np.median(np.array(errors)[large] / np.array(sizes)[large]) < 0.5


def test_batches_are_the_same_for_the_same_number(pool: Path) -> None:
    first = batches(pool, 2, seed=3)
    next(first)
    second, again = next(first), next(batches(pool, 2, seed=3, start=1))
    assert torch.equal(second.pairs, again.pairs) and torch.equal(second.truth, again.truth)
    assert second.pairs.shape[0] == len(second.truth) == 12  # of 4 slices 6 pairs
    torch.testing.assert_close(second.pairs.mean((2, 3)), torch.ones(12, 2), atol=0.1, rtol=0.0)


def test_the_place_of_every_picture_is_found_across_blur() -> None:
    big, moved = texture(140, 96, 2.5), (0, 1, 3, 2)
    slices = [cv2.GaussianBlur(big, (0, 0), 0.5 + 0.4 * n)[:, 10 - x : 106 - x] for n, x in enumerate(moved)]
    light = torch.from_numpy(np.stack([np.stack(3 * [image]) for image in slices]))
    found = places(Stack(light, torch.ones(96, 96), Optics((2.0, 1.5, 1.0, 0.5), 4.0, 0.0)))
    np.testing.assert_allclose(found, np.transpose([moved, np.zeros(4)]), atol=0.08)


def test_pictures_out_of_place_are_put_right() -> None:
    """Two slices of one picture, one of them elsewhere: seen without blur and noise they must come out alike."""
    big = texture(120, 96, 2.5)
    light = torch.from_numpy(np.stack([np.stack(3 * [big[:, 10 - x : 106 - x]]) for x in (0, 2, 0)]))
    stack = Stack(light, torch.ones(96, 96), Optics((2.0, 1.0, 0.5), 4.0, 0.0))
    place, view = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), View(40, 2, (19.5, 19.5), 30.0)
    grid = torch.from_numpy(np.stack([view.grid.x, view.grid.y]))
    ratios = []
    for p in (place, -place):
        errors = []
        for seed in range(8):
            pairs, truths = pairs_of(stack, p, view, np.random.default_rng(seed))
            with torch.no_grad():
                found, _ = solved(AlignNet()(torch.from_numpy(np.stack(pairs)), grid))
            errors += corner_error(found, torch.from_numpy(np.stack(truths)).float(), grid).tolist()
        ratios.append(np.median(errors))
    assert ratios[0] < 0.5 * ratios[1]


def test_stacks_too_small_for_a_view_are_refused() -> None:
    stack = Stack(torch.rand(3, 3, 32, 32), torch.ones(32, 32), Optics((2.0, 1.0, 0.5), 4.0, 0.0))
    with pytest.raises(InputError, match=r"at least 80 x 80 px for this view, got 32 x 32"):
        pairs_of(stack, np.zeros((3, 2)), View(40, 2, (19.5, 19.5), 30.0), np.random.default_rng(0))


def test_training_lowers_the_loss(pool: Path) -> None:
    """On one batch, which a network that learns at all can learn by heart."""
    trainer = AlignTrainer(AlignTrainConfig(steps=1000, warmup=3))
    batch = next(batches(pool, 1, seed=0))
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(25)]
    assert np.mean(losses[-3:]) < losses[0] - 0.02


def options(run: Path, pool: Path, steps: int) -> argparse.Namespace:
    return make_parser().parse_args(
        [str(run), "--pool", str(pool), "--stacks", "1", "--steps", str(steps), "--log-every", "1"]
    )


def test_a_run_that_stops_goes_on_as_if_it_had_not(pool: Path, tmp_path: Path) -> None:
    whole = train(options(tmp_path / "whole", pool, 4))
    half = options(tmp_path / "parts", pool, 4)
    half.minutes = 0.0
    assert train(half).step == 0
    trainer = AlignTrainer(AlignTrainConfig(steps=4, stacks=1))
    stream = batches(pool, 1, seed=0)
    for _ in range(2):
        trainer.train_step(next(stream))
    trainer.save(tmp_path / "parts")
    resumed = train(options(tmp_path / "parts", pool, 4))
    assert (resumed.step, resumed.pairs) == (4, whole.pairs)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], value)
    assert len((tmp_path / "whole" / "log.csv").read_text().splitlines()) == 4


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"network": {"width": 8}, "model": {}, "training": {}}, tmp_path / "shapes.pt")
    for name in ("text.pt", "tensor.pt", "shapes.pt", "missing.pt"):
        with pytest.raises(InputError, match=rf"expected a checkpoint or weights of alignment in .*{name}"):
            load_align_network(tmp_path / name)


def test_the_shipped_graph_is_of_the_shipped_weights(shipped: AlignNet) -> None:
    path = checked_file(WEIGHTS.with_suffix(".json"))
    assert align_export.relative_error(path, shipped) < align_export.TOLERANCE
    content = path.read_bytes()
    assert b"site-packages" not in content and b'.py"' not in content and str(ROOT).encode() not in content


def test_a_graph_that_disagrees_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: Path
) -> None:
    trainer = AlignTrainer(AlignTrainConfig())
    trainer.train_step(next(batches(pool, 1, seed=0)))
    trainer.save(tmp_path)
    shipped_graph = checked_file(WEIGHTS.with_suffix(".json")).read_bytes()
    monkeypatch.setattr(align_export, "export_onnx", lambda network, path: path.write_bytes(shipped_graph))
    with pytest.raises(EngineError, match=r"differs from PyTorch by .*nothing is written"):
        export(tmp_path / CHECKPOINT, tmp_path / "models", "wrong", {})
    assert list((tmp_path / "models").iterdir()) == []


def test_all_gaps_of_the_running_system_are_learnt() -> None:
    from dualfocus_ros.alignment import residual

    assert align_data.GAPS == residual.GAPS
