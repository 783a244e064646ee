"""Applies a function to a long stream on all cores, in order and in bounded memory."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import parent_process
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that wait or are under way, for each process: enough that none is ever idle.
_AHEAD = 2

_function: Callable[[Any], Any]


def available_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in the order of `items`.

    Args:
        function: Pickled once for each process, if there are several.
        items: Read as needed: no more than some `2 * processes` ahead of what was yielded.
        processes: 1 calls `function` in this one.

    Raises:
        concurrent.futures.BrokenExecutor: A process was ended from outside.
    """
    if processes == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(function,))
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(_call, item))
            if len(pending) > _AHEAD * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any]) -> None:
    """Make a new process ready."""
    global _function
    _function = function
    # Ctrl-C is for the process that waits for this one, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End the process if the one that started it was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
