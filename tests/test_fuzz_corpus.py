"""Any bytes as a corpus: it is prepared, or refused in one sentence that names the file."""

import bz2
import gzip
import json
import lzma
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.data.stand_ins import write_tar
from tests.fuzzing import VALUES, attempt, damaged, fuzz, leftovers
from vqnmt.data.batches import ParallelBatches
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import BothSides, Corpus, load_corpus, prepare_corpus
from vqnmt.data.pieces import ArchiveMembers, Piece, TsvFile
from vqnmt.data.splits import sentence_key
from vqnmt.data.tokenized import open_tokens, tokenize_pairs
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError

# Sentences, and what else a file may hold.
WORDS = st.sampled_from(["a", "the", "light", "is", "on", "ä", "光", "{name}", "x" * 3000])
SENTENCES = st.lists(WORDS, max_size=7).map(" ".join)
ODD = st.text(
    st.sampled_from("\t\r\x00\x01\x0b\x0c\x1c\x85\xa0\u200b\u2028\u202e\ufeff\ufffe\U0001f600Aé ")
    | st.characters(codec="utf-8", exclude_characters="\n"),
    max_size=12,
)
LINES = st.one_of(SENTENCES, SENTENCES, SENTENCES, ODD)
BAD_BYTES = st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".packed": lambda content: lzma.compress(content[:9]) + lzma.compress(content[9:]),
}


def compressed(content: bytes, ending: str) -> bytes:
    return PACK[ending](content)


@st.composite
def parallel(draw: st.DrawFn) -> tuple[list[bytes], str]:
    """Contents of two files and the ending of their names."""
    count = draw(st.integers(0, 9))
    counts = [count, count if draw(st.integers(0, 5)) else draw(st.integers(0, 9))]
    sides = []
    for lines in counts:
        # Few are drawn, which takes the time; copies of them make up a corpus.
        drawn = draw(st.lists(LINES, min_size=lines, max_size=lines))
        text = [f"{line} {copy}" for copy in range(4) for line in drawn]
        content = draw(st.sampled_from(["\n", "\n", "\r\n"])).join([*text, ""]).encode()
        if content and draw(st.integers(0, 9)) == 0:
            content = content[:-1]
        if draw(st.integers(0, 9)) == 0:
            place = draw(st.integers(0, len(content)))
            content = content[:place] + draw(BAD_BYTES) + content[place:]
        if draw(st.integers(0, 14)) == 0:
            code = draw(st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-32"]))
            content = content.decode(errors="replace").encode(code)
        sides.append(content)
    ending = draw(st.sampled_from(sorted(PACK)))
    files = [compressed(side, ending) for side in sides]
    if draw(st.integers(0, 3)) == 0:
        files[0] = draw(damaged(files[0] or b"x")) or b""
    return files, ending


def check_corpus(corpus: Corpus, folder: Path) -> None:
    """Check what a prepared corpus promises."""
    assert load_corpus(folder) == corpus
    parts = {"train": corpus.train, "valid": corpus.valid, **corpus.test}
    keys = [{sentence_key(source) for source in part.sources} for part in parts.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)), "a source stands in two parts"
    for name, part in parts.items():
        assert len(part.sources) == len(part.targets) > 0, name
    for source, target in zip(corpus.train.sources, corpus.train.targets, strict=True):
        assert source == " ".join(source.split()) and target == " ".join(target.split())
        assert source and target


def prepare(folder: Path, **files: TextFiles) -> Corpus | VqnmtError:
    config = CorpusConfig(
        name="files", valid_share=0.3, test_share=0.3, min_test_words=1, max_words=9, **files
    )
    corpus = attempt(prepare_corpus, config, folder / "out")
    assert leftovers(folder) == []
    if isinstance(corpus, VqnmtError):
        assert not (folder / "out").exists() or not any((folder / "out").iterdir()), corpus
    else:
        check_corpus(corpus, folder / "out")
    return corpus


@fuzz(200)
@given(made=parallel(), part=st.sampled_from(["train", "train", "valid", "test"]))
def test_two_files(made: tuple[list[bytes], str], part: str) -> None:
    files, ending = made
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{side}{ending}" for side in ("text.en", "text.de")]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        good = folder / "good"
        good.write_text("".join(f"the light {n} is on\tja {n}\n" for n in range(30)))
        text = {"train": TextFiles(tsv=str(good))}
        text[part] = TextFiles(source=str(paths[0]), target=str(paths[1]))
        found = prepare(folder, **text)
        if isinstance(found, VqnmtError):
            assert any(word in str(found) for word in ("text.en", "text.de", "corpus files: "))


@fuzz(150)
@given(
    pairs=st.lists(st.tuples(LINES, LINES), min_size=1, max_size=6),
    others=st.lists(ODD | SENTENCES, max_size=1),
    raw=st.just(b"") | st.binary(max_size=30),
    ending=st.sampled_from(sorted(PACK)),
)
def test_tsv(pairs: list[tuple[str, str]], others: list[str], raw: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"text.tsv{ending}"
        lines = [f"{source} {n}\t{target} {n}" for n in range(4) for source, target in pairs]
        lines += others
        content = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(compressed(content + raw, ending))
        found = prepare(Path(name), train=TextFiles(tsv=str(path)))
        nul = next((n for n, line in enumerate(lines, 1) if "\0" in line), None)
        if nul:
            assert f"line {nul}: a NUL byte" in str(found)
        elif others and "\t" not in others[0]:
            assert f"line {len(lines)}: no tab" in str(found)


@fuzz(100)
@given(data=st.data(), kind=st.sampled_from(["tgz", "zip"]))
def test_damaged_archives(data: st.DataObject, kind: str) -> None:
    """The right pairs, or one sentence; no text is taken from a damaged archive."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"it.{kind}"
        if kind == "tgz":
            write_tar(
                path, {"en": b"yes\nno\n" * 20, "de": b"ja\nnein\n" * 20, "more": bytes(2000)}
            )
            piece: Piece = ArchiveMembers(
                RemoteFile(path=path.name, checksum=None), {"en": "en", "de": "de"}
            )
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("more", "text\n" * 100)
                archive.writestr("text", "yes\tja\nno\tnein\n" * 20)
            file = RemoteFile(path=path.name, checksum=None)
            piece = TsvFile((file,), languages=("en", "de"), member="text")
        content = data.draw(damaged(path.read_bytes()).filter(lambda content: content is not None))
        path.write_bytes(content)
        try:
            pairs = list(piece.pairs("en", "de", Path(name)))
        except VqnmtError as error:
            assert path.name in str(error)
        else:
            assert pairs == [("yes", "ja"), ("no", "nein")] * 20
        assert os.listdir(name) in ([path.name], [])


@fuzz(60)
@given(data=st.data())
def test_damaged_folder_of_a_corpus(data: st.DataObject) -> None:
    """What is damaged is noticed: a corpus is right or is prepared again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").write_text("".join(f"the light {n} is on\tja {n}\n" for n in range(30)))
        text = TextFiles(tsv=str(folder / "text"))
        first = prepare(folder, train=text)
        assert isinstance(first, Corpus)
        sources = list(first.train.sources)
        file = data.draw(st.sampled_from(sorted((folder / "out").iterdir())))
        before = file.read_bytes()
        if file.suffix == ".json" and data.draw(st.booleans()):
            report = json.loads(before)
            report[data.draw(st.sampled_from(sorted(report)))] = data.draw(VALUES)
            content: bytes | None = json.dumps(report).encode()
        else:
            content = data.draw(damaged(before))
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        attempt(load_corpus, folder / "out")
        again = prepare(folder, train=text)
        assert isinstance(again, Corpus) and list(again.train.sources) == sources


@fuzz(60)
@given(
    pairs=st.lists(st.tuples(LINES, LINES), min_size=2, max_size=9),
    size=st.integers(280, 340),
    kind=st.sampled_from(["unigram", "bpe"]),
    budget=st.integers(1, 300),
)
def test_text_to_batches(pairs: list[tuple[str, str]], size: int, kind: str, budget: int) -> None:
    """Vocabulary, tokens and plan of whatever text has been let through."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, code in enumerate(("en", "de")):
            text = "".join(f"{pair[side]} {n}\n" for n, pair in enumerate(pairs * 6))
            (folder / code).write_bytes(text.encode())
        text = TextFiles(source=str(folder / "en"), target=str(folder / "de"))
        corpus = prepare(folder, train=text)
        if isinstance(corpus, VqnmtError):
            return
        train = corpus.train
        vocabulary = attempt(Vocabulary.train, BothSides(train), size, model_type=kind)
        if isinstance(vocabulary, VqnmtError):
            assert f"vocabulary.size is {size}" in str(vocabulary)
            advised = re.search(r"set vocabulary\.size=(\d+)", str(vocabulary))
            assert advised, vocabulary
            vocabulary = Vocabulary.train(BothSides(train), int(advised[1]), model_type=kind)
        fit = CorpusConfig().pair_filter()
        place = folder / "tokens"
        tokenize_pairs(train.sources, train.targets, vocabulary, place, fit, "fuzz")
        tokens = open_tokens(place)
        decoded = vocabulary.decode([tokens[0][i].tolist() for i in range(len(tokens[0]))])
        pairs = zip(train.sources, train.targets, strict=True)
        assert decoded == [source for source, target in pairs if not fit.reason(source, target)]
        batches = attempt(ParallelBatches, *tokens, budget, 1, 128)
        if not isinstance(batches, VqnmtError):
            plan = np.concatenate(batches.plan(0))
            assert sorted(plan.tolist()) == batches.kept.tolist()
