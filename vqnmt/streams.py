"""Text from files, pipes and terminals, packed or not, in bounded memory. No PyTorch."""

import bz2
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from vqnmt.errors import VqnmtError

# A line of more bytes is refused: text without line ends would fill the memory.
MOST_BYTES = 1 << 20
# Bytes that are asked for at once; what a pipe holds at the time is taken, without waiting.
_BLOCK = 1 << 16
# Memory that a packed file may ask for: `xz -9` asks for 64 MiB, a damaged header for 4 GiB.
_MOST_MEMORY = 1 << 29

# First bytes of the packed formats that are read. Their unpackers verify checksums.
_PACKED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b\x08": partial(zlib.decompressobj, wbits=zlib.MAX_WBITS | 16),  # gzip
    b"\xfd7zXZ\x00": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _MOST_MEMORY),
    **{b"BZh%d1AY&SY" % size: bz2.BZ2Decompressor for size in range(1, 10)},
}
# Endings of the names of such files.
_PACKED_ENDINGS = (".gz", ".bz2", ".xz")
# First bytes of formats that are refused, and what to do. UTF-32 begins like UTF-16.
_REFUSED = {
    b"\x28\xb5\x2f\xfd": "it is packed by zstd: unpack it with zstd -d, or pack it by gzip or xz",
    b"\x04\x22\x4d\x18": "it is packed by lz4: unpack it with lz4 -d, or pack it by gzip or xz",
    b"PK\x03\x04": "it is a zip archive: unpack it, and give the text file in it; a document of an "
    "office program: save it as text in UTF-8",
    b"\xd0\xcf\x11\xe0": "it is a document of an office program: save it as text in UTF-8",
    b"%PDF-": "it is a PDF: write its text to a file, for example with pdftotext",
    b"7z\xbc\xaf\x27\x1c": "it is a 7-Zip archive: unpack it, and give the text file in it",
    b"\xff\xfe\x00\x00": "it is UTF-32: convert it with iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
}
_LONGEST_START = max(map(len, [*_PACKED, *_REFUSED]))


def open_file(path: Path | str) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        VqnmtError: The file is missing or unreadable.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise VqnmtError(f"{path}: there is no such file: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise VqnmtError(f"{path}: cannot be read ({reason}): check the path") from error


def check_rereadable(path: Path) -> None:
    """Refuse what can be read only once, where a file is read several times.

    Raises:
        VqnmtError: `path` is a pipe or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise VqnmtError(
            f"{path}: is a pipe or a device, which can be read only once, and this file is read "
            "several times: write it to a file first"
        )


@contextmanager
def open_text(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file of text for reading bytes, unpacked as by `unpacked`.

    Raises:
        VqnmtError: The file is missing, unreadable, or of a kind that is not read.
    """
    with open_file(path) as file:
        yield unpacked(file, str(path))


def unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    """Return a stream of the content where gzip, bzip2 or xz data begin here, else `stream`.

    The first bytes decide it, whatever the ending of the name. Damage, a missing end and what
    follows the data raise a VqnmtError when they are read.

    Args:
        stream: Open for reading bytes; it can seek, or is buffered (`peek`).
        name: Of the stream, for errors.

    Raises:
        VqnmtError: It is packed otherwise, or no UTF-8 text, as its first bytes tell; or it is
            not packed, though `name` ends so.
    """
    if stream.seekable():
        start = stream.read(_LONGEST_START)
        stream.seek(-len(start), os.SEEK_CUR)
    else:
        start = cast(io.BufferedReader, stream).peek(_LONGEST_START)
    for magic, make in _PACKED.items():
        if start.startswith(magic):
            return io.BufferedReader(_Unpacked(stream, make, name), _BLOCK)
    for magic, kind in _REFUSED.items():
        if start.startswith(magic):
            raise VqnmtError(f"{name}: {kind}")
    if name.endswith(_PACKED_ENDINGS):
        raise VqnmtError(
            f"{name}: it is no packed file, or a damaged one: put a good copy there, or give it "
            "another name if it is plain text"
        )
    return stream


class _Unpacked(io.RawIOBase):
    """The content of packed data, of one or several streams in a row."""

    def __init__(self, packed: BinaryIO, make: Callable[[], Any], name: str) -> None:
        self._packed, self._make, self._name = packed, make, name
        self._unpacker: Any = None  # of the stream that is being read
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._next(len(buffer))
        except (zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise VqnmtError(
                f"{self._name}: the packed file is damaged or cut short ({error}): put a good copy "
                "there (a download: delete it and start again)"
            ) from error
        buffer[: len(block)] = block
        return len(block)

    def _next(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        while True:
            if self._unpacker is None:  # zeros may be between streams and at the end
                self._rest = self._rest.lstrip(b"\0")
            if not self._rest and getattr(self._unpacker, "needs_input", True):
                self._rest = self._packed.read(_BLOCK)
                if not self._rest and self._unpacker is not None:
                    raise EOFError("its end is missing")
                if not self._rest:
                    return b""
                continue
            self._unpacker = self._unpacker or self._make()
            block: bytes = self._unpacker.decompress(self._rest, size)
            if self._unpacker.eof:
                self._rest, self._unpacker = self._unpacker.unused_data, None
            else:  # zlib returns unused input, the others keep it
                self._rest = getattr(self._unpacker, "unconsumed_tail", b"")
            if block:
                return block


def read_lines(
    stream: BinaryIO,
    name: str,
    most: int,
    replace_invalid: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Iterator[list[str]]:
    """Yield lines, without line feeds, as soon as they are there, in chunks of at most `most`.

    A writer that waits for the answer to each line gets it; other writers get larger chunks.

    Args:
        stream: Open for reading bytes, unpacked.
        name: Of the stream, for errors.
        most: Lines in a chunk.
        replace_invalid: Whether NUL, and bytes that are no UTF-8, become U+FFFD; else they are
            refused.
        most_bytes: Bytes of the longest line allowed.

    Raises:
        VqnmtError: A line is no text or too long (names it), or the stream cannot be read.
    """
    number, rest, ended = 0, b"", False
    # Of a file whole blocks, whatever part of one has been looked at already.
    read = stream.read if stream.seekable() else getattr(stream, "read1", stream.read)
    while not ended:
        try:
            block = read(_BLOCK)
        except OSError as error:
            raise VqnmtError(
                f"{name}: cannot be read ({error.strerror or error}): check the path"
            ) from error
        ended = not block
        *raw, rest = (rest + block).split(b"\n")
        if ended and rest:  # the last line has no line feed
            raw.append(rest)
        for start in range(0, len(raw), most):
            chunk = raw[start : start + most]
            yield [
                _decode(line, name, number + i, replace_invalid, most_bytes)
                for i, line in enumerate(chunk, 1)
            ]
            number += len(chunk)
        _check_length(rest, name, number + 1, most_bytes)


def count_lines(stream: BinaryIO, most_bytes: int = MOST_BYTES) -> int:
    """Count the lines from here to the end of a stream that can seek, unpacked, and go back.

    Counting ends at damage and at a line of more than `most_bytes`.
    """
    start, count, rest = stream.tell(), 0, 0
    with suppress(VqnmtError, OSError):
        text = unpacked(stream, "")
        while rest <= most_bytes and (block := text.read(_BLOCK)):
            count += block.count(b"\n")
            end = block.rfind(b"\n")  # -1 where there is none
            rest = (rest if end < 0 else 0) + len(block) - 1 - end
    stream.seek(start)
    return count + (rest > 0)


def _check_length(line: bytes, name: str, number: int, most_bytes: int) -> None:
    if len(line) > most_bytes:
        raise VqnmtError(
            f"{name}, line {number}: more than {most_bytes} bytes: split it (of a training's text, "
            "corpus.max_line_bytes is the limit)"
        )


def _decode(line: bytes, name: str, number: int, replace_invalid: bool, most_bytes: int) -> str:
    _check_length(line, name, number, most_bytes)
    if replace_invalid:
        return line.replace(b"\0", b"\xff").decode("utf-8", errors="replace")
    if b"\0" in line:
        raise VqnmtError(
            f"{name}, line {number}: a NUL byte at column {line.index(0) + 1}: the file is UTF-16 "
            "or no text: convert it to UTF-8, for example with iconv -f UTF-16LE -t UTF-8"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VqnmtError(
            f"{name}, line {number}: byte {error.object[error.start]:#04x} at column "
            f"{error.start + 1} is not UTF-8: convert it to UTF-8, for example with iconv -f "
            "ISO-8859-1 -t UTF-8 (translate.py can replace such bytes: --invalid-utf8 replace)"
        ) from error
