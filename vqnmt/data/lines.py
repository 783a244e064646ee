"""A text file as a sequence of sentences that stays on disk."""

import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

from vqnmt.errors import VqnmtError

# Bytes looked through, and lines decoded, at a time.
_BLOCK = 1 << 22
_LINES = 4096


class Lines(Sequence[str]):
    """The lines of a UTF-8 file, read when they are asked for; a line ends at a line feed only.

    Memory: 8 bytes a line. The file is read by position, not mapped: pages of a mapping that is
    gone through once would count as this process's memory. A file that takes the place of this
    one later changes nothing here.

    Args:
        path: The file.

    Raises:
        VqnmtError: The file is missing or cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise VqnmtError(f"{path}: cannot be read ({error.strerror}): check the path") from None
        weakref.finalize(self, os.close, self._file)
        self._starts = self._find_starts()  # (lines + 1,) int64, in bytes

    def _find_starts(self) -> np.ndarray:
        starts, position = [np.zeros(1, dtype=np.int64)], 0
        while block := os.pread(self._file, _BLOCK, position):
            found = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            starts.append(found + position + 1)
            position += len(block)
        joined = np.concatenate(starts)
        if joined[-1] < position:  # the last line lacks its line feed
            joined = np.append(joined, position + 1)
        return joined

    def _read(self, start: int, stop: int) -> list[str]:
        """Return the lines [start, stop), a moderate number."""
        first, last = self._starts[start].item(), self._starts[stop].item()
        content = os.pread(self._file, last - first, first).removesuffix(b"\n")
        if len(content) < last - first - 1:
            raise self._changed(start + 1 + content.count(b"\n"), "cut short")
        try:
            return content.decode("utf-8").split("\n") if start < stop else []
        except UnicodeDecodeError as error:
            number = start + 1 + content.count(b"\n", 0, error.start)
            raise self._changed(number, "not UTF-8") from error

    def _changed(self, number: int, fault: str) -> VqnmtError:
        return VqnmtError(
            f"{self.path}, line {number}: {fault}: the file has been changed since it was made; "
            "remove its folder to make it anew"
        )

    def __len__(self) -> int:
        """Count the lines."""
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one line without its line feed, or a list of them."""
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            if chosen.step == 1 and chosen:
                return self._read(chosen.start, chosen.stop)
            return [self[i] for i in chosen]
        number = range(len(self))[index]  # negative indices and the IndexError are as of a list
        return self._read(number, number + 1)[0]

    def __iter__(self) -> Iterator[str]:
        """Go through the lines, a few thousand at a time in memory."""
        bounds = [*range(0, len(self), _LINES), len(self)]
        for start, stop in pairwise(bounds):
            yield from self._read(start, stop)

    def __eq__(self, other: object) -> bool:
        """Compare with another sequence, line by line."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
