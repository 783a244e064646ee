"""String files as a whole: which format, translated unit by unit, written back; pairs of them."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, check_writable
from vqnmt.localization.units import MACHINE, MEMORY, Edit, FormatError, Unit, apply_edits
from vqnmt.localization.xml import read_android, read_tmx, read_xliff
from vqnmt.spans import compare_spans
from vqnmt.streams import open_file

Translate = Callable[[list[str]], list[str]]

# How many bytes at the start of a file tell its format.
SNIFFED = 1 << 16
EXTRA = "pip install 'vqnmt[localization]'"


@dataclass(frozen=True, slots=True)
class Format:
    """A format of string files."""

    name: str
    endings: tuple[str, ...]
    read: "Reader"
    """Takes the text and the languages of source and target; returns the units."""
    looks: str = ""
    """How a text of it begins, a regular expression; empty: its name alone tells it."""
    bilingual: bool = True
    """Whether it holds sources and translations."""
    xml: bool = False


Reader = Callable[[str, str, str], list[Unit]]


def _reader(module: str, function: str) -> Reader:
    """Return a reader whose libraries are loaded when it is called."""

    def read(text: str, source: str, target: str) -> list[Unit]:
        loaded = importlib.import_module(f"vqnmt.localization.{module}")
        found: list[Unit] = getattr(loaded, function)(text)
        return found

    return read


def _tsv(text: str, source: str, target: str) -> list[Unit]:
    units, place = [], 0
    for number, line in enumerate(text.split("\n"), 1):
        content = line.removesuffix("\r")
        first, tab, rest = content.partition("\t")
        second = rest.partition("\t")[0]
        start, end = place + len(first), place + len(first + tab + second)
        place += len(line) + 1
        if first.strip("\ufeff "):
            units.append(_tsv_unit(number, first.lstrip("\ufeff"), second, (start, end)))
    return units


def _tsv_unit(number: int, source: str, target: str, span: tuple[int, int]) -> Unit:
    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        return [(*span, "\t" + " ".join(targets[0].split()))]

    known = bool(target)
    return Unit(number, source, (source,), edits, (target,), known, known)


# Each of these takes linear time, whatever the text is: a repeated group has one way to match.
_XML = (
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?>.*?-->)\s*)*"
    r"(?:<!DOCTYPE[^>\[]*+(?:\[.*?\]\s*)?>\s*)?"
)
_PO = r'(?:[^\S\n]*(?:#[^\n]*)?\n)*msg(?:id|ctxt)\s+"'
_JSON = r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:'
FORMATS = (
    Format("gettext PO", (".po", ".pot"), _reader("gettext", "read_po"), _PO),
    Format("XLIFF", (".xlf", ".xliff"), read_xliff, _XML + r"<xliff[\s>]", xml=True),
    Format("TMX", (".tmx",), read_tmx, _XML + r"<tmx[\s>]", xml=True),
    Format("Android XML", (), read_android, _XML + r"<resources[\s>]", False, xml=True),
    Format("JSON", (".json", ".arb"), _reader("keyed", "read_json"), _JSON, False),
    Format("Fluent", (".ftl",), _reader("fluent", "read_fluent"), bilingual=False),
    Format(".properties", (".properties",), _reader("keyed", "read_properties"), bilingual=False),
    Format("TSV", (".tsv",), _tsv),
)


def find_format(name: str, start: bytes) -> Format | None:
    """Return the format of a file by its first bytes, or else by the ending of its name."""
    for encoding in ("utf-16", "utf-8"):
        if encoding == "utf-8" or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = start.decode(encoding, "replace").lstrip("\ufeff")
            for one in FORMATS:
                if one.looks and re.match(one.looks, text, re.DOTALL):
                    return one
    ending = PurePath(name).suffix.lower()
    return next((one for one in FORMATS if ending in one.endings), None)


def refuse_strings(name: str, start: bytes) -> None:
    """Refuse to take a string file for lines of text.

    Raises:
        VqnmtError: Names the option that translates it.
    """
    found = find_format(name, start)
    if found is not None and found.name != "TSV":
        raise VqnmtError(
            f"{name}: it is a string file ({found.name}), whose markup is no text: give -o FILE "
            "to translate its units"
        )


@dataclass(slots=True)
class Report:
    """What has become of the units of a file."""

    translated: int = 0
    """By the model."""
    remembered: list[tuple[Unit, tuple[str, ...]]] = field(default_factory=list)
    """Those from the translation memory, with their translations."""
    kept: int = 0
    """Those that had a translation."""
    failed: list[Unit] = field(default_factory=list)
    """Those whose translation lost or changed a protected span."""

    def memory_lines(self, name: str) -> Iterator[str]:
        """Say of each unit that comes from the memory what it is."""
        for unit, targets in self.remembered:
            yield f"{name}, line {unit.line}: from the memory: {' | '.join(targets)}"

    def summary(self, name: str) -> str:
        """Say it in a sentence or two."""
        said = f"{name}: {self.translated + len(self.remembered):,} units translated"
        if self.remembered:
            said += f", {len(self.remembered):,} of them from the memory"
        if self.kept:
            said += f"; {self.kept:,} had a translation and are as they were"
        if self.failed:
            places = ", ".join(f"line {unit.line}" for unit in self.failed[:10])
            more = ", ..." if len(self.failed) > 10 else ""
            said += f"; {len(self.failed):,} failed the check of placeholders and are left empty "
            said += f"({places}{more})"
        return said


def translate_strings(
    data: bytes,
    name: str,
    translate: Translate,
    languages: tuple[str, str],
    *,
    every: bool = False,
    memory: Mapping[str, str] | None = None,
) -> tuple[bytes, Report]:
    """Translate the units of a string file; every byte outside of them stays as it is.

    Args:
        data: The file's content.
        name: Its name, which tells formats that their content does not, and for errors.
        translate: Returns a translation for each text. One that lacks a protected span of its
            source, or has another, leaves its unit empty, or as it was if it had a translation.
        languages: Codes of the languages of source and target.
        every: Whether units that have a translation are translated too.
        memory: Translations by source in the form of `memory_key`; they come before the model's.

    Raises:
        VqnmtError: The format is unknown, or the content is not of it.
    """
    kind = find_format(name, data[:SNIFFED])
    if kind is None:
        known = ", ".join(one.name for one in FORMATS)
        raise VqnmtError(
            f"{name}: no known string file: give one of {known}; lines of text are translated "
            "without -o: vqnmt translate in.txt > out.txt"
        )
    text, encoding = _decoded(data, name, kind)
    units = _read(kind, text, name, languages)
    report, edits = Report(), []
    todo = [unit for unit in units if any(unit.sources) and (every or not unit.translated)]
    report.kept = sum(unit.translated for unit in units) if not every else 0
    wanted = dict.fromkeys(source for unit in todo for source in unit.sources)
    remembered = {
        source: memory[key] for source in wanted if memory and (key := memory_key(source)) in memory
    }
    machine = [source for source in wanted if source not in remembered]
    found = {**dict(zip(machine, translate(machine), strict=True)), **remembered}
    for unit in todo:
        targets = tuple(found[source] for source in unit.sources)
        pairs = zip(unit.sources, targets, strict=True)
        if not all(target and _same_spans(source, target) for source, target in pairs):
            report.failed.append(unit)
            if not kind.bilingual:
                edits += unit.edits([""] * len(targets), MACHINE)
            continue
        if all(source in remembered for source in unit.sources):
            report.remembered.append((unit, targets))
            edits += unit.edits(targets, MEMORY)
        else:
            report.translated += 1
            edits += unit.edits(targets, MACHINE)
    written = apply_edits(text, edits)
    if len(_read(kind, written, name, languages)) != len(units):
        raise VqnmtError(f"{name}: a translation breaks the file: report it with the file")
    try:
        return written.encode(encoding, "xmlcharrefreplace" if kind.xml else "strict"), report
    except UnicodeEncodeError as error:
        raise VqnmtError(
            f"{name}: its encoding, {encoding}, lacks {error.object[error.start]!r} of a "
            "translation: convert the file to UTF-8"
        ) from error


def translate_file(
    path: Path,
    output: Path,
    translate: Translate,
    languages: tuple[str, str],
    *,
    every: bool = False,
    memory: Path | str | None = None,
) -> Report:
    """Translate a string file into another, or in its place where it holds both languages.

    Args:
        path: The file.
        output: What to write; it must not be there yet, but with `every`, or as `path` itself.
        translate: See `translate_strings`; white space and line breaks are kept around it.
        languages: See `translate_strings`.
        every: See `translate_strings`.
        memory: File of a translation memory, see `read_pairs`.

    Raises:
        VqnmtError: A file cannot be read, written or understood.
    """
    with open_file(path) as file:
        data = file.read()
    # What cannot be written is refused before hours of translation.
    in_place = output.exists() and output.samefile(path)
    kind = find_format(str(path), data[:SNIFFED])
    if in_place and kind is not None and not kind.bilingual:
        raise VqnmtError(f"{output}: its sources would be lost: name another file")
    if output.exists() and not (every or in_place):
        raise VqnmtError(
            f"{output}: is there already, and its translations would be lost: name another file, "
            "or give --all to write it anew"
        )
    check_writable(output.parent, "--output")
    known = read_memory(memory, *languages) if memory else None
    written, report = translate_strings(
        data, str(path), keep_lines(translate), languages, every=every, memory=known
    )
    with atomic_path(output) as temporary:
        temporary.write_bytes(written)
    return report


def read_pairs(path: Path | str, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Yield the reviewed pairs of a string file or translation memory, in order.

    Args:
        path: Of a format that holds both languages.
        source: Language code.
        target: Language code.

    Raises:
        VqnmtError: The file cannot be read, or its format has one language alone.
    """
    with open_file(path) as file:
        data = file.read()
    kind = find_format(str(path), data[:SNIFFED])
    if kind is None or not kind.bilingual:
        raise VqnmtError(
            f"{path}: {kind.name if kind else 'this format'} holds no pairs of source and "
            "translation: give PO, XLIFF, TMX or TSV"
        )
    text, _ = _decoded(data, str(path), kind)
    for unit in _read(kind, text, str(path), (source, target)):
        if unit.reviewed:
            yield from zip(unit.sources, unit.targets, strict=True)


def read_memory(path: Path | str, source: str, target: str) -> dict[str, str]:
    """Return the translations of a memory by `memory_key`; the last of several stands.

    Raises:
        VqnmtError: See `read_pairs`.
    """
    return {memory_key(first): second for first, second in read_pairs(path, source, target)}


def memory_key(source: str) -> str:
    """Return what two sources share that differ in white space alone."""
    return " ".join(source.split())


def split_lines(text: str) -> list[str]:
    """Split a text into its lines, at even places, and line breaks and margins between them."""
    # White space is looked through only from its first character on: in linear time.
    return re.split(r"(^\s+|(?<!\s)(?:\s*\n\s*|\s+$))", text)


def keep_lines(translate: Translate) -> Translate:
    """Return a function that translates texts line by line, and keeps line breaks and margins.

    Where a line has no translation, its text has none.
    """

    def whole(texts: list[str]) -> list[str]:
        parts = [split_lines(text) for text in texts]
        lines = list(dict.fromkeys(part for row in parts for part in row[::2] if part))
        known = dict(zip(lines, translate(lines), strict=True))
        return [
            "".join(part if i % 2 else known.get(part, "") for i, part in enumerate(row))
            if all(known[part] for part in row[::2] if part)
            else ""
            for row in parts
        ]

    return whole


def _same_spans(source: str, target: str) -> bool:
    return not any(compare_spans(source, target))


def _read(kind: Format, text: str, name: str, languages: tuple[str, str]) -> list[Unit]:
    try:
        return kind.read(text, *languages)
    except FormatError as error:
        raise VqnmtError(f"{name}, {error}") from error
    except ImportError as error:
        raise VqnmtError(f"{name}: {kind.name} needs {error.name}: {EXTRA}") from error


def _decoded(data: bytes, name: str, kind: Format) -> tuple[str, str]:
    """Return the text, with its byte-order mark, and its encoding."""
    encoding = "utf-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16-le" if data[0] == 0xFF else "utf-16-be"
    elif kind.xml:
        declared = re.match(rb"""[^<]*<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)""", data)
        encoding = declared[1].decode() if declared else encoding
    elif kind.name == "gettext PO":
        declared = re.search(rb'"Content-Type:[^"\n]*charset=([\w.-]+)', data[:SNIFFED])
        if declared and declared[1] != b"CHARSET":
            encoding = declared[1].decode()
    try:
        return data.decode(encoding), encoding
    except LookupError as error:
        raise VqnmtError(
            f"{name}: its encoding, {encoding!r:.40}, is unknown: convert it to UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        if kind.name == ".properties":  # the encoding of older ones
            return data.decode("latin-1"), "latin-1"
        raise VqnmtError(
            f"{name}: byte {error.start:,} is not {encoding}: convert the file to UTF-8"
        ) from error
