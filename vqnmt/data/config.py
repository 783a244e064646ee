"""What a user may ask of a corpus."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from vqnmt.checksums import file_checksum
from vqnmt.data.catalogue import Entry, catalogue_entry
from vqnmt.data.filters import PairFilter
from vqnmt.data.pieces import LocalParallel, LocalTsv, Piece
from vqnmt.data.readers import content_checksum
from vqnmt.errors import VqnmtError
from vqnmt.settings import NO_NUMBER, deciding
from vqnmt.streams import MOST_BYTES


@dataclass(kw_only=True, slots=True)
class TextFiles:
    """The user's own text: one TSV, or a pair of files; packed by gzip, bzip2 or xz, or plain."""

    tsv: str | None = field(default=None, metadata=NO_NUMBER)
    """File of lines "source, tab, target"."""

    source: str | None = field(default=None, metadata=NO_NUMBER)
    """File of source sentences, one a line."""

    target: str | None = field(default=None, metadata=NO_NUMBER)
    """File of their translations, line by line."""

    def pieces(self, key: str, most_bytes: int = MOST_BYTES) -> tuple[Piece, ...]:
        """Return what to read: nothing or one piece.

        Args:
            key: Configuration key to name in errors.
            most_bytes: Bytes of the longest line allowed.

        Raises:
            VqnmtError: Both forms are given, or half a pair.
        """
        if self.tsv and not (self.source or self.target):
            return (LocalTsv(Path(self.tsv), most_bytes),)
        if self.source and self.target and not self.tsv:
            return (LocalParallel(Path(self.source), Path(self.target), most_bytes),)
        if not (self.tsv or self.source or self.target):
            return ()
        given = ", ".join(f"{name}={value}" for name, value in asdict(self).items() if value)
        raise VqnmtError(f"{key} has {given}: give either tsv, or both source and target")


@dataclass(kw_only=True, slots=True)
class CorpusConfig:
    """Which corpus, in which direction, split and filtered how; validates itself."""

    # Raised whenever prepared files can no longer be used. A folder that stands is used as it is,
    # even where this version would normalise or split its text otherwise.
    FORMAT: ClassVar[int] = 1

    name: str = "homeassistant"
    """Entry of the catalogue; "files" for the user's own text."""

    source_language: str = "en"
    """Language code to translate from."""

    target_language: str = "de"
    """Language code to translate into."""

    cache: str = field(default="data", metadata=NO_NUMBER)
    """Folder for downloads. Files in the folder $VQNMT_DATA are preferred to it."""

    train: TextFiles = field(default_factory=TextFiles)
    """name=files only: the training text."""

    valid: TextFiles = field(default_factory=TextFiles)
    """name=files only: the validation text; empty: split off the training text."""

    test: TextFiles = field(default_factory=TextFiles)
    """name=files only: the test text; empty: split off the training text."""

    valid_share: float | None = None
    """Share of the training text to split off where there is no validation text; None: the
    catalogue's. A share, not a count, so that added text never moves a sentence across."""

    test_share: float | None = None
    """The same for the test text."""

    min_test_words: int = 4
    """Sentences that we split off have at least this many source words, or characters of a script
    without blanks between words (official sets: as is)."""

    max_words: int = 100
    """Longest side of a training pair, in words, or in characters of a script without blanks
    between words, such as Chinese: there 200 or more may be better."""

    max_ratio: float = 3.0
    """Largest (longer + 10) / (shorter + 10), lengths in characters, of a training pair. For a
    language pair such as Chinese-English, whose lengths differ by nature, take 6 or more."""

    max_line_bytes: int = field(default=MOST_BYTES, metadata=NO_NUMBER)
    """name=files only: a longer line is refused; memory grows with it."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            VqnmtError: A value is out of range or does not fit the others (names the key).
        """
        entry = catalogue_entry(self.name)
        self.pair_filter()
        self._check_languages(entry)
        self._check_files()
        if self.max_line_bytes < 1:
            raise VqnmtError(
                f"corpus.max_line_bytes is {self.max_line_bytes}: it must be 1 or more"
            )
        for key in ("valid_share", "test_share"):
            share = getattr(self, key)
            if share is not None and not 0 < share < 0.5:
                raise VqnmtError(f"corpus.{key} is {share}: it must lie between 0 and 0.5")
        if self.min_test_words < 1:
            raise VqnmtError(
                f"corpus.min_test_words is {self.min_test_words}: it must be 1 or more"
            )

    def _check_languages(self, entry: Entry) -> None:
        asked = (self.source_language, self.target_language)
        for key, code in zip(("source_language", "target_language"), asked, strict=True):
            # The code becomes part of file names.
            if not re.fullmatch(r"[A-Za-z0-9_-]+", code):
                raise VqnmtError(
                    f"corpus.{key} is {code!r}: use a language code of letters, digits and -"
                )
        if asked[0] == asked[1]:
            raise VqnmtError(f"corpus.source_language and target_language are both {asked[0]!r}")
        if entry.languages and set(asked) != set(entry.languages):
            raise VqnmtError(
                f"corpus.name={self.name} has {' and '.join(entry.languages)}, but "
                f"corpus.source_language and target_language ask for {' and '.join(asked)}"
            )

    def _check_files(self) -> None:
        given = [key for key in ("train", "valid", "test") if getattr(self, key).pieces(key)]
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
        if self.name == "files" and "train" not in given:
            raise VqnmtError(
                "corpus.train is empty: give corpus.train.tsv, or corpus.train.source and "
                "corpus.train.target"
            )

    def pair_filter(self) -> PairFilter:
        """Return the training pairs' filter."""
        return PairFilter(max_words=self.max_words, max_ratio=self.max_ratio)

    def entry(self) -> Entry:
        """Return the catalogue's entry, with the user's own files and shares in place."""
        entry = catalogue_entry(self.name)
        train, valid, test = (
            getattr(self, key).pieces(key, self.max_line_bytes)
            for key in ("train", "valid", "test")
        )
        return Entry(
            languages=entry.languages,
            licence=entry.licence,
            attribution=entry.attribution,
            train=entry.train or train,
            valid=entry.valid or valid,
            tests=entry.tests or ({"test": test} if test else {}),
            valid_share=entry.valid_share if self.valid_share is None else self.valid_share,
            test_share=entry.test_share if self.test_share is None else self.test_share,
            drop_copies=entry.drop_copies,
            pairs=entry.pairs,
        )

    def fingerprint(self) -> str:
        """Return a digest of all that decides the prepared files: values, checksums, own text.

        The user's own files count by what they hold, decompressed, wherever they stand.

        Raises:
            VqnmtError: One of the user's own files is missing.
        """
        if self.name != "files":
            return self.older_fingerprint()
        parts = {key: getattr(self, key).pieces(key) for key in ("train", "valid", "test")}
        entry = replace(self.entry(), train=(), valid=(), tests={})
        contents = {
            key: [[content_checksum(path) for path in self._own(piece)] for piece in pieces]
            for key, pieces in parts.items()
        }
        return _digest([self.FORMAT, deciding(self), contents, repr(entry)])

    def older_fingerprint(self) -> str:
        """Return the fingerprint of older versions, which covers the places of own files too.

        Raises:
            VqnmtError: One of the user's own files is missing, or is a pipe.
        """
        values: dict[str, Any] = {key: value for key, value in asdict(self).items()}
        del values["cache"], values["max_line_bytes"]
        pieces = [p for key in ("train", "valid", "test") for p in getattr(self, key).pieces(key)]
        contents = [file_checksum(path) for piece in pieces for path in self._own(piece)]
        return _digest([self.FORMAT, values, contents, repr(self.entry())])

    def _own(self, piece: Piece) -> list[Path]:
        files = piece.files(self.source_language, self.target_language)
        return [file for file in files if isinstance(file, Path)]


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
