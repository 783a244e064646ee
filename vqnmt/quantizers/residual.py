"""Residual vector quantization: each stage quantizes what the earlier ones left."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqnmt.quantizers.base import Assignment, Quantizer
from vqnmt.quantizers.composite import CompositeQuantizer
from vqnmt.quantizers.vector_quantizer import mean_square_error


class ResidualQuantizer(CompositeQuantizer):
    """n stages, from coarse to fine (Zeghidour et al. 2021, arXiv 2107.03312, algorithm 1).

        r_1 = z_e,    r_{i+1} = r_i - sg(Q_i(r_i)),    z_q = sum_i Q_i(r_i).

    The loss terms of the stages add up, and so do the entropies of their posteriors. The
    residual of a stage that draws its codes is that of its value, but `codes` are those of
    evaluation, where each stage takes its nearest code. Stages start from k-means one after
    another: the residuals of an unfinished codebook differ from those of the finished one.

    Args:
        parts: The stages, all of the same dimension and kind.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__(parts, parts[0].dim)
        self.straight_through = parts[0].straight_through

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """sum_i e_{z_i}^i: the vectors `(..., d)` of codes `(...)` int64."""
        digits = zip(self.quantizers, self.split(codes), strict=True)
        return torch.stack([part.codes_to_vectors(digit) for part, digit in digits]).sum(dim=0)

    def _assign(self, vectors: Tensor) -> Assignment:
        self.check_finite(vectors, self._accumulates())
        left = vectors  # (N, d)
        quantized = torch.zeros_like(vectors)
        outputs = []
        losses: dict[str, Tensor] = {}
        for part in self.quantizers:
            output = part(left)
            left = left - output.quantized.detach()
            quantized = quantized + output.quantized
            for name, value in output.losses.items():
                losses[name] = losses[name] + value if name in losses else value
            outputs.append(output)
        codes = self.combine([output.codes for output in outputs])
        with torch.no_grad():
            if self.training and self.stochastic:
                codes = self._nearest(vectors)
            error = mean_square_error(vectors, self.codes_to_vectors(codes).float())
        entropies = [output.statistics["posterior_entropy"] for output in outputs]
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=self.combine([output.samples for output in outputs]),
            losses=losses,
            statistics={
                "quantisation_error": error,
                "posterior_entropy": torch.stack(entropies).sum(),
            },
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        codes = []
        for part in self.quantizers:
            codes.append(part.nearest(vectors))
            vectors = vectors - part.codes_to_vectors(codes[-1]).float()
        return self.combine(codes)

    def _step_parts(self) -> None:
        stages = self.quantizers
        for index, stage in enumerate(stages):
            if not stage.initialised:
                for later in stages[index + 1 :]:
                    later.clear()
            stage.step()
