"""XLIFF 1.2 and 2, TMX and Android's string resources.

A unit's text is the content of its element with references and CDATA resolved. Inline elements stay
in it as they are written, so that they count as protected spans, and come back unchanged.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr, unescape

from vqnmt.localization.units import MEMORY, Edit, FormatError, Unit
from vqnmt.spans import TO_TAG_END

_START_TAG = re.compile(r"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
_MARKUP = re.compile(
    r"<!\[CDATA\[(?P<cdata>.*?)\]\]>|<!--.*?-->"
    rf"|(?P<raw><\?.*?\?>|<{TO_TAG_END}|&(?!(?:amp|lt|gt|quot|apos);|#)\w+;)"
    r"|&#(?P<code>x?[0-9a-fA-F]+);",
    re.DOTALL,
)
_NAMED = {"&quot;": '"', "&apos;": "'"}
# States of XLIFF 1.2 that ask for a translation, and those that ask for more than a review.
_UNTRANSLATED = ("new", "needs-translation")
_ANDROID_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


@dataclass(slots=True)
class Element:
    """An element with its places in the text: of both tags, and of what is between."""

    tag: str
    """Without the prefix of a namespace."""
    line: int
    attributes: dict[str, str]
    start: int
    inside: int
    end: int = 0
    after: int = 0
    children: list["Element"] = field(default_factory=list)

    def child(self, tag: str) -> "Element | None":
        """Return the first child of a name."""
        return next((child for child in self.children if child.tag == tag), None)

    def every(self, *tags: str) -> Iterator["Element"]:
        """Yield the elements of these names below this one, in order."""
        stack = self.children[::-1]
        while stack:
            element = stack.pop()
            if element.tag in tags:
                yield element
            stack += element.children[::-1]


def read_xml(text: str) -> Element:
    """Return the root element of a text.

    Raises:
        FormatError: It is not well-formed.
    """
    data = text.encode("utf-8", "surrogatepass")
    top = Element("", 0, {}, 0, 0)
    stack, before = [top], (0, 0)  # the last place, in bytes and in characters

    def place() -> int:
        nonlocal before
        now = parser.CurrentByteIndex
        before = (now, before[1] + len(data[before[0] : now].decode("utf-8", "replace")))
        return before[1]

    def start(tag: str, attributes: dict[str, str]) -> None:
        begin = place()
        found = _START_TAG.match(text, begin)
        inside = found.end() if found else begin
        line = parser.CurrentLineNumber
        element = Element(tag.rpartition(":")[2], line, attributes, begin, inside)
        stack[-1].children.append(element)
        stack.append(element)

    def end(tag: str) -> None:
        element = stack.pop()
        if text.endswith("/>", element.start, element.inside):
            element.end = element.after = element.inside
        else:
            element.end = place()
            element.after = text.index(">", element.end) + 1

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise FormatError(error.lineno, f"no well-formed XML ({reason}): correct it") from error
    return top.children[0]


def inner_text(text: str, element: Element | None) -> tuple[str, list[str]]:
    """Return the content of an element as `Unit` has it, and its inline markup."""
    if element is None:
        return "", []
    raw: list[str] = []

    def resolve(found: re.Match[str]) -> str:
        if found["raw"]:
            raw.append(found["raw"])
            return found["raw"]
        if code := found["code"]:
            return chr(int(code[1:], 16) if code[0] == "x" else int(code))
        return found["cdata"] or ""

    parts, done, content = [], 0, text[element.inside : element.end]
    for found in _MARKUP.finditer(content):
        parts += [unescape(content[done : found.start()], _NAMED), resolve(found)]
        done = found.end()
    return "".join([*parts, unescape(content[done:], _NAMED)]), raw


def write_text(target: str, markup: list[str]) -> str:
    """Escape a text but for the inline markup of its source."""
    if not markup:
        return escape(target)
    parts = re.split("(" + "|".join(map(re.escape, set(markup))) + ")", target)
    return "".join(part if i % 2 else escape(part) for i, part in enumerate(parts))


def _with_attribute(text: str, element: Element, name: str, value: str) -> Edit:
    """Return the edit that gives a start tag an attribute."""
    tag = text[element.start : element.inside]
    known = re.search(rf"""\s{name}\s*=\s*("[^"]*"|'[^']*')""", tag)
    if known:
        return element.start + known.start(1), element.start + known.end(1), quoteattr(value)
    end = element.start + len(tag.removesuffix(">").removesuffix("/").rstrip())
    return end, end, f" {name}={quoteattr(value)}"


def _put(text: str, old: Element | None, after: Element, new: str) -> Edit:
    """Return the edit that writes an element instead of `old`, or as a sibling below `after`."""
    if old is not None:
        return old.start, old.after, new
    begin = after.start
    while text[begin - 1].isspace():
        begin -= 1
    return after.after, after.after, text[begin : after.start] + new


def read_xliff(text: str, source: str, target: str) -> list[Unit]:
    """Return the units of an XLIFF file of version 1.2 or 2, whatever its languages.

    Raises:
        FormatError: The text is no such file.
    """
    root = read_xml(text)
    version = root.attributes.get("version", "")
    if root.tag != "xliff" or version not in ("1.0", "1.1", "1.2", "2.0", "2.1", "2.2"):
        raise FormatError(1, f"<{root.tag} version={version!r}> is no XLIFF of version 1 or 2")
    if version.startswith("1"):
        return [
            _xliff_1_unit(text, unit, _naming(text, file, "target-language", target))
            for file in root.every("file")
            for unit in _translatable(file, "trans-unit")
            if unit.child("source")
        ]
    naming = _naming(text, root, "trgLang", target)
    return [
        _xliff_2_unit(text, unit, segment, naming)
        for unit in _translatable(root, "unit")
        for segment in unit.every("segment")
        if segment.child("source")
    ]


def _naming(text: str, element: Element, name: str, language: str) -> list[Edit]:
    """Return what names the language of the translations, where the file does not."""
    if name in element.attributes:
        return []
    return [_with_attribute(text, element, name, language)]


def _translatable(element: Element, tag: str) -> Iterator[Element]:
    """Yield the elements below that are not marked, themselves or around them, as not to be."""
    for child in element.children:
        if child.attributes.get("translate") != "no":
            if child.tag == tag:
                yield child
            yield from _translatable(child, tag)


def _xliff_1_unit(text: str, unit: Element, naming: list[Edit]) -> Unit:
    source, target = unit.child("source"), unit.child("target")
    assert source is not None
    (content, markup), (written, _) = inner_text(text, source), inner_text(text, target)
    state = target.attributes.get("state", "") if target else ""

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        qualifier = "exact-match" if origin == MEMORY else "mt-suggestion"
        states = f'state="needs-review-translation" state-qualifier="{qualifier}"'
        new = f"<target {states}>{write_text(targets[0], markup)}</target>"
        return [*naming, _put(text, target, unit.child("seg-source") or source, new)]

    translated = bool(written) and state not in _UNTRANSLATED
    return Unit(
        line=unit.line,
        key=unit.attributes.get("resname") or unit.attributes.get("id", ""),
        sources=(content,),
        edits=edits,
        targets=(written,),
        translated=translated,
        reviewed=translated and not state.startswith("needs"),
    )


def _xliff_2_unit(text: str, unit: Element, segment: Element, naming: list[Edit]) -> Unit:
    source, target = segment.child("source"), segment.child("target")
    assert source is not None
    (content, markup), (written, _) = inner_text(text, source), inner_text(text, target)

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        new = f"<target>{write_text(targets[0], markup)}</target>"
        return [
            *naming,
            _with_attribute(text, segment, "state", "translated"),  # not yet "reviewed"
            _put(text, target, source, new),
        ]

    return Unit(
        line=segment.line,
        key=unit.attributes.get("name") or unit.attributes.get("id", ""),
        sources=(content,),
        edits=edits,
        targets=(written,),
        translated=bool(written),
        reviewed=bool(written),
    )


def same_language(first: str, second: str) -> bool:
    """Say whether two codes, such as en and en-US, name one language, whatever the country."""
    return re.split("[-_]", first.lower())[0] == re.split("[-_]", second.lower())[0]


def read_tmx(text: str, source: str, target: str) -> list[Unit]:
    """Return the units of a translation memory that have the language `source`.

    Raises:
        FormatError: The text is no TMX.
    """
    root = read_xml(text)
    if root.tag != "tmx":
        raise FormatError(1, f"<{root.tag}> is no TMX")
    units = []
    for unit in root.every("tu"):
        variants: dict[str, Element] = {}
        for variant in unit.every("tuv"):
            code = variant.attributes.get("xml:lang") or variant.attributes.get("lang", "")
            for wanted in (source, target):
                if same_language(code, wanted) and variant.child("seg"):
                    variants.setdefault(wanted, variant)
        if source in variants:
            units.append(_tmx_unit(text, unit, variants[source], variants.get(target), target))
    return units


def _tmx_unit(
    text: str, unit: Element, source: Element, target: Element | None, language: str
) -> Unit:
    content, markup = inner_text(text, source.child("seg"))
    written, _ = inner_text(text, target.child("seg") if target else None)

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        seg = f"<seg>{write_text(targets[0], markup)}</seg>"
        return [_put(text, target, source, f'<tuv xml:lang="{language}">{seg}</tuv>')]

    return Unit(
        line=unit.line,
        key=unit.attributes.get("tuid", ""),
        sources=(content,),
        edits=edits,
        targets=(written,),
        translated=bool(written),
        reviewed=bool(written),
    )


def read_android(text: str, source: str, target: str) -> list[Unit]:
    """Return the units of Android's string resources; references to others are none.

    Raises:
        FormatError: The text is no such file.
    """
    root = read_xml(text)
    if root.tag != "resources":
        raise FormatError(1, f"<{root.tag}> is no file of Android's resources")
    strings = []
    for child in root.children:
        if child.attributes.get("translatable") == "false":
            continue
        if child.tag == "string":
            strings.append((child.attributes.get("name", ""), child))
        elif child.tag in ("string-array", "plurals"):
            name = child.attributes.get("name", "")
            strings += [(name, item) for item in child.children if item.tag == "item"]
    units = (_android_unit(text, name, element) for name, element in strings)
    return [unit for unit in units if not re.match(r"[@?][\w:+.]+/", unit.sources[0])]


def _android_unit(text: str, name: str, element: Element) -> Unit:
    content, markup = inner_text(text, element)
    quoted = len(content) > 1 and content[0] == content[-1] == '"' and content[-2] != "\\"
    # White space outside of quotes is one blank.
    content = content[1:-1] if quoted else " ".join(content.split())

    def unescaped(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return {"n": "\n", "t": "\t"}.get(found[2], found[2])

    def edits(targets: Sequence[str], origin: str) -> list[Edit]:
        # Quotes inside of tags are those of attributes.
        parts = re.split("(" + "|".join(map(re.escape, set(markup))) + ")", targets[0])
        parts = parts if markup else [targets[0]]
        new = "".join(
            part if i % 2 else escape(re.sub(r"([\\'\"])", r"\\\1", part).replace("\n", "\\n"))
            for i, part in enumerate(parts)
        )
        new = new.replace("\t", "\\t")
        new = "\\" + new if new[:1] in ("@", "?") else new
        tag = text[element.start : element.inside]
        if tag.endswith("/>"):
            new = f"{tag[:-2].rstrip()}>{new}</{tag[1:].split()[0].rstrip('/>')}>"
            return [(element.start, element.after, new)]
        return [(element.inside, element.end, f'"{new}"' if quoted else new)]

    return Unit(
        line=element.line,
        key=name,
        sources=(_ANDROID_ESCAPE.sub(unescaped, content),),
        edits=edits,
    )
