"""Pre-norm Transformer encoder and decoder (Vaswani et al. 2017), the decoder with a KV cache.

Shapes: B sentences, T positions, S source positions, d model width, H heads. A mask is (B, T)
bool, True at real positions; masked positions never influence real ones.
"""

import math
from dataclasses import InitVar, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.layers.basic import Dropout, stack
from vqnmt.settings import Fraction, PositiveInt, Settings, check


@dataclass(kw_only=True, slots=True)
class TransformerConfig(Settings):
    """The size of a stack of Transformer layers."""

    group: InitVar[str] = "transformer"
    dim: PositiveInt = 128
    """Model width d."""
    feedforward: PositiveInt = 512
    """Width of the feed-forward layer."""
    heads: PositiveInt = 4
    """Attention heads; divides `dim`."""
    dropout: Fraction = 0.1
    """Dropout on embeddings and on every sub-layer's output."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and the width against the heads and the positions."""
        check(self, group)
        if self.dim % 2:
            raise VqnmtError(
                f"{group}.dim is {self.dim}; it must be even, because a position is written "
                "in pairs of a sine and a cosine"
            )
        if self.dim % self.heads:
            raise VqnmtError(
                f"{group}.heads is {self.heads}, which does not divide {group}.dim="
                f"{self.dim}: choose a number of heads that does"
            )


class Attention(nn.Module):
    """Multi-head attention from queries over keys and values that are projected once."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project `memory` (B, S, d) to keys and values, each (B, H, S, d / H)."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        """Attend from `x` (B, T, d); `mask` is (B, 1, 1, S) bool or None; returns (B, T, d)."""
        query = self._split(self.query(x))
        attended = _attend(query, key, value, mask, causal)  # (B, H, T, d / H)
        return self.output(attended.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Return how much each position of `x` (B, T, d) attends to each key; (B, H, T, S)."""
        query = self._split(self.query(x))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.heads, -1).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attend over (B, H, S, d / H); in fp32 on a CPU, where bf16 gradients take 5 times as long."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), mask, is_causal=causal
        )
    return attended.to(query.dtype)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, applied at each position."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.dim, config.feedforward)
        self.outer = nn.Linear(config.feedforward, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        return self.outer(F.relu(self.inner(x)))


class EncoderLayer(nn.Module):
    """Bidirectional self-attention and a feed-forward layer, each x + f(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x` (B, T, d) to (B, T, d); `mask` is (B, 1, 1, T) bool or None."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, *self.attention.project(normed), mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


@dataclass(slots=True)
class DecoderState:
    """A decoder's keys and values of the source, and its cache of previous positions.

    `memory[i]` and `cache[i]` are layer i's (keys, values), (B, H, S, d / H) and
    (B * hypotheses, H, steps so far, d / H). The hypotheses of a source are neighbouring rows that
    attend to one copy of it, which is several times faster than a copy for each.
    """

    memory: list[tuple[Tensor, Tensor]]
    memory_mask: Tensor | None
    cache: list[tuple[Tensor, Tensor] | None]
    step: int = 0
    hypotheses: int = 1

    def expand(self, hypotheses: int) -> None:
        """Give each source this many neighbouring rows; call it before the first step."""
        self.hypotheses = hypotheses

    def select(self, index: Tensor) -> None:
        """Keep the rows `index` (N,) in that order: all rows of a source or none."""
        sources = index[:: self.hypotheses] // self.hypotheses  # (N / hypotheses,)
        self.memory = [(k[sources], v[sources]) for k, v in self.memory]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask[sources]
        self.reorder(index)

    def reorder(self, index: Tensor) -> None:
        """Like `select`, for an `index` that moves rows only within their source."""
        self.cache = [None if kv is None else (kv[0][index], kv[1][index]) for kv in self.cache]


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source and a feed-forward layer, each x + f(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(config.dim)
        self.self_attention = Attention(config)
        self.source_norm = nn.LayerNorm(config.dim)
        self.source_attention = Attention(config)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project the source `memory` (B, S, d) to the keys and values that `forward` takes."""
        return self.source_attention.project(memory)

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
        mask: Tensor | None,
        causal: bool,
        cache: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map `x` (N, T, d) to (N, T, d), and return the keys and values seen so far.

        `memory` may have fewer rows, each shared by several neighbouring rows of `x`.
        """
        normed = self.self_norm(x)
        key, value = self.self_attention.project(normed)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        x = x + self.dropout(self.self_attention(normed, key, value, mask, causal))
        together = self.source_norm(x).view(memory[0].shape[0], -1, x.shape[2])
        read = self.source_attention(together, *memory, memory_mask).view(x.shape)
        x = x + self.dropout(read)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), (key, value)


class Encoder(nn.Module):
    """A stack of `layers` bidirectional layers with a closing layer norm."""

    def __init__(self, config: TransformerConfig, layers: int) -> None:
        super().__init__()
        self.positions = Positions(config)
        self.layers = stack(lambda: EncoderLayer(config), layers, "encoder layers")
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Encode `embedded` (B, S, d) under `mask` (B, S); returns (B, S, d)."""
        x = self.positions(embedded)
        hidden = attention_mask(mask)
        for layer in self.layers:
            x = layer(x, hidden)
        return self.norm(x)


class Decoder(nn.Module):
    """A stack of `layers` layers over the source: causal with a cache, or over all positions."""

    def __init__(self, config: TransformerConfig, layers: int) -> None:
        super().__init__()
        self.positions = Positions(config)
        self.layers = stack(lambda: DecoderLayer(config), layers, "decoder layers")
        self.norm = nn.LayerNorm(config.dim)

    def start(self, memory: Tensor, memory_mask: Tensor) -> DecoderState:
        """Project the encoded source `memory` (B, S, d), mask (B, S), once for all steps."""
        return DecoderState(
            memory=[layer.project(memory) for layer in self.layers],  # type: ignore
            memory_mask=attention_mask(memory_mask),
            cache=[None] * len(self.layers),
        )

    def forward(
        self, embedded: Tensor, state: DecoderState, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Decode all positions of `embedded` (B, T, d) at once; returns (B, T, d).

        `mask` (B, T) hides padding from bidirectional attention; causal attention needs none,
        because padding is at the end. The state is read, not changed.
        """
        x = self.positions(embedded)
        hidden = None if mask is None or causal else attention_mask(mask)
        for layer, memory in zip(self.layers, state.memory, strict=True):
            x, _ = layer(x, memory, state.memory_mask, mask=hidden, causal=causal, cache=None)
        return self.norm(x)

    def step(self, embedded: Tensor, state: DecoderState) -> Tensor:
        """Decode one more position `embedded` (B, d) against the cache; returns (B, d)."""
        x = self.positions(embedded[:, None], start=state.step)
        for i, layer in enumerate(self.layers):
            x, state.cache[i] = layer(
                x,
                state.memory[i],
                state.memory_mask,
                mask=None,
                causal=False,
                cache=state.cache[i],
            )
        state.step += 1
        return self.norm(x)[:, 0]


class Positions(nn.Module):
    """Adds sinusoidal positions (Vaswani et al. 2017, section 3.5), then applies dropout."""

    table: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dim = config.dim
        self.dropout = Dropout(config.dropout)
        self.register_buffer("table", sinusoids(512, config.dim), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the positions start .. start + T - 1 to `x` (B, T, d)."""
        return self.dropout(x + self.rows(start, start + x.shape[1]))

    def rows(self, start: int, end: int) -> Tensor:
        """Return the positions start .. end - 1, (end - start, d); safe to call from threads."""
        table = self.table  # another thread may replace it by a shorter one meanwhile
        if end > len(table):  # the table grows by doubling
            length = 2 ** math.ceil(math.log2(end))
            self.table = table = sinusoids(length, self.dim).to(table)
        return table[start:end]


def sinusoids(length: int, dim: int) -> Tensor:
    """The position table (length, dim): sines in the first half, cosines in the second."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, dim, 2) / dim)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def attention_mask(mask: Tensor) -> Tensor | None:
    """Turn (B, T) into (B, 1, 1, T); None for a single sentence, which has no padding."""
    # Without a mask attention takes its fast path.
    return None if mask.shape[0] == 1 else mask[:, None, None, :]
