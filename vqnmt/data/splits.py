"""In which form sentences are compared across training, validation and testing."""

import hashlib
import unicodedata

from vqnmt.data.normalization import normalize


def sentence_key(sentence: str) -> str:
    """Return the form in which two source sentences count as the same one.

    What `normalize` takes for one, compatibility forms, letter case and white space make no
    difference (NFKC, case folding).
    """
    return " ".join(unicodedata.normalize("NFKC", normalize(sentence)).casefold().split())


def text_mark(text: str) -> int:
    """Return 64 bits that stand for `text` where millions of texts would fill the memory.

    Two different ones of ten million share a mark with probability 3e-6.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
