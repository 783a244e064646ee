"""Decomposed vector quantization (Kaiser et al. 2018): each part of the vector has its code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqnmt.quantizers.base import Assignment, Quantizer
from vqnmt.quantizers.composite import CompositeQuantizer
from vqnmt.quantizers.learnt import linear


class ProductQuantizer(CompositeQuantizer):
    """n quantizers, each of its own part of z_e (arXiv 1803.03382).

    Sliced: part i quantizes the i-th slice of z_e. Projected: it quantizes pi_i z_e, where the n
    projections make up one d x d matrix, orthogonal at the start, and the value stays in the
    projected space:

        z_i = argmin_j ||e_j^i - pi_i z_e||_2,    z_q = [e_{z_1}^1; ...; e_{z_n}^n].

    Loss terms are means over all d dimensions. The statistics are those of the whole: the error
    is a mean over all dimensions, in the projected space if there is one, and the entropies of
    the parts add up.

    Args:
        parts: One or more; d is the sum of their dimensions.
        projection: `none` (slices), `random` (fixed) or `learnt` (by gradient).
    """

    # Each part applies its own straight-through, or none, on the near side of the projection.
    straight_through = False

    def __init__(self, parts: Sequence[Quantizer], projection: str = "none") -> None:
        super().__init__(parts, sum(part.dim for part in parts))
        self.sizes = [part.dim for part in parts]
        self.projection: nn.Linear | None = None
        if projection != "none":
            # Kaiser et al. draw the matrices apart (Glorot); as one rotation they lose nothing.
            self.projection = nn.Linear(self.dim, self.dim, bias=False)
            nn.init.orthogonal_(self.projection.weight)
            self.projection.requires_grad_(projection == "learnt")

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)` int64, in the projected space if there is one."""
        digits = zip(self.quantizers, self.split(codes), strict=True)
        return torch.cat([part.codes_to_vectors(digit) for part, digit in digits], dim=-1)

    def _slices(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """What each part quantizes: `(N, d_i)` of `(N, d)`."""
        if self.projection is not None:
            vectors = linear(self.projection, vectors)
        return vectors.split(self.sizes, dim=1)

    def _assign(self, vectors: Tensor) -> Assignment:
        self.check_finite(vectors, self._accumulates())
        pieces = zip(self.quantizers, self._slices(vectors), strict=True)
        outputs = [part(piece) for part, piece in pieces]
        shares = [size / self.dim for size in self.sizes]
        losses: dict[str, Tensor] = {}
        error = vectors.new_zeros(())
        for output, share in zip(outputs, shares, strict=True):
            for name, value in output.losses.items():
                losses[name] = losses.get(name, 0.0) + share * value
            error = error + share * output.statistics["quantisation_error"]
        entropies = [output.statistics["posterior_entropy"] for output in outputs]
        return Assignment(
            quantized=torch.cat([output.quantized for output in outputs], dim=1),
            codes=self.combine([output.codes for output in outputs]),
            samples=self.combine([output.samples for output in outputs]),
            losses=losses,
            statistics={
                "quantisation_error": error,
                "posterior_entropy": torch.stack(entropies).sum(),
            },
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        pieces = zip(self.quantizers, self._slices(vectors), strict=True)
        return self.combine([part.nearest(piece) for part, piece in pieces])
