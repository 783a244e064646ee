"""Words, where a script has blanks between them, and characters where it has none."""

import re
import unicodedata

# Scripts without blanks between words, with their punctuation: Thai, Lao and Tibetan; Myanmar;
# Khmer; Tai scripts; Chinese, Japanese and Yi with full-width forms. Not Korean: it has blanks.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u312f\u31a0-\u31ef"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\ufe30-\ufe4f"
    "\uff00-\uff9f\uffe0-\uffe6\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# What stands above, below or around the character before it, and is none by itself: the marks of
# these scripts, joiners and variation selectors.
_MARKS = "".join(
    chr(code)
    for start, end in ((0xE00, 0x10A0), (0x1780, 0x1AB0), (0x302A, 0x309B), (0xA9E0, 0xAAE0))
    for code in range(start, end)
    if unicodedata.category(chr(code)).startswith("M")
)
_MARKS += "\u0300-\u036f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef"
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f" ?(?:[{_UNSPACED}][{_MARKS}]*|[^ {_UNSPACED}]+)")


def split_words(text: str) -> list[str]:
    """Split a text where it may be taken apart; joined, the parts are the text again.

    Args:
        text: In the form of `normalize`.

    Returns:
        The words between blanks, and of scripts that have none the characters; each with the
        blank before it, if there is one.
    """
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """Count the parts of `split_words`."""
    if text.isascii() or not _IS_UNSPACED.search(text):
        return text.count(" ") + 1 if text else 0
    return len(split_words(text))


def join_sentences(texts: list[str]) -> str:
    """Join sentences: by a blank, but by none beside a character of a script without blanks.

    Args:
        texts: In the form of `normalize`; empty ones are left out.
    """
    joined = ""
    for text in filter(None, texts):
        spaced = joined and not (_IS_UNSPACED.match(joined[-1]) or _IS_UNSPACED.match(text[0]))
        joined += f" {text}" if spaced else text
    return joined
