"""Hashes of texts, and splits of text and pictures into training, validation and test parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "valid", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HashSplit:
    """Assigns sentences or pictures to parts by BLAKE2b of their keys, so that splits are stable.

    An item's part does not depend on its order, the machine or items that are added later, and all
    translations of one source go to the same part. The shares are of hash space, so the parts'
    sizes come out near `share * sentences`, not exactly.

    Args:
        valid_share: Share for validation, 0 to 0.5; 0 for none.
        test_share: The same for testing.
    """

    valid_share: float
    test_share: float

    def part(self, key: str) -> Part:
        """Return the part that `key` belongs to."""
        digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"vqnmt split").digest()
        place = int.from_bytes(digest, "big") / 2**64
        # From opposite ends: changing one share leaves the other part as it was.
        if place < self.test_share:
            return "test"
        return "valid" if place >= 1.0 - self.valid_share else "train"


def text_hash(text: str) -> int:
    """Return a 64-bit hash of `text`, to compare millions of texts without keeping them in memory.

    Among ten million texts two different ones share a hash with probability 3e-6.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hash_order(sources: Sequence[str]) -> list[int]:
    """Return the places of `sources` in the order of their hashes: nobody picks the first."""
    return sorted(range(len(sources)), key=lambda i: text_hash(sources[i]))
