"""Metrics of a training: mean losses, rows of a JSON-lines file, TensorBoard events, trackers."""

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_lines
from vqnmt.layers import Losses
from vqnmt.training.config import TrainingConfig

METRICS = "metrics.jsonl"
"""The file of the rows, in the folder of a training."""


class Meter:
    """Mean losses of all processes since the last row, and the rate.

    A term is weighted by the number of things that it is a mean over: `Losses.counts`, or target
    tokens.

    Args:
        unit: What `Losses.tokens` counts: tokens, images.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        # Sums of this process; a term may be missing from some batches.
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._last = ""
        self._restart()

    def _restart(self) -> None:
        self._tokens, self._start = 0, time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block, of a validation, out of the rate."""
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin

    def add(self, batches: Sequence[Losses], tokens: int) -> None:
        """Add the losses of one step.

        Args:
            batches: This process's losses; batches without tokens are left out.
            tokens: Target tokens (or images) of all processes.
        """
        self._tokens += tokens
        for losses in batches:
            if losses.tokens == 0:
                continue
            values = {"total": losses.total.detach(), **losses.terms}
            weights = [torch.as_tensor(losses.counts.get(name, losses.tokens)) for name in values]
            device = losses.total.device
            # One copy from the device for all terms.
            both = torch.stack([x.to(device).double() for x in (*values.values(), *weights)])
            means, counts = both.view(2, -1).tolist()
            for name, mean, count in zip(values, means, counts, strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + mean * count
                self._weights[name] = self._weights.get(name, 0.0) + count

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold."""
        return {"sums": self._sums, "weights": self._weights}

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from the sum of the states of one or more processes; the rate restarts."""
        self._sums, self._weights = (
            _added([state[key] for state in states]) for key in ("sums", "weights")
        )

    def summary(self) -> str:
        """Return this process's mean loss so far and the rate of all processes as short text."""
        if self._weights.get("total"):
            rate = self._tokens / (time.perf_counter() - self._start)
            loss = self._sums["total"] / self._weights["total"]
            self._last = f"loss {loss:.3f} · {rate:,.0f} {self._unit}/s"
        return self._last

    def flush(self) -> dict[str, Any]:
        """Return the means over all processes and reset; every process must call it."""
        self.load(gather_object([self.state()]))
        row: dict[str, Any] = {
            f"train/{name}": value / self._weights[name] for name, value in self._sums.items()
        }
        row[f"train/{self._unit}_per_second"] = self._tokens / (time.perf_counter() - self._start)
        self._sums, self._weights = {}, {}
        self._restart()
        return row


def _added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    whole: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            whole[name] += value
    return dict(whole)


class MetricsLog:
    """Appends rows {"step": ..., name: value, ...} to metrics.jsonl, TensorBoard and trackers.

    Args:
        folder: The folder of metrics.jsonl and the events.
        step: The step that a run resumes from: later rows of an earlier run are dropped.
        trackers: Of accelerate, started.
    """

    def __init__(self, folder: Path, step: int, trackers: Sequence[GeneralTracker] = ()) -> None:
        self.path, self.trackers = folder / METRICS, trackers
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        atomic_write_lines(self.path, map(json.dumps, kept))
        self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one row; lists of numbers go to the file only, lists of texts are joined."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        shown: dict[str, Any] = {}
        for name, value in values.items():
            if not isinstance(value, list):
                shown[name] = value
                self._board.add_scalar(name, value, step)
            elif value and all(isinstance(text, str) for text in value):
                shown[name] = "\n\n".join(value)
                self._board.add_text(name, shown[name], step)
        for tracker in self.trackers:
            tracker.log(shown, step=step)

    def close(self) -> None:
        """Flush the events, and end the trackers."""
        self._board.close()
        for tracker in self.trackers:
            tracker.finish()


def start_trackers(
    accelerator: Accelerator, config: TrainingConfig, folder: Path, key: str
) -> Sequence[GeneralTracker]:
    """Start the trackers that `accelerator` was made with, in the main process.

    Args:
        accelerator: See `DistributedModel`.
        config: What the trackers show as the run's settings.
        folder: Of the training; they show it too.
        key: The key of the trackers, for errors.

    Raises:
        VqnmtError: One of them cannot be started, such as without a login.
    """
    if not config.trackers:
        return ()
    values = {"folder": str(folder), **dataclasses.asdict(config)}
    values = {key: value for key, value in values.items() if not isinstance(value, list)}
    try:
        accelerator.init_trackers("vqnmt", values)
    except Exception as error:  # each has errors of its own
        raise VqnmtError(
            f"{key}={config.trackers}: cannot be started "
            f"({' '.join(str(error).split()):.200}): log in, or leave it out"
        ) from error
    return accelerator.trackers


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last row cut off by a crash is left out.

    Raises:
        VqnmtError: The file cannot be read, or another row of it is damaged (names the line).
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VqnmtError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # a row ends with a line feed: this one is empty, or cut off
                break
            raise VqnmtError(
                f"{path}, line {number}: damaged: remove the line, and its step is missing in the "
                "curves, or remove the folder to train anew"
            ) from error
    return rows


def _row(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError("no row of metrics")
    if not all(isinstance(value, int | float | list) for value in row.values()):
        raise ValueError("a row holds numbers")
    return row


def rates(rows: Sequence[dict[str, Any]], unit: str) -> list[float]:
    """Return the logged rates of a training, in `unit` ("tokens", "images") a second."""
    key = f"train/{unit}_per_second"
    return [row[key] for row in rows if key in row]


def code_usage(
    rows: Sequence[dict[str, Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return how often each code was used in each epoch (T, K), and the last steps (T,).

    None if the model has no codes.
    """
    found = [(row["epoch/code_usage"], row["step"]) for row in rows if "epoch/code_usage" in row]
    if not found:
        return None
    counts, steps = zip(*found, strict=True)
    return np.array(counts), np.array(steps)
