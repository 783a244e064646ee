"""What makes a sentence pair unfit for training."""

from dataclasses import dataclass

from vqnmt.data.words import count_words
from vqnmt.errors import VqnmtError

# Characters added to both sides of a length ratio. "OK" against "In Ordnung" is 5.0 by plain
# division and (10 + 10) / (2 + 10) = 1.7 so; on long sentences the addition is not felt.
_RATIO_SLACK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFilter:
    """The limits on a training pair; a teacher's output passes the same ones.

    Args:
        max_words: Longest side allowed, see `count_words`.
        max_ratio: Largest (longer + 10) / (shorter + 10) of the two lengths in characters; the
            10 makes the limit milder for short labels.
    """

    max_words: int = 100
    max_ratio: float = 3.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing can pass."""
        if self.max_words < 1:
            raise VqnmtError(f"corpus.max_words is {self.max_words}: it must be 1 or more")
        if not self.max_ratio > 1:
            raise VqnmtError(f"corpus.max_ratio is {self.max_ratio}: it must be above 1")

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
