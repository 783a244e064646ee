"""Where a pair of the training text goes, as far as the pair by itself decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqnmt.data.filters import PairFilter
from vqnmt.data.normalization import normalize
from vqnmt.data.readers import Pair
from vqnmt.data.splits import sentence_key, text_mark
from vqnmt.data.words import count_words
from vqnmt.splits import HashSplit, Part

Arrays = dict[str, NDArray[Any]]

# What can become of a pair, unless it has been there before: its part, or why it is dropped.
OUTCOMES: tuple[tuple[Part | None, str], ...] = (
    ("train", ""),
    ("valid", ""),
    ("test", ""),
    (None, "empty"),
    (None, "target equals source"),
    (None, "source is in test"),
    (None, "source is in valid"),
    (None, "too long"),
    (None, "length ratio"),
)
_NUMBERS = {outcome: number for number, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJudge:
    """Judges pairs one by one; where there are several processes, each has one of its own.

    Args:
        split: Gives pairs to validation and test.
        min_words: Only sources of at least this many words (see `count_words`) go there. A label
            of one to three words ("Host", "Not found") comes back in every corpus of its kind:
            scoring it would measure memory, not translation.
        fit: What a training pair must be.
        drop_copies: Whether a target that equals its source is dropped.
        official: Keys of the sources in official sets, "test" before "valid".
    """

    split: HashSplit
    min_words: int
    fit: PairFilter
    drop_copies: bool
    official: dict[str, set[str]]

    def __call__(self, pairs: Sequence[Pair]) -> Arrays:
        """Judge a chunk of pairs.

        Returns:
            Of each pair "marks", by which duplicates are known (uint64; 0 if the pair is dropped
            whether or not), and "outcomes" (uint8, places in `OUTCOMES`); "sources" and "targets"
            are the UTF-8 lines, in the form of `normalize`, of those pairs whose outcome is a part.
        """
        marks, outcomes = [], []
        texts: tuple[list[str], list[str]] = ([], [])
        for source, target in pairs:
            source, target = normalize(source), normalize(target)
            mark, part, reason = self._judge(source, target)
            marks.append(mark)
            outcomes.append(_NUMBERS[part, reason])
            if part is not None:
                texts[0].append(source)
                texts[1].append(target)
        sources, targets = (
            np.frombuffer("\n".join([*lines, ""]).encode(), np.uint8) for lines in texts
        )
        return {
            "marks": np.array(marks, np.uint64),
            "outcomes": np.array(outcomes, np.uint8),
            "sources": sources,
            "targets": targets,
        }

    def _judge(self, source: str, target: str) -> tuple[int, Part | None, str]:
        """Return the mark of a pair, its part, and why it is dropped if it has none."""
        if not source or not target:
            return 0, None, "empty"
        if self.drop_copies and source == target:
            return 0, None, "target equals source"
        mark = text_mark(f"{source}\n{target}")
        key = sentence_key(source)
        for place, keys in self.official.items():
            if key in keys:
                return mark, None, f"source is in {place}"
        part: Part = self.split.part(key) if count_words(key) >= self.min_words else "train"
        if part == "train" and (reason := self.fit.reason(source, target)):
            return mark, None, reason
        return mark, part, ""
