"""Improved semantic hashing (Kaiser and Bengio 2018; Kaiser et al. 2018): codes made of bits."""

import torch
from torch import Tensor, nn

from vqnmt.quantizers.base import Assignment, StraightThrough
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.learnt import LearntQuantizer, linear, mean
from vqnmt.quantizers.vector_quantizer import mean_square_error

_DISCRETE = 0.5  # share of the positions that take the bits themselves in training


class SemanticHashingQuantizer(LearntQuantizer):
    """log2 K bits from a saturating sigmoid with noise (arXiv 1801.09797, 1803.03382).

    With v = W z_e + b and, in training, noise n from N(0, `noise`^2):

        f1(v) = max(0, min(1, 1.2 sigmoid(v + n) - 0.1)),    f2(v) = 1[v + n > 0].

    Half of the positions take f1, the others f2 with the gradient of f1. In evaluation the bits
    are 1[v > 0]. Bit i counts 2^i in the code. Two dense layers with a ReLU in between make the
    vector of the bits. The samples are the codes of f2. The entropy
    returned is that of the posterior under the noise, P(bit = 1) = Phi(v / noise).
    """

    stochastic = True

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(config.codebook_size, dim)
        self.config = config
        self.bits = config.codebook_size.bit_length() - 1
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
        self.check_finite(vectors, self._accumulates())
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
            losses={},
            statistics={
                "quantisation_error": mean_square_error(vectors, nearest).detach(),
                "posterior_entropy": mean(self._entropies(logits.detach())),
            },
        )

    def _entropies(self, logits: Tensor) -> Tensor:
        """Entropies `(N,)` in nats of the codes that the noise makes of logits `(N, b)`."""
        if self.config.noise == 0:
            return logits.new_zeros(len(logits))
        scaled = logits / self.config.noise
        # Both tails by themselves: 1 - Phi would lose the small one.
        logs = torch.special.log_ndtr(torch.stack([scaled, -scaled]))  # (2, N, b)
        return -(logs.exp() * logs).sum(dim=(0, 2))

    def _nearest(self, vectors: Tensor) -> Tensor:
        return _to_codes(linear(self.logits, vectors) > 0)


def _to_codes(bits: Tensor) -> Tensor:
    """Codes `(N,)` int64 of bits `(N, b)` bool: sum_i 2^i bit_i."""
    places = torch.arange(bits.shape[1], device=bits.device)
    return (bits.long() << places).sum(dim=1)
