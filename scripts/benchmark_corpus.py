"""Prepare a made-up corpus of 4.5 million pairs as train_nmt.py does; record time and memory.

python scripts/benchmark_corpus.py --folder SCRATCH [--pairs 200000] [--gz] [key=value ...]

SCRATCH needs 4 GB, which are free again afterwards. Keys are those of train_nmt.py. What is
measured: docs/notebook/2026-11-21-shards.md.
"""

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from vqnmt.commands.command_line import PLACE, SEED, Options, load_config, run, whole

from vqnmt.data.workers import available_cores
from vqnmt.evaluation.records import Metric, Record, new_record, write_records
from vqnmt.experiments.synthetic import write_synthetic
from vqnmt.experiments.tables import preparation_table
from vqnmt.files import check_writable
from vqnmt.pipeline import PipelineConfig, make_corpus, make_vocabulary, start_run
from vqnmt.pipeline.translation import make_batches
from vqnmt.settings import from_mapping

PAIRS = 4_500_000
# As for WMT14: a large vocabulary, and some 3,000 sentences for validation and as many for testing.
SETTINGS = [
    *("vocabulary.size=32000", "max_source_tokens=1024", "max_train_tokens=256"),
    "teacher_training.batch_tokens=25000",
]
HELD_OUT = 3000
MEMORY = (
    "the kernel's high-water mark (ru_maxrss) of the process, all threads and maps included; while "
    "others help it, plus that of the largest of them times their number: pages that they share "
    "count again"
)


class Meter:
    """Seconds and the peak of resident memory so far, stage by stage."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.metrics = pairs, dict[str, Metric]()
        self.peak, self.helpers = 0.0, peak_rss_gb(resource.RUSAGE_CHILDREN)
        self.start = self.last = perf_counter()
        self.cpu = cpu_seconds()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = perf_counter()
        peak, helper = peak_rss_gb(), peak_rss_gb(resource.RUSAGE_CHILDREN)
        if helper > self.helpers:
            peak += helper * available_cores()
            self.helpers = helper
        self.peak = max(self.peak, peak)
        self.metrics[f"seconds.{stage}"] = now - self.last
        self.metrics[f"pairs_per_second.{stage}"] = self.pairs / (now - self.last)
        self.metrics[f"peak_rss_gb.{stage}"] = self.peak
        self.last = now

    def total(self) -> float:
        """End the last stage; return the seconds of all."""
        seconds = self.last - self.start
        self.metrics["seconds"] = seconds
        self.metrics["cpu_seconds"] = cpu_seconds() - self.cpu
        self.metrics["pairs_per_second"] = self.pairs / seconds
        self.metrics["peak_rss_gb"] = self.peak
        self.metrics["peak_rss_measured_as"] = MEMORY
        return seconds


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_rss_gb(who: int = resource.RUSAGE_SELF) -> float:
    """Return the most memory in 10^9 bytes that was resident at one moment so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e9


def measure(folder: Path, options: argparse.Namespace) -> Record:
    """Make the corpus in `folder`, prepare it, plan one epoch, and return what that took."""
    source, target = (folder / f"train.{c}{'.gz' if options.gz else ''}" for c in ("en", "de"))
    write_synthetic(source, target, options.pairs, options.seed)
    share = min(HELD_OUT / options.pairs, 0.1)
    overrides = [
        *("corpus=files", f"run={folder / 'run'}", "records=null", f"seed={options.seed}"),
        *(f"corpus.train.source={source}", f"corpus.train.target={target}"),
        *(f"corpus.valid_share={share}", f"corpus.test_share={share}"),
    ]
    chosen = SETTINGS + options.overrides
    config = from_mapping(PipelineConfig, load_config("train_nmt", overrides + chosen))
    started = start_run(config)
    meter = Meter(options.pairs)
    corpus = make_corpus(started)
    meter.lap("corpus")
    vocabulary = make_vocabulary(started, corpus)
    meter.lap("vocabulary")
    budget = config.teacher_training.batch_tokens
    place = folder / "tokens"
    batches = make_batches(config, corpus.train, vocabulary, place, budget, "benchmark")
    meter.lap("tokens")
    plan = batches.plan(epoch=0)
    meter.lap("plan")
    seconds = meter.total()
    sides = [text.lengths for text in (batches.sources, batches.targets)]
    positions = sum(int(side[batch].max()) * len(batch) for side in sides for batch in plan)
    tokens = sum(int(side[batches.kept].sum()) for side in sides)
    return new_record(
        system="corpus preparation",
        corpus="synthetic-en-de" + (".gz" if options.gz else ""),
        overrides=[f"pairs={options.pairs}", *chosen],
        seed=options.seed,
        wall_seconds=seconds,
        parameters=0,
        metrics=meter.metrics
        | {
            "cores": available_cores(),
            "pairs": options.pairs,
            "pairs_trained_on": len(batches),
            "input_gb": sum(file.stat().st_size for file in (source, target)) / 1e9,
            "tokens": tokens,
            "batches": len(plan),
            "padding": 1 - tokens / positions,
        },
    )


def main(arguments: list[str]) -> None:
    """Measure, print and write the record."""
    parser = Options(__doc__)
    parser.add_argument(
        "--folder", type=PLACE, required=True, help="where 4 GB of scratch may stand"
    )
    parser.add_argument("--pairs", type=whole(1, 10**9), default=PAIRS)
    parser.add_argument("--gz", action="store_true", help="the made-up files are compressed")
    parser.add_argument("--seed", type=SEED, default=1)
    parser.add_argument("--records", type=PLACE, help="file that gets the records; default: none")
    parser.add_argument("overrides", nargs="*", help="key=value, as for train_nmt.py")
    options = parser.parse_args(arguments)
    check_writable(options.folder, "--folder")
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="benchmark-") as folder:
        record = measure(Path(folder), options)
    if options.records:
        write_records(options.records, [record])
    print(preparation_table([record]))


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
