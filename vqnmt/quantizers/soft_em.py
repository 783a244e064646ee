"""Soft EM (document 002; Roy et al. 2018): m codes drawn from the posterior at each position."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.codebook import Update
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.distances import score_blocks
from vqnmt.quantizers.vector_quantizer import VectorQuantizer, mean_square_error


class SoftEMQuantizer(VectorQuantizer):
    """The mean of m sampled code vectors, and a codebook that moves by soft counts.

    E step: z_i^1..z_i^m ~ Multinomial(softmax(-||e_j - z_e(x_i)||^2 / (scale * temperature)));
    M step: c_j = 1/m sum_i sum_l 1[z_i^l = j], and likewise the sums, averaged over steps;
    z_q(x_i) = 1/m sum_l e_{z_i^l} (document 002). In evaluation z_q is the nearest code alone:
    set `samples_end=1` or `temperature_end` to bring training there gradually.
    """

    update = Update.AVERAGE

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.scale = {"none": 1.0, "sqrt_dim": math.sqrt(dim), "dim": float(dim)}[
            config.distance_scale
        ]
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Anneal temperature and m linearly; `fraction` of training done, 0 to 1."""
        config, fraction = self.config, min(max(fraction, 0.0), 1.0)
        self.temperature = _between(config.temperature, config.temperature_end, fraction)
        self.samples = round(_between(config.samples, config.samples_end, fraction))

    def _assign(self, vectors: Tensor) -> Assignment:
        finite = self.codebook.check_finite(vectors, self._accumulates())
        with torch.no_grad():
            # On a GPU the error waits for `step`, and sampling from NaN would abort the process.
            codes, samples, entropies = self._posterior(torch.where(finite, vectors, 0.0))
            nearest = self.codebook.lookup(codes).float()  # (N, d)
            quantized = nearest
            if self.training and vectors.shape[0] > 0:
                # (N, m) -> (N, d) without the (N, m, d) in between
                weights = self.codebook.vectors.float()
                quantized = functional.embedding_bag(samples, weights, mode="mean")
            if self._accumulates():
                hits, sums = soft_counts(vectors, samples, self.codebook_size)
                self.codebook.accumulate(vectors, hits, sums)
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples,
            losses={"commitment": self.config.beta * mean_square_error(vectors, quantized)},
            statistics={
                "quantisation_error": mean_square_error(vectors.detach(), nearest),
                "posterior_entropy": entropies.sum() / max(entropies.numel(), 1),
            },
        )

    def _posterior(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The E step in blocks of positions.

        Returns:
            Nearest codes `(N,)`, samples `(N, m)` (the nearest code alone in evaluation) and
            the posterior's entropies `(N,)` in nats.
        """
        count = vectors.shape[0]
        codes = torch.empty(count, dtype=torch.int64, device=vectors.device)
        samples = codes.new_empty(count, self.samples if self.training else 1)
        entropies = vectors.new_empty(count)
        factor = -1.0 / (self.scale * self.temperature)
        for block, scores in score_blocks(vectors, self.codebook.vectors.float()):
            lowest, codes[block] = scores.min(dim=1)
            logits = scores.sub_(lowest[:, None]).mul_(factor)  # (rows, K), at most 0
            weights = logits.exp()
            totals = weights.sum(dim=1)  # (rows,), at least 1
            # H = ln Z - sum_j p_j logit_j
            means = torch.einsum("nk,nk->n", weights, logits) / totals
            entropies[block] = totals.log() - means
            if self.training:
                samples[block] = torch.multinomial(weights, self.samples, replacement=True)
        return codes, samples if self.training else codes[:, None], entropies


def soft_counts(vectors: Tensor, samples: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Soft counts and sums of document 002.

    Args:
        vectors: `(N, d)`.
        samples: `(N, m)` codes.
        codebook_size: K.

    Returns:
        1/m sum_i sum_l 1[z_i^l = j] `(K,)`, which add up to N, and
        1/m sum_i sum_l 1[z_i^l = j] z_e(x_i) `(K, d)`.
    """
    draws = samples.shape[1]
    ordered, order = samples.flatten().sort(stable=True)  # (N m,)
    edges = torch.searchsorted(
        ordered, torch.arange(codebook_size + 1, device=samples.device)
    )  # (K + 1,): where the draws of each code begin
    hits = edges.diff().to(vectors.dtype) / draws
    if vectors.shape[0] == 0:
        return hits, vectors.new_zeros(codebook_size, vectors.shape[1])
    # One bag of vectors per code: several times faster than index_add_ over N m rows, and
    # summed in a fixed order on every device.
    sums = functional.embedding_bag(order // draws, vectors, edges[:-1], mode="sum")
    return hits, sums / draws


def _between(start: float, end: float | None, fraction: float) -> float:
    return start if end is None else start + (end - start) * fraction
