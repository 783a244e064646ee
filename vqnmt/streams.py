"""Lines from files, pipes and terminals, as they come and in bounded memory. No PyTorch."""

from collections.abc import Iterator
from typing import BinaryIO

from vqnmt.errors import VqnmtError

# A line of more bytes is refused: a stream without line ends would fill the memory.
MOST_BYTES = 1 << 20
# Bytes that are asked for at once; what a pipe holds at the time is taken, without waiting.
_BLOCK = 1 << 16


def read_lines(
    stream: BinaryIO, name: str, most: int, replace_invalid: bool = False
) -> Iterator[list[str]]:
    """Yield lines, without line feeds, as soon as they are there, in chunks of at most `most`.

    A writer that waits for each answer gets it; from a writer that does not, many come at once.

    Args:
        stream: Open for reading bytes.
        name: Of the stream, for errors.
        most: Lines in a chunk.
        replace_invalid: Whether bytes that are no UTF-8 become U+FFFD; else they are refused.

    Raises:
        VqnmtError: A line is not UTF-8 or has more than `MOST_BYTES`; names the line.
    """
    number, rest, ended = 0, b"", False
    read = getattr(stream, "read1", stream.read)
    while not ended:
        block = read(_BLOCK)
        ended = not block
        *raw, rest = (rest + block).split(b"\n")
        if ended and rest:  # the last line has no line feed
            raw.append(rest)
        if len(rest) > MOST_BYTES:
            raise VqnmtError(
                f"{name}, line {number + len(raw) + 1}: more than {MOST_BYTES} bytes: split it"
            )
        for start in range(0, len(raw), most):
            chunk = raw[start : start + most]
            yield [
                _decode(line, name, number + i, replace_invalid) for i, line in enumerate(chunk, 1)
            ]
            number += len(chunk)


def count_lines(stream: BinaryIO) -> int:
    """Count the lines from here to the end of a stream that can seek, and go back."""
    start, count, last = stream.tell(), 0, b"\n"
    while block := stream.read(1 << 20):
        count, last = count + block.count(b"\n"), block[-1:]
    stream.seek(start)
    return count + (last != b"\n")


def _decode(line: bytes, name: str, number: int, replace_invalid: bool) -> str:
    try:
        return line.decode("utf-8", errors="replace" if replace_invalid else "strict")
    except UnicodeDecodeError as error:
        raise VqnmtError(
            f"{name}, line {number}: not UTF-8 (byte {error.object[error.start]:#x} at column "
            f"{error.start + 1}): convert it to UTF-8, or replace such bytes with "
            "--invalid-utf8 replace"
        ) from error
