"""What the latent Transformer does around its codes: positions and loss.

Shapes: B sentences, S source positions, L codes, P decoder positions, K codes in the codebook.
"""

import torch
from torch import Tensor


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
