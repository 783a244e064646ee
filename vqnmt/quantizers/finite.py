"""The check that encoder vectors are finite: at once on the CPU, at the next step elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor

from vqnmt.errors import VqnmtError


class FiniteCheck:
    """Refuses NaN and infinity, and remembers a fault for `step` where it is not raised at once."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was seen since the last step."""
        self._finite: Tensor | None = None  # bool

    @torch.no_grad()
    def __call__(self, vectors: Tensor, remember: bool, error: Callable[[], VqnmtError]) -> Tensor:
        """Check, raising what `error` makes; see `Quantizer.check_finite`."""
        # One pass without a temporary; also catches values whose square overflows.
        finite = torch.linalg.vector_norm(vectors).isfinite()
        if vectors.device.type == "cpu" and not finite:
            raise error()
        if remember:
            self._finite = finite if self._finite is None else self._finite & finite
        return finite

    def faults(self, device: torch.device) -> Tensor:
        """1 if a fault was remembered, else 0: an fp32 scalar that can be added up."""
        if self._finite is None:
            return torch.zeros((), dtype=torch.float32, device=device)
        return (~self._finite).float()
