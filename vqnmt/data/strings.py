"""Interface strings in packages of pip and npm, joined on their keys; nothing of them is run.

JSON     text by its path of keys; gettext's own JSON and VS Code's bundles have English as key
gettext  .po files, whose keys are the English texts
scripts  English that stands in JavaScript, found by a pattern; arrays of numbered messages
"""

import ast
import json
import re
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polib

from vqnmt.data.normalization import is_translatable, normalize
from vqnmt.data.pieces import flatten, reading_archive
from vqnmt.data.readers import Pair
from vqnmt.downloads import RemoteFile, fetch
from vqnmt.errors import VqnmtError

# Regions by which packages name the country of a language, where it is not the code itself.
_REGIONS = {"en": "(?:US|EN)"}
# A translation by the path of its keys. In gettext the last one is the English text.
Texts = dict[tuple[str, ...], str]
# What may be the same in both languages: up to three words ("Status", "Wi-Fi"). Longer texts have
# not been translated, and placeholders alone say nothing.
_LABEL = re.compile(r"[\w./-]+(?: [\w./-]+){0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageStrings:
    """The translation files of one project.

    Args:
        package: Wheel or npm package of all languages.
        packages: Packages of single languages, where each has its own.
        member: Pattern of the members' names with `{language}`; what its groups match tells
            components apart.
        english: The same for English, where its files are named otherwise.
        sources: Packages of the scripts that have the English texts, if `package` has not.
        message: Pattern of an English text in a script: its key, and a literal in quotes.
        keys: Pattern that a path of keys must have, joined by "/".
        english_keys: Whether the last key is the English text.
    """

    member: str
    package: RemoteFile | None = None
    packages: dict[str, RemoteFile] = field(default_factory=dict)
    english: str = ""
    sources: tuple[RemoteFile, ...] = ()
    message: str = ""
    keys: str = ""
    english_keys: bool = False

    def files(self, source: str, target: str) -> list[RemoteFile]:
        """List the packages that are read for these two languages; none where one is missing."""
        own = [self.packages.get(code) for code in (source, target) if not self._in_sources(code)]
        files = [self.package] if self.package else own
        return [*(file for file in files if file), *self.sources] if all(files) else []

    def _places(self, language: str) -> tuple[RemoteFile, ...]:
        if self._in_sources(language) and self.sources:
            return self.sources
        return (self.package or self.packages[language],)

    def _in_sources(self, language: str) -> bool:
        return language == "en" and (self.english_keys or bool(self.message))

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the texts of the keys that both languages have, in the order of the members."""
        if not self.files(source, target):
            return
        if self.english_keys and "en" in (source, target):
            other = target if source == "en" else source
            for key, text in self._texts(other, cache).items():
                english = key[-1].rpartition("\x04")[2]  # gettext's mark between context and text
                if not english.isdecimal():  # as are the other forms of a list
                    yield (english, text) if source == "en" else (text, english)
            return
        texts = self._texts(target, cache)
        for key, text in self._texts(source, cache).items():
            if key in texts:
                yield text, texts[key]

    def _texts(self, language: str, cache: Path) -> Texts:
        """Read all texts of a language by component and keys."""
        pattern = self.english if language == "en" and self.english else self.member
        expression = re.compile(pattern.replace("{language}", _spelling(language)))
        wanted = re.compile(self.keys)
        texts: Texts = {}
        for file in self._places(language):
            path = fetch(file, cache)
            with reading_archive(path):
                for match, content in _members(path, expression):
                    name, script = match[0], content.decode("utf-8-sig")
                    found = (
                        _literals(script, self.message)
                        if self._in_sources(language)
                        else _parse(name, script)
                    )
                    for key, text in found:
                        # A file may name its own language in the path, which tells nothing.
                        key = tuple(part for part in key if part != language)
                        if text.strip() and wanted.search("/".join(key)):
                            texts.setdefault((*match.groups(""), *key), text)
        return texts


def _parse(name: str, content: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if name.endswith(".po"):
        return _gettext(content)
    if name.endswith(".json.js"):  # one array of messages, by whose numbers VS Code knows them
        content = content[content.index("[") : content.rindex("]") + 1]
        content = re.sub(r"^\tundefined", "\tnull", content, flags=re.MULTILINE)
    return flatten(json.loads(content, strict=False))


def _spelling(language: str) -> str:
    """Return a pattern of the ways in which packages write a language code."""
    name, _, region = language.replace("_", "-").partition("-")
    if region:
        return f"{name}[-_]{region}"
    return f"{name}(?:[-_]{_REGIONS.get(name, name.upper())})?"


def _members(path: Path, expression: re.Pattern[str]) -> list[tuple[re.Match[str], bytes]]:
    """Read the members of a wheel or tarball that match, shortest names first, then by name."""
    found = []
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if match := expression.fullmatch(name):
                    found.append((match, wheel.read(name)))
    else:
        with tarfile.open(path) as tarball:
            for entry in tarball:
                match = expression.fullmatch(entry.name)
                if match and (content := tarball.extractfile(entry)):
                    found.append((match, content.read()))
    return sorted(found, key=lambda member: (len(member[0][0]), member[0][0]))


def _gettext(content: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the finished translations of a .po file; their last key is the English text."""
    for entry in polib.pofile(content):
        if entry.obsolete or entry.fuzzy:
            continue
        forms = entry.msgstr_plural
        yield (entry.msgctxt or "", entry.msgid), forms[0] if forms else entry.msgstr
        if forms:
            yield (entry.msgctxt or "", entry.msgid_plural), forms[max(forms)]


def _literals(script: str, message: str) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, literal in re.findall(message, script):
        yield (key,), ast.literal_eval(literal)  # a constant in quotes: nothing is run


@dataclass(frozen=True, slots=True)
class JoinedStrings:
    """The strings of many projects, each as often as it occurs.

    A string that equals its source is dropped, as nobody has translated it, but for a label that
    two components agree on and that is not translated more often: "Status" in German.
    """

    parts: tuple[PackageStrings, ...]

    def files(self, source: str, target: str) -> list[Path | RemoteFile]:
        """List the packages of all projects that have both languages."""
        files = [file for part in self.parts for file in part.files(source, target)]
        return list({file.path: file for file in files}.values())

    def pairs(self, source: str, target: str, cache: Path) -> Iterator[Pair]:
        """Yield the pairs, project by project.

        Raises:
            VqnmtError: No project has both languages.
        """
        pairs = [
            (normalize(first), normalize(second))
            for part in self.parts
            for first, second in part.pairs(source, target, cache)
        ]
        if not pairs:
            raise VqnmtError(
                f"corpus.source_language={source} and corpus.target_language={target}: no project "
                "has strings in both: use codes that projects translate into, such as en, de or fr"
            )
        others: dict[str, int] = defaultdict(int)
        copies: Counter[str] = Counter()
        for first, second in pairs:
            if first == second:
                copies[first] += 1
            else:
                others[first] += 1
        for first, second in pairs:
            if is_translatable(first) and (
                first != second
                or (copies[first] >= max(2, others[first]) and _LABEL.fullmatch(first))
            ):
                yield first, second
