"""Shards: what is finished is not made again, and the result does not show how it came about."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.data.stand_ins import lines, write
from vqnmt.data import build, shards, tokenized
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import prepare_corpus
from vqnmt.data.filters import PairFilter
from vqnmt.data.shards import Arrays, Shards
from vqnmt.errors import VqnmtError

SHARD = {"numbers": np.arange(5), "none": np.zeros(0, np.uint8)}
TEXTS = [f"This is  sentence number {n % 900}\tDas ist Satz {n % 800}" for n in range(1030)]
TEXTS[130], TEXTS[333], TEXTS[334] = "\tnothing", "long " * 200 + "\tlang", "x\t" + "y " * 40
TEXTS[335] = "nine " * 9 + "\tneun Wörter sind das hier"


@dataclass
class Counter:
    """Counts pairs, and stops the work at some number of them."""

    pairs: int = 0
    limit: int | None = None

    def add(self, pairs: int) -> None:
        if self.limit is not None and self.pairs + pairs > self.limit:
            raise KeyboardInterrupt
        self.pairs += pairs


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Cut into shards of 100 pairs; count the pairs that are judged."""
    monkeypatch.setattr(build, "_SHARD", 100)
    monkeypatch.setattr(build, "_CHUNK", 30)
    monkeypatch.setattr(build, "_SEVERAL_PROCESSES", 0)
    monkeypatch.setattr(build, "available_cores", lambda: 1)
    counter, judge = Counter(), build.CorpusFilter.__call__

    def counting(self, chunk):
        counter.add(len(chunk[1] or ()))
        return judge(self, chunk)

    monkeypatch.setattr(build.CorpusFilter, "__call__", counting)
    return counter


def prepare(tmp_path: Path, name: str, texts: list[str] = TEXTS, max_words: int = 100) -> None:
    text = TextFiles(tsv=str(write(tmp_path / "text.tsv", lines(texts))))
    config = CorpusConfig(
        name="files", train=text, valid_share=0.1, test_share=0.1, max_words=max_words
    )
    prepare_corpus(config, tmp_path / name)


class Letters:
    """A stand-in vocabulary: a letter is a piece."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.size, self.encoded = size, Counter()

    def __len__(self) -> int:
        return self.size

    def checksum(self) -> str:
        return str(self.size)

    def encode(self, sentences: list[str]) -> list[list[int]]:
        self.encoded.add(len(sentences))
        return [[ord(letter) for letter in sentence] for sentence in sentences]


@pytest.fixture
def tokenize(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(tokenized, "SHARD", 100)
    monkeypatch.setattr(tokenized, "CHUNK", 30)
    sides = zip(*(text.split("\t") for text in TEXTS), strict=True)
    sources, targets = map(list, sides)

    def run(folder: Path, vocabulary: Letters) -> None:
        fit = PairFilter(max_words=1000, max_ratio=1000)
        tokenized.tokenize_pairs(sources, targets, vocabulary, folder, fit, "test")

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(".shards-*/*"))


def test_a_shard_comes_back(tmp_path: Path) -> None:
    Shards(tmp_path, "text", 100).write(3, SHARD)
    found = Shards(tmp_path, "text", 100).read(3)
    assert found is not None and found.keys() == SHARD.keys()
    for name, array in SHARD.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert Shards(tmp_path, "text", 100).read(4) is None
    assert Shards(tmp_path, "text", 101).read(3) is None
    assert Shards(tmp_path, "other text", 100).read(3) is None


def test_a_damaged_shard_is_none(tmp_path: Path) -> None:
    made = Shards(tmp_path, "text")
    made.write(0, SHARD)
    (path,) = shard_files(tmp_path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place])
        assert made.read(0) is None, place
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert made.read(0) is None, place
    path.write_bytes(content)
    assert made.read(0) is not None


@dataclass
class OneOf:
    """Stands for accelerate's state in one process of one of three machines of two processes."""

    index: int

    num_processes = 6

    def __post_init__(self) -> None:
        self.is_main_process, self.is_local_main_process = self.index == 0, self.index % 2 == 0

    def wait_for_everyone(self) -> None:
        """The processes of this test come one after the other."""


def test_machines_share_and_the_first_process_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Shards(tmp_path, "numbers")
    made: list[tuple[int, int]] = []  # the process and the shard
    merged: list[int] = []

    def make(machine: int, machines: int) -> Iterator[Arrays]:
        for number in range(machine, 8, machines):
            shard = work.read(number)
            if shard is None:
                made.append((state.index, number))
                shard = {"number": np.array([number])}
                work.write(number, shard)
            yield shard

    def merge(every: Iterable[Arrays]) -> None:
        merged.extend(int(shard["number"][0]) for shard in every)

    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    monkeypatch.setattr(shards, "PartialState", lambda: state)
    for index in (5, 4, 3, 2, 1, 0):
        monkeypatch.setenv("GROUP_RANK", str(index // 2))
        state = OneOf(index)
        if index == 0:
            shard_files(tmp_path)[0].write_bytes(b"damaged")  # shard 1
        work.share(make, merge)
    assert made[:5] == [(4, 2), (4, 5), (2, 1), (2, 4), (2, 7)]
    assert made[5:] == [(0, 0), (0, 3), (0, 6), (0, 1)], "its own, then what is missing"
    assert merged == list(range(8))
    assert not any(tmp_path.iterdir())


def test_a_corpus_goes_on_where_it_was_stopped(tmp_path: Path, judged: Counter) -> None:
    prepare(tmp_path, "whole")
    assert judged.pairs == len(TEXTS)
    judged.pairs, judged.limit = 0, 570
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, "stopped")
    left = shard_files(tmp_path / "stopped")
    assert len(left) == 5 and list((tmp_path / "stopped").iterdir()) == [left[0].parent]
    left[1].write_bytes(left[1].read_bytes()[:-1])
    left[3].unlink()
    judged.pairs, judged.limit = 0, None
    prepare(tmp_path, "stopped")
    assert judged.pairs == len(TEXTS) - 300
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [{"texts": TEXTS[:1000]}, {"texts": TEXTS[::-1]}, {"max_words": 8}],
    ids=["cut", "reversed", "filter"],
)
def test_shards_of_another_corpus_are_not_used(
    tmp_path: Path, judged: Counter, change: dict
) -> None:
    judged.limit = 850
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, "changed")
    judged.pairs, judged.limit = 0, None
    prepare(tmp_path, "changed", **change)
    assert judged.pairs == len(change.get("texts", TEXTS))
    prepare(tmp_path, "whole", **change)
    assert contents(tmp_path / "changed") == contents(tmp_path / "whole")


def test_a_bad_line_is_named_and_can_be_mended(tmp_path: Path, judged: Counter) -> None:
    with pytest.raises(VqnmtError, match="line 850: no tab"):
        prepare(tmp_path, "mended", [*TEXTS[:849], "no tab here", *TEXTS[850:]])
    assert len(shard_files(tmp_path / "mended")) == 8
    prepare(tmp_path, "mended")
    assert "corpus.json" in contents(tmp_path / "mended")
    assert not shard_files(tmp_path / "mended")


def test_a_shard_that_vanishes_meanwhile_is_told(
    tmp_path: Path, judged: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.limit = 350
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, "out")
    judged.limit, read = None, Shards.read

    def read_once(self: Shards, number: int) -> Arrays | None:
        found = read(self, number)
        for path in shard_files(tmp_path / "out"):
            path.unlink()
        return found

    monkeypatch.setattr(Shards, "read", read_once)
    with pytest.raises(VqnmtError, match="shard 0 of the corpus is gone"):
        prepare(tmp_path, "out")
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_small_texts_leave_no_shards(
    tmp_path: Path, judged: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_SEVERAL_PROCESSES", len(TEXTS) + 1)
    judged.limit = 1000
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, "small")
    assert not list((tmp_path / "small").iterdir())


def test_tokens_go_on_where_they_were_stopped(tmp_path: Path, tokenize: Callable) -> None:
    tokenize(tmp_path / "whole", Letters())
    stopped = Letters()
    stopped.encoded.limit = 2 * 570
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "stopped", stopped)
    left = shard_files(tmp_path / "stopped")
    assert len(left) == 5 and list((tmp_path / "stopped").iterdir()) == [left[0].parent]
    left[1].write_bytes(b"")
    left[3].unlink()
    again = Letters()
    tokenize(tmp_path / "stopped", again)
    fitting = len(TEXTS) - 1  # pair 130, of shard 1, has an empty side
    assert again.encoded.pairs == 2 * (fitting - 300)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_tokens_of_another_vocabulary_are_not_used(tmp_path: Path, tokenize: Callable) -> None:
    stopped, other = Letters(), Letters(1 << 21)
    stopped.encoded.limit = 2 * 850
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "changed", stopped)
    tokenize(tmp_path / "changed", other)
    assert other.encoded.pairs == 2 * (len(TEXTS) - 1)
    assert not shard_files(tmp_path / "changed")
