"""A quantizer of your own in one file: the signs of log2 K numbers.

vqnmt train plugins=[sign_quantizer] student_model.quantizer.name=signs run=runs/signs
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vqnmt.quantizers import Assignment, Quantizer, QuantizerConfig, register_quantizer


@dataclass(kw_only=True)
class SignConfig(QuantizerConfig):
    """Its settings, `student_model.quantizer.*`; `codebook_size` is inherited."""

    beta: float = 0.25
    """Weight of the commitment loss."""

    powers_of_two: ClassVar[bool] = True  # K must be a power of two


@register_quantizer("signs", config=SignConfig)
class SignQuantizer(Quantizer):
    """z_q = W' sign(W z_e + b) + b', the gradient passing straight through the sign."""

    straight_through = False  # `quantized` has a gradient of its own

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        self.bits = self.codebook_size.bit_length() - 1
        self.down, self.up = nn.Linear(dim, self.bits), nn.Linear(self.bits, dim)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)` int64: all that an export needs."""
        bits = codes[..., None] >> torch.arange(self.bits, device=codes.device) & 1
        return self.up(2.0 * bits - 1.0)

    def _assign(self, vectors: Tensor) -> Assignment:
        """Quantize the real vectors `(N, d)`; masks, NaN and statistics are dealt with already."""
        numbers = self.down(vectors)  # (N, log2 K)
        signs = torch.where(numbers > 0, 1.0, -1.0)
        distance = (numbers - signs).square().sum() / max(signs.numel(), 1)
        return Assignment(
            quantized=self.up(numbers + (signs - numbers).detach()),
            codes=self._nearest(vectors),
            losses={"commitment": self.config.beta * distance},
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        """The codes `(N,)` of `(N, d)` vectors."""
        bits = (self.down(vectors) > 0).long()
        return (bits << torch.arange(self.bits, device=bits.device)).sum(dim=1)
