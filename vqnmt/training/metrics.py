"""Metrics as rows of a JSON-lines file and as TensorBoard events."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

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
    """Read the rows of a metrics.jsonl; a last row cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def rates(rows: Sequence[dict[str, Any]], unit: str) -> list[float]:
    """Return the logged rates of a training, in `unit` ("tokens", "images") a second."""
    key = f"train/{unit}_per_second"
    return [row[key] for row in rows if key in row]
