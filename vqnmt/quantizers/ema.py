"""Nearest-neighbour quantizers whose codebook moves by assignment counts, without gradients."""

import torch
from torch import Tensor

from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.codebook import Update
from vqnmt.quantizers.vector_quantizer import VectorQuantizer, mean_square_error


class EMAQuantizer(VectorQuantizer):
    """z_q = e_argmin; the codebook is a moving average (van den Oord et al. 2017)."""

    update = Update.AVERAGE

    def _assign(self, vectors: Tensor) -> Assignment:
        self.codebook.check_finite(vectors, self._accumulates())
        with torch.no_grad():
            codes = self._nearest(vectors)  # (N,)
            quantized = self.codebook.lookup(codes).float()  # (N, d)
            if self._accumulates():
                hits, sums = hard_counts(vectors, codes, self.codebook_size)
                self.codebook.accumulate(vectors, hits, sums)
        error = mean_square_error(vectors, quantized)
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=codes[:, None],
            losses={"commitment": self.config.beta * error},
            statistics={
                "quantisation_error": error.detach(),
                "posterior_entropy": torch.zeros_like(error.detach()),
            },
        )


class HardEMQuantizer(EMAQuantizer):
    """Mini-batch k-means: after each step a code that was hit is the mean of its vectors.

    This reads the EM algorithm of Roy et al. 2018 batch by batch: E step z_i = argmin, M step
    c_j = sum_i 1[z_i = j], mu_j = 1/c_j sum_i 1[z_i = j] x_i; codes that were not hit stay.
    """

    update = Update.REPLACE


def hard_counts(vectors: Tensor, codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """sum_i 1[z_i = j] `(K,)` and sum_i 1[z_i = j] z_e(x_i) `(K, d)`."""
    hits = vectors.new_zeros(codebook_size)
    hits.index_add_(0, codes, hits.new_ones(()).expand(codes.shape))
    sums = vectors.new_zeros(codebook_size, vectors.shape[1])
    return hits, sums.index_add_(0, codes, vectors)
