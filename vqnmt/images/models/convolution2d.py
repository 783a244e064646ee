"""2-d convolutions of the image models: residual blocks, halving, doubling, and causal stacks.

Feature maps are (B, C, H, W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.layers.dropout import Dropout
from vqnmt.layers.stack import stack


class ResidualBlock2d(nn.Module):
    """x + f(x), f being ReLU, 3x3 convolution, ReLU, dropout, 1x1 convolution.

    The last convolution starts at 0, so that a deep stack starts as the identity and needs no
    normalisation.
    """

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Conv2d(dim, dim, 3, padding=1)
        self.outer = nn.Conv2d(dim, dim, 1)
        self.dropout = Dropout(dropout)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.outer(self.dropout(F.relu(self.inner(F.relu(x)))))


class Halve(nn.Module):
    """A 4x4 convolution of stride 2: (B, C, H, W) to (B, C', H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve both sides."""
        return self.convolution(x)


class Double(nn.Module):
    """A transposed convolution whose width equals its stride: one product and a shuffle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2 H, 2 W)."""
        return F.pixel_shuffle(self.convolution(x), 2)


class GatedCausalBlock(nn.Module):
    """One layer of a gated PixelCNN (van den Oord et al. 2016, figure 2).

    The vertical stack sees the rows above, the horizontal stack the positions to the left in the
    same row and, through the vertical stack, all above: there is no blind spot. Padding on one
    side replaces masks.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(dim, 2 * dim, (2, 3))
        self.horizontal = nn.Conv2d(dim, 2 * dim, (1, 3))
        self.downwards = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.outer = nn.Conv2d(dim, dim, 1)
        self.dropout = Dropout(dropout)

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        """Map both stacks, each (B, C, H, W); their shifts are kept."""
        above = self.vertical(F.pad(vertical, (1, 1, 1, 0)))  # (B, 2 C, H, W)
        left = self.horizontal(F.pad(horizontal, (2, 0, 0, 0)))
        hidden = self.dropout(_gate(left + self.downwards(above)))
        return vertical + _gate(above), horizontal + self.outer(hidden)


class CausalConvolutions(nn.Module):
    """The body of a gated PixelCNN: a position's features depend only on earlier positions.

    Positions are in raster order, row by row.

    Args:
        inputs: Channels of the grid.
        dim: Channels of the output.
        layers: Gated layers.
        dropout: In each layer.
    """

    def __init__(self, inputs: int, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.above = nn.Conv2d(inputs, dim, (3, 5))
        self.left = nn.Conv2d(inputs, dim, (1, 3))
        self.blocks = stack(lambda: GatedCausalBlock(dim, dropout), layers, "gated layers")

    def forward(self, grid: Tensor) -> Tensor:
        """Map `grid` (B, inputs, H, W) to (B, dim, H, W)."""
        # Shifted by one row, or one column: the position itself is not seen.
        vertical = self.above(F.pad(grid, (2, 2, 3, 0))[:, :, :-1])
        horizontal = self.left(F.pad(grid, (3, 0, 0, 0))[:, :, :, :-1]) + vertical
        for block in self.blocks:
            vertical, horizontal = block(vertical, horizontal)
        return horizontal


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)
