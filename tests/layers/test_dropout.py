import pytest
import torch
from torch import nn

from vqnmt.layers import Dropout

SHAPE = (101, 33, 7)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_of_the_definition(p):
    torch.manual_seed(1)
    count = 400_000
    found = Dropout(p)(torch.ones(count))
    dropped = (found == 0).float().mean().item()
    assert dropped == pytest.approx(round(256 * p) / 256, abs=4 * (p * (1 - p) / count) ** 0.5)
    assert dropped == pytest.approx(p, abs=0.006)
    assert found.mean().item() == pytest.approx(1, abs=4 * (p / (1 - p) / count) ** 0.5)
    assert found.unique().numel() == 2


def test_neighbours_are_dropped_independently():
    torch.manual_seed(1)
    dropped = (Dropout(0.25)(torch.ones(1 << 18)) == 0).double()
    for distance in range(1, 17):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert both == pytest.approx(0.0625, abs=0.003), distance


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(1)
    x = torch.randn(SHAPE, requires_grad=True)
    found = Dropout(0.3)(x)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), found.detach())
    assert 0.2 < (x.grad == 0).float().mean() < 0.4


def test_the_seed_decides_and_no_two_calls_are_alike():
    x, layer = torch.ones(SHAPE), Dropout(0.5)
    torch.manual_seed(4)
    first, second = layer(x), layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.999, 1.0])
def test_what_bytes_cannot_say_is_left_to_the_library(p):
    x = torch.ones(1000)
    torch.manual_seed(4)
    found = Dropout(p)(x)
    torch.manual_seed(4)
    assert torch.equal(found, nn.Dropout(p)(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_stays(dtype):
    x = torch.ones(SHAPE, dtype=dtype)
    assert Dropout(0.1)(x).dtype == dtype
    assert torch.equal(Dropout(0.1).eval()(x), x)


def test_nothing_is_dropped_of_nothing():
    assert Dropout(0.1)(torch.ones(0, 4)).shape == (0, 4)
