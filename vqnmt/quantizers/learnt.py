"""The quantizers that only the optimiser trains: Gumbel-softmax and semantic hashing."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.quantizers.base import (
    Assignment,
    Quantizer,
    StraightThrough,
    linear,
    mean_square_error,
)
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.registry import register_quantizer
from vqnmt.quantizers.vector_quantizers import annealed

_DISCRETE = 0.5  # share of positions that take the discrete bits in training


@dataclass(kw_only=True)
class GumbelSoftmaxConfig(QuantizerConfig):
    """Settings of `GumbelSoftmaxQuantizer`."""

    temperature: float = 1.0
    """Divides the scaled distances of the posterior (`soft_em`) or the noisy logits of the draw
    (`gumbel_softmax`); towards 0 both become hard."""

    temperature_end: float | None = None
    """Temperature at the end of training, approached linearly; None = constant."""

    hard_samples: bool = False
    """Whether the value in training is one code vector, with the gradient of the relaxed draw,
    and not the relaxed draw itself (`gumbel_softmax`)."""

    prior_weight: float = 0.1
    """Weight of KL(posterior || uniform prior) (`gumbel_softmax`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("temperature")
        self.require_positive("temperature_end")
        self.require_weight("prior_weight")


@dataclass(kw_only=True)
class SemanticHashingConfig(QuantizerConfig):
    """Settings of `SemanticHashingQuantizer`."""

    noise: float = 1.0
    """Standard deviation of the noise on the bits' logits in training (`semhash`)."""

    powers_of_two: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("noise")


class LearntQuantizer(Quantizer):
    """A quantizer whose value has its own gradient: `step` moves nothing.

    Args:
        dim: d, the size of the vectors.
        config: See `Quantizer`.
        options: See `Quantizer`.
    """

    straight_through = False

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        # Unused, but a weight of every saved model: without it they would not load.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def mean(values: Tensor) -> Tensor:
    """Mean of `(N,)`; 0, and still part of the graph, if N is 0."""
    return values.sum() / max(values.numel(), 1)


@register_quantizer("gumbel_softmax", config=GumbelSoftmaxConfig)
class GumbelSoftmaxQuantizer(LearntQuantizer):
    """A relaxed draw of one code, with the gradient of the relaxation (Jang et al. 2017).

    With pi = softmax(W z_e + b) and g_j drawn from Gumbel(0, 1), equation 2:

        y_j = exp((ln pi_j + g_j) / t) / sum_k exp((ln pi_k + g_k) / t),    z_q = sum_j y_j e_j.

    `hard_samples` takes the one-hot of the largest y_j forward and the gradient of y backward
    (section 2.2, the straight-through estimator). The temperature t falls linearly to
    `temperature_end`. The samples are the codes that were drawn, argmax_j y_j; in evaluation z_q
    is e_j of the likeliest code. As the prior is uniform, the variational bound has the term
    KL(pi || 1/K) = ln K - H(pi), here with the weight `prior_weight`.
    """

    stochastic = True

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        self.vectors = nn.Parameter(torch.randn(self.codebook_size, dim))
        self.logits = nn.Linear(dim, self.codebook_size)
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Anneal the temperature linearly; `fraction` of training done, 0 to 1."""
        self.temperature = annealed(self.config.temperature, self.config.temperature_end, fraction)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """e_j: the vectors `(..., d)` of codes `(...)` int64."""
        return functional.embedding(codes, self.vectors)

    def _assign(self, vectors: Tensor) -> Assignment:
        logits = linear(self.logits, vectors)  # (N, K)
        codes = logits.argmax(dim=1)
        nearest = self.codes_to_vectors(codes).float()  # (N, d)
        quantized, samples = nearest, codes
        if self.training:
            draws = functional.gumbel_softmax(
                logits, tau=self.temperature, hard=self.config.hard_samples
            )  # (N, K)
            quantized, samples = draws @ self.vectors.float(), draws.argmax(dim=1)
        log_probabilities = logits.log_softmax(dim=1)
        entropy = mean(-(log_probabilities.exp() * log_probabilities).sum(dim=1))
        # An empty batch has a divergence of 0 instead of ln K.
        divergence = math.log(self.codebook_size) * min(len(vectors), 1) - entropy
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples[:, None],
            losses={"prior": self.config.prior_weight * divergence},
            error=mean_square_error(vectors, nearest).detach(),
            entropy=entropy.detach(),
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        return linear(self.logits, vectors).argmax(dim=1)


@register_quantizer("semhash", config=SemanticHashingConfig)
class SemanticHashingQuantizer(LearntQuantizer):
    """log2 K bits from a noisy saturating sigmoid (Kaiser and Bengio 2018; Kaiser et al. 2018).

    With v = W z_e + b and, in training, noise n from N(0, `noise`^2):

        f1(v) = max(0, min(1, 1.2 sigmoid(v + n) - 0.1)),    f2(v) = 1[v + n > 0].

    Half of the positions take f1, the others f2 with the gradient of f1. In evaluation the bits
    are 1[v > 0]. Bit i counts 2^i in the code. Two dense layers with a ReLU in between turn the
    bits into a vector. The samples are the codes of f2. The entropy is that of the posterior under
    the noise, P(bit = 1) = Phi(v / noise).
    """

    stochastic = True

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        self.bits = self.codebook_size.bit_length() - 1
        self.logits = nn.Linear(dim, self.bits)
        self.hidden = nn.Linear(self.bits, 4 * dim)
        self.output = nn.Linear(4 * dim, dim)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` fp32 of codes `(...)` int64."""
        places = torch.arange(self.bits, device=codes.device)
        return self._vectors(((codes[..., None] >> places) & 1).float())

    def _vectors(self, bits: Tensor) -> Tensor:
        """The vectors `(..., d)` of bits `(..., b)`, which may lie between 0 and 1."""
        return linear(self.output, linear(self.hidden, bits).relu())

    def _assign(self, vectors: Tensor) -> Assignment:
        logits = linear(self.logits, vectors)  # (N, b)
        codes = samples = _to_codes(logits > 0)
        nearest = self._vectors((logits > 0).float())  # (N, d)
        quantized = nearest
        if self.training:
            noisy = logits + self.config.noise * torch.randn_like(logits)
            samples = _to_codes(noisy > 0)
            continuous = (1.2 * noisy.sigmoid() - 0.1).clamp(0.0, 1.0)
            discrete = StraightThrough.apply(continuous, (noisy > 0).float())
            chosen = torch.rand(len(vectors), 1, device=vectors.device) < _DISCRETE
            quantized = self._vectors(torch.where(chosen, discrete, continuous))
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples[:, None],
            error=mean_square_error(vectors, nearest).detach(),
            entropy=mean(self._entropies(logits.detach())),
        )

    def _entropies(self, logits: Tensor) -> Tensor:
        """Entropies `(N,)` in nats of the codes that the noise makes of logits `(N, b)`."""
        if self.config.noise == 0:
            return logits.new_zeros(len(logits))
        scaled = logits / self.config.noise
        # Each tail is computed on its own: 1 - Phi would round a small one to 0.
        logs = torch.special.log_ndtr(torch.stack([scaled, -scaled]))  # (2, N, b)
        return -(logs.exp() * logs).sum(dim=(0, 2))

    def _nearest(self, vectors: Tensor) -> Tensor:
        return _to_codes(linear(self.logits, vectors) > 0)


def _to_codes(bits: Tensor) -> Tensor:
    """Codes `(N,)` int64 of bits `(N, b)` bool: sum_i 2^i bit_i."""
    places = torch.arange(bits.shape[1], device=bits.device)
    return (bits.long() << places).sum(dim=1)
