"""Lines from streams: as they come, in bounded memory, faults named."""

import io
import os
import threading

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.streams import MOST_BYTES, count_lines, read_lines


@pytest.mark.parametrize("most", [1, 2, 1000])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb\r\n", ["a", "", "b\r"]),
        ("ä\u2028\x01\x85\n\U0001f600".encode(), ["ä\u2028\x01\x85", "\U0001f600"]),
    ],
)
def test_lines_end_at_line_feeds_alone(content: bytes, lines: list[str], most: int) -> None:
    chunks = list(read_lines(io.BytesIO(content), "it", most))
    assert [line for chunk in chunks for line in chunk] == lines
    assert all(0 < len(chunk) <= most for chunk in chunks)
    assert count_lines(io.BytesIO(content)) == len(lines)


def test_characters_and_lines_may_lie_across_blocks() -> None:
    lines = ["ü" * length for length in (70_000, 1, 0, 65_535, 65_536)]
    stream = io.BytesIO("\n".join(lines).encode())
    assert [line for chunk in read_lines(stream, "it", 2) for line in chunk] == lines


def test_a_waiting_writer_gets_its_line() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        lines = read_lines(stream, "pipe", 1000)
        for text in ("one", "two"):
            os.write(writing, text.encode() + b"\nhal")  # half of the next line, too
            found: list[list[str]] = []
            thread = threading.Thread(target=lambda found=found: found.append(next(lines)))
            thread.start()
            thread.join(timeout=30)
            assert found == [[text]], "read as soon as it was written"
            os.write(writing, b"f\n")
            assert next(lines) == ["half"]
        os.close(writing)
        assert list(lines) == []


def test_faults_name_stream_and_line() -> None:
    stream = io.BytesIO(b"a\n" * 1200 + b"gu\xe4do\nb\n")
    with pytest.raises(VqnmtError, match="^it, line 1201: byte 0xe4 at column 3 is not UTF-8"):
        list(read_lines(stream, "it", 1000))
    stream.seek(0)
    replaced = [x for chunk in read_lines(stream, "it", 1000, replace_invalid=True) for x in chunk]
    assert replaced[1200:] == ["gu\ufffddo", "b"]


def test_a_stream_without_line_ends_does_not_fill_the_memory() -> None:
    class Endless(io.RawIOBase):
        given = 2

        def read1(self, size: int) -> bytes:
            self.given += size
            return b"x" * size if self.given > size + 2 else b"a\n"

    stream = Endless()
    with pytest.raises(VqnmtError, match=f"^it, line 2: more than {MOST_BYTES} bytes: split it"):
        list(read_lines(stream, "it", 1000))
    assert stream.given < 2 * MOST_BYTES
