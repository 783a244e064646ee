"""What the quantizers that the optimiser alone trains have in common."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer


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
        self._finite: Tensor | None = None  # bool

    @torch.no_grad()
    def check_finite(self, vectors: Tensor, remember: bool) -> Tensor:
        """Refuse NaN and infinity; see the base class."""
        # One pass without a temporary; also catches values whose square overflows.
        finite = torch.linalg.vector_norm(vectors).isfinite()
        if vectors.device.type == "cpu" and not finite:
            raise self._not_finite()
        if remember:
            self._finite = finite if self._finite is None else self._finite & finite
        return finite

    def clear(self) -> None:
        """Forget the checks since the last step."""
        self._finite = None

    @torch.no_grad()
    def step(self) -> None:
        """Count the step, and raise in every process what one of them found.

        Raises:
            VqnmtError: A vector was not finite.
        """
        if self.frozen:
            return
        faults = torch.zeros((), device=self.steps.device)
        if self._finite is not None:
            faults += (~self._finite).float()
        self.clear()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(faults)
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
