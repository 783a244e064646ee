"""Which sentence is for training, validation or testing, by a hash of the sentence."""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Literal

from vqnmt.data.normalization import normalize
from vqnmt.data.words import count_words

Part = Literal["train", "valid", "test"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HashSplit:
    """Assigns a sentence to a part by BLAKE2b of its key, so that the split never moves.

    Neither the order of the lines, nor the machine, nor sentences added later change where a
    sentence goes, and all translations of one source go to the same part. The shares are of hash
    space, so the parts' sizes come out near `share * sentences`, not exactly.

    Args:
        valid_share: Share of the eligible sentences for validation, 0 to 0.5; 0 for none.
        test_share: The same for testing.
        min_words: Only sentences of at least so many words (see `count_words`) are eligible. A
            label of one to three words ("Host", "Not found") comes back in every corpus of its
            kind: scoring it would measure memory, not translation. Shorter ones are all for
            training.
    """

    valid_share: float
    test_share: float
    min_words: int

    def part(self, key: str) -> Part:
        """Return the part of the sentence whose `sentence_key` is `key`."""
        if count_words(key) < self.min_words:
            return "train"
        digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"vqnmt split").digest()
        place = int.from_bytes(digest, "big") / 2**64
        # From opposite ends: changing one share leaves the other part as it was.
        if place < self.test_share:
            return "test"
        return "valid" if place >= 1.0 - self.valid_share else "train"
