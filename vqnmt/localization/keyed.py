"""JSON and Java's .properties: a key for each string, in one language."""

import json
import re
from collections.abc import Callable, Sequence

from moz.l10n.formats import Format, detect_format
from moz.l10n.formats.properties.parse import properties_parse_message
from moz.l10n.formats.properties.serialize import properties_serialize_message
from moz.l10n.model import PatternMessage

from vqnmt.localization.units import Edit, FormatError, Unit

# In a JSON text every quote belongs to a string; a colon follows a key.
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(?P<key>\s*:)?')
_PROPERTY = re.compile(
    r"^[ \t\f]*(?P<key>(?![#!])(?:\\.|[^\\\s=:])+)(?:[ \t\f]*[=:]|(?=[ \t\f]))[ \t\f]*"
    r"(?P<value>(?:\\\r?\n|\\.|[^\\\r\n])*)",
    re.MULTILINE,
)
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def read_json(text: str) -> list[Unit]:
    """Return the units of a JSON file: its strings, at any depth, but for keys.

    Of the messages of a browser extension only "message" is one, and what has a key that begins
    with @, as in ARB files, is none.

    Raises:
        FormatError: The text is no JSON, or nested too deeply.
    """
    content = text.lstrip("\ufeff")
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        raise FormatError(error.lineno, f"no JSON ({error.msg}): correct it") from error
    except RecursionError as error:
        raise FormatError(1, "its values are nested too deeply to be read: split it") from error
    extension = detect_format("messages.json", content) == Format.webext
    ascii_only = text.isascii() and bool(_UNICODE_ESCAPE.search(text))
    units, key, line, place = [], "", 1, 0
    for found in _JSON_STRING.finditer(text):
        line, place = line + text.count("\n", place, found.start()), found.start()
        string = json.loads(found[0].removesuffix(found["key"] or ""))
        if found["key"]:
            key = string
        elif not key.startswith("@") and (not extension or key == "message"):
            edits = _replacing(*found.span(), lambda new: json.dumps(new, ensure_ascii=ascii_only))
            units.append(Unit(line, key, (string,), edits))
    return units


def read_properties(text: str) -> list[Unit]:
    """Return the units of a .properties file."""
    ascii_only = text.isascii() and bool(_UNICODE_ESCAPE.search(text))

    def written(new: str) -> str:
        return properties_serialize_message(PatternMessage([new]), ensure_ascii=ascii_only)

    units, line, place = [], 1, 0
    for found in _PROPERTY.finditer(text):
        line, place = line + text.count("\n", place, found.start()), found.start()
        value = "".join(map(str, properties_parse_message(found["value"]).pattern))
        units.append(Unit(line, found["key"], (value,), _replacing(*found.span("value"), written)))
    return units


def _replacing(
    start: int, end: int, written: Callable[[str], str]
) -> Callable[[Sequence[str], str], list[Edit]]:
    """Return the `edits` of a unit whose translation stands where its source stood."""
    return lambda targets, origin: [(start, end, written(targets[0]))]
