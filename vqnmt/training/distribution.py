"""One process's part of a model in training: the model alone, or replicated (DDP)."""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def join_processes() -> None:
    """Join the processes that a launcher has started; call before anything else asks for them.

    They wait for each other up to half a day: one of them may be preparing a corpus meanwhile.
    """
    # accelerate takes processes on CPUs together only if the first to ask says so.
    PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


class DistributedModel:
    """A model among the processes of a training, which accelerate starts and replicates.

    Args:
        model: The same on every process; it is moved to the process's device.
    """

    def __init__(self, model: nn.Module) -> None:
        # Autocast is the loop's: accelerate's own fixes one precision for the process's life.
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            # A curriculum may leave out parts of a model for a while.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.trained = model
        """The module whose parameters the optimiser moves."""
        self.forward: nn.Module
        """What computes the losses."""
        if self.processes > 1:
            self.forward = self.accelerator.prepare_model(model)
        else:
            self.forward = model.to(self.accelerator.device)

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.accelerator.num_processes

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.accelerator.process_index

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Enter for a batch; the processes add up their gradients in the `last` alone."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def clip_gradient(self, norm: float) -> float:
        """Scale the gradient down to `norm` if it is longer; return its norm before."""
        return float(nn.utils.clip_grad_norm_(self.trained.parameters(), norm))
