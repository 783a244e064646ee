"""Tokenised text on disk: the same tokens by any way, and never half of them."""

import errno
import json
import os
from collections import Counter

import numpy as np
import pytest

from vqnmt.data import tokenized as module
from vqnmt.data.filters import PairFilter
from vqnmt.data.lines import Lines
from vqnmt.data.tokenized import open_tokens, tokenize_pairs
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.spans import SLOT

FIT = PairFilter(max_words=8)
PAIRS = [
    ("one", "eins"),
    ("", "nothing"),
    ("three and more", "drei und mehr"),
    ("ü", "光"),
    ("w " * 8 + "w", "too long"),
    ("x", "y" * 50),
    ("x" * 50, "y" * 40),
]
FITTING = [PAIRS[i] for i in (0, 2, 3, 6)]
FILES = ["source.offsets.npy", "source.tokens", "target.offsets.npy", "target.tokens"]


class Letters:
    """A stand-in vocabulary: a letter is a piece."""

    def __init__(self, size=1 << 20):
        self.size, self.encoded = size, 0

    slots = 0

    def __len__(self):
        return self.size

    def checksum(self):
        return f"{self.size}"

    def encode(self, sentences):
        self.encoded += len(sentences)
        return [[ord(letter) for letter in sentence] for sentence in sentences]


def tokenize(pairs, folder, vocabulary=None, fit=FIT):
    vocabulary = vocabulary or Letters()
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    tokenize_pairs(*sides, vocabulary, folder, fit, "test")
    return vocabulary


def sentences(text):
    return ["".join(map(chr, text[i])) for i in range(len(text))]


def found(folder):
    return list(zip(*map(sentences, open_tokens(folder)), strict=True))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_fitting_pairs_come_back_whatever_the_chunk(tmp_path, monkeypatch, chunk):
    tokenize(PAIRS, tmp_path / "whole")
    monkeypatch.setattr(module, "CHUNK", chunk)
    tokenize(PAIRS, tmp_path / "chunked")
    assert found(tmp_path / "chunked") == FITTING
    tokens = {name: contents(tmp_path / "chunked")[name] for name in FILES}
    assert tokens.items() <= contents(tmp_path / "whole").items()
    source, target = open_tokens(tmp_path / "chunked")
    for text, side in ((source, 0), (target, 1)):
        assert isinstance(text.tokens, np.memmap)
        assert text.lengths.tolist() == [len(pair[side]) for pair in FITTING]


@pytest.mark.parametrize(("size", "kind"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.int32)])
def test_two_bytes_where_two_suffice(tmp_path, size, kind):
    pairs = [("a" + chr(min(size, 1 << 16) - 1), "b")]  # the last id of all
    tokenize(pairs, tmp_path, Letters(size))
    assert open_tokens(tmp_path)[0].tokens.dtype == kind
    assert found(tmp_path) == pairs


def test_sentences_come_back_through_a_real_vocabulary(tmp_path):
    lines = [f"the light {i} of room {i % 7} is on" for i in range(2000)] + ["ß → 光"]
    vocabulary = Vocabulary.train(lines, 300)
    tokenize_pairs(lines, lines, vocabulary, tmp_path, PairFilter(), "test")
    for text in open_tokens(tmp_path):
        assert vocabulary.decode([text[i].tolist() for i in range(len(text))]) == lines


@pytest.mark.parametrize("pairs", [[], [("", "")], [("a", "b" * 90)]])
def test_no_pair_is_left(tmp_path, pairs):
    tokenize(pairs, tmp_path)
    assert found(tmp_path) == []


def test_files_and_lists_give_the_same(tmp_path):
    for side, name in enumerate(("en", "de")):
        text = "".join(pair[side] + "\n" for pair in PAIRS)
        (tmp_path / name).write_text(text, encoding="utf-8")
    sides = Lines(tmp_path / "en"), Lines(tmp_path / "de")
    tokenize_pairs(*sides, Letters(), tmp_path / "lines", FIT, "test")
    tokenize(PAIRS, tmp_path / "lists")
    assert contents(tmp_path / "lines") == contents(tmp_path / "lists")


def test_the_same_pairs_are_not_encoded_again(tmp_path):
    tokenize(PAIRS, tmp_path)
    marks = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert tokenize(PAIRS, tmp_path).encoded == 0
    assert marks == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    changes = [
        {"pairs": [*PAIRS[:-1], ("x" * 50, "y" * 41)]},
        {"pairs": PAIRS[::-1]},
        {"fit": PairFilter(max_words=9)},
        {"vocabulary": Letters(1 << 21)},
    ]
    for change in changes:
        again = tokenize(**{"pairs": PAIRS, "folder": tmp_path, **change})
        assert again.encoded > 0, change
        tokenize(PAIRS, tmp_path)
    assert found(tmp_path) == FITTING


@pytest.mark.parametrize("name", [*FILES, "tokens.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_damaged_tokens_are_made_again(tmp_path, name, damage):
    tokenize(PAIRS, tmp_path)
    before = contents(tmp_path)
    content = bytearray(before[name])
    if damage == "remove":
        (tmp_path / name).unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 0x80
        (tmp_path / name).write_bytes(content)
    else:
        (tmp_path / name).write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert tokenize(PAIRS, tmp_path).encoded == 2 * len(FITTING)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"digest": 1, "checksums": []}'])
def test_a_report_of_wrong_types_vouches_for_nothing(tmp_path, content):
    tokenize(PAIRS, tmp_path)
    (tmp_path / "tokens.json").write_text(content)
    assert tokenize(PAIRS, tmp_path).encoded > 0
    assert json.loads((tmp_path / "tokens.json").read_text())["dtype"] == "int32"


def test_a_failure_while_encoding_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)

    class Broken(Letters):
        def encode(self, sentences):
            if "x" * 50 in sentences:
                raise RuntimeError("broken")
            return super().encode(sentences)

    with pytest.raises(RuntimeError, match="broken"):
        tokenize(PAIRS, tmp_path, Broken())
    assert list(tmp_path.iterdir()) == []
    tokenize(PAIRS[:1], tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        tokenize(PAIRS, tmp_path, Broken())
    assert "tokens.json" not in contents(tmp_path) and not list(tmp_path.glob("*.tmp"))
    tokenize(PAIRS, tmp_path)
    assert found(tmp_path) == FITTING


def test_progress_names_rate_and_time_left(tmp_path, capsys):
    tokenize(PAIRS, tmp_path)
    line = capsys.readouterr().err
    assert line.startswith(f"test tokens: {len(PAIRS)} of {len(PAIRS)} pairs · ")
    assert "pairs/s" in line and line.endswith("0:00 left\n")


DAMAGE = {
    "gone": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[:-3],
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"xyz",
    "claims 8 PB": lambda content: content.replace(
        b"(5,), }" + b" " * 15, b"(1000000000000000,), }"
    ),
    "other type": lambda content: content.replace(b"<i8", b"|O8").replace(b"int32", b"int64"),
}
UNHARMED = [("tokens", "zeros"), ("tokens", "other type"), ("npy", "longer")]  # as sizes tell


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in [*FILES, "tokens.json"]
        for damage in DAMAGE
        if (name.rpartition(".")[2], damage) not in UNHARMED
        and (damage != "claims 8 PB" or name.endswith("npy"))
    ],
)
def test_damaged_tokens_are_named(tmp_path, name, damage):
    tokenize(PAIRS, tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if DAMAGE[damage]:
        path.write_bytes(DAMAGE[damage](content))
        assert path.read_bytes() != content
    with pytest.raises(VqnmtError, match=r"tokenised text is missing or damaged .*: remove the"):
        open_tokens(tmp_path)


def test_a_disk_that_cannot_map_files_is_read_instead(tmp_path, monkeypatch):
    tokenize(PAIRS, tmp_path)

    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(np, "memmap", refuse)
    assert found(tmp_path) == FITTING


def test_pairs_share_slots_and_are_dropped_where_placeholders_differ(tmp_path):
    pairs = [
        ("turn on {a} at 21.5", "um 21,5 {a} an"),
        ("turn on {b}", "{c} an"),
        ("wait 3 days", "drei Tage"),
    ] * 20
    lines = [line for pair in pairs for line in pair]
    vocabulary = Vocabulary.train(lines, 282, slots=3)
    tokenize_pairs(*zip(*pairs, strict=True), vocabulary, tmp_path, PairFilter(), "test")
    sources, targets = (
        vocabulary.decode([side[i].tolist() for i in range(len(side))])
        for side in open_tokens(tmp_path)
    )
    assert len(sources) == len(targets) == 40
    assert sources[1] == "wait 3 days" and targets[1] == "drei Tage"
    found = SLOT.findall(sources[0])
    assert len(set(found)) == 2
    assert sources[0] == f"turn on {found[0]} at {found[1]}"
    assert targets[0] == f"um {found[1]} {found[0]} an"
    # The pattern decides the tokens.
    before = (tmp_path / "tokens.json").read_text()
    sides = zip(*pairs, strict=True)
    patterns = ["turn on"]
    tokenize_pairs(*sides, vocabulary, tmp_path, PairFilter(), "test", span_patterns=patterns)
    assert (tmp_path / "tokens.json").read_text() != before


def test_every_slot_is_used_and_the_first_most():
    first = Counter(module._first_slot(f"source {i}", 4) for i in range(800))
    assert set(first) == {0, 1, 2, 3} and first[0] > 400 and min(first.values()) > 50
