"""Keys and hashes by which sentences are compared across training, validation and testing."""

import hashlib
import unicodedata
from collections.abc import Sequence

from vqnmt.data.normalization import normalize


def sentence_key(sentence: str) -> str:
    """Return the form in which two source sentences count as the same one.

    What `normalize` takes for one, compatibility forms, letter case and white space make no
    difference (NFKC, case folding).
    """
    return " ".join(unicodedata.normalize("NFKC", normalize(sentence)).casefold().split())


def text_hash(text: str) -> int:
    """Return a 64-bit hash of `text`, to compare millions of texts without keeping them in memory.

    Among ten million texts two different ones share a hash with probability 3e-6.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hash_order(sources: Sequence[str]) -> list[int]:
    """Return the places of `sources` in the order of their hashes: nobody picks the first."""
    return sorted(range(len(sources)), key=lambda i: text_hash(sources[i]))
