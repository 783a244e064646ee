"""The fertility NAT (Gu et al. 2018): copies of source tokens become a translation in one pass.

How often each source token is copied (its fertility) is predicted and sets the length. Shapes:
B sentences, S source tokens, T target tokens, F + 1 fertilities 0 .. F, P decoder positions (the
sum of a sentence's fertilities), d model width.

Departures from the paper: attention over positions comes before a layer's self-attention instead
of after it; a position may attend to itself; there is no fine-tuning by reinforcement.
"""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.layers import Decoder, DecoderState, Dropout, Encoder, Losses, TransformerConfig
from vqnmt.layers.transformer import Attention, attention_mask
from vqnmt.models.shared import EncoderDecoder, TiedEmbedding, length_limits
from vqnmt.settings import PositiveInt, Settings
from vqnmt.tokens import BOS, EOS, PAD

# Most positions whose scores over all pieces are in memory at once.
_POSITIONS = 4096

Aligner = Callable[[Tensor, Tensor], Tensor]
"""From source (B, S) and target (B, T) to the source token of each target token, (B, T)."""


@dataclass(kw_only=True, slots=True)
class FertilityConfig(Settings):
    """Size of the fertility NAT."""

    group: InitVar[str] = "student"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Width, heads and dropout of both stacks."""
    encoder_layers: int = 3
    """Layers of the encoder."""
    decoder_layers: int = 3
    """Layers of the parallel decoder."""
    max_fertility: PositiveInt = 50
    """F: the largest fertility that is predicted."""


class FertilityTransformer(EncoderDecoder):
    """Encoder with a fertility head, and a parallel decoder over source tokens copied by fertility.

    Token tensors are (B, S) and (B, T) int64, padded at the end with `PAD`, without BOS and EOS.

    Args:
        config: Size.
        vocabulary_size: Pieces in the joint vocabulary.
    """

    def __init__(self, config: FertilityConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = TiedEmbedding(vocabulary_size, config.transformer.dim)
        self.encoder = Encoder(config.transformer, config.encoder_layers)
        self.fertility = nn.Linear(config.transformer.dim, config.max_fertility + 1)
        self.decoder = PositionalDecoder(config.transformer, config.decoder_layers)
        self.align: Aligner | None = None
        """A teacher's `align`, the source of alignments in training."""

    def fertility_log_probabilities(self, memory: Tensor) -> Tensor:
        """Score the fertilities of all source tokens; returns (B, S, F + 1)."""
        return self.fertility(memory[:, :-1]).float().log_softmax(dim=-1)

    def decode(
        self, source: Tensor, fertilities: Tensor, state: DecoderState
    ) -> tuple[Tensor, Tensor]:
        """Decode all positions at once.

        Args:
            source: (B, S).
            fertilities: How often each source token is copied, (B, S); 0 at padding.
            state: Of the encoded source.

        Returns:
            Their states (B, P, d) and the mask (B, P) of those that count.
        """
        index, mask = copies(fertilities)  # (B, P)
        copied = self.embedding(source.gather(1, index))  # (B, P, d)
        return self.decoder(copied, state, mask, causal=False), mask

    def log_probabilities(self, states: Tensor) -> Tensor:
        """Score pieces for `states` (N, d); returns (N, W). Only text is ever written."""
        logits = self.embedding.logits(states).float()
        special = torch.tensor((PAD, BOS, EOS), device=states.device)
        return logits.index_fill(1, special, -torch.inf).log_softmax(dim=-1)

    # --- training ----------------------------------------------------------------------------

    def forward(self, source: Tensor, target: Tensor) -> Losses:
        """Minus log p(fertilities | source) p(target | fertilities, source), a target token.

        The fertilities are those of the alignment by `align` (Gu et al. 2018, equation 4).
        """
        assert self.align is not None, "training needs alignments"
        fertilities = count_fertilities(self.align(source, target), source, target)
        memory, memory_mask = self.encode(source)
        log_p = self.fertility_log_probabilities(memory)  # (B, S, F + 1)
        labels = fertilities.clamp(max=self.config.max_fertility)
        chosen = log_p.gather(2, labels[..., None])[..., 0]  # (B, S)
        states, _ = self.decode(source, fertilities, self.decoder.start(memory, memory_mask))
        # Position i holds token i; P < T only by padding.
        target = self.embedding.known(target[:, : states.shape[1]])
        real = target != PAD
        tokens = max(int(real.sum()), 1)
        scores = self.log_probabilities(states[:, : target.shape[1]][real])  # (tokens, W)
        losses = {
            "reconstruction": F.nll_loss(scores, target[real], reduction="sum") / tokens,
            "fertility": -chosen[source != PAD].sum() / tokens,
        }
        total = torch.stack(list(losses.values())).sum()
        return Losses(total, tokens, {name: value.detach() for name, value in losses.items()})

    # --- translation -------------------------------------------------------------------------

    def draw(
        self, source: Tensor, count: int, temperature: float
    ) -> tuple[list[list[int]], list[float]]:
        """Write `count` translations of each sentence of `source` (B, S), all in one batch.

        The first has the best fertility of each token; the others are drawn from
        p ** (1 / temperature) (noisy parallel decoding, Gu et al. 2018, section 4). Equal ones may
        be among them.

        Returns:
            The tokens of B * count translations, those of a sentence side by side, and the
            log-probability in nats of the fertilities and tokens of each.
        """
        memory, memory_mask = self.encode(source)
        log_p = self.fertility_log_probabilities(memory)  # (B, S, F + 1)
        state = self.decoder.start(memory, memory_mask)
        fertilities = log_p.argmax(dim=-1)[None]  # (1, B, S)
        if count > 1:
            weights = (log_p / temperature).softmax(dim=-1)
            drawn = torch.distributions.Categorical(weights).sample((count - 1,))
            fertilities = torch.cat([fertilities, drawn])  # (count, B, S)
        fertilities = fertilities.transpose(0, 1).flatten(0, 1)  # (B * count, S)
        rows = torch.arange(len(source), device=source.device).repeat_interleave(count)
        source, log_p = source[rows], log_p[rows]
        fertilities = self._within_limits(fertilities.masked_fill(source == PAD, 0), source)
        state.expand(count)
        states, mask = self.decode(source, fertilities, state)
        best = [self.log_probabilities(part).max(dim=1) for part in states[mask].split(_POSITIONS)]
        values, tokens = (torch.cat(some) for some in zip(*best, strict=True))  # (positions,)
        totals = log_p.gather(2, fertilities[..., None])[..., 0].masked_fill(source == PAD, 0)
        totals = totals.sum(dim=1).index_add(0, mask.nonzero()[:, 0], values)  # (B * count,)
        written = iter(tokens.tolist())
        lengths = mask.sum(dim=1).tolist()
        return [[next(written) for _ in range(length)] for length in lengths], totals.tolist()

    @staticmethod
    def _within_limits(fertilities: Tensor, source: Tensor) -> Tensor:
        """Reduce fertilities (N, S) from the end of the sentence until the length limit holds."""
        limits = length_limits(source)[:, None]
        before = fertilities.cumsum(dim=1) - fertilities
        return fertilities.minimum((limits - before).clamp(min=0))


class PositionalDecoder(Decoder):
    """A parallel decoder whose layers first attend from position to position.

    Queries and keys of that attention are the positions alone and its values the states, so that
    words can be reordered (Gu et al. 2018, section 3.2).
    """

    def __init__(self, config: TransformerConfig, layers: int) -> None:
        super().__init__(config, layers)
        self.positional = nn.ModuleList([PositionalAttention(config) for _ in range(layers)])

    def forward(
        self, embedded: Tensor, state: DecoderState, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Decode all positions of `embedded` (B, P, d); `mask` (B, P) marks the real ones."""
        assert mask is not None and not causal
        x, hidden = self.positions(embedded), attention_mask(mask)
        table = self.positions.rows(0, x.shape[1])
        for positional, layer, memory in zip(
            self.positional, self.layers, state.memory, strict=True
        ):
            x = positional(x, table, hidden)
            x, _ = layer(x, memory, state.memory_mask, mask=hidden, causal=False, cache=None)
        return self.norm(x)


class PositionalAttention(nn.Module):
    """Attention from positions over positions to the states at them: x + f(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x` (B, P, d) to (B, P, d); `table` (P, d) holds the positions."""
        positions = table.to(x.dtype).expand_as(x)
        key, _ = self.attention.project(positions)
        _, value = self.attention.project(self.norm(x))
        return x + self.dropout(self.attention(positions, key, value, mask))


def copies(fertilities: Tensor) -> tuple[Tensor, Tensor]:
    """Find the source token that each decoder position copies.

    Args:
        fertilities: (B, S), 0 or more.

    Returns:
        Indices of source tokens (B, P) and the mask (B, P); a sentence whose fertilities are all
        0 has one position, which copies the first token.
    """
    ends = fertilities.cumsum(dim=1)  # (B, S)
    lengths = ends[:, -1:].clamp(min=1)
    positions = torch.arange(int(lengths.max()), device=fertilities.device)
    mask = positions < lengths  # (B, P)
    index = torch.searchsorted(ends, positions.expand(len(ends), -1).contiguous(), right=True)
    return index.masked_fill((index == ends.shape[1]) | ~mask, 0), mask


def count_fertilities(alignment: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Count the target tokens (B, T) that `alignment` (B, T) gives to each token of source (B, S).

    Returns:
        (B, S); a sentence's fertilities add up to its target tokens.
    """
    return torch.zeros_like(source).scatter_add_(1, alignment, (target != PAD).long())
