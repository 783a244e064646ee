"""What the models share whose decoder emits all tokens at once.

Shapes: B sentences, S source tokens and their EOS, T target tokens, N decoder positions,
P = upsampling * N output positions, W pieces that may be written, d model width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vqnmt.layers import Decoder, DecoderState, Upsample
from vqnmt.models.outputs import Output
from vqnmt.models.shared import EncoderDecoder
from vqnmt.tokens import PAD


class ParallelTransformer(EncoderDecoder):
    """Source encoder, parallel decoder, and the reading of tokens from its output positions."""

    decoder: Decoder
    upsample: Upsample | None
    output: Output
    blank_penalty: Tensor
    """Subtracted from the blank's score in translation, in nats: an uncertain decoder prefers the
    blank, because the pieces it considers share the remaining probability."""
    repeatable: Tensor
    """(V,): pieces that may occur twice in a row in a translation; set after training."""
    causal_decoder = False
    """Whether decoder positions see only earlier ones."""

    def register_reading(self, vocabulary_size: int) -> None:
        """Register the buffers `blank_penalty` and `repeatable`."""
        self.register_buffer("blank_penalty", torch.zeros(()))
        self.register_buffer("repeatable", torch.ones(vocabulary_size, dtype=torch.bool))

    def decode(self, x: Tensor, mask: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Decode positions `x` (B, N, d), mask (B, N), to (B, P, d) and the mask (B, P).

        The decoder's layers run at N positions; only the scores of the pieces are computed at
        `upsampling` positions for each.
        """
        hidden = self.decoder(x, state, mask, self.causal_decoder)
        if self.upsample is None:
            return hidden, mask
        return self.upsample(hidden), mask.repeat_interleave(self.upsample.factor, dim=1)

    def read_best(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Take the best piece of each output position; `logits` (B, P, W) are changed.

        Returns:
            The pieces (B, P), and which positions each write one token (B, P).
        """
        logits[..., PAD] -= self.blank_penalty
        # On CPU `max` takes 0.6 of the time of `argmax`.
        best = logits.max(dim=-1).indices  # (B, P)
        return best, self.output.starts(best, mask, self.repeatable)

    def after_validation(self, values: Mapping[str, float]) -> None:
        """Take over the blank's penalty that a validation has chosen."""
        self.blank_penalty.fill_(values.get("valid/blank_penalty", float(self.blank_penalty)))


def read_likely(logits: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take the `count` likeliest pieces of each output position from `logits` (B, P, W).

    Returns:
        Their logits and the pieces, both (B, P, n), the best first; the mask (B, P) as it is.
    """
    values, pieces = logits.topk(min(count, logits.shape[-1]), dim=-1)
    return values, pieces, mask


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
