"""Gettext's PO and POT files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from polib import escape, unescape

from vqnmt.localization.units import Edit, FormatError, Unit, line_end

_STRING = re.compile(r'[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*\r?')
_KEYWORD = re.compile(r"[ \t]*(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])?(?=[\s\"])")


@dataclass
class _Entry:
    """One entry: its strings by keyword, and where they and its flags stand."""

    line: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    forms: dict[int, str] = field(default_factory=dict)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Start and end of the string of each msgstr, from its first quote to its last."""
    flags: int | None = None
    """Where its line of flags begins."""
    head: int | None = None
    """Where a line of flags would stand."""
    fuzzy: bool = False


def read_po(text: str) -> list[Unit]:
    """Return the units of a PO or POT file; without obsolete entries and the header.

    Raises:
        FormatError: A line is not of this format.
    """
    end = line_end(text)
    return [_unit(entry, end) for entry in _entries(text) if entry.texts.get("msgid")]


def _entries(text: str) -> Iterator[_Entry]:
    entry, place, current = _Entry(), 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        start, place = place, place + len(line) + 1
        if line.startswith("\ufeff"):
            start, line = start + 1, line[1:]
        stripped = line.strip(" \t\r")
        keyword = _KEYWORD.match(line)
        begins = stripped.startswith("#") or (keyword and keyword[1] in ("msgctxt", "msgid"))
        if entry.places and (begins or not stripped):
            yield entry
            entry, current = _Entry(), ""
        if not stripped:
            continue
        if stripped.startswith("#"):
            if stripped.startswith("#,"):
                entry.flags = start + line.index("#,")
                entry.fuzzy = "fuzzy" in re.split(r"[\s,]+", stripped)
            elif stripped.startswith("#|") and entry.head is None:
                entry.head = start
            continue
        if keyword:
            if entry.head is None:
                entry.head = start
            entry.line = entry.line or number
            current = keyword[1] + (keyword[2] or "")
            first = start + keyword.end()
        string = _STRING.fullmatch(line, keyword.end() if keyword else 0)
        if string is None or not current:
            raise FormatError(number, f"{stripped[:60]!r} is no line of a PO file: correct it")
        content = unescape(string[1])
        end = start + string.end(1) + 1
        if current.startswith("msgstr"):
            form = int(current[6:] or 0)
            entry.forms[form] = entry.forms.get(form, "") + content
            entry.places[form] = (entry.places.get(form, (first, 0))[0], end)
        else:
            entry.texts[current] = entry.texts.get(current, "") + content
    if entry.places:
        yield entry


def _unit(entry: _Entry, end: str) -> Unit:
    one, many = entry.texts["msgid"], entry.texts.get("msgid_plural")
    forms = sorted(entry.places)
    # The first of several forms is the singular's; a language with one form counts with it too.
    sources = [one if form == 0 and (many is None or len(forms) > 1) else many for form in forms]

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        made = [
            (*entry.places[form], " " + _quoted(target, end))
            for form, target in zip(forms, targets, strict=True)
        ]
        if entry.fuzzy:
            return made
        if entry.flags is not None:
            return [(entry.flags, entry.flags + 2, "#, fuzzy,"), *made]
        return [(entry.head or 0, entry.head or 0, f"#, fuzzy{end}"), *made]

    targets = tuple(entry.forms[form] for form in forms)
    return Unit(
        line=entry.line,
        key=entry.texts.get("msgctxt") or one,
        sources=tuple(source or one for source in sources),
        edits=edits,
        targets=targets,
        translated=all(targets),
        reviewed=all(targets) and not entry.fuzzy,
    )


def _quoted(target: str, end: str) -> str:
    """Write a string; one of several lines begins with an empty string, as gettext does."""
    lines = re.findall("[^\n]*\n|[^\n]+", target)
    if len(lines) < 2:
        return f'"{escape(target)}"'
    return end.join(['""', *(f'"{escape(line)}"' for line in lines)])
