"""Nearest-neighbour quantizer whose codebook is learnt by the optimiser."""

import torch
from torch import Tensor

from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.codebook import Update
from vqnmt.quantizers.vector_quantizer import VectorQuantizer, mean_square_error


class GradientQuantizer(VectorQuantizer):
    """L = log p(x|z_q) + ||sg[z_e] - e||^2 + beta ||z_e - sg[e]||^2.

    The loss of van den Oord et al. 2017. Both terms are means over positions and dimensions.
    `step` only starts the codebook from k-means and restarts dead codes.
    """

    update = Update.GRADIENT

    def _assign(self, vectors: Tensor) -> Assignment:
        self.codebook.check_finite(vectors, self._accumulates())
        with torch.no_grad():
            codes = self._nearest(vectors)  # (N,)
            if self._accumulates():
                hits = vectors.new_zeros(self.codebook_size)
                hits.index_add_(0, codes, hits.new_ones(()).expand(codes.shape))
                self.codebook.accumulate(vectors, hits, None)
        quantized = self.codebook.lookup(codes).float()  # (N, d), with gradient to the codebook
        error = mean_square_error(vectors, quantized.detach())
        return Assignment(
            quantized=quantized.detach(),
            codes=codes,
            samples=codes[:, None],
            losses={
                "codebook": mean_square_error(quantized, vectors.detach()),
                "commitment": self.config.beta * error,
            },
            statistics={
                "quantisation_error": error.detach(),
                "posterior_entropy": torch.zeros_like(error.detach()),
            },
        )
