"""What all formats of string files share: units, and edits that touch nothing else.

A format's reader takes the text of a file and returns its units. A unit knows which places of the
text its translation changes; every other character of the file stays as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vqnmt.errors import VqnmtError

Edit = tuple[int, int, str]
"""Start and end of what is replaced in a text, and by what."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A string of a file, or the plural forms of one."""

    line: int
    """Where it begins, counted from 1."""
    key: str
    """Its name in the file, for reports."""
    sources: tuple[str, ...]
    """What is translated, one text for each form."""
    edits: Callable[[Sequence[str], str], list[Edit]]
    """Returns what writes a text for each form, marked as not reviewed, and where it comes from:
    `MACHINE` or `MEMORY`."""
    targets: tuple[str, ...] = ()
    """The translations in the file; none in a file of one language."""
    translated: bool = False
    """Whether the file has a translation."""
    reviewed: bool = False
    """Whether the file marks its translation as fit for use."""


MACHINE, MEMORY = "machine", "memory"


class FormatError(VqnmtError):
    """A text is not of its format; says the line and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Return `text` with `edits` made, each once; they do not overlap."""
    parts, done = [], 0
    for start, end, new in sorted(dict.fromkeys(edits), key=lambda edit: edit[:2]):
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def line_end(text: str) -> str:
    """Return the line end that a text uses."""
    return "\r\n" if "\r\n" in text else "\n"
