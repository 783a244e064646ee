"""Time and peak memory of pieces of work, such as one training step, and translations a second.

Sources of error and the remedies:

- The machine drifts: the systems take turns, round by round, and a ratio is taken within a round
  before the median is taken over the rounds.
- A system leaves caches warm or cold for the next: the order rotates and reverses.
- A GPU works on after the call returns: the clock waits for it.
- Python's cyclic garbage collector runs at random times: it is off while the clock runs.
- The memory that a process holds depends on its past and on what the C library keeps: instead, the
  bytes that torch's allocator has handed out are counted, which are the same on every run. Work
  space inside a matrix library is not counted.
"""

import gc
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from vqnmt.evaluation.latency import turn_order
from vqnmt.progress import Progress


def time_in_turn(
    systems: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Time each system once in each round, without a warm-up.

    Args:
        systems: From a system's name to its work.
        rounds: How many rounds.
        device: Where the work runs.

    Returns:
        Seconds of each round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in systems}
    collecting = gc.isenabled()
    try:
        with Progress("speed", rounds * len(systems), "steps") as progress:
            for round_ in range(rounds):
                gc.collect()
                gc.disable()
                for name in turn_order(list(systems), round_):
                    _synchronize(device)
                    start = perf_counter()
                    systems[name]()
                    _synchronize(device)
                    times[name].append(perf_counter() - start)
                    progress.update()
    finally:
        if collecting:
            gc.enable()
    return times


def measure_throughput(
    systems: Mapping[str, Callable[[Sequence[str]], object]],
    sentences: Sequence[str],
    *,
    sizes: Sequence[int],
    rounds: int,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, float]]:
    """Time every system on batches of neighbouring sentences.

    Args:
        systems: From a system's name to its translation of a batch.
        sentences: Sources, one or more.
        sizes: Sentences in a batch, each size timed apart.
        rounds: How often; the median counts.
        device: Where the systems run.

    Returns:
        `sentences_per_second.batch_<size>` of each system.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in systems}
    for size in sizes:
        batches = [sentences[i : i + size] for i in range(0, len(sentences), size)]
        work = {name: partial(_each, translate, batches) for name, translate in systems.items()}
        for name, seconds in time_in_turn(work, rounds, device).items():
            rate = len(sentences) / statistics.median(seconds)
            found[name][f"sentences_per_second.batch_{size}"] = rate
    return found


def _each(translate: Callable[[Sequence[str]], object], batches: Sequence[Sequence[str]]) -> None:
    for batch in batches:
        translate(batch)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of the ratios of two systems' times."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_memory(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Return how many bytes of tensors `work` holds at once, beyond those held before.

    Args:
        work: What is measured; memory that it keeps counts too.
        device: Where the work runs: the CPU or a CUDA device.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["args"]["Ev Idx"])
    held = peak = 0
    for event in changes:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def _synchronize(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
