"""Process-wide state of a training: memory, deterministic sums, signals, random numbers."""

import ctypes
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqnmt.errors import Stopped
from vqnmt.quantizers.base import Quantizer
from vqnmt.training.metrics import Meter

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell the C library's allocator not to return freed memory to the system.

    A step on a CPU frees and reallocates hundreds of megabytes. By default large blocks go back to
    the system, which then fills every page with zeros again: over a tenth of the time of a step.

    Returns:
        Whether the allocator has these settings; glibc's does.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, -1))


@contextmanager
def one_order(device: torch.device) -> Iterator[None]:
    """Use PyTorch's deterministic algorithms on a CPU while entered.

    Otherwise several threads sum the gradient of a repeated index, such as that of a code vector,
    in random order. On GPUs nothing changes: some losses have no deterministic algorithm there.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    deterministic: Any = torch.utils.deterministic  # mypy does not see its property
    fill = deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # No code here reads uninitialised memory, so filling it would only take time.
        deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = fill


SIGNALS = {
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "its terminal was closed",
    signal.SIGINT: "interrupted",
}
"""The signals, with the words for them in the message."""


class Interruption:
    """Records signals while entered, instead of ending the process."""

    def __init__(self) -> None:
        self.received: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Handle the signals, except ignored ones such as SIGHUP under nohup."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.received.add(number)

        try:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: the caller handles signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def flags(self) -> list[int]:
        """Return 1 for each received signal of `SIGNALS`, else 0; processes can sum them."""
        return [int(number in self.received) for number in SIGNALS]

    def error(self, flags: list[int], place: str, step: int) -> Stopped:
        """Return the error that ends an interrupted training.

        Args:
            flags: Sums of `flags()` over all processes.
            place: The folder of the training.
            step: Optimiser steps taken.
        """
        number, how = next(s for s, flag in zip(SIGNALS.items(), flags, strict=True) if flag)
        text = f"{place}: {how} at step {step} and saved: start the same command again to go on"
        return Stopped(text, number)


def process_state(model: nn.Module, meter: Meter) -> dict[str, Any]:
    """Return this process's random states, running losses and code counts, for a checkpoint."""
    random_states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random_states["cuda"] = torch.cuda.get_rng_state()
    running = {
        name: {key: value.cpu() for key, value in quantizer.running_state().items()}
        for name, quantizer in _quantizers(model).items()
    }
    return {"random": random_states, "meter": meter.state(), "running": running}


def load_process_states(
    states: Sequence[dict[str, Any]], model: nn.Module, meter: Meter, device: torch.device
) -> None:
    """Restore the sums of `states`, and the random state if there is one state.

    Args:
        states: The state of this process. If the number of processes has changed, the first
            process gets the states of all and the others none, so that nothing is lost or counted
            twice.
        model: Its quantizers count used codes.
        meter: Holds the running losses.
        device: Device of the quantizers' counts.
    """
    meter.load([state["meter"] for state in states])
    for name, quantizer in _quantizers(model).items():
        sums: dict[str, Tensor] = {}
        for state in states:
            for key, value in state["running"][name].items():
                sums[key] = sums[key] + value if key in sums else value
        quantizer.load_running_state({key: value.to(device) for key, value in sums.items()})
    if len(states) == 1:
        torch.set_rng_state(states[0]["random"]["cpu"])
        if "cuda" in states[0]["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[0]["random"]["cuda"])


def seed_anew(*numbers: int) -> None:
    """Seed torch's random numbers by all of `numbers`, such as seed, step and process."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _quantizers(model: nn.Module) -> dict[str, Quantizer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Quantizer)}
