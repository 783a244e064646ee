"""A text file as a sequence, against the list of its lines."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqnmt.data import lines as module
from vqnmt.data.lines import Lines
from vqnmt.errors import VqnmtError

# Everything that other readers take for a line end, and letters of one to four bytes.
TEXTS = st.lists(st.text("a \r\x0b\x0c\x85\u2028ä光😀", max_size=6), max_size=12)


@settings(max_examples=100)
@given(texts=TEXTS, block=st.integers(1, 9), lines=st.integers(1, 5), last=st.booleans())
def test_the_lines_of_a_file_are_those_of_a_list(tmp_path_factory, texts, block, lines, last):
    path = tmp_path_factory.mktemp("lines") / "text"
    content = "".join(text + "\n" for text in texts)
    if last and texts and texts[-1]:
        content = content[:-1]  # the last line lacks its line feed
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_LINES", lines)
        found = Lines(path)
        assert list(found) == texts == [found[i] for i in range(len(found))]
        assert found[-3:] == texts[-3:] and found[::2] == texts[::2]
        assert found == texts and texts == found and found == Lines(path)
        assert found != [*texts, "more"] and (not texts or found != texts[1:])
        for index in (len(texts), -len(texts) - 1):
            with pytest.raises(IndexError):
                found[index]
        if texts:
            assert found[-1] == texts[-1]


def test_a_file_that_is_replaced_changes_nothing(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\ntwo\n")
    found = Lines(path)
    (tmp_path / "other").write_text("three\n")
    os.replace(tmp_path / "other", path)
    assert list(found) == ["one", "two"] and found[1] == "two"
    assert list(Lines(path)) == ["three"]


def test_its_file_is_closed_with_it(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\n")
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(20):
        assert len(Lines(path)) == 1
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_faults_name_file_and_line(tmp_path):
    with pytest.raises(VqnmtError, match="none: cannot be read"):
        Lines(tmp_path / "none")
    path = tmp_path / "text"
    path.write_bytes(b"good\n\xfcber\n")
    found = Lines(path)
    assert found[0] == "good"
    for read in (lambda: found[1], lambda: list(found)):
        with pytest.raises(VqnmtError, match=r"text, line 2: not UTF-8"):
            read()


@pytest.mark.parametrize("left", [0, 3, 4, 6])
def test_a_file_that_is_cut_short_while_it_is_open_is_named(tmp_path, left):
    path = tmp_path / "text"
    path.write_bytes(b"one\ntwo\nthree\n")
    found = Lines(path)
    os.truncate(path, left)
    with pytest.raises(VqnmtError, match=r"text, line [12]: cut short: the file has been changed"):
        list(found)
    with pytest.raises(VqnmtError, match=r"text, line 3: cut short"):
        found[2]
