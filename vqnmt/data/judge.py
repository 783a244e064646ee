"""Where a pair of the training text goes, as far as the pair by itself decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vqnmt.data.filters import PairFilter, collapse_whitespace
from vqnmt.data.readers import Pair
from vqnmt.data.splits import HashSplit, Part, sentence_key, text_mark


class Verdict(NamedTuple):
    """What becomes of one pair, unless it has been there before."""

    source: str
    target: str
    mark: int | None = None
    """Of both texts, by which duplicates are known; None if the pair is dropped whether or not."""
    part: Part | None = None
    """Where it goes; None if it is dropped."""
    reason: str = ""
    """Why it is dropped."""
    key: str = ""
    """`sentence_key` of the source, for the parts that hold each source once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJudge:
    """Judges pairs one by one; where there are several processes, each has one of its own.

    Args:
        split: Gives pairs to validation and test.
        fit: What a training pair must be.
        drop_copies: Whether a target that equals its source is dropped.
        official: Keys of the sources in official sets, "test" before "valid".
    """

    split: HashSplit
    fit: PairFilter
    drop_copies: bool
    official: dict[str, set[str]]

    def __call__(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Judge a chunk of pairs."""
        return [self.judge(*pair) for pair in pairs]

    def judge(self, source: str, target: str) -> Verdict:
        """Judge one pair, its white space collapsed first."""
        source, target = collapse_whitespace(source), collapse_whitespace(target)
        if not source or not target:
            return Verdict(source, target, reason="empty")
        if self.drop_copies and source == target:
            return Verdict(source, target, reason="target equals source")
        mark = text_mark(f"{source}\n{target}")
        key = sentence_key(source)
        for place, keys in self.official.items():
            if key in keys:
                return Verdict(source, target, mark, reason=f"source is in {place}")
        part = self.split.part(key)
        if part != "train":
            return Verdict(source, target, mark, part, key=key)
        if reason := self.fit.reason(source, target):
            return Verdict(source, target, mark, reason=reason)
        return Verdict(source, target, mark, part)
