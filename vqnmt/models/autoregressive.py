"""The autoregressive Transformer: teacher, baseline and rescorer."""

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vqnmt.layers import Decoder, DecoderState, Encoder, Losses, TransformerConfig
from vqnmt.layers.transformer import DecoderLayer
from vqnmt.models.shared import EncoderDecoder, TiedEmbedding, append_eos
from vqnmt.tokens import BOS, PAD


@dataclass(kw_only=True, slots=True)
class AutoregressiveConfig:
    """Size and training loss of the autoregressive Transformer."""

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Width, heads and dropout of both stacks."""
    encoder_layers: int = 3
    """Layers of the encoder."""
    decoder_layers: int = 3
    """Layers of the decoder."""
    label_smoothing: float = 0.1
    """Probability mass that the training target spreads over all pieces."""


class AutoregressiveTransformer(EncoderDecoder):
    """Encoder and causal decoder with one embedding for source, target and output.

    Token tensors are (B, S) and (B, T) int64, padded at the end with `PAD`, without BOS and EOS:
    the model adds its own.

    Args:
        config: Size and loss.
        vocabulary_size: Pieces in the joint vocabulary.
    """

    def __init__(self, config: AutoregressiveConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = TiedEmbedding(vocabulary_size, config.transformer.dim)
        self.encoder = Encoder(config.transformer, config.encoder_layers)
        self.decoder = Decoder(config.transformer, config.decoder_layers)

    def forward(self, source: Tensor, target: Tensor) -> Losses:
        """Label-smoothed cross-entropy of `target` (B, T) given `source` (B, S), in nats a token.

        The ends of the targets count as tokens. `cross_entropy` is the same without smoothing.
        """
        hidden, labels = self._teacher_forced(source, target)
        logits = self.embedding.logits(hidden).float()  # (tokens, W)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        with torch.no_grad():
            plain = F.cross_entropy(logits, labels)
        return Losses(loss, len(labels), {"cross_entropy": plain})

    def _teacher_forced(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's output and the label at every real position, flattened."""
        labels = append_eos(self.embedding.known(target))  # (B, T + 1)
        inputs = F.pad(labels[:, :-1], (1, 0), value=BOS)
        state = self.decoder.start(*self.encode(source))
        hidden = self.decoder(self.embedding(inputs), state, mask=None, causal=True)
        real = labels != PAD
        return hidden[real], labels[real]

    def score(self, source: Tensor, target: Tensor) -> Tensor:
        """Log-probability in nats of each `target` (B, T), its end included; returns (B,)."""
        hidden, labels = self._teacher_forced(source, target)
        losses = F.cross_entropy(self.embedding.logits(hidden).float(), labels, reduction="none")
        rows = (append_eos(target) != PAD).nonzero()[:, 0]  # the sentence of each label
        return losses.new_zeros(len(target)).index_add_(0, rows, -losses)

    @torch.no_grad()
    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """Align each token of `target` (B, T) with the token of `source` (B, S) it attends to most.

        The attention is the mean over the heads of all decoder layers, of the pass that predicts
        the token; the source's end is left out.

        Returns:
            Indices 0 .. S - 1, (B, T); without meaning at padding.
        """
        inputs: list[tuple[Tensor, ...]] = []  # query input, keys, values of each layer
        attentions = [cast(DecoderLayer, layer).source_attention for layer in self.decoder.layers]
        hooks = [
            attention.register_forward_pre_hook(lambda _, given: inputs.append(given))
            for attention in attentions
        ]
        try:
            self._teacher_forced(source, target)
        finally:
            for hook in hooks:
                hook.remove()
        weights = [
            attention.weights(x, key, mask)
            for attention, (x, key, _, mask) in zip(attentions, inputs, strict=True)
        ]
        attended = torch.stack(weights).mean(dim=(0, 2))  # (B, T + 1, S + 1)
        attended = attended[:, :-1, :-1].masked_fill((source == PAD)[:, None], -1.0)
        return attended.argmax(dim=-1)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Score the next piece after `tokens` (N,); returns (N, W)."""
        return self.embedding.logits(self.decoder.step(self.embedding(tokens), state))
