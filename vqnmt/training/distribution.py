"""Joining the processes of a training, and a model that is replicated in them (DDP)."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vqnmt.errors import VqnmtError


def join_processes() -> None:
    """Join the processes that a launcher has started; call this before any other collective.

    They wait for each other for up to half a day, because one may be preparing a corpus.

    Raises:
        VqnmtError: The environment names processes, but lacks variables that joining needs.
    """
    processes = _launched(gpu=torch.cuda.is_available())
    with _waiting_aloud(processes):
        # accelerate takes processes on CPUs together only if the first to ask says so.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


# Variables by which launchers give a process the number of processes and its rank: torchrun and
# accelerate, Intel MPI and MPICH, Open MPI, MVAPICH. With GPUs accelerate reads only the first.
_LAUNCHERS = (
    ("WORLD_SIZE", "RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
# Seconds between two messages of a waiting process.
_PATIENCE = 15.0


def _launched(gpu: bool) -> int:
    """Return the number of processes in the environment.

    Raises:
        VqnmtError: Its variables are incomplete or contradict each other.
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
    """Print from time to time that other processes are awaited; Ctrl-C ends the wait."""
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
    if taken:  # PyTorch waits in C++, which does not call Python's handler
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        joined.set()
        if taken:
            signal.signal(signal.SIGINT, previous)


class DistributedModel:
    """A model that accelerate moves to the process's device and replicates.

    Args:
        model: The same on every process.
        trackers: See `TrainingConfig.trackers`.
        folder: For the files of trackers that write some.
    """

    def __init__(
        self, model: nn.Module, trackers: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        # The loop does autocast: accelerate's would fix one precision for the whole process.
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            log_with=list(trackers) or None,
            project_dir=folder,
            # A curriculum may leave parts of a model unused for a while.
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
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.accelerator.process_index

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Enter for each batch of a step; the processes sum their gradients in the `last` one."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def clip_gradient(self, norm: float) -> float:
        """Scale the gradient down to `norm` if it is longer; return its norm before."""
        return float(nn.utils.clip_grad_norm_(self.trained.parameters(), norm))
