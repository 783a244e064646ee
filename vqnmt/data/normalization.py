"""Normalisation of sources and of translations, and which text is translated at all.

Spellings that look alike differ in their characters: an accent may be a character of its own, and
there may be a byte-order mark, a soft hyphen or a direction mark. Without normalisation a model
would see different tokens for each, most of them rare in training.
"""

import re
import unicodedata

# Characters that a reader does not see, in no script and in no emoji: control characters (those
# that are white space become blanks), byte-order mark, soft hyphen, zero-width space, word joiner,
# direction marks and other formatting, annotation marks, what is no character by definition.
# Joiners, variation selectors, and the format characters of a script (Arabic number signs, the
# Mongolian vowel separator, the tags of a flag) do not belong here.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"
)
# Joiners have a use after a letter or sign of a script that joins (from Hebrew to Mongolian, and
# the scripts of the Indian family wherever Unicode has them), after a symbol, and in an emoji.
# Elsewhere they separate ligatures or are left over, and no reader sees them.
_IDLE_JOINER = re.compile(
    "(?<![\u0590-\u1dff\u2190-\u2bff\ua800-\uabff\ufb50-\ufdff\ufe00-\ufe0f\ufe70-\ufefc"
    "\U00010a00-\U0001ffff\U000e0020-\U000e01ef])[\u200c\u200d]"
)
# sentencepiece writes a blank as this character, and decodes it to a blank.
_BLANK_MARK = "\u2581"

# A word that is an address: of a page or a mailbox. Full-width punctuation ends it, as in Chinese,
# where no blank follows.
_ENDS = r"\s@\u3000-\u303f\uff00-\uff20"
_LETTER = f"[^{_ENDS}]"
_ADDRESS = re.compile(
    rf"[^\w\s]*(?:[a-z][a-z0-9+.-]*://|www\.|mailto:)(?:{_LETTER}|@)+"
    rf"|{_LETTER}++@{_LETTER}[^.{_ENDS}]*+\.{_LETTER}+",
    re.IGNORECASE,
)


def normalize(text: str) -> str:
    """Return the form of `text` that a model sees in training and in translation.

    Spellings that a reader cannot tell apart come out alike: characters that are not seen and
    control characters are gone, accents stand in one character with their letter where there is
    one (NFC), and each run of white space of any kind (line breaks, no-break spaces, U+2581, by
    which sentencepiece marks a blank) is one blank; there is none at the ends. Joiners stay where
    scripts and emoji need them. What differs to the eye stays as it is: ligatures, ellipses,
    full-width forms, variation selectors.

    The function is idempotent.
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFC", _UNSEEN.sub("", text).replace(_BLANK_MARK, " "))
        if "\u200c" in text or "\u200d" in text:
            text = " ".join(text.split())  # lookbehinds must see the final form
            text = unicodedata.normalize("NFC", _IDLE_JOINER.sub("", text))
    return " ".join(text.split())


def is_translatable(text: str) -> bool:
    """Say whether `text` has a word with a letter that is no address of a page or a mailbox.

    Numbers, punctuation, symbols and emoji mean the same in every language.
    """
    return any(
        any(map(str.isalpha, word)) and not _ADDRESS.fullmatch(word) for word in text.split()
    )


def clean_output(text: str) -> str:
    """Return what a model has written as text that can be read.

    Every translation keeps these invariants, whatever tokens the model has chosen:

    - no U+FFFD, the replacement of bytes that are not UTF-8: it is left out;
    - no control characters, so no line breaks; no characters that are not seen;
    - no white space but single blanks between words, none at the ends;
    - NFC: the function is `normalize` but for the first point.
    """
    return normalize(text.replace("\ufffd", ""))
