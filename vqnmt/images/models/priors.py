"""Priors over a grid of codes: uniform, gated PixelCNN, Transformer.

The codes (B, h, w, n) of one image are one sequence, position by position in raster order and
within a position in their own order; the PixelCNN lays the n codes of a position side by side,
in a grid (h, w n).
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.base import uniform_nats
from vqnmt.images.models.config import PriorConfig
from vqnmt.layers import Decoder, DecoderState, Dropout, Losses, TransformerConfig, stack

Shape = tuple[int, int, int]


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
        # Both stacks are shifted, by one row and one column, so that no position sees itself.
        vertical = self.above(F.pad(grid, (2, 2, 3, 0))[:, :, :-1])
        horizontal = self.left(F.pad(grid, (3, 0, 0, 0))[:, :, :, :-1]) + vertical
        for block in self.blocks:
            vertical, horizontal = block(vertical, horizontal)
        return horizontal


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)


class CodePrior(nn.Module, ABC):
    """p(z) over codes 0 .. K - 1.

    Args:
        codebook_size: K.
        shape: (h, w, n).
    """

    def __init__(self, codebook_size: int, shape: Shape) -> None:
        super().__init__()
        self.codebook_size, self.shape = codebook_size, shape

    @abstractmethod
    def nats(self, codes: Tensor) -> Tensor:
        """-log p(z) of `codes` (B, h, w, n), in nats an image (B,)."""

    @abstractmethod
    def sample(self, count: int, device: torch.device) -> Tensor:
        """Draw codes (count, h, w, n) one after another (ancestral sampling)."""

    def forward(self, codes: Tensor) -> Losses:
        """Training loss: nats a code."""
        loss = self.nats(codes).mean() / math.prod(self.shape)
        return Losses(loss, len(codes), {"prior": loss.detach() / math.log(2)})


class UniformPrior(CodePrior):
    """log K nats a code: the constant KL of van den Oord et al. 2017."""

    def nats(self, codes: Tensor) -> Tensor:
        """-log p(z), (B,)."""
        return uniform_nats(codes, self.codebook_size)

    def sample(self, count: int, device: torch.device) -> Tensor:
        """Draw each code independently."""
        return torch.randint(self.codebook_size, (count, *self.shape), device=device)


class PixelCNNPrior(CodePrior):
    """A gated PixelCNN (van den Oord et al. 2016) over the grid of codes."""

    def __init__(self, config: PriorConfig, codebook_size: int, shape: Shape) -> None:
        super().__init__(codebook_size, shape)
        self.embedding = nn.Embedding(codebook_size, config.width)
        self.body = CausalConvolutions(config.width, config.width, config.layers, config.dropout)
        self.output = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(config.width, 2 * config.width, 1),
            nn.ReLU(),
            nn.Conv2d(2 * config.width, codebook_size, 1),
        )

    def logits(self, codes: Tensor) -> Tensor:
        """Score all codes at each position: (B, h, w, n) to (B, K, h, w n)."""
        embedded = self.embedding(codes.flatten(2)).permute(0, 3, 1, 2)  # (B, width, h, w n)
        return self.output(self.body(embedded))

    def nats(self, codes: Tensor) -> Tensor:
        """-log p(z), (B,)."""
        losses = F.cross_entropy(self.logits(codes).float(), codes.flatten(2), reduction="none")
        return losses.flatten(1).sum(dim=1)

    @torch.no_grad()
    def sample(self, count: int, device: torch.device) -> Tensor:
        """Draw the codes in raster order; rows below the current one are not computed."""
        height, width, codes = self.shape
        grid = torch.zeros(count, height, width * codes, dtype=torch.int64, device=device)
        for row in range(height):
            for column in range(width * codes):
                seen = grid[:, : row + 1, :, None]  # (count, row + 1, w n, 1)
                scores = self.logits(seen)[:, :, row, column].float()  # (count, K)
                grid[:, row, column] = torch.multinomial(scores.softmax(-1), 1)[:, 0]
        return grid.view(count, *self.shape)


class TransformerPrior(CodePrior):
    """The causal decoder of the translation models, with one learnt vector instead of a source."""

    def __init__(self, config: PriorConfig, codebook_size: int, shape: Shape) -> None:
        super().__init__(codebook_size, shape)
        size = TransformerConfig(
            dim=config.width,
            feedforward=4 * config.width,
            heads=config.heads,
            dropout=config.dropout,
        )
        self.embedding = nn.Embedding(codebook_size, config.width)
        # The place of the next code: its row, its column and its number at the position.
        self.places = nn.ParameterList(
            [nn.Parameter(torch.randn(length, config.width) * 0.1) for length in shape]
        )
        self.memory = nn.Parameter(torch.randn(config.width))
        self.decoder = Decoder(size, config.layers)
        self.output = nn.Linear(config.width, codebook_size)

    def _place(self) -> Tensor:
        """The sum of the three tables: (h w n, width)."""
        row, column, turn = self.places
        return (row[:, None, None] + column[None, :, None] + turn[None, None]).flatten(0, 2)

    def _start(self, count: int) -> DecoderState:
        memory = self.memory.expand(count, 1, -1)
        return self.decoder.start(memory, memory.new_ones(count, 1, dtype=torch.bool))

    def nats(self, codes: Tensor) -> Tensor:
        """-log p(z), (B,)."""
        labels = codes.flatten(1)  # (B, T)
        embedded = F.pad(self.embedding(labels[:, :-1]), (0, 0, 1, 0)) + self._place()
        hidden = self.decoder(embedded, self._start(len(codes)), mask=None, causal=True)
        logits = self.output(hidden).float()  # (B, T, K)
        return F.cross_entropy(logits.mT, labels, reduction="none").sum(dim=1)

    @torch.no_grad()
    def sample(self, count: int, device: torch.device) -> Tensor:
        """Draw code by code with the decoder's cache."""
        state, found = self._start(count), []
        embedded = torch.zeros(count, self.embedding.embedding_dim, device=device)
        for place in self._place():
            scores = self.output(self.decoder.step(embedded + place, state)).float()
            found.append(torch.multinomial(scores.softmax(-1), 1)[:, 0])
            embedded = self.embedding(found[-1])
        return torch.stack(found, dim=1).view(count, *self.shape)


def build_prior(config: PriorConfig, codebook_size: int, shape: Shape) -> CodePrior:
    """Build the prior that `config.name` names, over K codes on a grid (h, w, n)."""
    if config.name == "uniform":
        return UniformPrior(codebook_size, shape)
    kind = PixelCNNPrior if config.name == "pixelcnn" else TransformerPrior
    return kind(config, codebook_size, shape)
