"""Causality and shapes of the 2-d convolutions."""

import pytest
import torch

from vqnmt.images.models.autoencoder import Double, Halve, ResidualBlock2d
from vqnmt.images.models.priors import CausalConvolutions


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_causal_convolutions_see_earlier_positions_alone(layers):
    """The gradient of one output reaches earlier positions in raster order, and no other."""
    torch.manual_seed(0)
    body = CausalConvolutions(2, 6, layers, 0.0)
    for row, column in ((0, 0), (0, 3), (2, 2), (4, 0), (4, 4)):
        grid = torch.randn(1, 2, 5, 5, requires_grad=True)
        body(grid)[0, :, row, column].square().sum().backward()
        seen = grid.grad[0].abs().sum(0).flatten() > 0
        assert not seen[row * 5 + column :].any()


def test_there_is_no_blind_spot():
    """With layers enough, everything before a position is seen (3 rows and columns a side here)."""
    torch.manual_seed(0)
    body = CausalConvolutions(1, 8, 4, 0.0)
    grid = torch.randn(1, 1, 6, 6, requires_grad=True)
    body(grid)[0, :, 5, 3].square().sum().backward()
    assert (grid.grad.flatten()[: 5 * 6 + 3] != 0).all()


def test_causal_convolutions_of_a_part_are_those_of_the_whole():
    """Rows below do not matter, which sampling relies on."""
    torch.manual_seed(0)
    body = CausalConvolutions(3, 8, 2, 0.1).eval()
    grid = torch.randn(2, 3, 6, 4)
    torch.testing.assert_close(body(grid)[:, :, :3], body(grid[:, :, :3]))


def test_a_residual_block_starts_as_the_identity_but_for_its_bias():
    block = ResidualBlock2d(4)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x) - x, block.outer.bias.view(1, 4, 1, 1).expand_as(x))


def test_halve_and_double_change_the_sides():
    x = torch.randn(2, 3, 8, 6)
    assert Halve(3, 5)(x).shape == (2, 5, 4, 3)
    assert Double(3, 5)(x).shape == (2, 5, 16, 12)
