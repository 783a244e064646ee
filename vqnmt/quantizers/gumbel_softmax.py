"""Gumbel-softmax (Jang et al. 2017): a relaxed draw from the posterior over codes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.learnt import LearntQuantizer, linear, mean
from vqnmt.quantizers.vector_quantizer import mean_square_error


class GumbelSoftmaxQuantizer(LearntQuantizer):
    """A relaxed draw of one code, with the gradient of the relaxation (arXiv 1611.01144).

    With pi = softmax(W z_e + b) and g_j drawn from Gumbel(0, 1), equation 2:

        y_j = exp((ln pi_j + g_j) / t) / sum_k exp((ln pi_k + g_k) / t),    z_q = sum_j y_j e_j.

    `hard_samples` takes the one-hot of the largest y_j forward and the gradient of y backward
    (section 2.2, the straight-through estimator). The temperature t falls linearly to
    `temperature_end`. The samples are the codes that were drawn, argmax_j y_j; in evaluation z_q
    is e_j of the likeliest code. As the prior is uniform, the variational bound has the term
    KL(pi || 1/K) = ln K - H(pi), here with the weight `prior_weight`.
    """

    stochastic = True

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(config.codebook_size, dim)
        self.config = config
        self.vectors = nn.Parameter(torch.randn(config.codebook_size, dim))
        self.logits = nn.Linear(dim, config.codebook_size)
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Anneal the temperature linearly; `fraction` of training done, 0 to 1."""
        start, end = self.config.temperature, self.config.temperature_end
        end = start if end is None else end
        self.temperature = start + (end - start) * min(max(fraction, 0.0), 1.0)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """e_j: the vectors `(..., d)` of codes `(...)` int64."""
        return functional.embedding(codes, self.vectors)

    def _assign(self, vectors: Tensor) -> Assignment:
        self.check_finite(vectors, self._accumulates())
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
        # 0, not ln K, of an empty batch
        divergence = math.log(self.codebook_size) * min(len(vectors), 1) - entropy
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples[:, None],
            losses={"prior": self.config.prior_weight * divergence},
            statistics={
                "quantisation_error": mean_square_error(vectors, nearest).detach(),
                "posterior_entropy": entropy.detach(),
            },
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        return linear(self.logits, vectors).argmax(dim=1)
