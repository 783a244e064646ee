"""One process of a distributed training: `distributed_worker.py MODEL FOLDER SIGNALLED_RANK`."""

import os
import signal
import sys
from pathlib import Path

import torch
from conftest import FIVE, PARTS, Planned, Watcher, plain_model, tiny_model, watch_gradients

from vqnmt.errors import VqnmtError
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer


def main(kind: str, folder: Path, signalled: int) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    settings = {"warmup": 2, "learning_rate": 0.01, "precision": "fp32", "log_every": 1}
    if kind == "plain":
        model, batches = plain_model(), Planned(*PARTS)
        config = TrainingConfig(steps=1, accumulation=3, **settings)
    else:
        model, batches = tiny_model(kind), Planned(*FIVE)
        config = TrainingConfig(steps=8, validate_every=4, **settings)
    if rank == signalled:
        batches.on_batch = lambda count: count == 3 and os.kill(os.getpid(), signal.SIGTERM)
    trainer = Trainer(model, batches, Watcher(), config, folder, 3, "tiny")
    gradients = watch_gradients(trainer)
    try:
        averaged = trainer.train()
    except VqnmtError as error:
        averaged = {"error": str(error)}
    state = {"step": trainer.step, "weights": trainer.inner.state_dict(), "averaged": averaged}
    state["gradients"] = gradients
    torch.save(state, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
