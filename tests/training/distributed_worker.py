"""One process of a distributed training: `distributed_worker.py MODEL FOLDER SIGNALLED_RANK`."""

import os
import signal
import sys
from pathlib import Path

import torch
from conftest import TinyBatches, Watcher, tiny_model

from vqnmt.errors import VqnmtError
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer


def main(kind: str, folder: Path, signalled: int) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    batches = TinyBatches()
    if rank == signalled:
        batches.on_batch = lambda count: count == 3 and os.kill(os.getpid(), signal.SIGTERM)
    config = TrainingConfig(
        steps=8, warmup=2, learning_rate=0.01, precision="fp32", log_every=1, validate_every=4
    )
    trainer = Trainer(tiny_model(kind), batches, Watcher(), config, folder, 3, "tiny")
    try:
        averaged = trainer.train()
    except VqnmtError as error:
        averaged = {"error": str(error)}
    state = {"step": trainer.step, "weights": trainer.inner.state_dict(), "averaged": averaged}
    torch.save(state, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
