"""Settings of a corpus: which text, in which direction, split and filtered how."""

import glob
import hashlib
import json
import os
from dataclasses import InitVar, asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from vqnmt.data.catalogue import Entry, catalogue_entry
from vqnmt.data.filters import PairFilter, Ratio
from vqnmt.data.pieces import LocalParallel, LocalStrings, LocalTsv, Piece
from vqnmt.data.readers import content_checksum
from vqnmt.errors import VqnmtError
from vqnmt.settings import (
    NO_NUMBER,
    PositiveInt,
    Settings,
    above,
    below,
    check,
    deciding,
    matching,
)
from vqnmt.streams import MOST_BYTES

# It becomes part of file names.
Language = Annotated[str, matching("[A-Za-z0-9_-]+", "a language code of letters, digits, - and _")]
Share = Annotated[float, above(0), below(0.5)]
# The fields of `CorpusConfig` that name the user's own text.
_PARTS = ("train", "valid", "test")


@dataclass(kw_only=True, slots=True)
class TextFiles:
    """The user's own text: one TSV, or a pair of files, packed by gzip, bzip2 or xz or plain; or
    string files and translation memories.
    """

    tsv: str | None = field(default=None, metadata=NO_NUMBER)
    """File of lines "source, tab, target"."""

    source: str | None = field(default=None, metadata=NO_NUMBER)
    """File of source sentences, one a line."""

    target: str | None = field(default=None, metadata=NO_NUMBER)
    """File of their translations, line by line."""

    files: list[str] = field(default_factory=list, metadata=NO_NUMBER)
    """PO, XLIFF, TMX or TSV files, whose reviewed pairs are taken; * and ? in a name match any
    characters."""

    def pieces(self, key: str, most_bytes: int = MOST_BYTES) -> tuple[Piece, ...]:
        """Return what to read: nothing or one piece.

        Args:
            key: Name of this text in `CorpusConfig`, for errors.
            most_bytes: Bytes of the longest line allowed.

        Raises:
            VqnmtError: Both forms are given, or half a pair.
        """
        if self.tsv and not (self.source or self.target or self.files):
            return (LocalTsv(Path(self.tsv), most_bytes),)
        if self.source and self.target and not (self.tsv or self.files):
            return (LocalParallel(Path(self.source), Path(self.target), most_bytes),)
        if not (self.tsv or self.source or self.target):
            return self._strings(key)
        given = ", ".join(f"{name}={value}" for name, value in asdict(self).items() if value)
        raise VqnmtError(
            f"corpus.{key} has {given}: give either tsv, or source and target, or files"
        )

    def _strings(self, key: str) -> tuple[Piece, ...]:
        paths: list[Path] = []
        for name in self.files:
            found = sorted(glob.glob(os.path.expanduser(name), recursive=True))
            if not found:
                raise VqnmtError(f"corpus.{key}.files has {name}, which matches no file")
            paths += map(Path, found)
        return tuple(map(LocalStrings, dict.fromkeys(paths)))


@dataclass(kw_only=True, slots=True)
class CorpusConfig(Settings):
    """Which corpus, in which direction, split and filtered how."""

    group: InitVar[str] = "corpus"

    # Raised whenever prepared files can no longer be used. A folder that stands is used as it is,
    # even where this version would normalise or split its text otherwise.
    FORMAT: ClassVar[int] = 1

    name: str = "homeassistant"
    """Entry of the catalogue; "files" for the user's own text."""

    source_language: Language = "en"
    """Language code to translate from."""

    target_language: Language = "de"
    """Language code to translate into."""

    cache: str = field(default="data", metadata=NO_NUMBER)
    """Folder for downloads. Files in the folder $VQNMT_DATA are preferred to it."""

    train: TextFiles = field(default_factory=TextFiles)
    """name=files only: the training text."""

    valid: TextFiles = field(default_factory=TextFiles)
    """name=files only: the validation text; empty: split off the training text."""

    test: TextFiles = field(default_factory=TextFiles)
    """name=files only: the test text; empty: split off the training text."""

    valid_share: Share | None = None
    """Share of the training text to split off where there is no validation text; None: the
    catalogue's. A share, not a count, so that added text never moves a sentence across."""

    test_share: Share | None = None
    """The same for the test text."""

    min_test_words: PositiveInt = 4
    """Sentences that we split off have at least this many source words, or characters of a script
    without blanks between words (official sets: as is)."""

    max_words: PositiveInt = 100
    """Longest side of a training pair, in words, or in characters of a script without blanks
    between words, such as Chinese: there 200 or more may be better."""

    max_ratio: Ratio = 3.0
    """Largest (longer + 10) / (shorter + 10), lengths in characters, of a training pair. For a
    language pair such as Chinese-English, whose lengths differ by nature, take 6 or more."""

    counts: bool = False
    """name=files only: whether the third column of train.tsv is how often a pair occurs."""

    max_line_bytes: PositiveInt = field(default=MOST_BYTES, metadata=NO_NUMBER)
    """name=files only: a longer line is refused; memory grows with it."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that languages and files fit the name."""
        check(self, group)
        entry = catalogue_entry(self.name)
        self._check_languages(entry)
        self._check_files()

    def _check_languages(self, entry: Entry) -> None:
        asked = (self.source_language, self.target_language)
        if asked[0] == asked[1]:
            raise VqnmtError(f"corpus.source_language and target_language are both {asked[0]!r}")
        if entry.languages and set(asked) != set(entry.languages):
            raise VqnmtError(
                f"corpus.name={self.name} has {' and '.join(entry.languages)}, but "
                f"corpus.source_language and target_language ask for {' and '.join(asked)}"
            )

    def _check_files(self) -> None:
        given = [key for key in _PARTS if getattr(self, key).pieces(key)]
        if self.name != "files" and given:
            first = next(key for key, file in asdict(getattr(self, given[0])).items() if file)
            raise VqnmtError(
                f"corpus.{given[0]}.{first} is set, but corpus.name is {self.name!r}: "
                "use corpus=files for your own text"
            )
        if self.name != "files" and self.max_line_bytes != MOST_BYTES:
            raise VqnmtError(
                f"corpus.max_line_bytes is {self.max_line_bytes}, but corpus.name is "
                f"{self.name!r}: it is for corpus=files"
            )
        if self.counts and not self.train.tsv:
            raise VqnmtError(
                "corpus.counts is true, but corpus.train.tsv is empty: counts are its third column"
            )
        if self.name == "files" and "train" not in given:
            raise VqnmtError(
                "corpus.train is empty: give corpus.train.tsv, or corpus.train.source and "
                "corpus.train.target, or corpus.train.files"
            )

    def pair_filter(self) -> PairFilter:
        """Return the training pairs' filter."""
        return PairFilter(max_words=self.max_words, max_ratio=self.max_ratio)

    def entry(self) -> Entry:
        """Return the catalogue's entry, with the user's own files and shares in place."""
        entry = catalogue_entry(self.name)
        train, valid, test = (getattr(self, key).pieces(key, self.max_line_bytes) for key in _PARTS)
        return replace(
            entry,
            train=entry.train or train,
            valid=entry.valid or valid,
            tests=entry.tests or ({"test": test} if test else {}),
            valid_share=entry.valid_share if self.valid_share is None else self.valid_share,
            test_share=entry.test_share if self.test_share is None else self.test_share,
        )

    def fingerprint(self) -> str:
        """Return a digest of all that decides the prepared files: values, checksums, own text.

        The user's own files count by what they hold, decompressed, wherever they stand.

        Raises:
            VqnmtError: One of the user's own files is missing.
        """
        values = {key: value for key, value in deciding(self).items() if key != "counts" or value}
        if self.name != "files":
            nothing = {"tsv": None, "source": None, "target": None}  # as run folders have it
            values |= dict.fromkeys(_PARTS, nothing)
            return _digest([self.FORMAT, values, [], repr(self.entry())])
        entry = replace(self.entry(), train=(), valid=(), tests={})
        contents = {
            key: [
                [content_checksum(path) for path in self._own(piece)]
                for piece in getattr(self, key).pieces(key)
            ]
            for key in _PARTS
        }
        return _digest([self.FORMAT, values, contents, repr(entry)])

    def _own(self, piece: Piece) -> list[Path]:
        files = piece.files(self.source_language, self.target_language)
        return [file for file in files if isinstance(file, Path)]


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
