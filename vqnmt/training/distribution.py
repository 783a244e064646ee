"""One process's part of a model in training: the model alone, replicated (DDP) or sharded (FSDP).

Accelerate starts the processes and replicates. Fully sharded data parallelism is PyTorch's own
(`fully_shard`), because accelerate shards on GPUs only: each process keeps 1/N of every weight,
gradient and optimiser state, and all weights are gathered for a forward and backward pass.
"""

import copy
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer

SHARDING_SWITCH = "ACCELERATE_USE_FSDP"
"""Environment variable that asks for sharding; `accelerate launch --use_fsdp` sets it."""


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


def sharding() -> bool:
    """Say whether weights are asked to be sharded over the processes that there are."""
    asked = os.environ.get(SHARDING_SWITCH, "").lower() in ("1", "true")
    return asked and PartialState().num_processes > 1


def check_sharding(model: nn.Module) -> None:
    """Refuse a model that cannot be sharded, where it is asked for.

    Raises:
        VqnmtError: Its quantizer has weights.
    """
    for name, module in model.named_modules():
        weights = isinstance(module, Quantizer) and any(True for _ in module.parameters())
        if sharding() and weights:
            raise VqnmtError(
                f"{SHARDING_SWITCH} is true, but the {type(module).__name__} {name} has "
                "weights, which it moves itself: train it without sharding, or choose "
                "quantizer=ema or soft_em"
            )


class DistributedModel:
    """A model among the processes of a training.

    Args:
        model: The same on every process. It is what the caller goes on to use: when sharding, a
            copy is trained, and `gathered` brings its weights here.

    Raises:
        VqnmtError: It cannot be sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        # Autocast is the loop's: accelerate's own fixes one precision for the process's life.
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            # A curriculum may leave out parts of a model for a while.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.sharded = sharding()
        self.whole = model
        self.forward: nn.Module
        """What computes the losses."""
        self.trained: nn.Module
        """The module whose parameters the optimiser moves."""
        if self.sharded:
            self.forward = self.trained = self._shard(model)
        elif self.processes > 1:
            self.forward, self.trained = self.accelerator.prepare_model(model), model
        else:
            self.forward = self.trained = model.to(self.accelerator.device)

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.accelerator.num_processes

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.accelerator.process_index

    def _shard(self, model: nn.Module) -> nn.Module:
        check_sharding(model)
        device = self.accelerator.device
        model.to("cpu")
        trained = copy.deepcopy(model).to(device)
        for tensor in itertools.chain(trained.parameters(), trained.buffers()):
            distributed.broadcast(tensor.data, src=0)  # as DistributedDataParallel does
        fully_shard(trained, mesh=init_device_mesh(device.type, (self.processes,)))
        return trained

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Enter for a batch; the processes add up their gradients in the `last` alone."""
        if isinstance(self.forward, FSDPModule):
            self.forward.set_requires_gradient_sync(last)
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def clip_gradient(self, norm: float) -> float:
        """Scale the gradient down to `norm` if it is longer; return its norm before."""
        found = nn.utils.clip_grad_norm_(self.trained.parameters(), norm)
        return float(unsharded(found))

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """Yield the whole model, as trained so far, for validation; every process must enter."""
        if not self.sharded:
            yield self.whole
            return
        self.whole.load_state_dict(self.weights())
        self.whole.to(self.accelerator.device)
        try:
            yield self.whole
        finally:
            for name, buffer in self.whole.named_buffers():  # validation may have chosen a value
                self.trained.get_buffer(name).copy_(buffer)
            self.whole.to("cpu")  # leaves the device to the training

    def weights(self) -> dict[str, Tensor]:
        """Return all weights and buffers, unsharded; every process must call it."""
        return {name: unsharded(value) for name, value in self.trained.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load what `weights` returned, on whatever number of processes."""
        own = self.trained.state_dict()
        self.trained.load_state_dict(
            {name: sharded_like(value, own[name]) for name, value in weights.items()}
        )

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of `optimizer`, unsharded; every process must call it."""
        state = optimizer.state_dict()
        moments = {
            index: {key: unsharded(value) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        return {"state": moments, "param_groups": state["param_groups"]}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        """Load what `optimizer_state` returned, on whatever number of processes."""
        parameters = list(itertools.chain(*(group["params"] for group in optimizer.param_groups)))
        moments = {
            index: {key: sharded_like(value, parameters[index]) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})


def unsharded(value: Tensor) -> Tensor:
    """The unsharded `value`; every process must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def sharded_like(value: Tensor, other: Tensor) -> Tensor:
    """Shard `value`, which every process has, as `other` is; a scalar stays whole."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(
        value.to(other.device), other.device_mesh, other.placements, src_data_rank=None
    )
