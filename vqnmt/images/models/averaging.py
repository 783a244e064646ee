"""A moving average of a model's weights; the average is evaluated and saved."""

import copy

import torch
from torch import Tensor, nn

from vqnmt.layers.losses import Losses


class AveragedWeights(nn.Module):
    """Trains `model` and keeps an exponential moving average of its weights.

    After the n-th step the average keeps min(decay, (1 + n) / (10 + n)) of itself, so early steps
    are soon forgotten. Buffers, such as a codebook's counts and vectors, are copied, not averaged.

    Args:
        model: The model to train; must have the same weights on every process.
        decay: Share of the average that a step keeps, 0 to below 1; 0 follows at once.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model, self.decay = model, decay
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Tensor) -> Losses:
        """Training losses of the model itself."""
        losses: Losses = self.model(batch)
        return losses

    def set_progress(self, fraction: float) -> None:
        """Tell the model how far training is, from 0 to 1."""
        found = getattr(self.model, "set_progress", None)
        if callable(found):
            found(fraction)

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Finish the model's step, then update the average."""
        found = getattr(self.model, "after_optimizer_step", None)
        if callable(found):
            found()
        self.steps += 1
        kept = min(self.decay, (1 + int(self.steps)) / (10 + int(self.steps)))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - kept
        )
        # Buffers that are saved; others, such as a table of positions, grow as each model needs.
        parameters = {name for name, _ in self.model.named_parameters()}
        mine = self.average.state_dict()
        for name, its in self.model.state_dict().items():
            if name not in parameters:
                mine[name].copy_(its)
