"""A prepared corpus: plain UTF-8 files, one sentence a line, and corpus.json with their checksums.

    corpus.json            written last: fingerprint of the configuration, what was dropped and
                           why, licence, attribution, checksums of the inputs and of these files
    train.<lang>  valid.<lang>  test.<name>.<lang>
    train_counts.txt       how often each training pair occurs, where that is more than once
    test.labels.<lang>     of interface strings: labels, each with its translations between tabs

Source sentences are unique across the parts: one that is in a test set is dropped from valid and
train, one that is in valid is dropped from train. Filters apply to training pairs only; an official
test set is kept as it is.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from vqnmt.checksums import file_checksum
from vqnmt.data.build import COUNTS, LABELS, build_corpus, read_report
from vqnmt.data.config import CorpusConfig
from vqnmt.data.lines import Lines
from vqnmt.errors import VqnmtError


@dataclass(frozen=True, slots=True)
class ParallelText:
    """Sentences and their translations: `targets[i]` translates `sources[i]`.

    Args:
        sources: The sentences.
        targets: A translation of each, the most frequent one where there are several.
        counts: How often each pair occurs, (pairs,) int64; None: each is as important.
        references: All translations of each source, in a set of labels; else None.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    counts: NDArray[np.int64] | None = field(default=None, compare=False)
    references: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sources)


@dataclass(frozen=True, slots=True)
class BothSides:
    """All sentences of a parallel text, sources then targets, to go through again and again."""

    text: ParallelText

    def __iter__(self) -> Iterator[str]:
        """Go through the sentences."""
        yield from self.text.sources
        yield from self.text.targets


@dataclass(frozen=True, slots=True)
class Corpus:
    """The text of a run: its pairs, its test sets and their origin.

    Args:
        name: Name in the catalogue.
        source_language: Code such as "en".
        target_language: Code such as "de".
        train: Training pairs, which stay on disk: `Lines`.
        valid: Validation pairs.
        test: Test sets by name.
        report: Content of corpus.json.
    """

    name: str
    source_language: str
    target_language: str
    train: ParallelText
    valid: ParallelText
    test: dict[str, ParallelText]
    report: dict[str, Any]

    @property
    def held_out_sources(self) -> list[str]:
        """Sources of valid and of all test sets."""
        return [source for text in (self.valid, *self.test.values()) for source in text.sources]


def prepare_corpus(config: CorpusConfig, folder: Path | str) -> Corpus:
    """Return the corpus of `config`, built into `folder` unless a valid one is there already.

    All processes call this, of all machines, which see the same folder.

    Args:
        config: What to prepare.
        folder: Where the plain files and corpus.json live; rebuilt when the configuration, the
            user's files or the prepared files have changed.

    Raises:
        VqnmtError: A file is missing, damaged, misaligned or not to be had; or nothing is left
            of a part. The folder is then without corpus.json, or as it was.
    """
    folder = Path(folder)
    fingerprint = config.fingerprint()
    corpus = _prepared(folder, fingerprint) if PartialState().is_main_process else None
    # One process decides for all, because they look at different times and must build together.
    missing, expected = broadcast_object_list([corpus is None, fingerprint])
    if fingerprint != expected:
        raise VqnmtError(
            f"{folder}: the text or the settings differ from those of the first process: the same "
            "files and command line must be there on all machines"
        )
    if missing:
        build_corpus(config, folder, fingerprint)
    return corpus or load_corpus(folder)


def _prepared(folder: Path, fingerprint: str) -> Corpus | None:
    """Return the corpus in `folder`; None if it is another one or damaged."""
    report = read_report(folder)
    if report is not None and report["fingerprint"] == fingerprint:
        try:
            return load_corpus(folder)
        except VqnmtError as error:
            print(f"{error}: preparing the corpus again", file=sys.stderr, flush=True)
    return None


def load_corpus(folder: Path | str) -> Corpus:
    """Return the corpus that `prepare_corpus` left in `folder`, its files verified.

    Raises:
        VqnmtError: There is no valid corpus.json, or a file differs from its checksum there.
    """
    folder = Path(folder)
    report = read_report(folder)
    if report is None:
        raise VqnmtError(
            f"{folder / 'corpus.json'}: missing, damaged or of another version: prepare the corpus "
            "again"
        )
    for name, facts in report["files"].items():
        found = file_checksum(folder / name)
        if found != facts["checksum"]:
            raise VqnmtError(
                f"{folder / name}: checksum {found} instead of {facts['checksum']} in corpus.json"
            )
    source, target = report["source_language"], report["target_language"]

    def text(part: str) -> ParallelText:
        sources, targets = (list(Lines(folder / f"{part}.{code}")) for code in (source, target))
        if part != LABELS:
            return ParallelText(sources, targets)
        references = [line.split("\t") for line in targets]
        return ParallelText(sources, [first for first, *_ in references], references=references)

    counts = None
    if COUNTS in report["files"]:
        counts = np.fromstring((folder / COUNTS).read_text(encoding="ascii"), np.int64, sep="\n")
    return Corpus(
        name=report["name"],
        source_language=source,
        target_language=target,
        train=ParallelText(
            Lines(folder / f"train.{source}"), Lines(folder / f"train.{target}"), counts
        ),
        valid=text("valid"),
        test={name: text(f"test.{name}") for name in report["tests"]},
        report=report,
    )
