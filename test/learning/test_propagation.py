# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dualfocus_ros.learning.propagation import Propagation

CHANNELS, HEIGHT, WIDTH = 6, 12, 20
DILATIONS = (4, 2, 1, 4, 2, 1)
REACH = sum(DILATIONS)  # cells


def make(stay: float = 0.0) -> Propagation:
    """Return one that goes by colour, depth and confidence alone."""
    torch.manual_seed(0)
    propagation = Propagation(CHANNELS, DILATIONS, stay).eval()
    with torch.no_grad():
        propagation.embed.weight.zero_()
    return propagation


def inputs() -> dict[str, Tensor]:
    """Return arguments: one colour and level all over, sure everywhere, random values."""
    return {
        "features": torch.zeros(1, CHANNELS, HEIGHT, WIDTH),
        "colour": torch.full((1, 3, HEIGHT, WIDTH), 0.5),
        "index": torch.zeros(1, 1, HEIGHT, WIDTH),
        "logit": torch.full((1, 1, HEIGHT, WIDTH), 3.0),
        "values": torch.rand(1, 2, HEIGHT, WIDTH),
    }


def test_constants_stay_and_nothing_leaves_the_range_of_what_goes_in():
    given = inputs()
    given["features"] = torch.randn_like(given["features"])
    given["logit"] = 4.0 * torch.randn_like(given["logit"])
    propagation = Propagation(CHANNELS, DILATIONS, 1.0)
    for parameter in propagation.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        found = propagation(**given)[0]
        assert found.min() >= given["values"].min() - 1e-5 and found.max() <= given["values"].max() + 1e-5
        given["values"] = torch.full_like(given["values"], 0.7)
        torch.testing.assert_close(propagation(**given)[0], given["values"])


def test_cells_that_stay_keep_what_they_say():
    given = inputs()
    given["logit"] = torch.randn_like(given["logit"])
    propagation = make(stay=60.0)
    with torch.no_grad():
        propagation.lift.fill_(1.0)
        found, logit = propagation(**given)
    torch.testing.assert_close(found, given["values"])
    torch.testing.assert_close(logit, given["logit"])


@pytest.mark.parametrize("stay", [-120.0, 120.0])
def test_no_wish_to_stay_or_leave_overflows(stay):
    given = inputs()
    found, logit = make(stay)(**given)
    assert found.isfinite().all() and logit.isfinite().all()
    assert found.min() >= given["values"].min() - 1e-5 and found.max() <= given["values"].max() + 1e-5


def test_the_unsure_take_from_the_sure_as_far_as_it_reaches():
    given = inputs()
    given["values"] = torch.zeros(1, 1, HEIGHT, WIDTH)
    given["values"][..., 0] = 1.0  # a wrong column would be one of many; it alone is sure
    given["logit"] = torch.full_like(given["logit"], -9.0)
    given["logit"][..., 0] = 9.0
    propagation = make()
    with torch.no_grad():
        propagation.lift.fill_(1.0)
        found, logit = propagation(**given)
    assert found[..., : REACH + 1].min() > 0.9
    assert found[..., REACH + 1 :].max() == 0.0
    # With it comes the trust.
    assert (logit > given["logit"])[..., 1 : REACH + 1].all()
    torch.testing.assert_close(logit[..., REACH + 1 :], given["logit"][..., REACH + 1 :])


def test_a_dark_picture_is_judged_like_a_bright_one():
    given = inputs()
    given["colour"] = 0.2 + 0.6 * torch.rand_like(given["colour"])
    with torch.no_grad():
        bright = make()(**given)[0]
        given["colour"] = 0.25 * given["colour"]
        torch.testing.assert_close(make()(**given)[0], bright)


@pytest.mark.parametrize("what", ["colour", "index"])
def test_other_surfaces_are_left_alone(what):
    given = inputs()
    given[what] = given[what].clone()
    given[what][..., WIDTH // 2 :] += {"colour": 0.4, "index": 9.0}[what]
    given["values"] = (torch.arange(WIDTH) >= WIDTH // 2).float().expand(1, 1, HEIGHT, WIDTH)
    given["logit"] = given["logit"].clone()
    given["logit"][..., WIDTH // 2 :] = -3.0
    with torch.no_grad():
        found = make()(**given)[0]
    assert (found - given["values"]).abs().max() < 1e-3


def test_the_judge_of_trust_learns_nothing_from_depth_and_the_lift_alone_from_confidence():
    given = inputs()
    given["logit"] = torch.randn_like(given["logit"]).requires_grad_()
    propagation = make()
    found, _ = propagation(**given)
    found.square().mean().backward()
    assert given["logit"].grad is None
    assert propagation.sure.grad is not None and propagation.sure.grad.abs() > 0.0
    propagation.zero_grad()
    propagation(**given)[1].mean().backward()
    assert [name for name, p in propagation.named_parameters() if p.grad is not None] == ["lift"]
