"""Residual, strided and transposed 1-d convolutions between tokens and latents.

After Roy et al. 2018: the compressor halves the length n_c times, the decompressor
doubles it n_c times. Sequences are (B, T, d) with a mask (B, T); masked positions are zeroed
before every convolution, so that padding never reaches a real position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.layers.basic import Dropout, stack


class Convolution(nn.Module):
    """A same-length convolution of width 3 over (B, T, d), written as one matrix product.

    The three shifted copies are concatenated, so the product uses the matrix units in bf16 too;
    `nn.Conv1d` on a CPU would first move the channels to the front and back.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve `x` (B, T, d), reading zeros at masked positions; returns (B, T, d)."""
        if mask is not None:
            x = x * mask[..., None]
        x = F.pad(x, (0, 0, 1, 1))  # (B, T + 2, d)
        windows = torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], dim=2)  # (B, T, 3 d)
        return self.linear(windows)


class ResidualBlock(nn.Module):
    """x + dropout(f(x)): a layer norm, then repeated (ReLU, convolution, layer norm).

    Args:
        dim: d.
        convolutions: How often that is repeated.
        dropout: Probability that an entry of f(x) is dropped.
    """

    def __init__(self, dim: int, convolutions: int, dropout: float) -> None:
        super().__init__()
        # `stack` comes first: it refuses an absurd number before the norms are built.
        layers = stack(lambda: Convolution(dim), convolutions, "residual convolutions")
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(convolutions + 1)])
        self.convolutions = layers
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x` (B, T, d) to (B, T, d); without a mask all positions are real."""
        hidden = self.norms[0](x)
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            hidden = norm(convolution(F.relu(hidden), mask))
        return x + self.dropout(hidden)


class Compressor(nn.Module):
    """n_c residual blocks, then n_c times (ReLU, convolution of width and stride 2, norm).

    A halving maps each two neighbours x_{2i}, x_{2i+1} to LN(W [ReLU(x_{2i}); ReLU(x_{2i+1})] + b).
    The closing layer norm keeps the squared length of each latent near d.

    Args:
        dim: d.
        stages: n_c.
        convolutions: Of each residual block.
        dropout: Of each residual block.
    """

    def __init__(self, dim: int, stages: int, convolutions: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(dim, convolutions, dropout) for _ in range(stages)]
        )
        self.halvings = nn.ModuleList([nn.Linear(2 * dim, dim) for _ in range(stages)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(stages)])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compress `x` (B, T, d), T a multiple of 2^n_c.

        Returns:
            The latents (B, T / 2^n_c, d) and their mask (B, T / 2^n_c).
        """
        for block in self.blocks:
            x = block(x, mask)
        for halving, norm in zip(self.halvings, self.norms, strict=True):
            batch, length, dim = x.shape
            x = F.relu(x * mask[..., None]).reshape(batch, length // 2, 2 * dim)
            x = norm(halving(x))
            mask = mask[:, ::2]
        return x, mask


class Upsample(nn.Module):
    """A transposed convolution whose width equals its stride: one product and a reshape.

    Args:
        dim: d.
        factor: Width and stride.
    """

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(dim, factor * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, T, d) to (B, T * factor, d)."""
        batch, length, dim = x.shape
        return self.linear(x).reshape(batch, length * self.factor, dim)


class Decompressor(nn.Module):
    """n_c times a residual block and a transposed convolution that doubles the length.

    Args:
        dim: d.
        stages: n_c.
        convolutions: Of each residual block.
        dropout: Of each residual block.
    """

    def __init__(self, dim: int, stages: int, convolutions: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(dim, convolutions, dropout) for _ in range(stages)]
        )
        self.doublings = nn.ModuleList([Upsample(dim, 2) for _ in range(stages)])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decompress latents `x` (B, L, d), mask (B, L).

        Returns:
            The positions (B, L * 2^n_c, d) and their mask (B, L * 2^n_c).
        """
        alone = len(x) == 1  # a single sentence has no padding to hide
        for block, doubling in zip(self.blocks, self.doublings, strict=True):
            x = doubling(block(x, None if alone else mask))
            mask = mask.repeat_interleave(2, dim=1)
        return x, mask
