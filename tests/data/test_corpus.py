import dataclasses
import gzip
import json
import os
import random
import tracemalloc

import pytest

from tests.data.stand_ins import lines, write
from vqnmt.data import readers
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import BothSides, ParallelText, load_corpus, prepare_corpus
from vqnmt.data.lines import Lines
from vqnmt.errors import VqnmtError

PARTS = ["test.test", "train", "valid"]


def rows(numbers):
    return [f"This is the sentence number {n}\tDas ist Satz {n}" for n in numbers]


@pytest.fixture
def prepare(tmp_path):
    """Prepare a corpus from rows of TSV text, by part."""

    def run(train, valid=None, test=None, folder="out", **values):
        files = {}
        for part, texts in (("train", train), ("valid", valid), ("test", test)):
            if texts is not None:
                path = write(tmp_path / f"{part}.tsv", lines(texts))
                files[part] = TextFiles(tsv=str(path))
        values = {"valid_share": 0.1, "test_share": 0.1, **values}
        return prepare_corpus(CorpusConfig(name="files", **files, **values), tmp_path / folder)

    return run


def parts(corpus):
    return {"train": corpus.train, "valid": corpus.valid, **corpus.test}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_sources_are_unique_across_official_parts(prepare):
    test = ["In the test\tA", "\t", "also  In test \tB"]
    valid = ["in THE test\tC", "In valid\tD", "in both\tE", "in both\tF"]
    train = ["Also in test\tG", "in  valid\tH", "IN BOTH\tI", " only \tJ", "only\tJ"]
    corpus = prepare(train, valid, test)
    # An official test set is never filtered: its empty line and its spaces stay.
    assert corpus.test["test"].sources == ["In the test", "", "also  In test "]
    assert corpus.valid.sources == ["In valid", "in both", "in both"]
    assert corpus.train.sources == ["only"]
    report = corpus.report["parts"]
    assert report["valid"]["dropped"] == {"source is in test": 1}
    assert report["train"]["dropped"] == {
        "source is in test": 1,
        "source is in valid": 2,
        "duplicate": 1,
    }
    assert corpus.report["pairs_read"] == 5


def test_filters_touch_training_text_only_and_report(prepare):
    train = ["a b c d e\tx", "good\tgut", "short\t" + "y" * 60, "\tz", "w\t ", "tab\tl m"]
    held = ["a b c d e\tx", "a\t" + "z" * 200]
    corpus = prepare(train, held, held[1:], max_words=4, max_ratio=2.0)
    assert corpus.train.sources == ["good", "tab"]
    assert corpus.test["test"].targets == ["z" * 200]
    assert corpus.report["parts"]["train"]["dropped"] == {
        "source is in valid": 1,
        "length ratio": 1,
        "empty": 2,
    }
    corpus = prepare(train, held[1:], ["q\tq"], max_words=4, max_ratio=2.0)
    assert corpus.report["parts"]["train"]["dropped"]["too long"] == 1


def test_own_split_partitions_the_text(prepare):
    text = rows(range(500)) + [f"Label {n}\tSchild {n}" for n in range(200)]
    # Further translations: all in train where the source is, one a source in valid and test.
    text += [row + " noch einmal" for row in rows(range(100))]
    corpus = prepare(text)
    sources = {name: set(part.sources) for name, part in parts(corpus).items()}
    assert set.union(*sources.values()) == {row.split("\t")[0] for row in text}
    assert sum(map(len, sources.values())) == 700  # no source in two parts
    for name in ("valid", "test"):
        assert 20 < len(sources[name]) < 90  # a tenth of 500
        assert len(corpus_part := parts(corpus)[name]) == len(sources[name])
        assert not any("noch einmal" in target for target in corpus_part.targets)
        assert not any(source.startswith("Label") for source in corpus_part.sources)
    reports = corpus.report["parts"]
    drops = [reports[name]["dropped"] for name in ("valid", "test.test")]
    further = sum(dropped.get("further translation", 0) for dropped in drops)
    assert len(corpus.train) == 800 - len(corpus.valid) - len(corpus.test["test"]) - further


def test_a_text_without_blanks_is_split_as_one_with_blanks(prepare):
    """Of a Chinese corpus all sentences can be held out, and long ones are dropped."""
    chance = random.Random(1)
    words = [chr(0x4E00 + 37 * n) for n in range(300)]
    sentences = ["".join(chance.choices(words, k=8)) + "。" for _ in range(500)]
    corpus = prepare([f"{one}\tword {one[::-1]}" for one in sentences], source_language="zh")
    for name in ("valid", "test"):
        assert 20 < len(parts(corpus)[name]) < 90  # a tenth of 500
    short = prepare([f"{one[:2]}\t{n}" for n, one in enumerate(sentences)] + rows(range(300)))
    assert not any(one[:2] in short.held_out_sources for one in sentences)
    cut = prepare([f"{one}\tword" for one in sentences] + rows(range(300)), max_words=8)
    assert cut.report["parts"]["train"]["dropped"]["too long"] > 380
    assert all(source.startswith("This is") for source in cut.train.sources)


def test_spellings_of_a_sentence_are_one(prepare, tmp_path):
    """In the files, among duplicates, and where a test set is kept out of the training text."""
    odd = ["The cafe\u0301 is clo\u00adsed\tZu\u200b ", "The caf\u00e9 is\ufeff closed\tZu", "b\tB"]
    corpus = prepare(odd, ["v\tV"], ["c\tC"])
    assert list(corpus.train.sources) == ["The caf\u00e9 is closed", "b"]
    assert list(corpus.train.targets) == ["Zu", "B"]
    corpus = prepare(odd, ["v\tV"], ["The \u200ecafe\u0301 is closed\tZ\u00adu"])
    assert list(corpus.train.sources) == ["b"]
    assert corpus.test["test"].targets == ["Z\u00adu"], "an official set stays as it is"


def test_split_stays_when_text_is_added_or_shuffled(prepare):
    first = prepare(rows(range(300)))
    more = rows(range(600))
    random.Random(1).shuffle(more)
    second = prepare(more)
    for name, part in parts(first).items():
        assert set(part.sources) <= set(parts(second)[name].sources)


def test_only_the_missing_part_is_split_off(prepare):
    corpus = prepare(rows(range(300)), test=rows([1, 2, 999]))
    assert corpus.test["test"].sources == [row.split("\t")[0] for row in rows([1, 2, 999])]
    assert len(corpus.valid) + len(corpus.train) == 298


def test_second_call_loads_and_other_values_rebuild(prepare, tmp_path):
    first = prepare(rows(range(300)))
    marks = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert sorted(marks) == sorted(
        ["corpus.json", *(f"{part}.{code}" for part in PARTS for code in ("de", "en"))]
    )
    assert prepare(rows(range(300))) == first
    assert marks == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert load_corpus(tmp_path / "out") == first
    for change in ({"max_words": 50}, {"test_share": 0.2}):
        changed = prepare(rows(range(300)), **change)
        assert changed.report["fingerprint"] != first.report["fingerprint"]
    # The same configuration over other text.
    assert prepare(rows(range(301))).report["pairs_read"] == 301


def test_files_of_another_language_are_removed_on_rebuild(prepare, tmp_path):
    prepare(rows(range(300)))
    (tmp_path / "out" / "train.mine").write_text("keep")
    prepare(rows(range(300)), target_language="fr")
    names = names_in(tmp_path / "out")
    assert "train.fr" in names and "train.de" not in names and "train.mine" in names


@pytest.mark.parametrize("damage", ["change", "remove", "report"])
def test_damaged_files_are_prepared_again(prepare, tmp_path, damage, capsys):
    first = prepare(rows(range(300)))
    sides = {side: list(getattr(first.train, side)) for side in ("sources", "targets")}
    first = dataclasses.replace(first, train=ParallelText(**sides))  # lines in no file
    path = tmp_path / "out" / ("corpus.json" if damage == "report" else "train.en")
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-20])
    with pytest.raises(VqnmtError, match=str(path)):
        load_corpus(tmp_path / "out")
    assert prepare(rows(range(300))) == first


@pytest.mark.parametrize("files", [["../precious"], None, 3, {"../precious": {}}])
def test_a_changed_report_has_no_file_removed(prepare, tmp_path, files):
    """The report says which files of an older corpus to remove: it must vouch for itself."""
    first = prepare(rows(range(300)))
    (tmp_path / "precious").write_text("keep")
    path = tmp_path / "out" / "corpus.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"files": files}))
    with pytest.raises(VqnmtError, match=r"corpus\.json: missing, damaged"):
        load_corpus(tmp_path / "out")
    assert prepare(rows(range(300))).report == first.report
    assert (tmp_path / "precious").read_text() == "keep"


def test_report_has_what_a_reader_needs(prepare, tmp_path):
    prepare(rows(range(300)))
    report = json.loads((tmp_path / "out" / "corpus.json").read_text())
    for name, facts in report["files"].items():
        assert (tmp_path / "out" / name).read_text().count("\n") == facts["lines"]
    assert set(report["inputs"]) == {str(tmp_path / "train.tsv")}
    assert report["config"]["valid_share"] == 0.1
    assert report["pairs_read"] == 300


def test_string_files_and_memories(tmp_path):
    for name, numbers in (("a.po", range(60)), ("b.po", range(60, 120))):
        units = (f'msgid "one two three {n}"\nmsgstr "jedna {n}"\n' for n in numbers)
        fuzzy = '#, fuzzy\nmsgid "no"\nmsgstr "guess"\n'
        (tmp_path / name).write_text("\n".join([*units, fuzzy]), "utf-8")
    write(tmp_path / "memory.tsv", lines(f"one two three {n}\tjedna {n}" for n in range(120, 150)))
    files = [str(tmp_path / "*.po"), str(tmp_path / "memory.tsv")]
    config = CorpusConfig(
        name="files",
        target_language="cs",
        train=TextFiles(files=files),
        valid_share=0.1,
        test_share=0.1,
    )
    corpus = prepare_corpus(config, tmp_path / "out")
    found = {n for part in parts(corpus).values() for n in part.targets}
    assert found == {f"jedna {n}" for n in range(150)}
    with pytest.raises(
        VqnmtError, match=r"corpus\.train\.files has .*/x\.po, which matches no file"
    ):
        CorpusConfig(name="files", train=TextFiles(files=[str(tmp_path / "x.po")]))


def test_parallel_and_compressed_files(tmp_path):
    write(tmp_path / "a.en.gz", lines(f"one two three {n}" for n in range(99)))
    write(tmp_path / "a.cs.xz", lines(f"jedna {n}" for n in range(99)))
    config = CorpusConfig(
        name="files",
        target_language="cs",
        train=TextFiles(source=str(tmp_path / "a.en.gz"), target=str(tmp_path / "a.cs.xz")),
        valid_share=0.1,
        test_share=0.1,
    )
    corpus = prepare_corpus(config, tmp_path / "out")
    assert sum(map(len, parts(corpus).values())) == 99
    for part in parts(corpus).values():
        assert [s.split()[-1] for s in part.sources] == [t.split()[-1] for t in part.targets]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["a b\tc", "no tab"], r"train\.tsv, line 2: no tab"),
        ([], r"corpus files: of 0 pairs read, none is left"),
        (["\t", "a\t"], r"of 2 pairs read, none is left to train on \(dropped: empty 2"),
        (["Host\tWirt"] * 3, r"no pair is left for valid: raise corpus\.valid_share \(0\.1\)"),
    ],
)
def test_faults_leave_nothing_behind(prepare, tmp_path, train, message):
    with pytest.raises(VqnmtError, match=message):
        prepare(train)
    assert names_in(tmp_path / "out") == []


SAME = [f"This is one more sentence {n}\tSatz {n}" for n in range(9)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"valid": SAME, "test": SAME}, "corpus.valid and corpus.test share all sources of corpus"),
        ({"train": SAME, "test": SAME}, "corpus.train and corpus.test share all sources of corpus"),
        ({"valid": SAME, "test": []}, "no pair is left for test.test: its files have none"),
    ],
)
def test_parts_that_are_the_same_text_are_named(prepare, tmp_path, files, message):
    with pytest.raises(VqnmtError, match=f"corpus files: {message}"):
        prepare(**{"train": rows(range(30)), **files})
    assert names_in(tmp_path / "out") == []


def test_parts_that_are_the_same_file_are_named(prepare, tmp_path):
    same = TextFiles(tsv=str(write(tmp_path / "same", lines(SAME))))
    train = TextFiles(tsv=str(write(tmp_path / "train", lines(rows(range(30))))))
    for config in (
        CorpusConfig(name="files", train=train, valid=same, test=same),
        CorpusConfig(name="files", train=same, valid=same),
    ):
        with pytest.raises(
            VqnmtError, match=r"corpus\.\w+ and corpus\.\w+ are the same file: give"
        ):
            prepare_corpus(config, tmp_path / "out")


def test_a_pipe_is_refused_where_it_would_be_read_several_times(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    plain = str(write(tmp_path / "plain", lines(["x"])))
    reading, writing = os.pipe()
    os.write(writing, b"".join(b"one two three %d\tja %d\n" % (n, n) for n in range(99)))
    os.close(writing)
    try:
        for text in (
            TextFiles(tsv=f"/dev/fd/{reading}"),
            TextFiles(source=plain, target=str(tmp_path / "pipe")),
            TextFiles(tsv="/dev/zero"),
        ):
            config = CorpusConfig(name="files", train=text)
            with pytest.raises(VqnmtError, match=r"is a pipe or a device, .*: write it to a file"):
                prepare_corpus(config, tmp_path / "out")
        good = TextFiles(tsv=str(write(tmp_path / "good", lines(rows(range(300))))))
        held = TextFiles(tsv=f"/dev/fd/{reading}")
        with pytest.raises(VqnmtError, match="is a pipe or a device"):
            prepare_corpus(CorpusConfig(name="files", train=good, test=held), tmp_path / "out")
    finally:
        os.close(reading)


def test_the_limit_on_a_line_is_a_setting_and_no_part_of_what_is_prepared(prepare, tmp_path):
    text = [*rows(range(200)), "x y z w " + "v " * 2000 + "\tlong"]
    with pytest.raises(VqnmtError, match=r"train\.tsv, line 201: more than 4000 bytes: split it"):
        prepare(text, max_line_bytes=4000)
    assert names_in(tmp_path / "out") == []
    corpus = prepare(text, max_line_bytes=5000)
    assert corpus.report["parts"]["train"]["dropped"]["too long"] == 1
    made = tmp_path / "out" / "corpus.json"
    before = made.stat().st_mtime_ns
    assert prepare(text).report == corpus.report and made.stat().st_mtime_ns == before
    long = "a b c d " + "e" * (1 << 20)
    held = prepare(text, test=[f"{long}\tso"], max_line_bytes=1 << 21).test["test"]
    assert held.sources == [long], "what was let through is read again"
    with pytest.raises(VqnmtError, match=r"corpus\.max_line_bytes is 0"):
        CorpusConfig(max_line_bytes=0)
    with pytest.raises(
        VqnmtError, match=r"corpus\.max_line_bytes is 9, but corpus\.name is 'homea"
    ):
        CorpusConfig(max_line_bytes=9)


def test_long_lines_are_never_held_by_the_hundred(tmp_path):
    """100 pairs of 1 MB pass as the few that are judged at once."""
    path = tmp_path / "train.tsv.gz"
    line = b"a b\tja " + b"x" * (1 << 20) + b"\n"
    good = "".join(f"{row}\n" for row in rows(range(300))).encode()
    path.write_bytes(gzip.compress(line, 1) * 100 + gzip.compress(good))
    text = TextFiles(tsv=str(path))
    config = CorpusConfig(name="files", train=text, max_line_bytes=2 << 20)
    tracemalloc.start()
    try:
        corpus = prepare_corpus(config, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert corpus.report["pairs_read"] == 400
    assert peak < 50e6, f"{peak / 1e6:.0f} MB"


def test_a_set_that_is_held_in_memory_has_a_limit(prepare, monkeypatch):
    monkeypatch.setattr(readers, "_MOST_HELD", 2000)
    with pytest.raises(VqnmtError, match="corpus files, valid: over 2,000 characters in the first"):
        prepare(rows(range(300)), rows(range(1000, 1020)))


def test_a_failed_rebuild_leaves_the_old_corpus_whole(prepare, tmp_path):
    first = prepare(rows(range(300)))
    with pytest.raises(VqnmtError, match="none is left"):
        prepare([])
    assert load_corpus(tmp_path / "out") == first


def test_the_users_own_file_is_never_written_over(tmp_path):
    for language in ("en", "de"):
        write(tmp_path / f"train.{language}", lines(["text"]))
    config = CorpusConfig(
        name="files",
        train=TextFiles(source=str(tmp_path / "train.en"), target=str(tmp_path / "train.de")),
    )
    with pytest.raises(VqnmtError, match=r"train\.en: the prepared corpus would be written over"):
        prepare_corpus(config, tmp_path)
    assert names_in(tmp_path) == ["train.de", "train.en"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "multi30k", "target_language": "fr"}, "has en and de, but .* en and fr"),
        ({"source_language": "de"}, "both 'de'"),
        ({"target_language": "../de"}, r"corpus\.target_language is '\.\./de'"),
        ({"valid_share": 0.0}, r"corpus\.valid_share is 0\.0"),
        ({"test_share": 0.6}, r"corpus\.test_share is 0\.6"),
        ({"min_test_words": 0}, r"corpus\.min_test_words is 0"),
        ({"max_words": 0}, r"corpus\.max_words is 0"),
        ({"max_ratio": 0.5}, r"corpus\.max_ratio is 0\.5"),
        ({"name": "files"}, r"corpus\.train is empty"),
        ({"train": TextFiles(tsv="x")}, r"corpus\.train\.tsv is set, but corpus\.name is"),
        ({"name": "files", "train": TextFiles(source="x")}, r"train has source=x: give either"),
    ],
)
def test_configuration_faults_name_their_key(values, message):
    with pytest.raises(VqnmtError, match=message):
        CorpusConfig(**values)


def test_the_training_text_stays_on_disk(prepare):
    corpus = prepare(rows(range(300)))
    assert isinstance(corpus.train.sources, Lines) and isinstance(corpus.train.targets, Lines)
    both = BothSides(corpus.train)
    expected = [*corpus.train.sources, *corpus.train.targets]
    assert list(both) == expected == list(both), "can be gone through again"


def test_progress_names_rate_and_time_left(prepare, capsys):
    prepare(rows(range(2500)))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("corpus files: 2,500 of 2,500 pairs · ")
    assert "pairs/s" in line and line.endswith("0:00 left")


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("homeassistant", "e19ea6d0f48e60ed"),
        ("europarl", "c42d1f61c74bf808"),
        ("multi30k", "a8944ff1cf97dba4"),
        ("tatoeba", "5092f2223013b2ce"),
    ],
)
def test_prepared_corpora_of_earlier_versions_stay_valid(name, fingerprint):
    """Finished runs can be resumed only as long as the fingerprint of their corpus is the same."""
    assert CorpusConfig(name=name).fingerprint().startswith(fingerprint)


def test_a_missing_file_is_named(tmp_path):
    config = CorpusConfig(name="files", train=TextFiles(tsv=str(tmp_path / "none.tsv")))
    with pytest.raises(VqnmtError, match=r"none\.tsv: there is no such file"):
        prepare_corpus(config, tmp_path / "out")
