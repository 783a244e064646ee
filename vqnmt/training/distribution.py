"""One process's part of a model in training: the model alone, or replicated (DDP)."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vqnmt.errors import VqnmtError


def join_processes() -> None:
    """Join the processes that a launcher has started; call before anything else asks for them.

    They wait for each other up to half a day: one of them may be preparing a corpus meanwhile.

    Raises:
        VqnmtError: The environment names processes, but not all that it takes to join them.
    """
    processes = _launched(gpu=torch.cuda.is_available())
    with _waiting_aloud(processes):
        # accelerate takes processes on CPUs together only if the first to ask says so.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


# How launchers tell a process how many there are, and which one it is: torchrun and accelerate,
# Intel MPI and MPICH, Open MPI, MVAPICH. With GPUs accelerate asks the first alone.
_LAUNCHERS = (
    ("WORLD_SIZE", "RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
# Seconds between two sentences of one who waits.
_PATIENCE = 15.0


def _launched(gpu: bool) -> int:
    """Return how many processes the environment names.

    Raises:
        VqnmtError: What it says is incomplete or contradicts itself.
    """
    for size, rank in _LAUNCHERS[:1] if gpu else _LAUNCHERS:
        named = [size, rank, *(["LOCAL_RANK"] if size == "WORLD_SIZE" else [])]
        given = {name: os.environ[name] for name in named if os.environ.get(name)}
        if not given:
            continue
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        remedy = (
            f"unset {' '.join(given)} to train alone, or start by torchrun or accelerate launch, "
            "which set all of them"
        )
        if not all(value.isdecimal() for value in given.values()):
            raise VqnmtError(f"the environment has {said}, which is not a number: {remedy}")
        processes = int(given.get(size, 0))
        if processes == 1 and "LOCAL_RANK" not in given:
            continue
        needed = [size, rank, "MASTER_ADDR"]
        if size == "WORLD_SIZE":
            needed += ["MASTER_PORT", *(["LOCAL_RANK"] if gpu else [])]
        if missing := [name for name in needed if not os.environ.get(name)]:
            raise VqnmtError(
                f"the environment has {said}, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set: {remedy}"
            )
        if int(given[rank]) >= processes:
            raise VqnmtError(f"the environment has {said}: ranks count from 0; {remedy}")
        return processes
    return 1


@contextmanager
def _waiting_aloud(processes: int) -> Iterator[None]:
    """While entered, say now and then that others are waited for; Ctrl-C ends it."""
    if processes == 1:
        yield
        return
    joined = threading.Event()
    sentence = (
        f"waiting for {'' if processes == 2 else 'up to '}{processes - 1} of {processes} processes "
        f"at {os.environ['MASTER_ADDR']}: start them, or unset WORLD_SIZE and RANK to train alone"
    )

    def speak() -> None:
        while not joined.wait(_PATIENCE):
            print(sentence, file=sys.stderr, flush=True)

    threading.Thread(target=speak, daemon=True).start()
    previous = signal.getsignal(signal.SIGINT)
    taken = threading.current_thread() is threading.main_thread() and callable(previous)
    if taken:  # PyTorch waits in C++, where Python's handler is not called
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        joined.set()
        if taken:
            signal.signal(signal.SIGINT, previous)


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
