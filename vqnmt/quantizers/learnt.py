"""Base class of the quantizers that only the optimiser trains."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer
from vqnmt.quantizers.finite import FiniteCheck
from vqnmt.quantizers.processes import all_reduce


class LearntQuantizer(Quantizer):
    """A quantizer whose value has its own gradient: `step` moves nothing, it only checks.

    Args:
        codebook_size: K, the number of codes.
        dim: d, the size of the vectors.
    """

    straight_through = False
    steps: Tensor

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__(codebook_size, dim)
        # Steps taken: names the step in errors.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._check = FiniteCheck()

    def check_finite(self, vectors: Tensor, remember: bool) -> Tensor:
        """Refuse NaN and infinity; see the base class."""
        return self._check(vectors, remember, self._not_finite)

    def clear(self) -> None:
        """Forget the checks since the last step."""
        self._check.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Count the step, and raise in every process what one of them found.

        Raises:
            VqnmtError: A vector was not finite.
        """
        if self.frozen:
            return
        (faults,) = all_reduce([self._check.faults(self.steps.device)])
        self.clear()
        if faults.item():
            raise self._not_finite()
        self.steps += 1

    def freeze(self) -> None:
        """Stop everything that is learnt here for good."""
        super().freeze()
        self.clear()
        self.requires_grad_(False)

    def _not_finite(self) -> VqnmtError:
        return VqnmtError(
            f"The quantizer got NaN or infinite encoder vectors at step {int(self.steps)}: "
            "lower the learning rate or clip the gradients."
        )


def linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    """Apply `layer` to fp32 `vectors` in fp32, whatever the dtype that its weights are kept in."""
    bias = None if layer.bias is None else layer.bias.float()
    return functional.linear(vectors, layer.weight.float(), bias)


def mean(values: Tensor) -> Tensor:
    """Mean of `(N,)`; 0, and still part of the graph, if N is 0."""
    return values.sum() / max(values.numel(), 1)
