"""Filtering of the training text: to which part each pair goes, or why it is dropped.

Duplicates are found later, because a pair alone does not show them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqnmt.data.filters import PairFilter
from vqnmt.data.normalization import is_translatable, normalize, sentence_key
from vqnmt.data.readers import CountedPair
from vqnmt.data.words import count_words
from vqnmt.splits import HashSplit, text_hash

Arrays = dict[str, NDArray[Any]]

# What can become of a pair, unless it has been there before: its part, or why it is dropped.
OUTCOMES: tuple[tuple[str | None, str], ...] = (
    ("train", ""),
    ("valid", ""),
    ("test", ""),
    ("labels", ""),
    (None, "empty"),
    (None, "target equals source"),
    (None, "source is in test"),
    (None, "source is in valid"),
    (None, "too long"),
    (None, "length ratio"),
)
_NUMBERS = {outcome: number for number, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFilter:
    """Assigns pairs to the parts of a corpus one by one; several processes each have a copy.

    Args:
        split: Chooses the pairs for validation and test.
        label_split: Chooses the shorter sources for the test set of labels.
        min_words: Only sources of at least this many words (see `count_words`) are chosen by
            `split`. Half of the interface strings are labels of one to three words ("Host", "Not
            found"), which need a score of their own.
        fit: The limits on a training pair.
        drop_copies: Whether a target that equals its source is dropped.
        official: Keys of the sources in official sets, "test" before "valid".
    """

    split: HashSplit
    label_split: HashSplit
    min_words: int
    fit: PairFilter
    drop_copies: bool
    official: dict[str, set[str]]

    def __call__(self, pairs: Sequence[CountedPair]) -> Arrays:
        """Judge a chunk of pairs.

        Returns:
            Of each pair "marks", by which duplicates are known (uint64; 0 if the pair is dropped
            whether or not), "outcomes" (uint8, places in `OUTCOMES`) and "counts" (int64, how often
            it occurs); "sources" and "targets" are the UTF-8 lines, in the form of `normalize`, of
            those pairs whose outcome is a part.
        """
        marks, outcomes = [], []
        texts: tuple[list[str], list[str]] = ([], [])
        for source, target, _ in pairs:
            source, target = normalize(source), normalize(target)
            hashed, part, reason = self._outcome(source, target)
            marks.append(hashed)
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
            "counts": np.array([count for _, _, count in pairs], np.int64),
            "sources": sources,
            "targets": targets,
        }

    def _outcome(self, source: str, target: str) -> tuple[int, str | None, str]:
        """Return the hash of a pair, its part, and why it is dropped if it has none."""
        if not source or not target:
            return 0, None, "empty"
        if self.drop_copies and source == target:
            return 0, None, "target equals source"
        hashed = text_hash(f"{source}\n{target}")
        key = sentence_key(source)
        for place, keys in self.official.items():
            if key in keys:
                return hashed, None, f"source is in {place}"
        part: str = "train"
        if count_words(key) >= self.min_words:
            part = self.split.part(key)
        elif self.label_split.part(key) == "test" and is_translatable(source):
            part = "labels"
        if part == "train" and (reason := self.fit.reason(source, target)):
            return hashed, None, reason
        return hashed, part, ""
