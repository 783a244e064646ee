"""Texts of several lines, HTML and files: what is translated of them, and files kept for download.

`translate_text` and `translate_html` ask a function for the translation of each sentence, so that
they can also tell which sentences a text has.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePath
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import Response

from vqnmt.errors import VqnmtError
from vqnmt.localization.files import (
    FORMATS,
    SNIFFED,
    Translate,
    find_format,
    keep_lines,
    split_lines,
    translate_strings,
)
from vqnmt.spans import TO_TAG_END, compare_spans

ENDINGS = (*(ending for one in FORMATS for ending in one.endings), ".xml", ".txt", ".html")
# What ends a sentence in HTML, and what is never translated, to the end if it is not closed. Both
# patterns take linear time: white space is looked through only from its first character on.
_BLOCK = re.compile(
    r"((?:(?<!\s)\s++)?"
    r"(?:<(?:script|style|code|pre)\b.*?(?:</(?:script|style|code|pre)\s*>|\Z)"
    r"|<!--.*?(?:-->|\Z)|<![^>]*(?:>|\Z)|</?(?:p|div|li|ul|ol|dl|dt|dd|h[1-6]|t[dhr]|table|thead|tbody|br|hr|section|article"
    r"|header|footer|nav|main|aside|body|html|head|title|meta|link|blockquote|form|label|button"
    rf"|select|option|textarea|figure|figcaption)\b(?:{TO_TAG_END}|[^<>]*\Z))\s*)",
    re.DOTALL | re.IGNORECASE,
)
_TAG = re.compile(rf"((?:(?<!\s)\s++)?<{TO_TAG_END}\s*)")
# Bytes of all files that wait to be fetched.
_MOST_KEPT = 64 << 20


Lookup = Callable[[str], str]


def translate_text(text: str, lookup: Lookup) -> str:
    """Translate a text line by line; line breaks and margins stay."""
    parts = split_lines(text)
    return "".join(part if i % 2 or not part else lookup(part) for i, part in enumerate(parts))


def translate_html(text: str, lookup: Lookup) -> str:
    """Translate HTML block by block, inline tags included.

    Where a translation would lose or change a tag, the texts between the tags are translated.
    """
    return "".join(
        part if i % 2 or not part.strip() else _translate_block(part, lookup)
        for i, part in enumerate(_BLOCK.split(text))
    )


def _translate_block(block: str, lookup: Lookup) -> str:
    whole = lookup(block)
    tail = block[block.rfind(">") + 1 :].lstrip()  # no tag: each "<" in it would be looked through
    parts = _TAG.split(block.removesuffix(tail))
    parts[-1] += tail
    if len(parts) == 1:
        return whole.replace("<", "&lt;")  # the source has none
    apart = "".join(
        part if i % 2 or not part.strip() else lookup(part).replace("<", "&lt;")
        for i, part in enumerate(parts)
    )
    return apart if any(compare_spans(block, whole)) else whole


def translate_document(
    data: bytes, name: str, languages: tuple[str, str], translate: Translate
) -> bytes:
    """Translate a string file by units, HTML by blocks, and any other text by lines.

    Raises:
        VqnmtError: The file is of no such kind.
    """
    if find_format(name, data[:SNIFFED]) is not None:
        return translate_strings(data, name, keep_lines(translate), languages)[0]
    ending = PurePath(name).suffix.lower()
    if ending not in (".txt", ".html", ".htm"):
        raise VqnmtError("Invalid request: file format not supported")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise VqnmtError(f"byte {error.start:,} of the file is not UTF-8") from error
    change = translate_text if ending == ".txt" else translate_html
    known = dict.fromkeys(sentences(text, change))
    known |= dict(zip(known, translate(list(known)), strict=True))
    return change(text, lambda sentence: str(known[sentence])).encode()


def document_texts(data: bytes, name: str, languages: tuple[str, str]) -> list[str]:
    """Return the texts that `translate_document` would have translated, each once.

    Raises:
        VqnmtError: See `translate_document`.
    """
    asked: dict[str, None] = {}

    def note(texts: list[str]) -> list[str]:
        asked.update(dict.fromkeys(texts))
        return texts

    translate_document(data, name, languages, note)
    return list(asked)


def sentences(text: str, change: Callable[[str, Lookup], str]) -> list[str]:
    """Return what `change`, one of the functions above, would ask for."""
    asked: dict[str, None] = {}

    def note(sentence: str) -> str:
        asked[sentence] = None
        return sentence

    change(text, note)
    return list(asked)


class Documents:
    """Translated files until they are fetched; the oldest make room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, name: str, data: bytes) -> str:
        """Keep a file and return the name under which it is fetched, which cannot be guessed."""
        clean = re.sub(r"[^\w.-]+", "_", PurePath(name).name)[-100:]
        key = f"{secrets.token_urlsafe(16)}.{clean}"
        self._kept[key] = data
        while sum(map(len, self._kept.values())) > _MOST_KEPT and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return key

    def response(self, key: str) -> Response:
        """Return a kept file as a download.

        Raises:
            HTTPException: No file of this name is kept.
        """
        if key not in self._kept:
            raise HTTPException(404, "There is no such file, or it has been there for too long")
        name = quote(key.partition(".")[2])
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(self._kept[key], media_type="application/octet-stream", headers=headers)
