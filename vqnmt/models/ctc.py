"""The parallel Transformer without codes: the source, stretched, becomes the target by CTC.

After Libovický and Helcl 2018, with our encoder, decoder and output. It is the control of the
latent Transformer: whatever codes buy must show against it. Shapes: B sentences, S source tokens
and their EOS, T target tokens, N = ceil(stretch * S) decoder positions, P = upsampling * N output
positions, d model width.
"""

from dataclasses import InitVar, dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.layers import Decoder, DecoderState, Encoder, Losses, TransformerConfig, Upsample
from vqnmt.models.outputs import Ctc, best_alignment, own_scores
from vqnmt.models.parallel import ParallelTransformer, read_likely, uniform_copy
from vqnmt.models.shared import TiedEmbedding
from vqnmt.settings import Settings, between

# The share of wrong positions that is shown, at the start and at the end of training: the values
# of Qian et al. 2021.
_SHOWN = (0.5, 0.3)


@dataclass(kw_only=True, slots=True)
class CtcConfig(Settings):
    """Size and training of the parallel Transformer without codes."""

    group: InitVar[str] = "student"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Width, heads and dropout of both stacks."""
    encoder_layers: int = 3
    """Layers of the source encoder."""
    decoder_layers: int = 3
    """Layers of the parallel output decoder."""
    stretch: Annotated[float, between(0.5, 10)] = 1.5
    """Decoder positions for each source token; with `upsampling` 2 a translation may have three
    times as many tokens as its source."""
    upsampling: Annotated[int, between(2, 10)] = 2
    """Output positions for each decoder position."""
    glancing: bool = False
    """Whether the decoder is shown some of the tokens that it gets wrong (Qian et al. 2021), at the
    places of the best CTC alignment (Gu and Kong 2021)."""


class CtcTransformer(ParallelTransformer):
    """Source encoder and parallel decoder over the stretched source.

    Token tensors are (B, S - 1) and (B, T) int64, padded at the end with `PAD`, without BOS and
    EOS.

    Args:
        config: Size and training.
        vocabulary_size: Pieces in the joint vocabulary.
    """

    def __init__(self, config: CtcConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        size, dim = config.transformer, config.transformer.dim
        self.embedding = TiedEmbedding(vocabulary_size, dim)
        self.encoder = Encoder(size, config.encoder_layers)
        self.source_copy = nn.Linear(dim, dim)
        self.decoder = Decoder(size, config.decoder_layers)
        self.upsample = Upsample(dim, config.upsampling)
        self.output = Ctc()
        self.register_reading(vocabulary_size)
        self.shown = _SHOWN[0]

    def stretch(self, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's input (B, N, d) and its mask (B, N) for an encoded source."""
        lengths = (memory_mask.sum(dim=1) * self.config.stretch).ceil().long()  # (B,)
        mask = torch.arange(int(lengths.max()), device=memory.device) < lengths[:, None]
        return self.source_copy(uniform_copy(memory, memory_mask, mask)), mask

    def forward(self, source: Tensor, target: Tensor) -> Losses:
        """Minus log p(target | source), a target token, over all CTC alignments."""
        memory, memory_mask = self.encode(source)
        positions, mask = self.stretch(memory, memory_mask)
        state, known = self.decoder.start(memory, memory_mask), self.embedding.known(target)
        if self.training and self.config.glancing:
            positions = self._show(positions, mask, state, known)
        loss, tokens = self.output.loss(
            self.embedding.outputs, *self.decode(positions, mask, state), known
        )
        return Losses(total=loss, tokens=tokens, terms={"reconstruction": loss.detach()})

    @torch.no_grad()
    def _wrong(
        self, positions: Tensor, mask: Tensor, state: DecoderState, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Align `target` with the output positions of a first pass.

        Returns:
            The token or blank of each output position in the likeliest alignment (B, P), and which
            decoder positions (B, N) have one that differs from the likeliest piece.
        """
        hidden, output_mask = self.decode(positions, mask, state)
        target = F.pad(target, (0, int(target.shape[1] == 0)))
        scores, own, classes = own_scores(self.embedding.weight, hidden, target)
        aligned, possible = best_alignment(scores, classes, output_mask)
        tokens = own.gather(1, aligned)  # (B, P)
        best = self.embedding.logits(hidden).max(dim=-1).indices
        wrong = (best != tokens) & output_mask & possible[:, None]
        return tokens, wrong.view(*mask.shape, -1).any(dim=2)

    def _show(self, positions: Tensor, mask: Tensor, state: DecoderState, target: Tensor) -> Tensor:
        """Replace some decoder positions by the mean embedding of the tokens that belong there.

        Each position is shown with the probability `shown` * (wrong positions) / (positions), so
        that the expected number is that of Qian et al. 2021.
        """
        tokens, wrong = self._wrong(positions, mask, state, target)
        share = self.shown * wrong.sum(dim=1) / mask.sum(dim=1)  # (B,)
        chosen = (torch.rand(mask.shape, device=mask.device) < share[:, None]) & mask
        gold = self.embedding(tokens).view(*mask.shape, -1, positions.shape[2]).mean(dim=2)
        return torch.where(chosen[..., None], gold.to(positions.dtype), positions)

    def set_progress(self, fraction: float) -> None:
        """Advance the curriculum to `fraction` of training done, 0 to 1."""
        start, end = _SHOWN
        self.shown = start + (end - start) * fraction

    def best_pieces(self, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode an encoded source to the best piece of each output position.

        Returns:
            The pieces (B, P), which positions each write one token (B, P), and the
            log-probability of the best path (B,), the blank's penalty included.
        """
        logits, mask = self._piece_logits(memory, memory_mask)
        best, starts = self.read_best(logits, mask)
        chosen = logits.gather(2, best[..., None])[..., 0]  # (B, P)
        log_p = (chosen - logits.logsumexp(dim=-1)).masked_fill(~mask, 0.0)
        return best, starts, log_p.sum(dim=1)

    def likely_pieces(
        self, memory: Tensor, memory_mask: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode an encoded source to the `count` likeliest pieces of each position.

        Returns:
            Their logits and the pieces, both (B, P, n), the best first; the positions' mask (B, P).
        """
        return read_likely(*self._piece_logits(memory, memory_mask), count)

    def _piece_logits(self, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score the pieces at each output position, (B, P, W); returns the mask (B, P) too."""
        state = self.decoder.start(memory, memory_mask)
        hidden, mask = self.decode(*self.stretch(memory, memory_mask), state)
        return self.embedding.logits(hidden), mask
