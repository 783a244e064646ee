"""Ctrl-C, SIGTERM, a closed terminal: the loop saves and stops after the step they come in."""

import signal
from types import FrameType
from typing import Any

from vqnmt.errors import Stopped

SIGNALS = {
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "its terminal was closed",
    signal.SIGINT: "interrupted",
}
"""The signals, and what the sentence says of each."""


class Interruption:
    """While entered, remembers the signals that come instead of dying of them."""

    def __init__(self) -> None:
        self.received: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Take the signals over, but for those that are ignored, as SIGHUP under nohup."""

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
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def flags(self) -> list[int]:
        """Return 1 for each of `SIGNALS` that has come, else 0: processes can add them up."""
        return [int(number in self.received) for number in SIGNALS]

    def error(self, flags: list[int], place: str, step: int) -> Stopped:
        """Make the error that ends an interrupted training.

        Args:
            flags: Those of all processes.
            place: The folder of the training.
            step: Optimiser steps taken.
        """
        number, how = next(s for s, flag in zip(SIGNALS.items(), flags, strict=True) if flag)
        text = f"{place}: {how} at step {step} and saved: start the same command again to go on"
        return Stopped(text, number)
