"""Building a prepared corpus: the training text is streamed, and judged by all cores."""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from accelerate import PartialState

from vqnmt.checksums import file_checksum
from vqnmt.data.catalogue import Entry
from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus_filter import OUTCOMES, Arrays, CorpusFilter
from vqnmt.data.pieces import LocalTsv, Piece
from vqnmt.data.readers import CountedPair, Pair, hold, read_counted_tsv
from vqnmt.data.splits import sentence_key
from vqnmt.data.workers import available_cores, map_in_order
from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_open, atomic_write_lines, atomic_write_text
from vqnmt.progress import Progress
from vqnmt.splits import HashSplit
from vqnmt.streams import count_lines, open_file

# Pairs that are judged at once, between two reports of progress, and their characters: fewer pairs
# where these are long.
_CHUNK = 250
_CHARACTERS = 1 << 20
# The part of held-out labels, and the file of counts, which only stands where one is above 1.
LABELS = "test.labels"
COUNTS = "train_counts.txt"
# Starting processes takes as long as one needs for some ten thousand pairs.
_SEVERAL_PROCESSES = 100_000


def build_corpus(config: CorpusConfig, folder: Path, fingerprint: str) -> None:
    """Write the prepared files of `config` and then corpus.json into `folder`.

    All processes call this, of all machines, which see the same folder; the first of them works.

    Raises:
        VqnmtError: The text cannot be had or read, or a part comes out empty.
    """
    builder = _Builder(config, folder)
    builder.spare_inputs()
    if PartialState().is_main_process:
        builder.build(fingerprint)
    PartialState().wait_for_everyone()


def read_report(folder: Path) -> dict[str, Any] | None:
    """Return the content of corpus.json; None where there is none, or a damaged or other one."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        report = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        if (
            isinstance(report, dict)
            and report.get("format") == CorpusConfig.FORMAT
            and report.get("digest") == _report_digest(report)
        ):
            return report
    return None


def _report_digest(report: dict[str, Any]) -> str:
    """Return a digest of everything else in corpus.json: a changed report is not trusted."""
    rest = {key: value for key, value in report.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Builder:
    """The state of one pass: open outputs, sentences held out, counts of what was dropped."""

    def __init__(self, config: CorpusConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.entry: Entry = config.entry()
        self.languages = (config.source_language, config.target_language)
        self.cache = Path(config.cache)
        self.split = HashSplit(
            valid_share=0.0 if self.entry.valid else self.entry.valid_share,
            test_share=0.0 if self.entry.tests else self.entry.test_share,
        )
        # Pairs kept and pairs dropped by reason, of each part.
        self.kept: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {}
        self.outputs: dict[str, tuple[IO[bytes], IO[bytes]]] = {}
        # Sources that the split has given to valid and test.
        self.keys: dict[str, set[str]] = {"valid": set(), "test": set()}
        # The mark of each training pair and how often it has occurred, duplicates apart: they are
        # few, and cost more.
        self.marks, self.counts = array("Q"), array("Q")
        self.again: Counter[int] = Counter()
        self.counted = False
        # By key, each label that is held out with its translations.
        self.labels: dict[str, tuple[str, Counter[str]]] = {}

    def build(self, fingerprint: str) -> None:
        """Write every part to temporary files, put them in place, then write corpus.json."""
        expected = self._expected()
        with ExitStack() as stack:
            for part in self._parts():
                first, second = (
                    stack.enter_context(atomic_open(self.folder / f"{part}.{language}"))
                    for language in self.languages
                )
                self.outputs[part] = (first, second)
                self.dropped[part] = Counter()
            for part, pairs in self.official.items():
                self._copy_official(part, pairs)
            seen: set[int] = set()  # hashes instead of texts: some 80 bytes a pair
            read = 0
            for test, judged in self._judged(expected):
                self._place(judged, seen, test)
                read += len(judged["marks"])
            self._check_not_empty(read)
            # From here on the folder's old files go; without corpus.json they are not valid.
            old = self._remove_old()
        self._write_labels()
        self._write_counts()
        for name in set(old) - self._names().keys():
            (self.folder / name).unlink(missing_ok=True)
        self._write_report(fingerprint, read)

    def _parts(self) -> list[str]:
        names = self.entry.tests or dict.fromkeys(self._split_tests())
        return ["train", "valid", *(f"test.{name}" for name in names)]

    def _split_tests(self) -> tuple[str, ...]:
        """Name the test set that each piece of the training text gives."""
        return self.entry.test_names or ("test",) * len(self.entry.train)

    def _files(self) -> Iterator[Path | RemoteFile]:
        for pieces in (self.entry.train, self.entry.valid, *self.entry.tests.values()):
            for piece in pieces:
                yield from piece.files(*self.languages)

    def _counted_pairs(self, pieces: Iterable[Piece]) -> Iterator[CountedPair]:
        """Read training text with its counts, 1 where it states none."""
        for piece in pieces:
            if self.config.counts and isinstance(piece, LocalTsv):
                yield from read_counted_tsv(piece.path, piece.most_bytes)
            else:
                for source, target in piece.pairs(*self.languages, self.cache):
                    yield source, target, 1

    def _pairs(self, pieces: Iterable[Piece]) -> Iterator[Pair]:
        for piece in pieces:
            yield from piece.pairs(*self.languages, self.cache)

    @cached_property
    def official(self) -> dict[str, list[Pair]]:
        """The official sets by the names of their parts."""
        pieces = {f"test.{name}": pieces for name, pieces in self.entry.tests.items()}
        if self.entry.valid:
            pieces["valid"] = self.entry.valid
        name = f"corpus {self.config.name}"
        return {part: hold(self._pairs(its), f"{name}, {part}") for part, its in pieces.items()}

    @cached_property
    def corpus_filter(self) -> CorpusFilter:
        """The filter of the training text."""
        keys: dict[str, set[str]] = {"test": set(), "valid": set()}
        for part, pairs in self.official.items():
            keys[part.partition(".")[0]].update(sentence_key(source) for source, _ in pairs)
        return CorpusFilter(
            split=self.split,
            label_split=HashSplit(valid_share=0.0, test_share=self.entry.label_share),
            min_words=self.config.min_test_words,
            fit=self.config.pair_filter(),
            drop_copies=self.entry.drop_copies,
            official=keys,
        )

    def _write(self, part: str, sources: Sequence[bytes], targets: Sequence[bytes]) -> None:
        for output, texts in zip(self.outputs[part], (sources, targets), strict=True):
            output.write(b"\n".join([*texts, b""]))
        self.kept[part] += len(sources)

    def _copy_official(self, part: str, pairs: list[Pair]) -> None:
        """Copy an official set; only a validation sentence that a test set has is left out."""
        for source, target in pairs:
            if part == "valid" and sentence_key(source) in self.corpus_filter.official["test"]:
                self.dropped[part]["source is in test"] += 1
            else:  # as it is: white space included
                self._write(part, [source.encode()], [target.encode()])

    def _judged(self, expected: int | None) -> Iterator[tuple[str, Arrays]]:
        """Judge the training text, a large one by all cores, chunk by chunk and in order.

        Each chunk comes with the name of the test set that is split off it.
        """
        processes = available_cores() if (expected or 0) >= _SEVERAL_PROCESSES else 1
        named = zip(self._split_tests(), self.entry.train, strict=True)
        with Progress(f"corpus {self.config.name}", expected, "pairs") as progress:
            try:
                for test, group in groupby(named, key=lambda one: one[0]):
                    chunks = _chunks(self._counted_pairs(piece for _, piece in group))
                    for judged in map_in_order(self.corpus_filter, chunks, processes):
                        yield test, judged
                        progress.update(len(judged["marks"]))
            except BrokenExecutor as error:
                raise VqnmtError(
                    f"corpus {self.config.name}, after pair {progress.done:,}: a process that "
                    "reads it was ended from outside, as happens when memory runs out: start "
                    "again with more"
                ) from error

    def _place(self, judged: Arrays, seen: set[int], test: str) -> None:
        """Write or drop the pairs of a chunk; `seen` has the marks of those before them."""
        dropped = self.dropped["train"]
        train: tuple[list[bytes], list[bytes]] = ([], [])
        sources, targets = (
            iter(judged[side].tobytes().split(b"\n")) for side in ("sources", "targets")
        )
        values = (judged[key].tolist() for key in ("marks", "outcomes", "counts"))
        for mark, outcome, count in zip(*values, strict=True):
            part, reason = OUTCOMES[outcome]
            source, target = (next(sources), next(targets)) if part else (b"", b"")
            if part == "labels":
                self._hold_label_out(source.decode(), target.decode(), count)
            if mark in seen:
                dropped["duplicate"] += 1
                if part == "train":
                    self.again[mark] += count
                continue
            if mark:
                seen.add(mark)
            if part is None:
                dropped[reason] += 1
            elif part == "train":
                train[0].append(source)
                train[1].append(target)
                self.marks.append(mark)
                self.counts.append(count)
            elif part != "labels":
                self._hold_out(f"test.{test}" if part == "test" else part, source, target)
        self._write("train", *train)

    def _expected(self) -> int | None:
        """Count the pairs of the user's own files; of the catalogue, take its word."""
        own = [
            file
            for piece in self.entry.train
            for file in piece.files(*self.languages)[:1]
            if isinstance(file, Path)
        ]
        if not own:
            return self.entry.pairs
        counts = []
        for file in own:
            with open_file(file) as stream:
                counts.append(count_lines(stream, self.config.max_line_bytes))
        return sum(counts)

    def _hold_out(self, part: str, source: bytes, target: bytes) -> None:
        """Keep the first translation of a source that the split gives to valid or test."""
        key, known = sentence_key(source.decode()), self.keys[part.partition(".")[0]]
        if key in known:
            self.dropped[part]["further translation"] += 1
        else:
            known.add(key)
            self._write(part, [source], [target])

    def _hold_label_out(self, source: str, target: str, count: int) -> None:
        """Keep all translations of a label, and how often each occurs."""
        _, targets = self.labels.setdefault(sentence_key(source), (source, Counter()))
        targets[target] += count

    def _write_labels(self) -> None:
        """Write each label with its translations, the most frequent first, between tabs."""
        if not self.labels:
            return
        self.kept[LABELS], self.dropped[LABELS] = len(self.labels), Counter()
        sources, targets = self.labels.values(), [counts for _, counts in self.labels.values()]
        ranked = ("\t".join(text for text, _ in counts.most_common()) for counts in targets)
        for language, texts in zip(self.languages, ((s for s, _ in sources), ranked), strict=True):
            atomic_write_lines(self.folder / f"{LABELS}.{language}", texts)

    def _write_counts(self) -> None:
        """Write how often each training pair occurs, line by line."""
        if self.again or max(self.counts) > 1:
            self.counted = True
            counts = zip(self.marks, self.counts, strict=True)
            lines = (str(count + self.again.get(mark, 0)) for mark, count in counts)
            atomic_write_lines(self.folder / COUNTS, lines)

    def _names(self) -> dict[str, str]:
        """Return the part of each file that has been written."""
        names = {f"{part}.{code}": part for part in self.dropped for code in self.languages}
        return names | ({COUNTS: "train"} if self.counted else {})

    def _check_not_empty(self, read: int) -> None:
        name = self.config.name
        for part, dropped in self.dropped.items():
            if self.kept[part]:
                continue
            place = part.partition(".")[0]
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
            (only, *others) = [*dropped, ""]
            if only.startswith("source is in ") and others == [""]:
                other = only.removeprefix("source is in ")
                given = getattr(self.config, place).pieces(place)
                same = given and given == getattr(self.config, other).pieces(other)
                raise VqnmtError(
                    f"corpus {name}: corpus.{place} and corpus.{other} "
                    + ("are the same file" if same else f"share all sources of corpus.{place}")
                    + f": give corpus.{place} other text"
                    + (", or none, to split it off the training text" if place == "valid" else "")
                )
            if part == "train":
                raise VqnmtError(
                    f"corpus {name}: of {read:,} pairs read, none is left to train on (dropped: "
                    f"{reasons or 'none'}; held out: {sum(self.kept.values()):,}): check the "
                    "files and corpus.max_words, corpus.max_ratio"
                )
            share = f"{place}_share"
            remedy = (
                "its files have none"
                if (self.entry.valid if part == "valid" else self.entry.tests)
                else f"raise corpus.{share} ({getattr(self.entry, share)}), lower "
                f"corpus.min_test_words ({self.config.min_test_words}) or give files of its own"
            )
            raise VqnmtError(f"corpus {name}: no pair is left for {part}: {remedy}")

    def spare_inputs(self) -> None:
        """Refuse to write over the user's own text."""
        outputs = {
            (self.folder / f"{part}.{language}").resolve()
            for part in self._parts()
            for language in self.languages
        }
        for file in self._files():
            if isinstance(file, Path) and file.resolve() in outputs:
                raise VqnmtError(
                    f"{file}: the prepared corpus would be written over this file: "
                    "prepare it in another folder"
                )

    def _remove_old(self) -> list[str]:
        """Remove corpus.json and list the files that it named."""
        report = read_report(self.folder)
        (self.folder / "corpus.json").unlink(missing_ok=True)
        # A damaged report is not trusted: it might name anybody's files.
        return [] if report is None else list(report["files"])

    def _write_report(self, fingerprint: str, read: int) -> None:
        values = asdict(self.config)
        report: dict[str, Any] = {
            "format": CorpusConfig.FORMAT,
            "fingerprint": fingerprint,
            "name": self.config.name,
            "source_language": self.languages[0],
            "target_language": self.languages[1],
            "licence": self.entry.licence,
            "attribution": self.entry.attribution,
            "tests": [
                part.removeprefix("test.")
                for part in self.dropped
                if part != "train" and part != "valid"
            ],
            "pairs_read": read,
            "parts": {
                part: {"pairs": self.kept[part], "dropped": dict(self.dropped[part])}
                for part in self.dropped
            },
            "inputs": self._inputs(),
            "files": {
                name: {
                    "lines": self.kept[part],
                    "checksum": file_checksum(self.folder / name),
                }
                for name, part in self._names().items()
            },
            "config": values,
        }
        report["digest"] = _report_digest(report)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        atomic_write_text(self.folder / "corpus.json", text)

    def _inputs(self) -> dict[str, str]:
        """Return the SHA-256 of every input file, by its path; of choices, the one there is."""
        inputs: dict[str, str] = {}
        folders = [Path(os.environ.get("VQNMT_DATA") or self.cache), self.cache]
        for file in self._files():
            if isinstance(file, Path):
                inputs[str(file)] = file_checksum(file)
                continue
            paths = (folder / file.path for folder in folders)
            path = next((path for path in paths if path.is_file()), None)
            if path is not None and file.path not in inputs:
                inputs[file.path] = file_checksum(path)
        return inputs


def _chunks(pairs: Iterable[CountedPair]) -> Iterator[list[CountedPair]]:
    """Yield the pairs in chunks of no more than `_CHUNK` pairs, and few more than `_CHARACTERS`."""
    chunk: list[CountedPair] = []
    characters = 0
    for pair in pairs:
        chunk.append(pair)
        characters += len(pair[0]) + len(pair[1])
        if len(chunk) == _CHUNK or characters >= _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
