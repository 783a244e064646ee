"""Checkpoints to resume from and snapshots of weights to average.

A file's name ends in a checksum of its content, which is verified whenever the file is read.
"""

import hashlib
import io
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, remove_leftovers
from vqnmt.progress import print_once

# Hexadecimal digits of the SHA-256 in a file's name.
DIGITS = 16
# Most characters of another library's message that ours repeats.
_LONGEST = 120


class Series:
    """The files `<name>-<step>-<checksum><ending>` in one folder, the newest last.

    Args:
        folder: Their folder; made on first write.
        name: Of one kind of content.
        ending: With its dot.
    """

    def __init__(self, folder: Path, name: str, ending: str) -> None:
        self.folder, self.name, self.ending = folder, name, ending
        self._damaged: set[Path] = set()

    def paths(self) -> list[Path]:
        """List the files, by step."""
        return sorted(self.folder.glob(f"{self.name}-*{self.ending}"), key=self.step)

    def step(self, path: Path) -> int:
        """Read the step in a file's name."""
        found = re.match(rf"{self.name}-(\d+)", path.name)
        return int(found[1]) if found else -1

    def write(self, step: int, content: bytes, keep: int, also: Collection[int] = ()) -> None:
        """Write a file completely or not at all, then remove what is too old.

        Files of later steps are removed too: the training has gone back before them.

        Args:
            step: Names the file.
            content: Its bytes.
            keep: How many files to keep, this one included.
            also: Steps whose files are kept in addition.
        """
        name = f"{self.name}-{step}-{_checksum(content)}{self.ending}"
        with atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(content)
        others = [path for path in self.paths() if path.name != name]
        earlier = [p for p in others if self.step(p) < step and p not in self._damaged]
        kept = {*earlier[max(len(earlier) - keep + 1, 0) :]}
        kept |= {path for path in earlier if self.step(path) in also}
        for path in others:
            if path not in kept:
                path.unlink()

    def read(self, path: Path) -> bytes | None:
        """Return a file's content; None, with a warning, if it is not what was written."""
        content = path.read_bytes()
        if path.stem.split("-")[-1] == _checksum(content):
            return content
        self._damaged.add(path)
        print_once(
            f"warning: {path}: damaged, its checksum is not the one in its name; passed over"
        )
        return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Enter to use the content of `path`, which is whole, but may be of another version.

    Raises:
        VqnmtError: Instead of any error that the content leads to.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, VqnmtError):
        raise
    except Exception as error:
        raise VqnmtError(
            f"{path}: another version of vqnmt wrote it, or other settings ({as_line(error)}): "
            f"remove {path.parent} to train anew, or go on with that version"
        ) from error


def as_line(error: Exception) -> str:
    """Return the type and the start of the message of an error, in one line."""
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


class Checkpoints:
    """The checkpoints of one training and the snapshots of its weights.

    Args:
        folder: Their folder; made on first save.
        keep: Checkpoints to keep; the best one is kept in addition.
        average: Snapshots of weights to keep.
    """

    def __init__(self, folder: Path, keep: int, average: int) -> None:
        self.folder, self.keep, self.average = folder, keep, average
        self._states = Series(folder, "checkpoint", ".pt")
        self._weights = Series(folder, "weights", ".safetensors")

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> None:
        """Write `state` completely or not at all, then remove what is too old.

        Args:
            step: Optimiser steps taken.
            state: What to resume from.
            best: Step of a checkpoint that is kept at any age.
        """
        buffer = io.BytesIO()  # torch.save to a file would hide the error of a full disk
        torch.save(state, buffer)
        self._states.write(step, buffer.getvalue(), self.keep, () if best is None else (best,))

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is whole; None where there is none at all.

        Raises:
            VqnmtError: There are checkpoints, but none is whole.
        """
        remove_leftovers(self.folder)
        paths = self._states.paths()
        for path in reversed(paths):
            if self._states.read(path) is not None:
                return path
        if paths:
            raise VqnmtError(
                f"{self.folder}: none of its {len(paths)} checkpoints is whole: remove this folder "
                "to train anew"
            )
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """Return the state in a checkpoint that `newest` has found.

        Raises:
            VqnmtError: It is not there, or not what was written.
        """
        content = self._states.read(path) if path.exists() else None
        if content is None:
            raise VqnmtError(
                f"{path}: the first process reads this checkpoint, but this one does not: put "
                "run=... on a file system that all machines share"
            )
        with readable(path):
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
        return state

    def snapshot(self, step: int, weights: dict[str, Tensor]) -> None:
        """Write `weights`, and keep the last `average` of such files."""
        content = save({name: value.contiguous() for name, value in weights.items()})
        self._weights.write(step, content, self.average)

    def averaged(self, trained: set[str]) -> dict[str, Tensor]:
        """Average the snapshots for the names in `trained`; other tensors keep the newest value.

        Other tensors are not averaged because, for example, a codebook's counts and vectors belong
        together.

        Raises:
            VqnmtError: No snapshot is there, or none is whole.
        """
        average: dict[str, Tensor] = {}
        count = 0
        for path in reversed(self._weights.paths()):
            content = self._weights.read(path)
            if content is None:
                continue
            count += 1
            with readable(path):
                state = load(content)
                average = average or state
                for name in trained:
                    value = state[name]
                    if count > 1:
                        average[name] += value
        if not count:
            raise VqnmtError(f"{self.folder}: no whole weights-*.safetensors to average: train")
        for name in trained:
            average[name] /= count
        return average
