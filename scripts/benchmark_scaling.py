"""Speed of training with one and with two processes, and what the codebook's all-reduce costs.

python scripts/benchmark_scaling.py [--processes 1 2] [--steps 60] [--rounds 3] [key=value ...]

Trains the default student, or the one that the keys of train_nmt.py describe, on made-up pairs;
one thread a process. What is measured: docs/notebook/2026-11-21-two-processes.md.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

from vqnmt.commands.command_line import PLACE, SEED, Options, load_config, run, whole

import numpy as np
import torch
from torch import Tensor, nn

from vqnmt.data.batches import ParallelBatches
from vqnmt.data.tokenized import TokenizedText
from vqnmt.evaluation.records import Record, new_record, write_records
from vqnmt.experiments.tables import scaling_table
from vqnmt.files import atomic_write_text
from vqnmt.models import LatentTransformer
from vqnmt.pipeline import PipelineConfig
from vqnmt.quantizers.statistics import all_reduce
from vqnmt.settings import from_mapping
from vqnmt.training.distribution import join_processes
from vqnmt.training.loop import Trainer
from vqnmt.training.metrics import rates, read_metrics

PAIRS = 20_000
# Steps between two readings of the clock; the first reading, with its k-means, is left out.
LAP = 10


class Blind:
    """Looks at nothing."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Take no time."""
        return {}

    def score(self, values: dict[str, Any]) -> float:
        """Find all validations alike."""
        return 0.0


class Clock:
    """The codebook's all-reduce, once a step, and when each one began and ended."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.bytes = 0

    def all_reduce(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum `tensors` over the processes."""
        start = self._now()
        found = all_reduce(tensors)
        self.times.append((start, self._now()))
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found

    def steps(self) -> list[tuple[float, float]]:
        """Return the seconds of each step after the first lap, and those in the all-reduce."""
        return [
            (end - before, end - start)
            for (_, before), (start, end) in itertools.pairwise(self.times[LAP:])
        ]

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return perf_counter()


def made_up_text(vocabulary: int, generator: np.random.Generator) -> TokenizedText:
    """Draw sentences of 11 tokens in the mean, as interface strings have."""
    lengths = generator.lognormal(np.log(8), 0.8, PAIRS).clip(1, 100).astype(np.int64)
    tokens = generator.integers(4, vocabulary, lengths.sum(), dtype=np.int32)
    return TokenizedText(tokens, np.concatenate([[0], lengths.cumsum()]))


def train(folder: Path, steps: int, seed: int, overrides: list[str]) -> None:
    """Train in one of the processes; the first leaves `measured.json`."""
    join_processes()
    config = from_mapping(PipelineConfig, load_config("train_nmt", overrides))
    training = replace(config.student_training, steps=steps, log_every=LAP, validate_every=steps)
    torch.manual_seed(seed)
    # The codebook takes part from the first step.
    student = replace(config.student_model, continuous_start=0.0)
    model = LatentTransformer(student, config.vocabulary.size)
    generator = np.random.default_rng(seed)
    texts = [made_up_text(config.vocabulary.size, generator) for _ in range(2)]
    batches = ParallelBatches(
        texts[0], texts[1], training.batch_tokens, seed, config.max_train_tokens
    )
    trainer = Trainer(model, batches, Blind(), training, folder / "training", seed, "student")
    clock = Clock()
    with mock.patch("vqnmt.quantizers.codebook.all_reduce", clock.all_reduce):
        trainer.train()
    if trainer.distributed.rank == 0:
        rows = read_metrics(trainer.folder / "metrics.jsonl")
        found = rates([row for row in rows if "train/total" in row], "tokens")[1:]
        measured = {
            "tokens_per_second": statistics.median(found),
            "step_ms": 1000 * statistics.median(step for step, _ in clock.steps()),
            "codebook_share": statistics.median(share / step for step, share in clock.steps()),
            "codebook_bytes": clock.bytes,
            "gradient_bytes": 4 * sum(p.numel() for p in model.parameters()),
        }
        atomic_write_text(folder / "measured.json", json.dumps(measured))


def launch(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Train with `count` processes; return what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable]
        if count > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [__file__, f"--worker={folder}"]
        command += [f"--steps={options.steps}", f"--seed={options.seed}", *options.overrides]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        return json.loads((Path(folder) / "measured.json").read_text(encoding="utf-8"))


def measure(options: argparse.Namespace) -> list[Record]:
    """Measure the numbers of processes in turn, round by round; take medians."""
    start = perf_counter()
    found: dict[int, list[dict[str, float]]] = {count: [] for count in options.processes}
    for _ in range(options.rounds):
        for count in options.processes:
            found[count].append(launch(count, options))
    records = []
    alone = 0.0
    for count, rounds in found.items():
        metrics = {key: statistics.median(x[key] for x in rounds) for key in rounds[0]}
        rate = metrics["tokens_per_second"]
        alone = alone or rate / count
        metrics |= {"processes": count, "rounds": len(rounds), "efficiency": rate / count / alone}
        records.append(
            new_record(
                system=str(count),
                corpus="made-up pairs",
                overrides=options.overrides,
                seed=options.seed,
                device="cuda" if torch.cuda.is_available() else "cpu",
                wall_seconds=perf_counter() - start,
                parameters=int(metrics["gradient_bytes"]) // 4,
                metrics=metrics,
            )
        )
    return records


def main(arguments: list[str]) -> None:
    """Measure, print the table and write the records."""
    parser = Options(__doc__)
    parser.add_argument(
        "--processes", nargs="+", type=whole(1, 1024), default=[1, 2], help="how many"
    )
    parser.add_argument("--steps", type=whole(2 * LAP, 10**9), default=60, help="of each training")
    parser.add_argument(
        "--rounds", type=whole(1, 10**6), default=3, help="trainings with each number"
    )
    parser.add_argument("--seed", type=SEED, default=1)
    parser.add_argument("--records", type=PLACE, help="file that gets the records; default: none")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(arguments)
    options.overrides = overrides
    torch.set_num_threads(1)
    if options.worker:
        train(options.worker, options.steps, options.seed, options.overrides)
        return
    records = measure(options)
    if options.records:
        write_records(options.records, records)
    print(scaling_table(records))


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
