"""Steps that would spoil the model: they are left out, and too many in a row end the training."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vqnmt.quantizers.base import Quantizer
from vqnmt.training.config import TrainingConfig

# The moving average of gradient norms: its decay, and steps before it is relied on.
DECAY = 0.99
WARM = 20


class SkipRule:
    """Decides which optimiser steps are taken, by the norm of their gradient.

    All processes see the same norm, so all decide alike. A step is left out if its norm is not
    finite, or over `skip_factor` times the average of the steps that were taken: clipping would
    bring it to size, but its direction is noise.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.skipped = self.in_a_row = self._taken = 0
        self._average = 0.0

    def accepts(self, norm: float) -> bool:
        """Say whether the step with this gradient norm is taken, and count it."""
        limit = self.config.skip_factor * self._average if self._taken >= WARM else math.inf
        if not norm < limit:  # NaN is below nothing
            self.skipped += 1
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        self._taken += 1
        weight = max(1 - DECAY, 1 / self._taken)
        self._average += weight * (norm - self._average)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether too many steps in a row were left out."""
        return self.in_a_row >= self.config.skip_limit

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "taken": self._taken,
            "average": self._average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self._taken, self._average = state["taken"], state["average"]


class LatentGuard:
    """While entered, keeps vectors that are not finite out of the quantizers in training.

    A quantizer refuses them with an error, in one process perhaps while the others wait for its
    gradient. Behind the guard it sees zeros, and the loss becomes NaN instead: so does the
    gradient of every process, and all of them leave the step out.
    """

    def __init__(self, model: nn.Module) -> None:
        self._quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
        self._hooks: list[RemovableHandle] = []
        self._finite: Tensor | None = None  # bool

    def __enter__(self) -> "LatentGuard":
        """Stand before the quantizers."""
        self._hooks = [q.register_forward_pre_hook(self._replace) for q in self._quantizers]
        return self

    def __exit__(self, *_: object) -> None:
        """Step aside."""
        for hook in self._hooks:
            hook.remove()

    def _replace(self, quantizer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not torch.is_grad_enabled():  # validation
            return None
        z_e, *others = arguments
        # The quantizers' own criterion: squares that overflow are as bad.
        finite = torch.linalg.vector_norm(z_e.detach().float()).isfinite()
        self._finite = finite if self._finite is None else self._finite & finite
        return torch.where(finite, z_e, 0.0), *others

    def checked(self, loss: Tensor) -> Tensor:
        """Return `loss`; NaN, its gradient too, if a vector since the last call was not finite."""
        finite, self._finite = self._finite, None
        return loss if finite is None else loss * torch.where(finite, 1.0, torch.nan)

    def clear(self) -> None:
        """Let the quantizers forget what they have accumulated for a step that is left out."""
        self._finite = None
        for quantizer in self._quantizers:
            quantizer.clear()
