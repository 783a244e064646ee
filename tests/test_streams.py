"""Lines from streams: as they come, in bounded memory, faults named."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.streams import MOST_BYTES, count_lines, open_text, read_lines, unpacked

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


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
    with pytest.raises(VqnmtError, match=r"^it, line 1201: byte 0xe4 at column 3 is not UTF-8"):
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


def read(content: bytes, name: str = "it") -> bytes:
    return unpacked(io.BytesIO(content), name).read()


@pytest.mark.parametrize("kind", PACK)
def test_packed_content_is_known_by_its_first_bytes(kind: str, tmp_path: Path) -> None:
    content = os.urandom(100_000) + b"text\n" * 50_000
    packed = PACK[kind](content)
    assert read(packed) == content
    assert read(packed, "text.txt") == read(packed, "text.gz") == content, "whatever the ending"
    assert read(packed + packed + bytes(8)) == 2 * content, "streams in a row, and zeros"
    (tmp_path / "text").write_bytes(packed)
    with open_text(tmp_path / "text") as stream:
        assert stream.read() == content
    assert count_lines(io.BytesIO(PACK[kind](b"a\n\nb"))) == 3


@pytest.mark.parametrize("kind", PACK)
def test_no_damage_to_packed_content_goes_unnoticed(kind: str) -> None:
    """Some bits decide nothing, gzip's time for one; else a bit flipped is an error."""
    content, name = b"some text\nand more\n" * 3, f"it.{kind}"
    packed = PACK[kind](content)
    for place in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[place // 8] ^= 1 << place % 8
        with suppress(VqnmtError):
            assert read(bytes(flipped), name) == content
    cut = [packed[:length] for length in range(len(packed))]
    for wrong in [*cut, packed + b"plain text\n", packed + packed[:-1], packed + b"\xff"]:
        with pytest.raises(VqnmtError, match=rf"^it\.{kind}: .*put a good copy there"):
            read(wrong, name)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x28\xb5\x2f\xfd\x24\x02\x11\x00\x00a\n", "it is packed by zstd: unpack it with"),
        (b"PK\x03\x04" + bytes(30), "it is a zip archive: unpack it.* office program: save it"),
        (b"\xd0\xcf\x11\xe0" + bytes(30), "it is a document of an office program: save it"),
        (b"%PDF-1.4\n%\xe2\xe3", "it is a PDF: write its text to a file"),
        ("\ufeffText\n".encode("utf-16-le"), "it is UTF-16: convert it"),
        ("\ufeffText\n".encode("utf-16-be"), "it is UTF-16: convert it"),
        ("\ufeffText\n".encode("utf-32-le"), "it is UTF-32: convert it"),
        ("\ufeffText\n".encode("utf-32-be"), "a NUL byte at column 1"),
        ("Text\n".encode("utf-16-le"), "line 1: a NUL byte at column 2: the file is UTF-16 or"),
        ("Text\n".encode("utf-16-be"), "line 1: a NUL byte at column 1: the file is UTF-16 or"),
        (b"good\n\x7fELF\x02\x01\x00\n", "line 2: a NUL byte at column 7"),
    ],
)
def test_what_is_no_text_is_named(content: bytes, fault: str) -> None:
    with pytest.raises(VqnmtError, match=f"^it.*{fault}"):
        list(read_lines(unpacked(io.BytesIO(content), "it"), "it", 1000))


def test_nul_is_replaced_where_asked_for() -> None:
    assert list(read_lines(io.BytesIO(b"a\0b\n"), "it", 9, True)) == [["a\ufffdb"]]


@pytest.mark.parametrize("most", [5, 65_536, 70_000])
def test_the_limit_on_a_line_is_exact(most: int) -> None:
    lines = [b"x" * most, b"", b"y" * most]
    stream = io.BytesIO(b"\n".join(lines))
    read = [x for chunk in read_lines(stream, "it", 9, most_bytes=most) for x in chunk]
    assert read == [line.decode() for line in lines]
    for longer in ([*lines, b"z" * (most + 1)], [b"z" * (most + 1), *lines]):
        with pytest.raises(VqnmtError, match=f"line {longer.index(b'z' * (most + 1)) + 1}: more"):
            list(read_lines(io.BytesIO(b"\n".join(longer)), "it", 9, most_bytes=most))


@pytest.mark.parametrize("kind", PACK)
def test_an_endless_line_in_a_small_packed_file_takes_little_memory(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(PACK[kind](bytes(1 << 24).replace(b"\0", b"x")) * 64)  # 1 GiB
    program = """
import resource, sys
from vqnmt.data.readers import read_tsv
from vqnmt.errors import VqnmtError
from vqnmt.streams import count_lines
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert count_lines(open(sys.argv[1], "rb")) == 1
try:
    list(read_tsv(sys.argv[1]))
except VqnmtError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert f"{path}, line 1: more than {MOST_BYTES} bytes: split it" in outcome.stdout, outcome


def test_a_header_that_claims_memory_is_refused(tmp_path: Path) -> None:
    """A dictionary of 1 GiB is claimed for a few bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(b"text\n", filters=filters))
    place = packed.index(b"\x21\x01") + 2  # the filter's properties: one byte
    packed[place] = 37
    size = (packed[12] + 1) * 4
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    with pytest.raises(VqnmtError, match=r"damaged or cut short .*emory"):
        read(bytes(packed))
