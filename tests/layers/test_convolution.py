"""The convolutions against torch.nn's own; lengths and padding of (de)compressors."""

import math

import pytest
import torch
from torch import nn

from vqnmt.layers import Compressor, Decompressor, Upsample
from vqnmt.layers.convolution import Convolution, ResidualBlock

DIM = 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def full_mask(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def test_convolution_is_conv1d():
    ours, theirs = Convolution(DIM), nn.Conv1d(DIM, DIM, 3, padding=1)
    with torch.no_grad():  # (out, 3 in) -> (out, in, 3): the shifts stand side by side
        theirs.weight.copy_(ours.linear.weight.view(DIM, 3, DIM).transpose(1, 2))
        theirs.bias.copy_(ours.linear.bias)
    x = torch.randn(2, 7, DIM)
    expected = theirs(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x, full_mask(x)), expected)
    # A masked position reads as zero.
    mask = full_mask(x)
    mask[1, 4:] = False
    expected = theirs((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x, mask), expected)


def test_halving_is_a_conv1d_of_width_and_stride_2():
    compressor, theirs = Compressor(DIM, 1, 2, 0.0), nn.Conv1d(DIM, DIM, 2, stride=2)
    with torch.no_grad():
        theirs.weight.copy_(compressor.halvings[0].weight.view(DIM, 2, DIM).transpose(1, 2))
        theirs.bias.copy_(compressor.halvings[0].bias)
    x = torch.randn(2, 8, DIM)
    block = compressor.blocks[0](x, full_mask(x))
    expected = compressor.norms[0](theirs(block.relu().transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(compressor(x, full_mask(x))[0], expected)


@pytest.mark.parametrize("factor", [2, 3])
def test_upsample_is_conv_transpose1d(factor):
    ours, theirs = Upsample(DIM, factor), nn.ConvTranspose1d(DIM, DIM, factor, stride=factor)
    with torch.no_grad():
        # (factor out, in) -> (in, out, factor); the transposed convolution shares one bias
        theirs.weight.copy_(ours.linear.weight.view(factor, DIM, DIM).permute(2, 1, 0))
        ours.linear.bias.copy_(theirs.bias.repeat(factor))
    x = torch.randn(2, 4, DIM)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_residual_block_without_convolutions_output_is_the_identity():
    block = ResidualBlock(DIM, 3, 0.0)
    nn.init.zeros_(block.norms[-1].weight)
    x = torch.randn(1, 4, DIM)
    torch.testing.assert_close(block(x, full_mask(x)), x)


@pytest.mark.parametrize("stages", [0, 1, 3])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 9])
def test_lengths_of_compressor_and_decompressor(stages, length):
    factor = 2**stages
    codes = math.ceil(length / factor)
    padded = codes * factor
    mask = torch.arange(padded)[None] < length
    z, z_mask = Compressor(DIM, stages, 2, 0.0)(torch.randn(1, padded, DIM), mask)
    assert z.shape == (1, codes, DIM)
    assert z_mask.shape == (1, codes) and z_mask.all()
    x, x_mask = Decompressor(DIM, stages, 2, 0.0)(z, z_mask)
    assert x.shape == (1, codes * factor, DIM)
    assert x_mask.shape == (1, codes * factor) and x_mask.all()


@pytest.mark.parametrize("length", [1, 3, 4, 6])
def test_latents_do_not_depend_on_padding(length):
    compressor = Compressor(DIM, 2, 2, 0.0).eval()
    codes = math.ceil(length / 4)
    x = torch.randn(1, 16, DIM)
    mask = torch.arange(16)[None] < length
    wide, wide_mask = compressor(x, mask)
    narrow, _ = compressor(x[:, : 4 * codes], mask[:, : 4 * codes])
    assert wide_mask.sum() == codes
    torch.testing.assert_close(wide[:, :codes], narrow)
    other, _ = compressor(torch.where(mask[..., None], x, 99.0), mask)
    torch.testing.assert_close(other[:, :codes], narrow)


def test_decompressed_positions_do_not_depend_on_padding():
    decompressor = Decompressor(DIM, 2, 2, 0.0).eval()
    z = torch.randn(2, 5, DIM)
    mask = torch.arange(5) < torch.tensor([[2], [5]])
    together, together_mask = decompressor(z, mask)
    assert together_mask.sum(1).tolist() == [8, 20]
    alone, _ = decompressor(z[:1, :2], mask[:1, :2])
    torch.testing.assert_close(together[:1, :8], alone)


def test_norm_keeps_the_latents_at_length_d():
    z, _ = Compressor(DIM, 2, 2, 0.0)(
        torch.randn(3, 8, DIM) * 50, torch.ones(3, 8, dtype=torch.bool)
    )
    torch.testing.assert_close(
        z.square().sum(-1), torch.full((3, 2), float(DIM)), rtol=0.01, atol=0
    )
