"""Lines and pairs of lines from text files, compressed or not, one pass and little memory.

A line ends at a line feed and nowhere else: U+2028, form feeds and similar characters stay inside
their line, because splitting on them would misalign every pair that follows.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from vqnmt import streams
from vqnmt.errors import VqnmtError

Pair = tuple[str, str]
# A pair, and how often it occurs in what it stands for.
CountedPair = tuple[str, str, int]
Item = TypeVar("Item")

# Lines that are decoded at once.
_LINES = 1000
# Characters of a set of pairs that is held in memory, and what a pair costs beside its own.
_MOST_HELD = 1 << 28
_PAIR_COST = 100


def read_lines(path: Path | str, most_bytes: int = streams.MOST_BYTES) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their line ends (LF or CR LF).

    Files packed by gzip, bzip2 or xz are unpacked on the way; a byte-order mark at the start is
    dropped.

    Args:
        path: The file. It is opened once, so that it may be a pipe.
        most_bytes: Bytes of the longest line allowed.

    Raises:
        VqnmtError: The file is missing, unreadable, damaged, or no UTF-8 text, or a line is too
            long (names the line).
    """
    first = True
    with streams.open_text(path) as stream:
        for lines in streams.read_lines(stream, str(path), _LINES, most_bytes=most_bytes):
            if first:
                lines[0], first = lines[0].removeprefix("\ufeff"), False
            for line in lines:
                yield line.removesuffix("\r")


def content_checksum(path: Path) -> str:
    """Return "sha256:hex" of what a file holds, unpacked.

    For a damaged file it covers the bytes up to the damage: reading the lines reports the fault.

    Raises:
        VqnmtError: The file is missing, unreadable or a pipe.
    """
    streams.check_rereadable(path)
    digest = hashlib.sha256()
    with streams.open_file(path) as file, suppress(VqnmtError):
        text = streams.unpacked(file, str(path))
        while block := text.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def read_parallel(
    source: Path | str, target: Path | str, most_bytes: int = streams.MOST_BYTES
) -> Iterator[Pair]:
    """Yield the pairs (source line, target line) of two files of equal length.

    Args:
        source: See `read_lines`.
        target: Likewise.
        most_bytes: Likewise.

    Raises:
        VqnmtError: Either file fails to read, or their lengths differ (names both counts; raised
            after the last common line, so a caller must not trust earlier pairs until the end).
    """
    sources, targets = read_lines(source, most_bytes), read_lines(target, most_bytes)
    count = 0
    while True:
        first, second = next(sources, None), next(targets, None)
        if first is not None and second is not None:
            count += 1
            yield first, second
            continue
        if first is None and second is None:
            return
        lengths = [
            count + (line is not None) + sum(1 for _ in rest)
            for line, rest in ((first, sources), (second, targets))
        ]
        raise VqnmtError(
            f"{source} has {lengths[0]:,} lines but {target} has {lengths[1]:,}: "
            "parallel files need one line for each line of the other"
        )


def read_tsv(path: Path | str, most_bytes: int = streams.MOST_BYTES) -> Iterator[Pair]:
    r"""Yield the first two tab-separated columns of each line; further columns are ignored.

    Args:
        path: See `read_lines`.
        most_bytes: Likewise.

    Raises:
        VqnmtError: The file fails to read, or a line has no tab (names the line).
    """
    for number, line in enumerate(read_lines(path, most_bytes), start=1):
        first, tab, rest = line.partition("\t")
        if not tab:
            raise VqnmtError(
                f"{path}, line {number}: no tab between source and target in {line[:60]!r}: "
                "each line must be source, tab, target"
            )
        yield first, rest.partition("\t")[0]


def read_counted_tsv(
    path: Path | str, most_bytes: int = streams.MOST_BYTES
) -> Iterator[CountedPair]:
    r"""Yield the first two columns of each line, and the third: how often the pair occurs.

    Args:
        path: See `read_lines`.
        most_bytes: Likewise.

    Raises:
        VqnmtError: See `read_tsv`; or a count is no whole number from 1 to 10^12 (names the line).
    """
    for number, line in enumerate(read_lines(path, most_bytes), start=1):
        source, target, count, *_ = [*line.split("\t"), "", ""]
        if not (count.isascii() and count.isdecimal() and 0 < len(count) <= 12 and int(count)):
            raise VqnmtError(
                f"{path}, line {number}: the third column is {count[:20]!r}, but corpus.counts is "
                "true: each line must be source, tab, target, tab, a whole number of 1 or more"
            )
        yield source, target, int(count)


def hold(pairs: Iterable[Pair], name: str) -> list[Pair]:
    """Return all pairs of a set that is held in memory, such as a validation or test set.

    Raises:
        VqnmtError: There are more than any such set has; names the set.
    """
    held: list[Pair] = []
    size = 0
    for pair in pairs:
        held.append(pair)
        size += len(pair[0]) + len(pair[1]) + _PAIR_COST
        if size > _MOST_HELD:
            raise VqnmtError(
                f"{name}: over {_MOST_HELD:,} characters in the first {len(held):,} pairs, too "
                "much for a set that is held in memory: give fewer pairs"
            )
    return held


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield `items` in lists of `size`, the last of them shorter where they do not fit."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
