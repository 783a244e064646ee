"""Register of a translation: German "du" or "Sie", as the words of a text show it.

A source that ends with a tag, one of `TAGS`, asks for a register. In training the tag is that of
the reference, for every second pair that shows one, so that sources without a tag, which get the
register that is more frequent in the text, are learnt too (Sennrich et al. 2016, with side
constraints as a token of the source).
"""

import re
import zlib

from vqnmt.errors import VqnmtError
from vqnmt.spans import MOST_SLOTS, slot

# Characters of the plane of slots, so that a source's own count as protected spans.
TAGS = {"informal": slot(MOST_SLOTS - 2), "formal": slot(MOST_SLOTS - 1)}
"""From each register to its tag."""

# At the start of a sentence "Sie" may be "she" or "they", so it counts within one only.
_WITHIN = r"(?<=[^.!?:…\s]\s)"
_WORDS = {
    "de": {
        "informal": re.compile(
            r"\b[Dd](?:u|ich|ir|ein(?:e[mnrs]?)?)\b|\b[Ee](?:uch|uer|ure[mnrs]?)\b"
        ),
        "formal": re.compile(rf"{_WITHIN}(?:Sie|Ihnen|Ihre?[mnrs]?)\b"),
    },
    "es": {
        "informal": re.compile(r"\b(?:tú|te|ti|tus?|contigo|os|vosotr[oa]s|vuestr[oa]s?)\b", re.I),
        "formal": re.compile(r"\bustede?s?\b", re.I),
    },
    "fr": {
        "informal": re.compile(r"\b(?:tu|te|toi|ton|ta|tes)\b|\bt['’]", re.I),
        "formal": re.compile(r"\bv(?:ous|otre|os)\b", re.I),
    },
}


def find_formality(text: str, language: str) -> str | None:
    """Return the register that `text` shows, a key of `TAGS`; None if it shows none, or both.

    Raises:
        VqnmtError: The register of this language is not known.
    """
    words = _WORDS.get(re.split("[-_]", language)[0])
    if words is None:
        raise VqnmtError(
            f"vocabulary.formality is true, but the words that show it in {language!r} are not "
            f"known, only those of {', '.join(_WORDS)}: set vocabulary.formality=false"
        )
    shown = [register for register, pattern in words.items() if pattern.search(text)]
    return shown[0] if len(shown) == 1 else None


def tagged(source: str, target: str, language: str) -> str:
    """Return `source`, for every second target that shows a register with its tag behind it."""
    register = find_formality(target, language)
    if register is None or zlib.crc32(target.encode()) % 2:
        return source
    return source + TAGS[register]
