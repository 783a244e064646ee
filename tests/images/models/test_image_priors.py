"""Priors over codes: they add up to 1 over all codes, and draws have their probabilities."""

import itertools
import math

import pytest
import torch

from vqnmt.images.models.config import PriorConfig
from vqnmt.images.models.integers import IntegerPrior
from vqnmt.images.models.priors import build_prior

SHAPE = (2, 2, 2)
ALL = torch.tensor(list(itertools.product(range(2), repeat=8))).view(-1, *SHAPE)  # (256, ...)


def make(name):
    torch.manual_seed(0)
    config = PriorConfig(name=name, width=8, layers=2, heads=2, dropout=0.0)
    prior = build_prior(config, 2, SHAPE).eval()
    with torch.no_grad():
        for parameter in prior.parameters():  # far from uniform
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return prior


@pytest.mark.parametrize("name", ["uniform", "pixelcnn", "transformer"])
def test_all_codes_together_have_probability_1(name):
    probabilities = torch.exp(-make(name).nats(ALL))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    if name != "uniform":
        assert probabilities.std() > 1e-3


@pytest.mark.parametrize("name", ["pixelcnn", "transformer"])
def test_no_code_changes_what_is_said_of_earlier_ones(name):
    """-log p(z) is a sum over codes, whose first t terms do not depend on later codes."""
    prior = make(name)
    for t in range(1, 8):
        alike = ALL[:: 2 ** (8 - t)]  # differ in the first t codes only
        mass = torch.exp(-prior.nats(ALL)).view(len(alike), -1).sum(1)  # p(first t)
        shorter = torch.exp(-prior.nats(ALL)).view(len(alike) // 2, -1).sum(1)
        torch.testing.assert_close(mass.view(-1, 2).sum(1), shorter)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["uniform", "pixelcnn", "transformer"])
def test_draws_have_their_probabilities(name):
    prior = make(name)
    torch.manual_seed(1)
    drawn = prior.sample(4000, torch.device("cpu"))
    assert drawn.shape == (4000, *SHAPE) and drawn.dtype == torch.int64
    index = (drawn.flatten(1) * 2 ** torch.arange(7, -1, -1)).sum(1)
    found = index.bincount(minlength=256) / 4000
    expected = torch.exp(-prior.nats(ALL)).detach()
    assert (found - expected).abs().sum().item() / 2 < 0.12  # total variation


def test_the_uniform_prior_spends_log_k_a_code():
    prior = build_prior(PriorConfig(name="uniform"), 256, (8, 8, 10))
    nats = prior.nats(torch.zeros(2, 8, 8, 10, dtype=torch.int64))
    # 8x8x10 codes of 2^8 are 1.667 bits/dim of a 32x32 image
    assert (nats / math.log(2) / 3072).tolist() == pytest.approx([5 / 3] * 2)


def test_integers_together_have_probability_1():
    torch.manual_seed(0)
    prior = IntegerPrior(PriorConfig(width=8, layers=1, heads=2, dropout=0.0), 2, 3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    values = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=8))).view(-1, 2, 2, 2)
    probabilities = torch.exp(-prior.nats(values)).detach()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-4)
    torch.manual_seed(1)
    drawn = prior.sample(3000, 2, torch.device("cpu"))
    index = ((drawn.flatten(1).round() + 1) * 3 ** torch.arange(7, -1, -1)).sum(1).long()
    found = index.bincount(minlength=3**8) / 3000
    # Coarsely: the 8 marginals, because 6,561 cells are too many for the draws.
    for place in range(8):
        shape = (3**place, 3, 3 ** (7 - place))
        torch.testing.assert_close(
            found.view(shape).sum((0, 2)), probabilities.view(shape).sum((0, 2)), atol=0.03, rtol=0
        )


def test_the_rate_of_integers_has_a_gradient_in_them():
    torch.manual_seed(0)
    prior = IntegerPrior(PriorConfig(width=8, layers=1, heads=2), 2, 31)
    values = torch.zeros(1, 2, 4, 4, requires_grad=True)
    prior.nats(values).sum().backward()
    assert (values.grad != 0).all() and values.grad.isfinite().all()
