"""Latency at batch 1, from string to string: one harness for every system.

Tokenisation, search and detokenisation are timed. Sources of error and the remedies:

- The machine drifts (clock, heat, neighbours): the systems take turns of some sentences, so that a
  slow minute affects all of them.
- A call fills the caches with its own weights, and a user runs one system: a turn is long enough
  that few of its sentences directly follow another system. The order rotates and reverses, so that
  each system comes first, last, and after each other system.
- A GPU works on after the call returns: `synchronize` runs before each reading of the clock.
- The first calls compile and allocate: they are a warm-up and not counted.
- Python's cyclic garbage collector runs at random times: it is off while the clock runs.
"""

import gc
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from vqnmt.progress import Progress

TURN = 20
"""Sentences in a system's turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Time from a source string to its translation at batch 1, over a set of sentences.

    A sentence's time is its median over the rounds; the statistics are over the sentences.
    """

    median_ms: float
    """Half of the sentences take no longer, in milliseconds."""
    p90_ms: float
    """Nine in ten sentences take no longer, in milliseconds."""
    p99_ms: float
    """Ninety-nine in a hundred sentences take no longer, in milliseconds."""
    mean_ms: float
    """Mean over the sentences, in milliseconds."""
    sentences: int
    """Sentences timed."""
    rounds: int
    """Timings of each sentence."""
    translations: tuple[str, ...] = field(repr=False)
    """What the timed calls of the last round returned."""


def measure_latency(
    systems: Mapping[str, Callable[[str], str]],
    sentences: Sequence[str],
    *,
    warmup: int = 10,
    rounds: int = 3,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Latency]:
    """Time every system on every sentence at batch 1, in turns of `TURN` sentences.

    Args:
        systems: From a system's name to its translation of one string.
        sentences: Source sentences; all systems get the same.
        warmup: Sentences (from the first on, again from the first when there are fewer) that
            each system translates untimed.
        rounds: Times each sentence is timed.
        synchronize: Waits until the device is idle, such as `torch.cuda.synchronize`.

    Returns:
        The latency of each system, by name.

    Raises:
        ValueError: No system, no sentence, no round or a negative warm-up.
    """
    if not systems or not sentences or rounds < 1 or warmup < 0:
        raise ValueError(
            "latency needs a system, a sentence, rounds >= 1 and warmup >= 0; got "
            f"{len(systems)} systems, {len(sentences)} sentences, {rounds=}, {warmup=}"
        )
    wait = synchronize or (lambda: None)
    times = {name: np.empty((rounds, len(sentences))) for name in systems}  # nanoseconds
    outputs = {name: [""] * len(sentences) for name in systems}
    collecting = gc.isenabled()
    with Progress("latency", rounds * len(sentences), "sentences") as progress:
        for index in range(warmup):
            for translate in systems.values():
                translate(sentences[index % len(sentences)])
        gc.disable()
        try:
            turns = itertools.product(range(rounds), range(0, len(sentences), TURN))
            for turn, (round_, first) in enumerate(turns):
                gc.collect()  # by hand and off the clock, so that garbage does not pile up
                last = min(first + TURN, len(sentences))
                for name in turn_order(list(systems), turn):
                    for index in range(first, last):
                        wait()
                        start = perf_counter_ns()
                        output = systems[name](sentences[index])
                        wait()
                        times[name][round_, index] = perf_counter_ns() - start
                        outputs[name][index] = output
                progress.update(last - first)
        finally:
            if collecting:
                gc.enable()
    return {
        name: _summarise(nanoseconds, tuple(outputs[name])) for name, nanoseconds in times.items()
    }


def speedup(baseline: Latency, system: Latency) -> float:
    """Return how many times faster `system` is than `baseline`: the ratio of their medians."""
    return baseline.median_ms / system.median_ms


def turn_order(names: list[str], turn: int) -> list[str]:
    """Order the systems for one turn of each: rotate every second time, reverse in between."""
    shift = (turn // 2) % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if turn % 2 else order


def _summarise(nanoseconds: np.ndarray, translations: tuple[str, ...]) -> Latency:
    """Reduce times of shape (rounds, sentences) in nanoseconds."""
    milliseconds = np.median(nanoseconds, axis=0) / 1e6  # (sentences,)
    return Latency(
        median_ms=float(np.median(milliseconds)),
        p90_ms=float(np.percentile(milliseconds, 90)),
        p99_ms=float(np.percentile(milliseconds, 99)),
        mean_ms=float(milliseconds.mean()),
        sentences=nanoseconds.shape[1],
        rounds=nanoseconds.shape[0],
        translations=translations,
    )
