"""Base class of the quantizers with K vectors of their own."""

from torch import Tensor
from torch.nn import functional

from vqnmt.quantizers.base import Quantizer
from vqnmt.quantizers.codebook import Codebook, Update
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.distances import nearest_codes


class VectorQuantizer(Quantizer):
    """A quantizer with K vectors of its own.

    Args:
        config: The settings.
        dim: d, the size of the encoder's vectors.
    """

    update: Update

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(config.codebook_size, dim)
        self.config = config
        self.codebook = Codebook(config, dim, self.update)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """e_j: the vectors `(..., d)` fp32 of codes `(...)` int64."""
        return self.codebook.lookup(codes)

    def check_finite(self, vectors: Tensor, remember: bool) -> Tensor:
        """Refuse NaN and infinity; see the base class."""
        return self.codebook.check_finite(vectors, remember)

    def clear(self) -> None:
        """Forget what was accumulated since the last step."""
        self.codebook.clear()

    @property
    def initialised(self) -> bool:
        """Whether k-means has placed the codes, or is not asked to."""
        return int(self.codebook.kmeans_filled) == self.codebook.kmeans_vectors.shape[0]

    def step(self) -> None:
        """Move the codebook by what was accumulated since the last step.

        Raises:
            VqnmtError: A vector was not finite; the codebook is left as it was.
        """
        if not self.frozen:
            self.codebook.step()

    def freeze(self) -> None:
        """Stop the codebook for good, and forget what was accumulated."""
        super().freeze()
        self.clear()
        self.codebook.requires_grad_(False)

    def _nearest(self, vectors: Tensor) -> Tensor:
        return nearest_codes(vectors, self.codebook.vectors, self.codebook.centre())


def mean_square_error(vectors: Tensor, quantized: Tensor) -> Tensor:
    """Mean of (z_e - z_q)^2 over `(N, d)`; 0, and still part of the graph, if N is 0."""
    if vectors.shape[0] == 0:
        return vectors.sum()
    return functional.mse_loss(vectors, quantized)
