"""Progress of long work: a bar on a terminal, plain lines with rate and time left elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from tqdm import tqdm

# Seconds between two plain lines in a log file.
PLAIN_INTERVAL = 15.0


def print_once(line: str) -> None:
    """Print a line once, whatever the number of processes."""
    from accelerate import PartialState  # slow to import, and translation does without

    if PartialState().is_main_process:
        print(line, flush=True)


class Progress:
    """A progress report over `total` units of work, as a context manager.

    Args:
        description: What is being done, in a word or two.
        total: Units of work in all; None if unknown.
        unit: Name of one unit, such as "sentences".
        initial: Units that an earlier run has done; they count as done, not into the rate.
    """

    def __init__(
        self, description: str, total: int | None = None, unit: str = "it", initial: int = 0
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.initial = initial
        self.note = ""
        self._start = self._last = time.monotonic()
        self._bar: tqdm | None = None
        # Of several processes only the first reports; launchers set its RANK to 0.
        self._silent = os.environ.get("RANK", "0") != "0" or sys.stderr is None
        if not self._silent and sys.stderr.isatty():
            with self._while_heard():
                self._bar = tqdm(
                    desc=description, total=total, unit=unit, initial=initial, unit_scale=True
                )

    def update(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units as done; `note`, such as a loss, ends the line."""
        self.done += amount
        self.note = note or self.note
        if self._bar is not None:
            with self._while_heard():
                if note:
                    self._bar.set_postfix_str(note, refresh=False)
                self._bar.update(amount)
        elif time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._print_line()

    def write(self, line: str) -> None:
        """Print one line without tearing the bar."""
        with self._while_heard():
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            elif not self._silent:
                print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _while_heard(self) -> Iterator[None]:
        """Stop reporting once the terminal or the reader of the pipe is gone."""
        try:
            yield
        except OSError:
            if self._bar is not None:
                self._bar.disable = True  # else it would try again when it is deleted
            self._bar, self._silent = None, True

    def _print_line(self) -> None:
        self._last = time.monotonic()
        if self._silent:
            return
        rate = (self.done - self.initial) / max(self._last - self._start, 1e-9)
        parts = [f"{self.description}: {self.done:,}"]
        if self.total:
            parts[0] += f" of {self.total:,}"
        parts[0] += f" {self.unit}"
        parts.append(f"{rate:,.1f} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        if self.note:
            parts.append(self.note)
        with self._while_heard():
            print(" · ".join(parts), file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        """Start the clock."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar, or print the last line."""
        if self._bar is not None:
            with self._while_heard():
                self._bar.close()
        elif self.done > self.initial:
            self._print_line()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
