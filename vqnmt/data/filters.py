"""What makes a sentence pair unfit for training."""

from dataclasses import dataclass
from typing import Annotated

from vqnmt.data.words import count_words
from vqnmt.settings import PositiveInt, above, check

# Characters added to both sides of a length ratio. "OK" against "In Ordnung" is 5.0 by plain
# division and (10 + 10) / (2 + 10) = 1.7 so; on long sentences the addition is not felt.
_RATIO_SLACK = 10

Ratio = Annotated[float, above(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFilter:
    """The limits on a training pair; a teacher's output passes the same ones.

    Args:
        max_words: Longest side allowed, see `count_words`.
        max_ratio: Largest (longer + 10) / (shorter + 10) of the two lengths in characters; the
            10 makes the limit milder for short labels.
    """

    max_words: PositiveInt = 100
    max_ratio: Ratio = 3.0

    def __post_init__(self) -> None:
        """Check the limits."""
        check(self, "corpus")

    def reason(self, source: str, target: str) -> str | None:
        """Return why the pair is unfit ("empty", "too long" or "length ratio"), or None if fit.

        Args:
            source: A sentence in the form of `normalize`.
            target: Its translation, likewise.
        """
        if not source or not target:
            return "empty"
        if max(count_words(source), count_words(target)) > self.max_words:
            return "too long"
        shorter, longer = sorted((len(source), len(target)))
        if longer + _RATIO_SLACK > self.max_ratio * (shorter + _RATIO_SLACK):
            return "length ratio"
        return None
