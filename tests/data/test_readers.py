import gzip
import lzma

import pytest

from vqnmt.data.readers import read_lines, read_parallel, read_tsv
from vqnmt.errors import VqnmtError


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffa\u2028b\x0bc\x85d\r\ne\rf\n\nlast".encode())
    assert list(read_lines(path)) == ["a\u2028b\x0bc\x85d", "e\rf", "", "last"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_read_as_plain_ones(tmp_path, suffix, compress):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(compress("ä\nb\n".encode()))
    assert list(read_lines(path)) == ["ä", "b"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("damage", ["cut", "wrong"])
def test_damaged_compressed_files_are_named(tmp_path, suffix, compress, damage):
    path = tmp_path / f"text{suffix}"
    content = compress(bytes(range(48, 123)) * 50)
    path.write_bytes(content[:-12] if damage == "cut" else b"plain text\n")
    with pytest.raises(VqnmtError, match=rf"text{suffix}.*damaged"):
        list(read_lines(path))


def test_invalid_utf8_names_file_line_and_byte(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\nGr\xfc\xdfe\n")
    with pytest.raises(VqnmtError, match=r"latin\.txt, line 2: byte 0xfc at column 3"):
        list(read_lines(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(VqnmtError, match=r"nothing\.txt: there is no such file"):
        list(read_lines(tmp_path / "nothing.txt"))
    with pytest.raises(VqnmtError, match="cannot be read"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(("first", "second"), [(2, 5), (5, 2), (0, 1)])
def test_different_lengths_name_both_counts(tmp_path, first, second):
    (tmp_path / "a").write_text("x\n" * first)
    (tmp_path / "b").write_text("y\n" * second)
    with pytest.raises(VqnmtError, match=rf"a has {first} lines but .*b has {second}: "):
        list(read_parallel(tmp_path / "a", tmp_path / "b"))


def test_tsv_takes_two_columns_and_names_a_line_without_tab(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a b\tc\nd\te\tattribution\n\t\n")
    assert list(read_tsv(path)) == [("a b", "c"), ("d", "e"), ("", "")]
    path.write_text("a\tb\nno tab here\n")
    with pytest.raises(VqnmtError, match=r"pairs\.tsv, line 2: no tab .*'no tab here'"):
        list(read_tsv(path))
