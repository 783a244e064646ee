"""How often a pair occurs, from the text to the batches; labels apart from the sentences."""

import dataclasses

import numpy as np
import pytest

from tests.data.stand_ins import lines, write
from vqnmt.data import catalogue
from vqnmt.data.batches import ParallelBatches
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import ParallelText, load_corpus, prepare_corpus
from vqnmt.data.filters import PairFilter
from vqnmt.data.labels import seen_labels
from vqnmt.data.splits import sentence_key
from vqnmt.data.tokenized import TokenizedText, open_counts, open_tokens, tokenize_pairs
from vqnmt.errors import VqnmtError


@pytest.fixture
def prepare(tmp_path):
    def run(rows, folder="out", **values):
        path = write(tmp_path / f"{folder}.tsv", lines(rows))
        values = {"valid_share": 0.1, "test_share": 0.1, **values}
        config = CorpusConfig(name="files", train=TextFiles(tsv=str(path)), **values)
        return prepare_corpus(config, tmp_path / folder)

    return run


SENTENCES = [f"This is the sentence number {n}\tDas ist Satz {n}" for n in range(300)]


def counted(corpus):
    counts = corpus.train.counts
    assert counts is not None
    return dict(
        zip(
            zip(corpus.train.sources, corpus.train.targets, strict=True),
            counts.tolist(),
            strict=True,
        )
    )


def test_duplicates_are_counted(prepare, tmp_path):
    rows = ["On\tAn", "On\tEin", " On\tAn", "Off\tAus", *SENTENCES, "Off\tAus", "On\tAn"]
    corpus = prepare(rows)
    found = counted(corpus)
    assert found["On", "An"] == 3 and found["On", "Ein"] == 1 and found["Off", "Aus"] == 2
    assert corpus.report["parts"]["train"]["dropped"]["duplicate"] == 3
    assert counted(load_corpus(tmp_path / "out")) == found
    assert counted(prepare(rows)) == found

    counts = tmp_path / "out/train_counts.txt"
    counts.write_text(counts.read_text().replace("3", "4"))
    with pytest.raises(VqnmtError, match=r"train_counts\.txt: checksum"):
        load_corpus(tmp_path / "out")
    # A text without duplicates has no such file, and an old one goes.
    assert prepare(SENTENCES).train.counts is None
    assert not counts.exists()


def test_a_column_of_counts(prepare):
    rows = ["On\tAn\t1000", "On\tEin\t1\tmore", "Off\tAus\t5", *(f"{s}\t1" for s in SENTENCES)]
    found = counted(prepare([*rows, "Off\tAus\t7"], counts=True))
    assert found["On", "An"] == 1000 and found["On", "Ein"] == 1 and found["Off", "Aus"] == 12
    assert prepare(rows, "without").train.counts is None
    for wrong in ("", "0", "-1", "1.5", "many", "1e3", "9" * 13, "²"):
        with pytest.raises(
            VqnmtError, match=r"line 2: the third column is '.*': each|is '.*', but"
        ):
            prepare([rows[0], f"On\tEin\t{wrong}", *rows], "wrong", counts=True)
    with pytest.raises(VqnmtError, match="line 1: the third column is ''"):
        prepare(["On\tAn", *rows], "wrong", counts=True)
    parallel = TextFiles(source="a", target="b")
    with pytest.raises(
        VqnmtError, match=r"corpus\.counts is true, but corpus\.train\.tsv is empty"
    ):
        CorpusConfig(name="files", train=parallel, counts=True)
    with pytest.raises(VqnmtError, match="counts"):
        CorpusConfig(name="homeassistant", counts=True)


def test_counts_change_the_fingerprint_only_where_they_count(tmp_path):
    text = TextFiles(tsv=str(write(tmp_path / "a.tsv", b"a\tb\t3\n")))
    with_counts, without = (CorpusConfig(name="files", train=text, counts=c) for c in (True, False))
    assert with_counts.fingerprint() != without.fingerprint()


def test_tokens_keep_the_counts_of_the_pairs_that_fit(tmp_path):
    class Letters:
        slots = 0

        def __len__(self):
            return 1000

        def checksum(self):
            return ""

        def encode(self, sentences):
            return [[ord(letter) for letter in sentence] for sentence in sentences]

    pairs = [("one", "eins"), ("", "x"), ("three", "drei"), ("w w w", "too long")]
    sides = [[pair[i] for pair in pairs] for i in (0, 1)]
    rest = (Letters(), tmp_path, PairFilter(max_words=2), "test")

    def counts(*values):
        tokenize_pairs(*sides, *rest, *values)
        return open_counts(tmp_path)

    assert counts(np.array([7, 8, 9, 10])).tolist() == [7, 9]
    made = (tmp_path / "tokens.json").stat().st_mtime_ns
    assert counts(np.array([7, 8, 9, 10])).tolist() == [7, 9]
    assert (tmp_path / "tokens.json").stat().st_mtime_ns == made
    assert counts(np.array([7, 8, 2, 10])).tolist() == [7, 2]
    batches = ParallelBatches(*open_tokens(tmp_path), 64, 1, 128, open_counts(tmp_path))
    assert np.bincount(np.concatenate(batches.plan(0))).tolist() == [3, 2]
    (tmp_path / "counts.npy").write_bytes(b"damaged")
    with pytest.raises(VqnmtError, match=r"counts\.npy: damaged"):
        open_counts(tmp_path)
    assert counts(np.array([7, 8, 2, 10])).tolist() == [7, 2]  # made anew
    assert counts() is None


@pytest.mark.parametrize(
    ("count", "copies"), [(1, 1), (2, 2), (3, 2), (4, 3), (1000, 10), (10**12, 40)]
)
def test_an_epoch_has_a_pair_by_the_logarithm_of_its_count(count, copies, tmp_path):
    text = TokenizedText(np.arange(20, dtype=np.uint16), np.arange(21))
    counts = np.ones(20, dtype=np.int64)
    counts[7] = count
    batches = ParallelBatches(text, text, 5, seed=3, max_tokens=9, counts=counts)
    assert len(batches) == 20
    for epoch in (0, 1):
        plan = batches.plan(epoch)
        times = np.bincount(np.concatenate(plan), minlength=20)
        assert times[7] == copies and (np.delete(times, 7) == 1).all()
        assert [b.tolist() for b in plan] == [b.tolist() for b in batches.plan(epoch)]
    plain = ParallelBatches(text, text, 5, seed=3, max_tokens=9)
    ones = ParallelBatches(text, text, 5, seed=3, max_tokens=9, counts=np.ones(20, dtype=np.int64))
    assert [b.tolist() for b in plain.plan(0)] == [b.tolist() for b in ones.plan(0)]


def test_labels_are_a_test_set_with_all_their_translations(prepare, monkeypatch):
    entry = dataclasses.replace(catalogue.CATALOGUE["files"], label_share=0.2)
    monkeypatch.setitem(catalogue.CATALOGUE, "files", entry)
    words = [f"Label {chr(97 + n % 26)}{n}" for n in range(200)]
    rows = [f"{word}\t{word} {form}" for word in words for form in ("selten", "oft", "oft")]
    rows += [f"{word.upper()}\t{word} oft" for word in words[:50]]
    corpus = prepare([*rows, "{0}\t{1}", "12 34\t34 12", *SENTENCES])
    labels = corpus.test["labels"]
    assert list(corpus.test) == ["test", "labels"] and 20 < len(labels) < 60
    assert set(labels.sources) < set(words)
    for source, target, known in zip(
        labels.sources, labels.targets, labels.references, strict=True
    ):
        assert target == known[0] and known == [f"{source} oft", f"{source} selten"]
    # No label is in two parts, whatever its case.
    keys = [{sentence_key(s) for s in text.sources} for text in (corpus.train, labels)]
    assert not keys[0] & keys[1] and len(keys[0] | keys[1]) > 400
    assert corpus.report["parts"]["test.labels"] == {"pairs": len(labels), "dropped": {}}
    assert set(labels.sources) < set(corpus.held_out_sources)


def test_seen_labels_are_drawn_from_the_training_text():
    sources = ["On", "A whole sentence of text", "Off", "On", "12", "Not found", "On"]
    targets = ["Ein", "Ein ganzer Satz mit Text", "Aus", "An", "12", "Fehlt", "Los"]
    text = ParallelText(sources, targets, np.array([1, 1, 1, 5, 1, 1, 1]))
    found = seen_labels(text)
    assert sorted(found.sources) == ["Not found", "Off", "On"]
    at = found.sources.index("On")
    assert found.targets[at] == "An" and found.references[at] == ["An", "Ein", "Los"]
    fewer = seen_labels(text, 2)
    assert fewer.sources == found.sources[:2]
    reverse = ParallelText(sources[::-1], targets[::-1])
    assert seen_labels(reverse).sources == found.sources
