"""Splits of text and pictures into training, validation and test parts, by a hash of each item."""

import hashlib
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
