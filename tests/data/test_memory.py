"""What a pair costs in memory, from the user's files to the plan of an epoch."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import pytest

from vqnmt.data import build, tokenized
from vqnmt.data import lines as lines_module
from vqnmt.data.batches import ParallelBatches
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import BothSides, load_corpus, prepare_corpus
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.pipeline import distillation
from vqnmt.pipeline.distillation import distill
from vqnmt.translate.pytorch import Translation

PAIRS = 3000
LENGTH = 2000  # bytes of a sentence: all text is 12 MB
# Per pair: 80 bytes for its hash, 8 for each of some arrays; and blocks and chunks of our size.
BOUND = 4_000_000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK", 1 << 16)
    monkeypatch.setattr(lines_module, "_LINES", 50)
    monkeypatch.setattr(build, "_CHUNK", 50)
    monkeypatch.setattr(tokenized, "CHUNK", 50)
    monkeypatch.setattr(distillation, "PART", 100)


@pytest.fixture
def config(tmp_path) -> CorpusConfig:
    for code in ("en", "de"):
        with open(tmp_path / code, "w") as file:
            for i in range(PAIRS):
                file.write(f"{code} {i} ".ljust(LENGTH - 1, "abcdefg "[i % 7]) + "\n")
    text = TextFiles(source=str(tmp_path / "en"), target=str(tmp_path / "de"))
    return CorpusConfig(
        name="files", train=text, valid_share=0.01, test_share=0.01, min_test_words=1
    )


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Echo:
    def translate(self, sentences: Sequence[str], **options: object) -> list[Translation]:
        return [Translation(sentence) for sentence in sentences]


class Words:
    """A stand-in vocabulary: some tokens for each word."""

    def __len__(self) -> int:
        return 100

    def checksum(self) -> str:
        return ""

    slots = 0

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        return [[5] * 20 for _ in sentences]


def learn_vocabulary(text: BothSides) -> None:
    """Do Python's share of it; sentencepiece's own is bounded by the sample that it gets."""

    def read(sentence_iterator: Iterator[str], **options: object) -> None:
        assert sum(1 for _ in sentence_iterator) == 2 * len(text.text)
        raise RuntimeError("read to the end")

    with (
        mock.patch("sentencepiece.SentencePieceTrainer.Train", read),
        pytest.raises(VqnmtError, match="read to the end"),
    ):
        Vocabulary.train(text, 300, slots=8, span_patterns=[r"\d+"])


def test_no_stage_holds_the_text(config, tmp_path):
    folder = tmp_path / "out"
    assert peak(lambda: prepare_corpus(config, folder)) < BOUND
    assert peak(lambda: load_corpus(folder)) < BOUND
    train = load_corpus(folder).train
    assert len(train) > 0.9 * PAIRS
    held = peak(lambda: list(BothSides(train)))
    assert held > 2 * BOUND, "what is measured is of another size than the bound"
    assert peak(lambda: list(map(len, BothSides(train)))) < BOUND
    assert peak(lambda: learn_vocabulary(BothSides(train))) < BOUND
    assert peak(lambda: distill(Echo(), train.sources, tmp_path / "distilled")) < BOUND

    def tokens() -> None:
        fit = config.pair_filter()
        sides = train.sources, train.targets
        tokenized.tokenize_pairs(*sides, Words(), tmp_path / "tokens", fit, "test")
        batches = ParallelBatches(*tokenized.open_tokens(tmp_path / "tokens"), 400, 1, 128)
        assert len(batches.plan(0)) >= len(train) / 20

    assert peak(tokens) < BOUND
