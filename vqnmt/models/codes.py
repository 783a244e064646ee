"""What the latent Transformer does around its codes: positions, loss and padding.

Shapes: B sentences, S source positions, L codes, P decoder positions, K codes in the codebook.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vqnmt.search import Hypothesis


class LatentTranslation(NamedTuple):
    """One translation of a sentence."""

    codes: Hypothesis
    """The codes, without the end, and their log-probability."""
    tokens: list[int]
    """The tokens decoded from them."""
    spans: list[int]
    """How many of the tokens each code writes."""


def uniform_copy(memory: Tensor, memory_mask: Tensor, mask: Tensor) -> Tensor:
    """Stretch the source over the positions: position i of n reads source state i * S // n.

    Args:
        memory: (B, S, d).
        memory_mask: (B, S).
        mask: (B, P), True at real positions.

    Returns:
        (B, P, d).
    """
    lengths, sources = mask.sum(dim=1, keepdim=True), memory_mask.sum(dim=1, keepdim=True)
    index = torch.arange(mask.shape[1], device=mask.device) * sources // lengths  # (B, P)
    index = index.minimum(sources - 1)  # positions of the padding
    return memory.gather(1, index[..., None].expand(-1, -1, memory.shape[2]))


def prediction_loss(logits: Tensor, samples: Tensor, mask: Tensor, end: int) -> Tensor:
    """Cross-entropy of the predictor against the mean of m one-hot codes (Roy et al. 2018).

    Args:
        logits: (B, L + 1, K + 1).
        samples: (B, L, m) codes.
        mask: (B, L), True at real codes.
        end: The symbol that follows the last code.

    Returns:
        The mean over all codes and ends, a scalar in nats.
    """
    log_p = logits.log_softmax(dim=-1)
    codes = log_p[:, :-1].gather(2, samples).mean(dim=2)  # (B, L)
    ends = log_p[torch.arange(len(log_p), device=log_p.device), mask.sum(dim=1), end]  # (B,)
    return -(codes[mask].sum() + ends.sum()) / (mask.sum() + len(ends))


def pad_codes(codes: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack lists of codes to (B, L) with the mask (B, L); a list without codes gets one, 0."""
    codes = [row or [0] for row in codes]  # the decoder needs a position to stand on
    longest = max(len(row) for row in codes)
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in codes], device=device)
    lengths = torch.tensor([len(row) for row in codes], device=device)
    return padded, torch.arange(longest, device=device) < lengths[:, None]
