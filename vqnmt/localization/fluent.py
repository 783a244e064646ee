"""Fluent's FTL files."""

import re
from collections.abc import Iterator, Sequence

from fluent.syntax import FluentParser, ast

from vqnmt.localization.units import Edit, FormatError, Unit, line_end


def read_fluent(text: str) -> list[Unit]:
    """Return the units of a Fluent file: the patterns of messages, their attributes and variants.

    Placeables stay in a unit's text as they are written. Terms are names and no units.

    Raises:
        FormatError: An entry is no Fluent.
    """
    units: list[Unit] = []
    line, place, indent = 1, 0, line_end(text) + "    "
    for entry in FluentParser(with_spans=True).parse(text).body:
        start = _start(entry)
        line, place = line + text.count("\n", place, start), start
        if isinstance(entry, ast.Junk):
            reason = entry.annotations[0].message if entry.annotations else "unknown"
            raise FormatError(line, f"no Fluent ({reason}): correct it")
        if isinstance(entry, ast.Message):
            name = entry.id.name
            named = [(name, entry.value)]
            named += [(f"{name}.{one.id.name}", one.value) for one in entry.attributes]
            for key, pattern in named:
                units += [_unit(text, line, key, leaf, indent) for leaf in _leaves(pattern)]
    return units


def _start(node: ast.BaseNode) -> int:
    return node.span.start if isinstance(node, ast.SyntaxNode) and node.span else 0


def _selection(element: ast.TextElement | ast.Placeable) -> ast.SelectExpression | None:
    inside = element.expression if isinstance(element, ast.Placeable) else None
    return inside if isinstance(inside, ast.SelectExpression) else None


def _leaves(pattern: ast.Pattern | None) -> Iterator[ast.Pattern]:
    """Yield the patterns to translate: of a pattern that only selects, those of its variants.

    A selection within a sentence is no leaf: its words cannot be translated apart.
    """
    if pattern is None:
        return
    selections = [found for element in pattern.elements if (found := _selection(element))]
    if not selections:
        yield pattern
    elif len(pattern.elements) == 1:
        for variant in selections[0].variants:
            yield from _leaves(variant.value)


def _unit(text: str, line: int, key: str, pattern: ast.Pattern, indent: str) -> Unit:
    source = "".join(
        element.value if isinstance(element, ast.TextElement) else _written(text, element)
        for element in pattern.elements
    )
    assert pattern.span is not None
    start, end = pattern.span.start, pattern.span.end
    behind = text[:start].rpartition("\n")[2].strip()  # its key, of a pattern on the same line

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        # At the start of a line these signs would begin something else.
        lines = [
            line if i == 0 and behind else re.sub(r"^[\[*.]", r'{ "\g<0>" }', line)
            for i, line in enumerate(targets[0].split("\n"))
        ]
        new = indent.join(lines) if any(lines) else '{ "" }'
        return [(start, end, new)]

    return Unit(line, key, (source,), edits)


def _written(text: str, element: ast.Placeable) -> str:
    assert element.span is not None
    return text[element.span.start : element.span.end]
