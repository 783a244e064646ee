"""What each process of a distributed training does."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from vqnmt.errors import VqnmtError
from vqnmt.models import LatentTransformer
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer

from .conftest import (
    FIVE,
    PARTS,
    Planned,
    Watcher,
    plain_model,
    tiny_model,
    train_exact,
    watch_gradients,
)

SETTINGS = {"warmup": 2, "learning_rate": 0.01, "precision": "fp32", "log_every": 1, "average": 5}


def run_rank(kind: str, folder: Path, signalled: int) -> int:
    """Train in `folder`, leave there what is compared, and return the exit status."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if kind.startswith("exact"):
        state, status = exact(folder, *kind.split()[1:]), 0
    else:
        state, status = train(kind, folder, rank, signalled)
    torch.save(state, folder / f"rank-{rank}.pt")
    return status


def exact(folder: Path, *kinds: str) -> dict[str, Any]:
    trainers = {kind: train_exact(kind, folder / kind) for kind in kinds}
    return {kind: trainer.inner.state_dict() for kind, trainer in trainers.items()}


def train(kind: str, folder: Path, rank: int, signalled: int) -> tuple[dict[str, Any], int]:
    if kind == "plain":
        model, batches = plain_model(), Planned(*PARTS)
        config = TrainingConfig(steps=1, accumulation=3, **SETTINGS)
    else:
        model, batches = tiny_model("ema" if kind == "faulty" else kind), Planned(*FIVE)
        config = TrainingConfig(steps=8, validate_every=4, **SETTINGS)
    if kind == "autoregressive":
        config.precision = "bf16"
    if rank == signalled:
        batches.on_batch = lambda count: count == 3 and os.kill(os.getpid(), signal.SIGTERM)
    trainer = Trainer(model, batches, Watcher(), config, folder, 3, "tiny")
    if kind == "faulty" and rank == 1:
        spoil(model, trainer)
    gradients = watch_gradients(trainer)
    sums = count_sums(trainer) if kind == "plain" else []
    state: dict[str, Any] = {}
    status = 0
    try:
        state["averaged"] = trainer.train()
    except VqnmtError as error:
        state["error"], status = str(error), error.status
    state |= {"step": trainer.step, "weights": trainer.inner.state_dict()}
    state |= {"gradients": gradients, "sums": sums, "skipped": trainer.skips.skipped}
    return state, status


def spoil(model: torch.nn.Module, trainer: Trainer) -> None:
    """Spoil a step's loss, another one's latents, and what the predictor says in a third."""
    assert isinstance(model, LatentTransformer)
    compress, forward = model.compress, model.forward

    def faulty_compress(*arguments: Any) -> Any:
        z_e, mask = compress(*arguments)
        return (z_e * math.nan if trainer.step == 2 else z_e), mask

    def faulty_forward(*arguments: Any) -> Any:
        losses = forward(*arguments)
        if trainer.step == 4 and trainer.inner.training:
            losses.total = losses.total * math.inf
        return losses

    def faulty_scores(_: torch.nn.Module, given: object, logits: torch.Tensor) -> torch.Tensor:
        return logits * math.nan if trainer.step == 6 else logits

    model.code_output.register_forward_hook(faulty_scores)
    model.compress, model.forward = faulty_compress, faulty_forward  # type: ignore[method-assign]


def count_sums(trainer: Trainer) -> list[int]:
    """Return a list that gets the size of each gradient that the processes sum up."""
    found: list[int] = []

    def hook(group: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        found.append(bucket.buffer().numel())
        return allreduce_hook(group, bucket)

    trainer.distributed.forward.register_comm_hook(None, hook)  # type: ignore[operator]
    return found
