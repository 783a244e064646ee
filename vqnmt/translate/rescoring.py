"""Rescoring: an autoregressive model scores finished translations, all positions in one pass.

Noisy parallel decoding (Gu et al. 2018) and rescored latents (Roy et al. 2018) draw several
candidates cheaply and let a teacher choose: its one pass over known tokens runs in parallel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqnmt.data.batches import pad
from vqnmt.models import AutoregressiveTransformer
from vqnmt.models.shared import append_eos
from vqnmt.tokens import BOS, PAD

# Positions whose scores over all pieces are held at once.
_POSITIONS = 4096


@torch.inference_mode()
def score_targets(
    model: AutoregressiveTransformer, source: Tensor, targets: list[list[list[int]]]
) -> list[list[float]]:
    """Score candidate translations, each source encoded once however many candidates it has.

    Args:
        model: The scorer, in evaluation mode.
        source: Source tokens (B, S), padded at the end with `PAD`, without BOS and EOS.
        targets: For each of the B sentences its candidates' tokens, without BOS and EOS; any
            number of candidates, also none.

    Returns:
        For each candidate its log-probability in nats, the end included: what a search by
        this model reports for a hypothesis that has ended.
    """
    sentences = [i for i, candidates in enumerate(targets) for _ in candidates]
    if not sentences:
        return [[] for _ in targets]
    device = source.device
    rows = [tokens for candidates in targets for tokens in candidates]
    labels = append_eos(model.embedding.known(pad(rows).to(device)))  # (N, T + 1)
    inputs = F.pad(labels[:, :-1], (1, 0), value=BOS)
    state = model.decoder.start(*model.encode(source))
    state.select(torch.tensor(sentences, device=device))
    hidden = model.decoder(model.embedding(inputs), state, mask=None, causal=True)  # (N, T + 1, d)
    real = labels != PAD
    forbidden = torch.tensor((PAD, BOS), device=device)  # as in the model's own search
    log_p = []
    for states, wanted in zip(
        hidden[real].split(_POSITIONS), labels[real].split(_POSITIONS), strict=True
    ):
        logits = model.embedding.logits(states).float().index_fill(1, forbidden, -torch.inf)
        log_p.append(-F.cross_entropy(logits, wanted, reduction="none"))
    sums = torch.zeros(len(rows), device=device).index_add_(
        0, real.nonzero()[:, 0], torch.cat(log_p)
    )
    scores = iter(sums.tolist())
    return [[next(scores) for _ in candidates] for candidates in targets]
