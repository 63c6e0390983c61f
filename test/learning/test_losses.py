# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dualfocus_ros.learning import losses
from dualfocus_ros.learning.camera_effects import encode
from dualfocus_ros.learning.focus import narrow_probability
from dualfocus_ros.learning.integration import forward_differences
from dualfocus_ros.learning.losses import LossWeights, total_loss
from dualfocus_ros.learning.network import DualFocusNet, NetworkConfig, Prediction
from dualfocus_ros.learning.simulator import simulate
from dualfocus_ros.learning.textures import texture_bank

FOCUS = torch.tensor([[4.0, 2.0, 1.0]])
STEP = 1.5  # mean distance of these slices
EXAMPLE = ("depth", "confidence", "gradient", "probability", "spatial", "focal")
ONLY = {name: LossWeights(**{other: float(other == name) for other in EXAMPLE}) for name in EXAMPLE}


def row(*values: float) -> Tensor:
    """Return one row of pixels (1, 1, W)."""
    return torch.tensor([[values]])


def probabilities(*pixels: list[float]) -> Tensor:
    """Return (1, N, 1, W) from the probability of each pixel."""
    return torch.tensor(pixels).T[None, :, None]


# Depth


def test_depth_loss_of_a_perfect_prediction_is_zero():
    truth = row(3.0, 1.0, 0.001)
    assert losses.depth_loss(truth, truth, torch.ones_like(truth), FOCUS) == 0.0


def test_depth_loss_of_an_example():
    """A factor of 2 in depth; the second truth lies at the floor of 0.02 * 4 dioptres, the prediction below it."""
    predicted, truth = row(2.0, 0.01), row(1.0, 0.08)
    first = math.log(2.0) + 0.25 * math.log(1.0 + 1.0 / STEP)
    second = 0.25 * math.log(1.0 + 0.07 / STEP)
    found = losses.depth_loss(predicted, truth, row(1.0, 1.0), FOCUS)
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(losses.depth_loss(predicted, truth, row(1.0, 0.0), FOCUS)) == pytest.approx(first, rel=1e-5)


def test_depth_loss_treats_all_lenses_alike():
    predicted, truth, valid = row(2.0, 3.5), row(1.0, 3.0), row(1.0, 1.0)
    here = losses.depth_loss(predicted, truth, valid, FOCUS)
    there = losses.depth_loss(20 * predicted, 20 * truth, valid, 20 * FOCUS)
    assert float(there) == pytest.approx(float(here), rel=1e-5)


# Confidence


def test_confidence_loss_of_an_example():
    """Depths of 1 m and 1.05 m are within 10 % of 1 m, 1.2 m is not; the last is invalid."""
    predicted, truth = row(1.0, 1.0 / 1.05, 1.0 / 1.2, 9.0), torch.ones(1, 1, 4)
    confidence, valid = row(0.5, 0.9, 0.25, 0.0), row(1.0, 1.0, 1.0, 0.0)
    expected = -(math.log(0.5) + math.log(0.9) + math.log(0.75)) / 3
    assert float(losses.confidence_loss(confidence, predicted, truth, valid)) == pytest.approx(expected)


def test_the_best_confidence_is_the_share_of_close_depths():
    truth, predicted = torch.ones(1, 1, 10), torch.ones(1, 1, 10)
    predicted[..., :3] = 2.0

    def loss(confidence: float) -> float:
        c = torch.full((1, 1, 10), confidence)
        return float(losses.confidence_loss(c, predicted, truth, torch.ones(1, 1, 10)))

    assert loss(0.7) < min(loss(0.65), loss(0.75))


# Gradient


def test_gradient_loss_of_a_shifted_truth_is_zero_and_of_an_example():
    truth = torch.rand(1, 6, 7, dtype=torch.float64)
    seen = torch.ones_like(truth)
    assert float(losses.gradient_loss(truth + 0.7, truth, seen, FOCUS)) == pytest.approx(0.0, abs=1e-12)
    # One step up in the middle of a row of six: of the pairs 1, 2 and 4 apart, 1 of 5, 2 of 4 and 2 of 2 see it.
    flat = torch.zeros(1, 1, 6)
    up = torch.tensor([[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]) * STEP
    expected = math.log(2.0) * (1 / 5 + 2 / 4 + 2 / 2) / 6
    assert float(losses.gradient_loss(up, flat, torch.ones_like(flat), FOCUS)) == pytest.approx(expected)


def test_gradient_loss_leaves_out_pairs_of_which_one_is_invalid():
    up, valid = torch.tensor([[[0.0, 9.0, 0.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])
    assert losses.gradient_loss(up, torch.zeros_like(up), valid, FOCUS) == 0.0


# Probability


def test_the_target_lies_on_two_slices_and_has_the_truth_as_its_mean():
    truth = row(4.0, 3.5, 2.0, 1.25, 1.0)
    target = narrow_probability(truth, FOCUS)
    expected = probabilities([1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.25, 0.75], [0, 0, 1])
    np.testing.assert_allclose(target, expected, atol=1e-6)
    beyond = narrow_probability(row(9.0, 0.1), FOCUS)
    np.testing.assert_allclose(beyond, probabilities([1, 0, 0], [0, 0, 1]), atol=1e-6)
    focus_dpt = torch.rand(2, 7, dtype=torch.float64).sort(dim=1, descending=True).values
    near, far = focus_dpt[:, 0, None, None], focus_dpt[:, -1, None, None]
    truth = far + (near - far) * torch.rand(2, 9, 11, dtype=torch.float64)
    target = narrow_probability(truth, focus_dpt)
    np.testing.assert_allclose((target * focus_dpt[:, :, None, None]).sum(1), truth, atol=1e-12)
    np.testing.assert_allclose(target.sum(1), 1.0, atol=1e-12)
    assert int((target > 0).sum(dim=1).max()) <= 2


def test_probability_loss_is_the_cross_entropy():
    truth, valid = row(3.5, 1.0), row(1.0, 1.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    best = narrow_probability(truth, FOCUS)
    # Its minimum is the entropy of the truth.
    assert float(losses.probability_loss(best, truth, valid, FOCUS)) == pytest.approx(entropy / 2, rel=1e-5)
    p = probabilities([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    expected = -(0.75 * math.log(0.5) + 0.25 * math.log(0.3) + math.log(0.8)) / 2
    assert float(losses.probability_loss(p, truth, valid, FOCUS)) == pytest.approx(expected, rel=1e-5)


# Focal constraint


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ([0.1, 0.2, 0.4, 0.2, 0.1], 0.0),  # unimodal about the truth
        ([0.2, 0.2, 0.2, 0.2, 0.2], 0.0),
        ([0.0, 0.0, 1.0, 0.0, 0.0], 0.0),
        ([0.3, 0.0, 0.4, 0.1, 0.2], 0.3 + 0.1),  # falls on the way up, rises on the way down
        ([0.0, 0.1, 0.2, 0.3, 0.4], 0.2),  # unimodal, but about another slice
        ([0.5, 0.0, 0.0, 0.0, 0.5], 0.5 + 0.5),  # two modes with the truth as their mean
    ],
)
def test_focal_loss_of_examples(probability, expected):
    focus_dpt = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    p, truth = probabilities(probability), row(3.1)  # nearest to slice 2
    found = losses.focal_variational_loss(p, truth, torch.ones_like(truth), focus_dpt)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_in_focus_slice_is_the_nearest_in_dioptres():
    """1.6 lies between 2 and 1 dioptre, nearer to 2; in metres the middle is elsewhere."""
    p = probabilities([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    truth = row(1.6, 1.6)
    assert float(losses.focal_variational_loss(p, truth, row(1.0, 0.0), FOCUS)) == 0.0
    assert float(losses.focal_variational_loss(p, truth, row(0.0, 1.0), FOCUS)) == 1.0


# Spatial constraint


def test_spatial_loss_of_a_perfect_field_is_zero_and_of_an_example():
    truth, blur_gain = torch.tensor([[[1.0, 1.5], [1.0, 2.0]]]), torch.tensor([2.0])
    perfect = forward_differences(2.0 * truth)[:, None]
    weight = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
    assert losses.spatial_variational_loss(perfect, truth, weight, blur_gain) == 0.0
    # In pixels of blur: 2 3 / 2 4. Gradients x: 1 - / 2 -, y: 0 1 / - -.
    # Huber's loss of 1, beyond 0.25, is 1 - 0.125.
    found = losses.spatial_variational_loss(torch.zeros(1, 1, 2, 2, 2), truth, weight, blur_gain)
    assert float(found) == pytest.approx(1.0 * 0.875 / 1.0 + (1.0 * 0.0 + 0.5 * 0.875) / 1.5)


def test_spatial_loss_is_quadratic_where_it_is_slight():
    truth, weight = torch.tensor([[[1.0, 1.1]]]), torch.ones(1, 1, 1, 2)
    found = losses.spatial_variational_loss(torch.zeros(1, 1, 2, 1, 2), truth, weight, torch.tensor([1.0]))
    assert float(found) == pytest.approx(0.5 * 0.1**2 / 0.25, rel=1e-5)


def test_what_points_out_of_the_picture_does_not_count():
    truth, weight = torch.rand(1, 4, 4), torch.ones(1, 1, 4, 4)
    field = forward_differences(truth)[:, None].clone()
    field[:, :, 0, :, -1] = 9.0
    field[:, :, 1, -1, :] = 9.0
    assert losses.spatial_variational_loss(field, truth, weight, torch.ones(1)) == 0.0


def test_holes_of_nan_in_the_truth_do_not_count():
    prediction, images, truth, focus_dpt, blur_gain = make_example()
    expected, _ = losses.total_loss(prediction, images, truth, focus_dpt, blur_gain, losses.LossWeights())
    outside = (truth > focus_dpt.max()) | (truth < focus_dpt.min())
    holes = truth.masked_fill(outside, torch.nan)
    assert holes.isnan().any()
    found, _ = losses.total_loss(prediction, images, holes, focus_dpt, blur_gain, losses.LossWeights())
    assert found == expected


def test_jumps_between_objects_count_as_the_steepest_slope():
    truth, weight = torch.tensor([[[0.0, 50.0]]]), torch.ones(1, 1, 1, 2)
    zero = torch.zeros(1, 1, 2, 1, 2)
    found = losses.spatial_variational_loss(zero, truth, weight, torch.tensor([1.0]))
    assert float(found) == losses.STEEPEST_PX - 0.5 * losses.SLIGHT_PX


def test_planes_in_focus_of_examples():
    truth = row(2.2)
    for gain, expected in ((0.4, [1, 1, 1]), (0.8, [0, 1, 1]), (1.5, [0, 1, 0]), (90.0, [0, 1, 0])):
        # Defocus at a gain of 1: 1.8, 0.2 and 1.2 pixels; one plane always counts, however far.
        assert losses.in_focus(truth, FOCUS, torch.tensor([gain]))[0, :, 0, 0].tolist() == expected, gain


def test_sharpness_weight_of_an_example():
    """Two ramps of steepness 1 and 1/2 over two cells; the last column has no next one."""
    x = torch.arange(16.0).expand(3, 8, 16)
    q = losses.sharpness_weight(torch.stack([x, 0.5 * x])[None])
    energy = np.array([[1.0, 7 / 8], [0.5, 7 / 16]])
    whole = 7 / 8 + 0.7 * (1 - 7 / 8)  # 90 % of the four energies, between the third and the fourth
    expected = np.sqrt(np.minimum(energy / whole, 1.0) * energy / energy[0])
    assert q.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(q[0, :, 0].numpy(), expected, rtol=1e-5)
    assert torch.isfinite(losses.sharpness_weight(torch.zeros(1, 3, 3, 16, 16))).all()


def test_sharpness_weight_knows_no_exposure():
    images = torch.rand(2, 4, 3, 32, 32)
    found = losses.sharpness_weight(0.3 * images)
    np.testing.assert_allclose(found, losses.sharpness_weight(images), atol=1e-5)


# All of them


def make_example() -> tuple[Prediction, Tensor, Tensor, Tensor, Tensor]:
    """Return a random prediction, images, truth (16 left columns: invalid), focus positions and blur gains."""
    focus_dpt, blur_gain = torch.tensor([[4.0, 2.0, 1.0], [3.0, 2.9, 0.5]]), torch.tensor([1.0, 3.0])
    truth = focus_dpt[:, -1, None, None] + 0.45 * torch.rand(2, 32, 64)
    truth[:, :, :16] = 9.0
    prediction = Prediction(
        inverse_depth=0.3 + 3.0 * torch.rand(2, 32, 64),
        confidence=torch.rand(2, 32, 64),
        probability=torch.softmax(torch.randn(2, 3, 8, 16), dim=1),
        # Far from any true gradient, where the loss is linear.
        gradient=3.0 + torch.rand(2, 3, 2, 4, 8),
        gamma=3.0 + torch.rand(2, 3, 2, 4, 8),
    )
    fields = Prediction(*(t.double().requires_grad_() for t in prediction if t is not None))
    images = torch.rand(2, 3, 3, 32, 64).double()
    return fields, images, truth.double(), focus_dpt.double(), blur_gain.double()


def test_total_loss_is_the_weighted_sum_of_its_terms():
    prediction, images, truth, focus_dpt, blur_gain = make_example()
    weights = LossWeights(depth=0.5, confidence=13.0, gradient=11.0, probability=2.0, spatial=3.0, focal=7.0)
    total, terms = total_loss(prediction, images, truth, focus_dpt, blur_gain, weights)
    assert sorted(terms) == sorted(EXAMPLE)
    expected = sum(getattr(weights, name) * terms[name].item() for name in EXAMPLE)
    assert total.item() == pytest.approx(expected, rel=1e-12)
    valid = torch.ones_like(truth)
    valid[:, :, :16] = 0.0
    cell = (slice(None), slice(2, None, 4), slice(2, None, 4))
    assert terms["depth"] == losses.depth_loss(prediction.inverse_depth, truth, valid, focus_dpt)
    predicted = prediction.inverse_depth
    assert terms["confidence"] == losses.confidence_loss(prediction.confidence, predicted, truth, valid)
    assert terms["gradient"] == losses.gradient_loss(prediction.inverse_depth, truth, valid, focus_dpt)
    cells = (prediction.probability, truth[cell], valid[cell], focus_dpt)
    assert terms["probability"] == losses.probability_loss(*cells)
    assert terms["focal"] == losses.focal_variational_loss(*cells)


@pytest.mark.parametrize("name", EXAMPLE)
def test_a_term_of_weight_zero_is_left_out(name):
    example = make_example()
    total, terms = total_loss(*example, ONLY[name])
    assert list(terms) == [name] and total.item() == terms[name].item() > 0.0
    terms = total_loss(*example, replace(LossWeights(), **{name: 0.0}))[1]
    assert sorted(terms) == sorted(set(EXAMPLE) - {name})


def test_no_weight_at_all_and_nothing_valid_give_zero():
    prediction, images, truth, focus_dpt, blur_gain = make_example()
    assert total_loss(
        prediction, images, truth, focus_dpt, blur_gain, LossWeights(**dict.fromkeys(EXAMPLE, 0.0))
    ) == (0.0, {})
    outside = torch.full_like(truth, 9.0)
    total, terms = total_loss(prediction, images, outside, focus_dpt, blur_gain, LossWeights())
    assert total.item() == 0.0 and len(terms) == len(EXAMPLE)


def test_invalid_pixels_have_no_influence():
    """Nor has a cell of which a part is invalid: 20 columns are 2.5 cells of the surfaces."""
    prediction, images, truth, *lens = make_example()
    truth[:, :, :20] = 9.0
    total_loss(prediction, images, truth, *lens, LossWeights())[0].backward()
    for field, columns in ((prediction.inverse_depth, 20), (prediction.probability, 5), (prediction.gradient, 3)):
        assert field is not None and field.grad is not None
        assert (field.grad[..., :columns] == 0.0).all()
        assert (field.grad[..., columns:] != 0.0).flatten(0, -2).any(dim=0).all()


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_losses_are_differentiable(name):
    prediction, *rest = make_example()
    field = {
        "depth": "inverse_depth",
        "confidence": "confidence",
        "gradient": "inverse_depth",
        "spatial": "gradient",
    }.get(name, "probability")

    def loss(tensor: Tensor) -> Tensor:
        return total_loss(prediction._replace(**{field: tensor}), *rest, ONLY[name])[0]

    assert torch.autograd.gradcheck(loss, (getattr(prediction, field),), eps=1e-7, atol=1e-6)


def test_truth_a_quarter_of_a_step_outside_of_the_range_still_counts():
    prediction, images, truth, focus_dpt, blur_gain = make_example()
    slack = 0.25 * (4.0 - 1.0) / 2
    for value, counts in ((4.0 + 0.99 * slack, True), (4.0 + 1.01 * slack, False), (1.0 - 1.01 * slack, False)):
        outside = torch.full_like(truth, 99.0)
        outside[0, :8, :8] = value
        total = total_loss(prediction, images, outside, focus_dpt, blur_gain, LossWeights())[0]
        assert (total.item() > 0.0) == counts, value


def spatial_weight_of(example, **switches) -> tuple[Tensor | None, Tensor | None]:
    """Return what part each element of the gradient and of Gamma has in the spatial loss."""
    prediction, *rest = example
    for tensor in (prediction.gradient, prediction.gamma):
        tensor.grad = None
    total_loss(prediction, *rest, replace(ONLY["spatial"], **switches))[0].backward()
    return prediction.gradient.grad, prediction.gamma.grad


def test_the_spatial_loss_is_put_on_theta_grad_or_on_gamma():
    example = make_example()
    gradient, gamma = spatial_weight_of(example)
    assert gradient is not None and gradient.abs().sum() > 0.0 and gamma is None
    gradient, gamma = spatial_weight_of(example, supervise_gamma=True)
    assert gradient is None and gamma is not None and gamma.abs().sum() > 0.0


def test_the_spatial_loss_asks_nothing_of_planes_out_of_focus():
    """The truth is at 0.5..0.95 dioptres (2nd stack): planes at 3 and 2.9 are 6 px of blur away from it."""
    gradient, _ = spatial_weight_of(make_example())
    assert gradient is not None
    assert (gradient[1, :2] == 0.0).all() and gradient[1, 2].abs().sum() > 0.0


@pytest.mark.parametrize("sharpness", ["q", "none", "inverse"])
def test_the_spatial_loss_follows_the_sharpness_weight(sharpness):
    """The loss is a weighted sum of absolute errors: the size of its gradient is the weight."""
    prediction, images, truth, focus_dpt, blur_gain = make_example()
    images[..., 24:40] *= 0.2  # faint there
    gradient, _ = spatial_weight_of((prediction, images, truth, focus_dpt, blur_gain), sharpness=sharpness)
    assert gradient is not None
    q = losses.sharpness_weight(images)
    expected = {"q": q, "none": torch.ones_like(q), "inverse": 1.0 - q}[sharpness].clone()
    expected[..., [0, 1, -1]] = 0.0  # invalid, and where x points out of the picture
    plane = expected[1, 2] / expected[1, 2].sum()
    found = gradient[1, 2, 0].abs()
    np.testing.assert_allclose(found / found.sum(), plane, atol=1e-12)
    faint, plain = found[1:3, 3:5].mean(), found[1:3, 6].mean()
    assert {"q": faint < 0.7 * plain, "none": faint == plain, "inverse": faint > plain}[sharpness]


# Training


@pytest.fixture(scope="module")
def simulated() -> tuple[Tensor, ...]:
    """A simulated stack of 5 slices: images (1, 5, 3, 96, 96), inverse depth, focus positions, blur gain."""
    stack = simulate(np.random.default_rng(2), torch.from_numpy(texture_bank(8, seed=0)), (96, 96), [5])[0]
    images = encode((0.6 * stack.light / torch.quantile(stack.light, 0.98)).clamp(0.0, 1.0), "srgb")
    focus_dpt = torch.tensor([stack.optics.focus_dpt])
    return images[None], stack.inverse_depth[None], focus_dpt, torch.tensor([stack.optics.blur_gain])


def trained(
    stack: tuple[Tensor, ...],
    weights: LossWeights,
    steps: int,
    widths: tuple[int, int, int, int] = (8, 8, 8, 8),
    seed: int = 0,
) -> DualFocusNet:
    """Return a network after some steps of Adam on a single stack; the rate falls as a cosine."""
    images, truth, focus_dpt, blur_gain = stack
    torch.manual_seed(seed)
    network = DualFocusNet(NetworkConfig(widths=widths))
    optimiser = torch.optim.Adam(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        prediction = network(images, focus_dpt, blur_gain)
        loss, _ = total_loss(prediction, images, truth, focus_dpt, blur_gain, weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


def terms_of(network: DualFocusNet, stack: tuple[Tensor, ...]) -> dict[str, float]:
    """Return all loss terms as in training."""
    images, truth, focus_dpt, blur_gain = stack
    with torch.no_grad():
        prediction = network.train()(images, focus_dpt, blur_gain)
        terms = total_loss(prediction, images, truth, focus_dpt, blur_gain, LossWeights())[1]
    return {name: float(term) for name, term in terms.items()}


@pytest.fixture(scope="module")
def corner(simulated) -> tuple[Tensor, ...]:
    """A corner of the simulated stack, 64 x 64 pixels."""
    return tuple(t[..., :64, :64] if t.ndim > 2 else t for t in simulated)


def test_the_focal_constraint_makes_the_probability_unimodal(corner):
    def after_training(weight: float) -> float:
        return terms_of(trained(corner, replace(ONLY["depth"], focal=weight), 20), corner)["focal"]

    assert after_training(1.0) < 0.4 * after_training(0.0)


def test_the_spatial_constraint_makes_the_gradient_that_of_the_scene(corner):
    def after_training(weight: float) -> float:
        return terms_of(trained(corner, replace(ONLY["depth"], spatial=weight), 80), corner)["spatial"]

    truth = corner[1]
    flat = Prediction(truth, truth, torch.full((1, 5, 16, 16), 0.2), torch.zeros(1, 5, 2, 8, 8), None)
    nothing_learnt = total_loss(flat, *corner, ONLY["spatial"])[0].item()
    assert after_training(1.0) < 0.5 * nothing_learnt < nothing_learnt < after_training(0.0)


def test_the_network_overfits_a_single_stack(simulated):
    """AbsRel falls under 1 % within the focus range: nothing on the way from pixels to depth is broken."""
    network = trained(simulated, LossWeights(), 200, (16, 24, 32, 48)).eval()
    images, truth, focus_dpt, blur_gain = simulated
    valid = (truth <= focus_dpt[0, 0]) & (truth >= focus_dpt[0, -1])
    assert valid.float().mean() > 0.5
    with torch.no_grad():
        found = network(images, focus_dpt, blur_gain).inverse_depth
    abs_rel = (truth / found - 1.0).abs()[valid].mean()  # |d' - d| / d of depths
    middle = 0.5 * (truth[valid].min() + truth[valid].max())
    assert (truth / middle - 1.0).abs()[valid].mean() > 0.05  # a constant would not do
    assert abs_rel < 0.01
