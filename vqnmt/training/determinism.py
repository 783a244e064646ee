"""Sums in one order, whatever the threads do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def one_order(device: torch.device) -> Iterator[None]:
    """Let PyTorch take its deterministic algorithms on a CPU while entered.

    Otherwise the gradient of an index that repeats, such as a package's code vectors by number,
    is added up in an order of chance when several threads share the work. GPUs are left alone:
    some losses have no deterministic algorithm there.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    deterministic: Any = torch.utils.deterministic  # mypy does not see its property
    fill = deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads memory that it has not written; filling it takes time.
        deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = fill
