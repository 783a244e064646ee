"""The special pieces, which every vocabulary numbers alike, and what models do with them."""

import torch.nn.functional as F
from torch import Tensor

PAD, BOS, EOS, UNK = 0, 1, 2, 3


def append_eos(tokens: Tensor) -> Tensor:
    """Put EOS after each row's last real token; (B, T) becomes (B, T + 1)."""
    lengths = (tokens != PAD).sum(dim=1, keepdim=True)
    return F.pad(tokens, (0, 1), value=PAD).scatter(1, lengths, EOS)


def length_limits(source: Tensor) -> Tensor:
    """The most tokens that a translation of each row of `source` (B, S) may have; (B,)."""
    return 2 * (source != PAD).sum(dim=1) + 10
