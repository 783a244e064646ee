"""Metrics as rows of a JSON-lines file and as TensorBoard events."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_lines


class MetricsLog:
    """Appends rows {"step": ..., name: value, ...} to metrics.jsonl and to TensorBoard.

    Args:
        folder: The folder of metrics.jsonl and the events.
        step: The step that a run resumes from: later rows of an earlier run are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        atomic_write_lines(self.path, map(json.dumps, kept))
        self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one row; lists go to the file only."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if not isinstance(value, list):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the events."""
        self._board.close()


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
