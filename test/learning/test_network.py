# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor

from dualfocus_ros.learning.certainty import excess
from dualfocus_ros.learning.focus import all_in_focus, focus_codes
from dualfocus_ros.learning.integration import dct_matrix, forward_differences, integrate
from dualfocus_ros.learning.layers import each, pad_to_stride, to_cells
from dualfocus_ros.learning.network import (
    BASE,
    REACH,
    SMALL,
    DualFocusNet,
    Encoded,
    NetworkConfig,
    Prediction,
    join,
)

CPU = torch.device("cpu")
TINY = NetworkConfig(widths=(8, 8, 8, 8), surfaces=2)
# Height and width, even and odd, flat and tall.
GRIDS = ((1, 7), (6, 1), (2, 2), (5, 5), (6, 9), (9, 6), (13, 8), (16, 12))
# Single precision through some thirty layers.
TOLERANCE = 1e-5


def dense_surface(gamma: np.ndarray, reach: float = math.inf) -> np.ndarray:
    """Return the least-squares surface (h, w) of zero mean by a dense solve; gamma is (2, h, w)."""
    height, width = gamma.shape[1:]
    number = np.arange(height * width).reshape(height, width)
    pairs = [
        (number[i, j], number[i + dy, j + dx], gamma[axis, i, j])
        for axis, (dy, dx) in enumerate(((0, 1), (1, 0)))
        for i in range(height - dy)
        for j in range(width - dx)
    ]
    matrix, wanted = np.zeros((len(pairs), height * width)), np.zeros(len(pairs))
    for row, (start, end, value) in enumerate(pairs):
        matrix[row, start], matrix[row, end], wanted[row] = -1.0, 1.0, value
    matrix = np.concatenate([matrix, np.eye(height * width) / reach])
    wanted = np.concatenate([wanted, np.zeros(height * width)])
    surface = np.linalg.lstsq(matrix, wanted, rcond=None)[0].reshape(height, width)
    return np.asarray(surface - surface.mean())


def make_network(config: NetworkConfig = TINY, seed: int = 0) -> DualFocusNet:
    """Return a network in evaluation mode whose answers are not almost constant, as random weights' would be."""
    torch.manual_seed(seed)
    network = DualFocusNet(config).eval()
    with torch.no_grad():
        network.head.score.weight *= 8.0
        network.head.detail.correct.weight.normal_(std=0.05)  # it starts as zero
    return network


def make_stack(
    batch: int = 1, slices: int = 5, size: tuple[int, int] = (32, 64), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random images (B, N, 3, H, W) in 0.1..0.9, uneven focus positions and blur gains."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 + 0.8 * torch.rand((batch, slices, 3, *size), generator=generator)
    steps = 0.3 + torch.rand((batch, slices), generator=generator)
    return images, 0.2 + steps.flip(1).cumsum(1).flip(1), 1.0 + 5.0 * torch.rand(batch, generator=generator)


def run(network: DualFocusNet, images: Tensor, focus_dpt: Tensor, blur_gain: Tensor) -> Prediction:
    with torch.no_grad():
        found: Prediction = network(images, focus_dpt, blur_gain)
    return found


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# The least-squares layer


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_the_dct_matrix_is_that_of_scipy_and_orthonormal(size):
    matrix = dct_matrix(size, CPU, torch.float64).numpy()
    np.testing.assert_allclose(matrix, fft.dct(np.eye(size), axis=0, norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-13)
    single = dct_matrix(size, CPU)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), matrix, atol=1e-6)


@pytest.mark.parametrize("reach", [math.inf, 3.0])
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_integrate_solves_the_dense_least_squares_problem(height, width, reach):
    noise = np.random.default_rng(height * 100 + width).normal(size=(2, height, width))  # no gradient field at all
    surface = integrate(torch.from_numpy(noise), reach).numpy()
    np.testing.assert_allclose(surface, dense_surface(noise, reach), atol=1e-10)


def test_integrate_gives_an_analytic_surface_back():
    y, x = np.mgrid[:11, :14].astype(float)
    surface = 0.3 * x - 0.1 * y + np.sin(0.4 * x) * np.cos(0.7 * y) + 0.02 * x * y
    dx = np.diff(surface, axis=1, append=np.nan)  # what points out of the grid must not be read as a number
    dy = np.diff(surface, axis=0, append=np.nan)
    found = integrate(torch.from_numpy(np.stack([dx, dy]))).numpy()
    np.testing.assert_allclose(found, surface - surface.mean(), atol=1e-12)


def test_integrate_treats_leading_dimensions_alike_and_is_good_in_single_precision():
    gamma = torch.randn(2, 3, 2, 60, 80, dtype=torch.float64)
    surfaces = integrate(gamma)
    assert surfaces.shape == (2, 3, 60, 80)
    assert difference(surfaces[1, 2], integrate(gamma[1, 2])) < 1e-12
    assert difference(integrate(gamma.float()).double(), surfaces) < 2e-5 * float(surfaces.abs().max())


def test_integrate_forgets_beyond_its_reach():
    reach = 4.0
    gamma = torch.zeros(2, 3, 80, dtype=torch.float64)
    gamma[0, :, 20] = 1.0  # a step of height 1 between columns 20 and 21
    surface = integrate(gamma, reach)[1]
    # Of -S[x - 1] + 2 S[x] - S[x + 1] + S[x] / reach^2 = 0 beside the step, where S falls by one factor a cell.
    fall = 1.0 + 0.5 / reach**2 - math.sqrt(1.0 / reach**2 + 0.25 / reach**4)
    height = 1.0 / (3.0 - fall + 1.0 / reach**2)  # at the step the right side is 1
    expected = height * fall ** torch.arange(20, dtype=torch.float64)
    torch.testing.assert_close(surface[21:41], expected, rtol=0, atol=1e-4)
    # What is farther away than it reaches does not matter, however large the grid.
    wide = integrate(torch.nn.functional.pad(gamma, (0, 400)), reach)[1]
    torch.testing.assert_close(wide[:50], surface[:50], rtol=0, atol=1e-4)


def test_integrate_is_differentiable():
    gamma = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(integrate, (gamma,))


def test_forward_differences_are_those_of_numpy_and_zero_at_the_border():
    surface = np.random.default_rng(0).normal(size=(3, 4, 5))
    found = forward_differences(torch.from_numpy(surface)).numpy()
    assert found.shape == (3, 2, 4, 5)
    np.testing.assert_array_equal(found[:, 0], np.concatenate([np.diff(surface, axis=2), np.zeros((3, 4, 1))], 2))
    np.testing.assert_array_equal(found[:, 1], np.concatenate([np.diff(surface, axis=1), np.zeros((3, 1, 5))], 1))


# What goes in


def focal_differences(volume: Tensor) -> Tensor:
    """Return V* (N, 2C, ...) of a volume (N, C, ...): each slice with its step to the next."""
    steps = volume[1:] - volume[:-1]
    return torch.cat([volume, torch.cat([steps, steps[-1:]])], dim=1)


def test_slices_enter_one_by_one_as_focal_differences_would():
    network = make_network()
    head = network.head
    images = pad_to_stride(make_stack(slices=5)[0])[0]
    with torch.no_grad():
        for layer in head.contrast:
            layer.weight.normal_()
        features, energies, _ = network.encoder(images)
        encoded = network.encode(images)
        for i, found in enumerate(features):
            steps = focal_differences(energies)[:, energies.shape[1] :]
            expected = head.enter[i](focal_differences(found)) + head.contrast[i](steps)
            own, ahead = encoded.own[i], encoded.ahead[i]
            torch.testing.assert_close(own[:-1] + ahead[1:], expected[:-1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(own[-1] + 2 * ahead[-1] - ahead[-2], expected[-1], rtol=1e-4, atol=1e-4)
            if i < 3:
                energies = torch.nn.functional.avg_pool2d(energies, 2)


def test_what_is_found_in_a_slice_does_not_depend_on_the_others():
    network = make_network()
    images, focus_dpt, blur_gain = make_stack(slices=4, size=(32, 64))
    with torch.no_grad():
        one_by_one = [network.encode(image) for image in images[0].split(1)]
        encoded = Encoded(
            *(
                [torch.cat(scale) for scale in zip(*lists, strict=True)]
                for lists in ([e.own for e in one_by_one], [e.ahead for e in one_by_one])
            ),
            torch.cat([e.energy for e in one_by_one]),
            torch.cat([e.cells for e in one_by_one]),
        )
        found = network.head(join(encoded, 1), focus_dpt, blur_gain)
    assert difference(found.inverse_depth, run(network, images, focus_dpt, blur_gain).inverse_depth) < TOLERANCE


def test_focus_codes_of_an_example():
    codes = focus_codes(torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([2.0]))[0] / 0.3  # 8, 4 and 2 px of blur
    log = np.log2
    expected = [
        [log(4), log(4), log(0.1), log(6.1), log(6), 0.0],
        [log(4), log(2), log(4.1), log(2.1), log(6), -1.0],
        [log(2), log(2), log(6.1), log(0.1), log(6), -2.0],
    ]
    np.testing.assert_allclose(codes.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.01, 0.05, 20.0, 100.0])
def test_focus_codes_know_pixels_of_blur_and_nothing_else_of_the_lens(factor):
    focus_dpt, blur_gain = torch.tensor([[5.0, 3.0, 1.0, 0.0]]), torch.tensor([3.0])  # down to infinity
    codes = focus_codes(focus_dpt, blur_gain)
    assert torch.isfinite(codes).all()
    assert difference(focus_codes(focus_dpt / factor, blur_gain * factor), codes) < TOLERANCE
    assert difference(focus_codes(focus_dpt, blur_gain * 2.0), codes) > 0.1


@pytest.mark.parametrize("size", [(45, 61), (64, 96), (1, 1), (33, 31)])
def test_padding_repeats_the_border_up_to_the_stride(size):
    images = torch.rand(2, 3, 3, *size)
    padded = pad_to_stride(images)
    assert padded.shape[:3] == images.shape[:3]
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    below, right = (padded.shape[i] - images.shape[i] for i in (-2, -1))
    assert below < 32 and right < 32
    expected = np.pad(images.numpy(), [(0, 0)] * 3 + [(0, below), (0, right)], mode="edge")
    np.testing.assert_array_equal(padded.numpy(), expected)


# What comes out


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_weights_transfer_to_a_very_different_lens(factor):
    """The same pictures come from a lens of 1/k the blur gain whose focus positions are k times as far apart."""
    network = make_network()
    images, focus_dpt, blur_gain = make_stack(batch=2)
    here = run(network, images, focus_dpt, blur_gain)
    there = run(network, images, focus_dpt / factor, blur_gain * factor)
    assert float(here.inverse_depth.std()) > 0.01  # something to compare
    error = (there.inverse_depth * factor / here.inverse_depth - 1.0).abs().max()
    assert float(error) < TOLERANCE
    assert difference(there.confidence, here.confidence) < TOLERANCE
    assert difference(there.probability, here.probability) < TOLERANCE


def test_another_blur_gain_alone_is_another_stack():
    network = make_network()
    images, focus_dpt, blur_gain = make_stack()
    here, there = run(network, images, focus_dpt, blur_gain), run(network, images, focus_dpt, 4 * blur_gain)
    assert difference(there.probability, here.probability) > 100 * TOLERANCE


@pytest.mark.parametrize("slices", [3, 5, 15])
@pytest.mark.parametrize("size", [(45, 61), (32, 32), (20, 70)])
def test_any_number_of_slices_and_any_size(slices, size):
    images, focus_dpt, blur_gain = make_stack(2, slices, size)
    found = run(make_network(), images, focus_dpt, blur_gain)
    padded = [-(-length // 32) * 32 for length in size]
    assert found.inverse_depth.shape == found.confidence.shape == (2, *size)
    assert found.probability.shape == (2, slices, padded[0] // 4, padded[1] // 4)
    assert found.gradient is not None and found.gamma is not None
    assert found.gradient.shape == found.gamma.shape == (2, slices, 2, padded[0] // 8, padded[1] // 8)
    assert difference(found.probability.sum(dim=1), torch.ones(2, 1, 1)) < TOLERANCE
    assert float(found.probability.min()) >= 0.0
    nearest, farthest = focus_dpt[:, 0, None, None], focus_dpt[:, -1, None, None]
    assert (found.inverse_depth <= nearest * (1 + TOLERANCE)).all()
    assert (found.inverse_depth >= farthest * (1 - TOLERANCE)).all()
    assert (found.confidence > 0.0).all() and (found.confidence <= 1.0).all()


def test_a_stack_alone_is_the_same_as_in_a_batch():
    network = make_network()
    images, focus_dpt, blur_gain = make_stack(batch=3, size=(33, 47))
    together = run(network, images, focus_dpt, blur_gain)
    for i in range(3):
        alone = run(network, images[i : i + 1], focus_dpt[i : i + 1], blur_gain[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            assert a is not None and b is not None
            assert difference(a, b[i : i + 1]) < TOLERANCE


def test_exposure_flicker_does_not_move_the_probability():
    network = make_network()
    images, focus_dpt, blur_gain = make_stack()
    darker = images.clone()
    darker[:, 2] *= 0.9
    here, there = run(network, images, focus_dpt, blur_gain), run(network, darker, focus_dpt, blur_gain)
    assert difference(there.probability, here.probability) < 2 * TOLERANCE
    # The guide of the upsampling sees the picture as it is: depth may move, within the cells around each pixel.
    moved = (there.inverse_depth - here.inverse_depth).abs()
    assert float(moved.max()) < 0.02 * float(focus_dpt[0, 0] - focus_dpt[0, -1])


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 3, 32, 32), torch.ones(1, 3, 3, 32, 32)])
def test_black_and_saturated_stacks_give_numbers(images):
    found = run(make_network(), images, torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([3.0]))
    assert all(torch.isfinite(t).all() for t in found if t is not None)


def test_a_certain_probability_gives_its_slice_and_full_confidence():
    network = make_network()
    images, focus_dpt, blur_gain = make_stack(slices=4)
    probability = torch.zeros(1, 4, 8, 16)
    volume = torch.zeros(1, 4, 8, 8, 16)
    with torch.no_grad():
        probability[:, 2] = 1.0
        depth, mean, square, _ = network.head._refine(probability, volume, each(to_cells, images), focus_dpt)[0][0]
        assert difference(depth, focus_dpt[0, 2]) < TOLERANCE
        assert (
            difference(mean, torch.tensor(2.0)) < TOLERANCE and difference(square, torch.tensor(4.0)) < TOLERANCE
        )
        probability[:, 2], probability[:, 3] = 0.25, 0.75
        depth = network.head._refine(probability, volume, each(to_cells, images), focus_dpt)[0][0, 0]
        assert difference(depth, 0.25 * focus_dpt[0, 2] + 0.75 * focus_dpt[0, 3]) < TOLERANCE


def test_each_pixel_may_take_any_of_the_cells_around_it():
    """With weights that pick one neighbour for each place in the cell, the result is a gather."""
    network = make_network()
    images, focus_dpt, _ = make_stack(slices=4)
    probability, volume = torch.softmax(torch.randn(1, 4, 8, 16), dim=1), torch.zeros(1, 4, 8, 8, 16)
    choice = torch.randint(9, (4, 4))  # of the pixel (row, column) of a cell
    with torch.no_grad():
        network.head.propagation.stay.bias.fill_(60.0)  # carries nothing
        network.head.spread.weight.zero_()
        network.head.spread.bias.view(9, 4, 4).copy_(50.0 * (torch.arange(9)[:, None, None] == choice))
        found = network.head._refine(probability, volume, each(to_cells, images), focus_dpt)[0][0, 0].numpy()
    coarse = np.pad((probability * focus_dpt[..., None, None]).sum(dim=1)[0].numpy(), 1, mode="edge")
    row, column = np.mgrid[:32, :64]
    taken = choice.numpy()[row % 4, column % 4]
    np.testing.assert_allclose(found, coarse[row // 4 + taken // 3, column // 4 + taken % 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("probability", "beyond"),
    [
        ([0, 0, 1, 0, 0], 0.0),
        ([0, 0.3, 0.7, 0, 0], 0.0),  # between two slices: as certain
        ([0, 0.5, 0, 0.5, 0], 1.0),  # variance 1, at a slice
        ([0.5, 0, 0, 0, 0.5], 4.0),
        ([0.5, 0, 0, 0.5, 0], 2.0),  # variance 2.25, of which a quarter is due to lying half way
    ],
)
def test_excess_of_known_probabilities(probability, beyond):
    p, index = torch.tensor(probability), torch.arange(5.0)
    assert float(excess((p * index).sum(), (p * index * index).sum())) == pytest.approx(beyond, abs=1e-5)


def test_confidence_falls_with_the_spread_of_the_probability():
    certainty, logit = make_network().head.certainty, torch.zeros(3)
    mean, square = torch.full((3,), 2.0), torch.tensor([4.0, 5.0, 8.0])
    np.testing.assert_allclose(
        certainty.confidence(logit, mean, square).detach().numpy(), [0.5, 1.0 / 3.0, 1.0 / 6.0], atol=1e-6
    )


def test_the_confidence_looks_on_and_moves_nothing_else():
    network = make_network().train()
    network(*make_stack()).confidence.mean().backward()
    for name, parameter in network.named_parameters():
        taught = any(part in name for part in ("certainty", "doubt", "lift"))
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0.0) == taught, name


def test_all_in_focus_takes_the_two_slices_around_the_depth():
    focus_dpt = torch.tensor([[4.0, 2.0, 1.0]])
    depth = torch.tensor([[[4.0, 3.0, 2.0, 1.25, 1.0, 9.0, 0.1]]])  # the last two: beyond either end
    images = torch.tensor([10.0, 20.0, 40.0])[None, :, None, None, None].expand(1, 3, 3, 1, 7)
    composite = all_in_focus(images, focus_dpt, depth)
    assert composite.shape == (1, 3, 1, 7)
    expected = [10.0, 15.0, 20.0, 35.0, 40.0, 10.0, 40.0]
    np.testing.assert_allclose(composite[0, :, 0].numpy(), [expected] * 3, rtol=1e-6)


# The switches


def test_without_focal_differences_the_entry_sees_the_volume_alone():
    config = dataclasses.replace(TINY, differences=False)
    with_, without = DualFocusNet(TINY), make_network(config)
    assert with_.head.enter[0].in_channels == 2 * without.head.enter[0].in_channels == 16
    assert run(without, *make_stack()).inverse_depth.shape == (1, 32, 64)


def test_the_differences_half_of_the_volume_is_used():
    network, stack = make_network(), make_stack()
    before = run(network, *stack).inverse_depth
    with torch.no_grad():
        for layer in network.head.enter:
            layer.weight[:, layer.in_channels // 2 :] = 0.0
    assert difference(run(network, *stack).inverse_depth, before) > 1e-3


@pytest.mark.parametrize("layer", ["gamma", "theta_grad"])
def test_with_the_spatial_constraint_the_surfaces_reach_the_depth(layer):
    network, stack = make_network(), make_stack()
    before = run(network, *stack)
    with torch.no_grad():
        getattr(network.head.constraint, layer).weight.mul_(-3.0)
    after = run(network, *stack)
    assert difference(after.inverse_depth, before.inverse_depth) > 1e-3
    assert difference(after.gradient, before.gradient) > 1e-3


def test_the_gradient_is_that_of_an_integrable_surface():
    """With theta_grad set to forward differences, the gradient has no curl although Gamma has."""
    network = make_network()
    theta_grad = network.head.constraint.theta_grad.weight
    with torch.no_grad():
        theta_grad.zero_()
        theta_grad[0, 0, 1, 1], theta_grad[0, 0, 1, 2] = -1.0, 1.0
        theta_grad[1, 0, 1, 1], theta_grad[1, 0, 2, 1] = -1.0, 1.0
    found = run(network, *make_stack(size=(64, 96)))

    def curl(field: Tensor) -> float:
        x, y = field[:, :, 0, :-1, :-1], field[:, :, 1, :-1, :-1]
        loop = x[..., :-1, :-1] + y[..., :-1, 1:] - x[..., 1:, :-1] - y[..., :-1, :-1]
        return float(loop.abs().max())

    assert curl(found.gamma) > 0.1
    assert curl(found.gradient) < 1e-4
    np.testing.assert_allclose(
        found.gradient[0, 3, :, :-1, :-1].numpy(),
        forward_differences(torch.from_numpy(dense_surface(found.gamma[0, 3].double().numpy(), REACH)))[
            :, :-1, :-1
        ],
        atol=1e-4,
    )


def test_without_the_spatial_constraint_there_is_no_gradient():
    network = make_network(dataclasses.replace(TINY, spatial=False))
    found = run(network, *make_stack())
    assert found.gradient is None and found.gamma is None
    assert found.inverse_depth.shape == (1, 32, 64)
    assert not any("constraint" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize("conditioned", [False, True])
def test_only_a_conditioned_network_knows_the_focus_positions(conditioned):
    network = make_network(dataclasses.replace(TINY, conditioned=conditioned))
    images, focus_dpt, blur_gain = make_stack()
    moved = focus_dpt.clone()
    moved[:, 0] += 3.0
    here, there = run(network, images, focus_dpt, blur_gain), run(network, images, moved, 2.0 * blur_gain)
    changed = difference(there.probability, here.probability)
    assert changed > 1e-3 if conditioned else changed == 0.0
    assert difference(there.inverse_depth, here.inverse_depth) > 0.1  # D = sum p f, either way


@pytest.mark.parametrize(
    ("config", "least", "most"), [(SMALL, 1e6, 3e6), (BASE, 25e6, 32e6)], ids=["small", "base"]
)
def test_sizes(config, least, most):
    with torch.device("meta"):
        count = sum(p.numel() for p in DualFocusNet(config).parameters())
    assert least <= count <= most


def test_every_parameter_is_in_use():
    network = make_network().train()
    images, focus_dpt, blur_gain = make_stack(batch=2)
    found = network(images, focus_dpt, blur_gain)
    (found.inverse_depth.square().mean() + found.confidence.mean() + found.gradient.square().mean()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A bias on the score is the same for all slices: the softmax does not see it.
    assert set(idle) <= {"head.score.bias"}
