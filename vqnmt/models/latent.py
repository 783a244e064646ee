"""The latent Transformer: few autoregressive codes, then all target tokens at once.

The model of Roy et al. 2018. Shapes: B sentences, S source tokens, T target tokens, L codes with
L = ceil(T / 2^n_c), K codes in the codebook, L * 2^n_c decoder positions,
P = upsampling * L * 2^n_c output positions, d model width.
"""

from dataclasses import InitVar, dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.layers import (
    Compressor,
    Decoder,
    DecoderState,
    Decompressor,
    Encoder,
    Losses,
    TransformerConfig,
    Upsample,
)
from vqnmt.layers.transformer import DecoderLayer, Positions, attention_mask
from vqnmt.models.outputs import OUTPUTS
from vqnmt.models.parallel import ParallelTransformer, read_likely, uniform_copy
from vqnmt.models.shared import TiedEmbedding
from vqnmt.quantizers import EMAConfig, QuantizerConfig, build_quantizer
from vqnmt.settings import Fraction, Settings, between, check
from vqnmt.tokens import PAD, UNK


@dataclass(kw_only=True, slots=True)
class LatentConfig(Settings):
    """Size, bottleneck and losses of the latent Transformer."""

    group: InitVar[str] = "student"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Width, heads and dropout of all stacks."""
    quantizer: QuantizerConfig = field(
        default_factory=lambda: EMAConfig(codebook_size=64, decay=0.99)
    )
    """The bottleneck."""
    encoder_layers: int = 3
    """Layers of the source encoder."""
    predictor_layers: int = 1
    """Layers of the autoregressive latent predictor."""
    decoder_layers: int = 3
    """Layers of the parallel output decoder."""
    compression: Annotated[int, between(0, 6)] = 3
    """n_c: a code stands for 2^n_c target tokens."""
    residual_convolutions: int = 1
    """Convolutions in each residual block of compressor and decompressor."""
    joint_end: bool = True
    """Whether the predictor says with each code whether it is the last, 2K symbols, instead of an
    end of its own in a step after the last code, K + 1 symbols."""
    output: str = "ctc"
    """`ctc`, `cross_entropy` at fixed positions as in Roy et al. 2018, or that of a plug-in."""
    upsampling: int = 2
    """Output positions a decoder position; 1 with `cross_entropy`, 2 or more with `ctc`."""
    causal_decoder: bool = False
    """Whether the output decoder sees only earlier positions, as in the reference code."""
    source_in_compressor: bool = True
    """Whether the compressor attends to the source before it compresses."""
    source_copy: bool = True
    """Whether decoder positions also read the source at the same relative place (the uniform
    copy of Gu et al. 2018), which gives attention a place to start from."""
    word_dropout: float = 0.0
    """Probability that the compressor reads an unknown word instead of a target token."""
    code_noise: float = 0.5
    """Probability that the decoder trains on a code drawn from the predictor instead of the true
    one. With little noise it depends on the seed whether the decoder lays words out by the codes or
    by the source, which translates better."""
    continuous_start: Fraction = 0.1
    """Fraction of training at whose start the latents pass unquantised. Before the decoder has
    learned to read latents, only the commitment loss moves the compressor, and pulls all latents
    to one point; codes that start from latents in use stay apart."""
    predictor_gradient: bool = False
    """Whether the predictor's loss trains the compressor too, as in the reference code."""
    gold_mixing: bool = False
    """The reference code's curriculum: positions take the target's embedding with probability
    1 - p, where p rises from 0 to 1 over training; with `cross_entropy` only."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the others fit the output."""
        check(self, group)
        if self.output not in OUTPUTS:
            raise VqnmtError(
                f"{group}.output is {self.output!r}; choose one of {', '.join(sorted(OUTPUTS))}"
            )
        if self.output == "cross_entropy" and self.upsampling != 1:
            raise VqnmtError(
                f"{group}.upsampling is {self.upsampling}, but cross_entropy has one position "
                f"for each token: set {group}.upsampling=1 or {group}.output=ctc"
            )
        if self.upsampling < 1:
            raise VqnmtError(f"{group}.upsampling is {self.upsampling}; it must be 1 or more")
        if self.output == "ctc" and self.upsampling < 2:
            raise VqnmtError(
                f"{group}.upsampling is {self.upsampling}, but ctc needs positions for blanks: "
                "set 2 or more"
            )
        if self.gold_mixing and self.output != "cross_entropy":
            raise VqnmtError(
                f"{group}.gold_mixing is true, but ctc has no fixed position for a token: "
                f"set {group}.output=cross_entropy or {group}.gold_mixing=false"
            )


class LatentTransformer(ParallelTransformer):
    """Source encoder, target compressor, quantizer, latent predictor and parallel decoder.

    Token tensors are (B, S) and (B, T) int64, padded at the end with `PAD`, without BOS and EOS.
    Codes are 0 .. K - 1. The predictor's symbols are the codes, and with `joint_end` K + k for the
    code k as the last one, else K for the end after the last code; V in all.

    Args:
        config: Size, bottleneck and losses.
        vocabulary_size: Pieces in the joint vocabulary.
    """

    def __init__(self, config: LatentConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config, self.causal_decoder = config, config.causal_decoder
        size, dim, dropout = config.transformer, config.transformer.dim, config.transformer.dropout
        convolutions = config.residual_convolutions
        self.embedding = TiedEmbedding(vocabulary_size, dim)
        self.encoder = Encoder(size, config.encoder_layers)
        self.target_positions = Positions(size)
        self.target_reader = DecoderLayer(size) if config.source_in_compressor else None
        self.compressor = Compressor(dim, config.compression, convolutions, dropout)
        self.quantizer = build_quantizer(config.quantizer, dim)
        self.code_embedding = nn.Linear(dim, dim)
        self.begin = nn.Parameter(torch.randn(dim))
        self.predictor = Decoder(size, config.predictor_layers)
        codes = self.end_of_codes
        self.code_output = nn.Linear(dim, 2 * codes if config.joint_end else codes + 1)
        self.decompressor = Decompressor(dim, config.compression, convolutions, dropout)
        self.decoder = Decoder(size, config.decoder_layers)
        self.upsample = Upsample(dim, config.upsampling) if config.upsampling > 1 else None
        self.source_copy = nn.Linear(dim, dim) if config.source_copy else None
        self.output = OUTPUTS[config.output]()
        self.register_reading(vocabulary_size)
        self.gold_probability = 1.0 if config.gold_mixing else 0.0
        self.continuous = config.continuous_start > 0

    @property
    def end_of_codes(self) -> int:
        """K, the first of the predictor's symbols that end the codes."""
        return self.quantizer.codebook_size

    # --- parts -------------------------------------------------------------------------------

    def compress(
        self, target: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compress `target` (B, T) to continuous latents z_e (B, L, d) and their mask (B, L).

        Args:
            target: Tokens, padded at the end.
            memory: The encoded source (B, S + 1, d), which `target_reader` attends to.
            memory_mask: (B, S + 1).
        """
        labels = self.output.labels(target)  # (B, T or T + 1)
        labels = F.pad(labels, (0, int(labels.shape[1] == 0)), value=PAD)
        mask = labels != PAD
        mask[:, 0] = True  # an empty target has one code too, because the decoder needs a position
        if self.training and self.config.word_dropout > 0:
            dropped = torch.rand(labels.shape, device=labels.device) < self.config.word_dropout
            labels = labels.masked_fill(dropped & mask, UNK)
        x = self.target_positions(self.embedding(labels))
        if self.target_reader is not None:
            key_value = self.target_reader.project(memory)
            x, _ = self.target_reader(
                x,
                key_value,
                attention_mask(memory_mask),
                mask=attention_mask(mask),
                causal=False,
                cache=None,
            )
        missing = -labels.shape[1] % 2**self.config.compression
        return self.compressor(F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing)))

    def true_codes(
        self, target: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The codes of `target` (B, T), the nearest ones, and their mask, both (B, L).

        For the arguments see `compress`.
        """
        z_e, mask = self.compress(target, memory, memory_mask)
        return self.quantizer.nearest(z_e), mask

    def decompress(
        self, latents: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decompress code vectors (B, L, d), mask (B, L), to decoder positions.

        Returns:
            The positions (B, L * 2^n_c, d) and their mask (B, L * 2^n_c).
        """
        x, mask = self.decompressor(latents, mask)
        if self.source_copy is not None:
            x = x + self.source_copy(uniform_copy(memory, memory_mask, mask))
        return x, mask

    # --- training ----------------------------------------------------------------------------

    def forward(self, source: Tensor, target: Tensor) -> Losses:
        """Losses of `target` (B, T) given `source` (B, S) (Roy et al. 2018).

            L = -log p(y | z_q, x) - log p(z | x) + the quantizer's terms,

        the first in nats a target token, the second in nats a symbol of the predictor. While the
        latents pass unquantised there is only the first.
        """
        memory, memory_mask = self.encode(source)
        z_e, mask = self.compress(target, memory, memory_mask)
        if self.training and self.continuous:
            latents, code_losses, statistics, counts = z_e, {}, {}, {}
        else:
            bottleneck = self.quantizer(z_e, mask)
            code_logits = self.predict(bottleneck.quantized, memory, memory_mask)
            symbols, symbol_mask = self.symbols(bottleneck.samples, mask)
            prediction = prediction_loss(code_logits, symbols, symbol_mask)
            latents, statistics = bottleneck.quantized, bottleneck.statistics
            code_losses = {"prediction": prediction, **bottleneck.losses}
            counts = dict.fromkeys((*bottleneck.losses, *statistics), mask.sum())
            counts["prediction"] = symbol_mask.sum()
            if self.training and self.config.code_noise > 0:
                latents = self._with_predicted(latents, code_logits)
        state = self.decoder.start(memory, memory_mask)
        positions, position_mask = self.decompress(latents, mask, memory, memory_mask)
        if self.training and self.gold_probability > 0:
            positions = self._with_gold(positions, target)
        hidden, output_mask = self.decode(positions, position_mask, state)
        reconstruction, tokens = self.output.loss(
            self.embedding.outputs, hidden, output_mask, self.embedding.known(target)
        )

        losses = {"reconstruction": reconstruction, **code_losses}
        total = torch.stack(list(losses.values())).sum()
        terms = {name: value.detach() for name, value in losses.items()}
        return Losses(
            total=total,
            tokens=tokens,
            terms={**terms, **statistics},
            parts=code_losses,
            counts=counts,
        )

    def predict(self, quantized: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Score the predictor's symbols after the codes before them.

        Args:
            quantized: Code vectors (N, L, d); several neighbouring rows may share one source.
            memory: Encoded sources (B, S + 1, d).
            memory_mask: (B, S + 1).

        Returns:
            (N, L, 2K), or with an end of its own (N, L + 1, K + 1).
        """
        if not self.config.predictor_gradient:
            quantized = quantized.detach()
        if self.config.joint_end:  # nothing follows the last code
            quantized = quantized[:, :-1]
        begin = self.begin.to(quantized.dtype).expand(len(quantized), 1, -1)
        inputs = torch.cat([begin, self.code_embedding(quantized)], dim=1)
        state = self.predictor.start(memory, memory_mask)
        return self.code_output(self.predictor(inputs, state, mask=None, causal=True)).float()

    def _with_predicted(self, latents: Tensor, code_logits: Tensor) -> Tensor:
        """Replace some of the code vectors (B, L, d) by those of codes drawn from the predictor.

        `code_logits` (B, L, 2K) or (B, L + 1, K + 1) are the predictor's.
        """
        with torch.no_grad():
            # Drawing from NaN raises an error. The loss is NaN too, so the step is left out.
            logits = code_logits[:, : latents.shape[1]].nan_to_num()
            logits, ends = logits.split(self.end_of_codes, dim=2)[:2]  # (B, L, K)
            if self.config.joint_end:  # either way it is that code
                logits = logits.logaddexp(ends)
            drawn = torch.distributions.Categorical(logits=logits).sample()  # (B, L)
            vectors = self.quantizer.codes_to_vectors(drawn).to(latents.dtype)
            chosen = torch.rand(drawn.shape, device=drawn.device) < self.config.code_noise
        return torch.where(chosen[..., None], vectors, latents)

    def _with_gold(self, positions: Tensor, target: Tensor) -> Tensor:
        """Replace some positions (B, L * 2^n_c, d) by the embedding of the token of `target` (B, T)
        that belongs there.
        """
        gold = self.embedding(self.output.labels(target)).to(positions.dtype)
        gold = F.pad(gold, (0, 0, 0, positions.shape[1] - gold.shape[1]))
        chosen = torch.rand(positions.shape[:2], device=positions.device) < self.gold_probability
        return torch.where(chosen[..., None], gold, positions)

    def set_progress(self, fraction: float) -> None:
        """Advance the curricula to `fraction` of training done, 0 to 1."""
        self.continuous = fraction < self.config.continuous_start
        self.quantizer.set_progress(fraction)
        if self.config.gold_mixing:
            self.gold_probability = 1.0 - fraction

    def after_optimizer_step(self) -> None:
        """Move the codebook, once an optimiser step."""
        if not self.continuous:
            self.quantizer.step()

    def symbols(self, codes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Write code sequences in the predictor's symbols.

        Args:
            codes: (N, L, m): m samples of each code.
            mask: (N, L), True at real codes, one or more of each sequence.

        Returns:
            The symbols (N, T, m) and their mask (N, T); T is L, or L + 1 with an end of its own.
        """
        lengths = mask.sum(dim=1, keepdim=True)  # (N, 1)
        if self.config.joint_end:
            last = torch.arange(mask.shape[1], device=mask.device) == lengths - 1  # (N, L)
            return codes + self.end_of_codes * last[..., None], mask
        places = torch.arange(mask.shape[1] + 1, device=mask.device)
        longer = F.pad(codes, (0, 0, 0, 1))
        return longer.where((places < lengths)[..., None], self.end_of_codes), places <= lengths

    # --- translation -------------------------------------------------------------------------

    def step(self, codes: Tensor, state: DecoderState) -> Tensor:
        """Score the next symbol after `codes` (N,), ignored at the first step; returns (N, V)."""
        if state.step == 0:
            inputs = self.begin.expand(len(codes), -1)
        else:
            vectors = self.quantizer.codes_to_vectors(codes).to(self.begin.dtype)
            inputs = self.code_embedding(vectors)
        return self.code_output(self.predictor.step(inputs, state))

    def decode_codes(
        self, codes: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode `codes` (B, L), mask (B, L), to output positions (B, P, d), mask (B, P)."""
        latents = self.quantizer.codes_to_vectors(codes).to(memory.dtype)
        positions, position_mask = self.decompress(latents, mask, memory, memory_mask)
        return self.decode(positions, position_mask, self.decoder.start(memory, memory_mask))

    def best_pieces(
        self, codes: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode `codes` (B, L), mask (B, L), to the best piece of each output position.

        Returns:
            The pieces (B, P), and which positions each write one token (B, P).
        """
        return self.read_best(*self._piece_logits(codes, mask, memory, memory_mask))

    def likely_pieces(
        self, codes: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode `codes` (B, L), mask (B, L), to the `count` likeliest pieces of each position.

        Returns:
            Their logits and the pieces, both (B, P, n), the best first; the positions' mask (B, P).
        """
        return read_likely(*self._piece_logits(codes, mask, memory, memory_mask), count)

    def _piece_logits(
        self, codes: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score the pieces at each output position, (B, P, W); returns the mask (B, P) too."""
        hidden, output_mask = self.decode_codes(codes, mask, memory, memory_mask)
        return self.embedding.logits(hidden), output_mask


def code_log_probabilities(logits: Tensor, symbols: Tensor, mask: Tensor) -> Tensor:
    """The log-probability of each code sequence, its end included.

    Args:
        logits: Of `LatentTransformer.predict`, (N, T, V).
        symbols: Of `LatentTransformer.symbols`, (N, T, m); the mean over the m samples is taken.
        mask: (N, T), True at real symbols.

    Returns:
        (N,), in nats.
    """
    each = logits.log_softmax(dim=-1).gather(2, symbols).mean(dim=2)  # (N, T)
    return each.masked_fill(~mask, 0.0).sum(dim=1)


def prediction_loss(logits: Tensor, symbols: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the predictor against the mean of m one-hot codes (Roy et al. 2018).

    For the arguments see `code_log_probabilities`.

    Returns:
        The mean over all real symbols, a scalar in nats.
    """
    return -code_log_probabilities(logits, symbols, mask).sum() / mask.sum()
