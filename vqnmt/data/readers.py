"""Lines and pairs of lines from text files, compressed or not, one pass and little memory.

A line ends at a line feed and nowhere else: U+2028, form feeds and their kin stay inside their
line, because a reader that split on them would misalign every pair that follows.
"""

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from vqnmt.errors import VqnmtError

Pair = tuple[str, str]
Item = TypeVar("Item")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path | str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their line ends (LF or CR LF).

    Files whose names end in `.gz` or `.xz` are decompressed on the way; a byte-order mark at the
    start is dropped.

    Raises:
        VqnmtError: The file is missing, unreadable, damaged, or not UTF-8 (names the line).
    """
    path = Path(path)
    number = 0
    try:
        with _open(path) as file:
            for raw in file:
                number += 1
                if number == 1:
                    raw = raw.removeprefix(_BYTE_ORDER_MARK)
                yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise VqnmtError(
            f"{path}, line {number}: byte 0x{error.object[error.start]:02x} at column "
            f"{error.start + 1} is not UTF-8: convert the file, for example with iconv -t UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise VqnmtError(f"{path}: there is no such file: check the path") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise VqnmtError(
            f"{path}, after line {number}: the compressed file is damaged or cut short ({error}): "
            "copy or download it again"
        ) from error
    except OSError as error:
        raise VqnmtError(
            f"{path}: cannot be read ({error.strerror or error}): check the path"
        ) from error


def count_lines(path: Path) -> int:
    """Count the line feeds of a file, decompressed; of a damaged one, those before the damage."""
    count = 0
    with suppress(OSError, EOFError, zlib.error, lzma.LZMAError), _open(path) as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
    return count


def content_checksum(path: Path) -> str:
    """Return "sha256:hex" of what a file holds, decompressed.

    Of a file that cannot be decompressed it is that of the bytes up to there: who reads the lines
    says what is wrong.

    Raises:
        VqnmtError: The file is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        with suppress(EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile), _open(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError as error:
        raise VqnmtError(f"{path}: there is no such file: check the path") from error
    except OSError as error:
        raise VqnmtError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    return f"sha256:{digest.hexdigest()}"


def read_parallel(source: Path | str, target: Path | str) -> Iterator[Pair]:
    """Yield the pairs (source line, target line) of two files of equal length.

    Raises:
        VqnmtError: Either file fails to read, or their lengths differ (names both counts; raised
            after the last common line, so a caller must not trust earlier pairs until the end).
    """
    sources, targets = read_lines(source), read_lines(target)
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


def read_tsv(path: Path | str) -> Iterator[Pair]:
    r"""Yield the first two tab-separated columns of each line; further columns are ignored.

    Raises:
        VqnmtError: The file fails to read, or a line has no tab (names the line).
    """
    for number, line in enumerate(read_lines(path), start=1):
        first, tab, rest = line.partition("\t")
        if not tab:
            raise VqnmtError(
                f"{path}, line {number}: no tab between source and target in {line[:60]!r}: "
                "each line must be source, tab, target"
            )
        yield first, rest.partition("\t")[0]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield `items` in lists of `size`, the last of them shorter where they do not fit."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return open(path, "rb")
