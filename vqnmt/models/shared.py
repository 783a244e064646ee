"""What the translation models share: the table of pieces, ends, lengths, a teacher's weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.layers import Encoder
from vqnmt.tokens import EOS, PAD, UNK, length_limit


class TiedEmbedding(nn.Embedding):
    """Vectors of the pieces, for source, target and output (Press and Wolf 2017).

    The vocabulary puts pieces of the target text first (see `Vocabulary.train`), so a model does
    not score pieces that occur only in the source, which are a third of all in Multi30k.

    Args:
        vocabulary_size: V, pieces in the joint vocabulary.
        dim: d.

    Attributes:
        written: W: translations consist of the first W pieces; V until training sets it.
    """

    def __init__(self, vocabulary_size: int, dim: int) -> None:
        super().__init__(vocabulary_size, dim, padding_idx=PAD)
        nn.init.normal_(self.weight, std=dim**-0.5)  # norm 1, because rows are outputs too
        with torch.no_grad():
            self.weight[PAD].zero_()
        self.written = vocabulary_size

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed `tokens` (...), scaled to unit variance; returns (..., d)."""
        return super().forward(tokens) * math.sqrt(self.embedding_dim)

    def known(self, tokens: Tensor) -> Tensor:
        """Replace pieces that may not be written by the unknown piece; any shape."""
        return tokens.where(tokens < self.written, UNK)

    @property
    def outputs(self) -> Tensor:
        """The vectors of the pieces that may be written, (W, d)."""
        return self.weight[: self.written]

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the pieces that may be written for `hidden` (..., d); returns (..., W)."""
        return F.linear(hidden, self.outputs)


class EncoderDecoder(nn.Module):
    """Base of the translation models: a source encoder over the table of pieces.

    A subclass builds the modules: the order in which they are registered is that of the
    optimiser's state and of the initial random numbers.
    """

    embedding: TiedEmbedding
    encoder: Encoder

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `source` (B, S) and its end; returns (B, S + 1, d) and its mask (B, S + 1)."""
        source = append_eos(source)
        mask = source != PAD
        return self.encoder(self.embedding(source), mask), mask


def append_eos(tokens: Tensor) -> Tensor:
    """Put EOS after each row's last real token; (B, T) becomes (B, T + 1)."""
    lengths = (tokens != PAD).sum(dim=1, keepdim=True)
    return F.pad(tokens, (0, 1), value=PAD).scatter(1, lengths, EOS)


def length_limits(source: Tensor) -> Tensor:
    """The most tokens that a translation of each row of `source` (B, S) may have; (B,)."""
    lengths: Tensor = (source != PAD).sum(dim=1)
    return length_limit(lengths)


def copy_weights(student: nn.Module, teacher: nn.Module) -> int:
    """Copy the weights of `teacher` that have a namesake in `student`.

    Returns:
        The number of weights copied.

    Raises:
        VqnmtError: A weight of the same name has another shape.
    """
    own = student.state_dict()
    found = {name: value for name, value in teacher.state_dict().items() if name in own}
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise VqnmtError(
                f"warm_start is true, but {name} has shape {tuple(value.shape)} in the teacher "
                f"and {tuple(own[name].shape)} in the student: give both the same "
                "transformer settings, or set warm_start=false"
            )
    student.load_state_dict(found, strict=False)
    return sum(value.numel() for value in found.values())
