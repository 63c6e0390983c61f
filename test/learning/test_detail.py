# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dualfocus_ros.learning.detail import ENERGIES, Detail, Told
from dualfocus_ros.learning.network import DualFocusNet, NetworkConfig

TINY = NetworkConfig(widths=(8, 8, 8, 8), surfaces=2)
SLICES, HEIGHT, WIDTH = 5, 16, 24


def inputs(channels: int = 12) -> tuple[Told, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return arguments of `Detail`: random pictures, all pixels half way between the slices 1 and 2."""
    told = Told(torch.rand(2, channels, HEIGHT // 4, WIDTH // 4), torch.rand(2, 3, HEIGHT, WIDTH))
    energies = torch.randn(2, SLICES, ENERGIES, HEIGHT // 2, WIDTH // 2)
    probability = torch.softmax(torch.randn(2, SLICES, HEIGHT // 4, WIDTH // 4), dim=1)
    fine = torch.tensor([2.25, 1.5, 2.5, 0.5])[None, :, None, None].expand(2, 4, HEIGHT, WIDTH)
    focus_dpt = torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0]).expand(2, 5)
    return told, energies, probability, fine, torch.randn(2, HEIGHT, WIDTH), focus_dpt


def make(stay: float = 60.0) -> Detail:
    """Return one whose last stage keeps every pixel."""
    detail = Detail(12)
    with torch.no_grad():
        detail.snap.stay.bias.fill_(stay)
    return detail


def test_even_surfaces_stay_and_edges_of_depth_are_drawn_to_those_of_the_picture():
    given = inputs()
    with torch.no_grad():
        depth, logit = make()(*given)
        torch.testing.assert_close(depth, given[3][:, 0])
        torch.testing.assert_close(logit, given[4])
        # Values differ by 2 x 2 pixels and are equally trusted; the picture has two halves.
        told, left = given[0], torch.arange(WIDTH) < 10
        told = told._replace(sharp=torch.where(left, 0.2, 0.8).expand(2, 3, HEIGHT, WIDTH))
        fine = given[3].clone()
        fine[:, 0] = torch.where(torch.arange(WIDTH) < 8, 2.75, 1.25)  # the edge of depth is 2 pixels off
        depth, _ = make(stay=1.0)(told, *given[1:3], fine, torch.zeros(2, HEIGHT, WIDTH), given[5])
    drawn = depth[:, 6:-6].mean(dim=(0, 1))
    assert drawn[8:10].min() > 1.6 and drawn[10] == pytest.approx(1.25, abs=1e-3)


def test_the_confidence_teaches_its_own_layers_alone():
    detail = make()
    torch.nn.init.normal_(detail.doubt.weight)
    detail(*inputs())[1].square().mean().backward()
    taught = [name for name, p in detail.named_parameters() if p.grad is not None]
    assert taught == ["snap.lift", "doubt.weight", "doubt.bias"]


@pytest.mark.parametrize("peak", [0, 2, 4])
def test_peaks_of_an_example(peak):
    detail = Detail(12)
    energies = torch.full((1, SLICES, ENERGIES, 4, 6), -9.0)
    energies[:, peak] = -1.0
    index = torch.full((1, 1, 4, 6), 1.5)
    # By contrast alone it is the peak, however unlikely; a peak that the head is sure of stays where it is.
    sure = torch.zeros(1, SLICES, 2, 3)
    sure[:, 2] = 1.0
    peaks = detail._peaks(energies, sure, index)
    assert torch.allclose(peaks[:, :ENERGIES], torch.tensor(0.2 * (peak - 1.5)), atol=1e-4)
    if peak == 2:
        assert torch.allclose(peaks[:, ENERGIES : 2 * ENERGIES], torch.tensor(0.5), atol=1e-3)
    assert torch.allclose(peaks[:, 2 * ENERGIES :], torch.tensor(1.2))


def test_peaks_lie_among_the_likely_slices():
    detail = Detail(12)
    energies = torch.zeros(1, SLICES, ENERGIES, 2, 2)
    energies[:, 4] = 1.0  # far away, and a little sharper than the rest
    likely = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]).view(1, SLICES, 1, 1)
    peaks = detail._peaks(energies, likely, torch.zeros(1, 1, 2, 2))
    assert (peaks[:, :ENERGIES] > 0.2 * 2.5).all()
    assert (peaks[:, ENERGIES : 2 * ENERGIES] < 0.7).all()


@pytest.mark.parametrize("slices_off", [-0.25, 0.25, -100.0, 100.0])
def test_corrections_are_in_slices_and_never_leave_the_focus_range(slices_off):
    torch.manual_seed(0)
    network = DualFocusNet(TINY).eval()
    network.head.detail.snap.stay.bias.data.fill_(60.0)
    focus_dpt = torch.tensor([[3.0, 2.5, 2.0, 1.5, 1.0]])  # steps of half a dioptre
    stack = torch.rand(1, SLICES, 3, 32, 32), focus_dpt, torch.tensor([4.0])
    with torch.no_grad():
        before = network(*stack).inverse_depth
        network.head.detail.correct.bias.fill_(slices_off)
        after = network(*stack).inverse_depth
    torch.testing.assert_close(after, (before + 0.5 * slices_off).clamp(1.0, 3.0))
