"""The batches that training draws from tokenised text.

Lengths are in tokens. A plan of batches depends only on (seed, epoch): every process computes the
same plan and takes its share.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqnmt.data.tokenized import TokenizedText
from vqnmt.errors import VqnmtError
from vqnmt.tokens import UNK


def plan_batches(
    source_lengths: NDArray[np.int64],
    target_lengths: NDArray[np.int64],
    batch_tokens: int,
    seed: int,
    epoch: int,
) -> list[NDArray[np.int64]]:
    """Group all sentence pairs into batches of similar lengths, in random order.

    Args:
        source_lengths: Tokens in each source, (pairs,).
        target_lengths: Tokens in each target, (pairs,).
        batch_tokens: A batch has at most this many positions on its longer side, padding
            included; a single longer pair makes a batch of its own.
        seed: With `epoch`, fixes which pairs of equal length go together, and the order.
        epoch: Counts from 0.

    Returns:
        The indices of each batch; every pair is in exactly one.
    """
    generator = np.random.default_rng((seed, epoch))
    shuffled = generator.permutation(len(source_lengths))
    order = shuffled[np.lexsort((source_lengths[shuffled], target_lengths[shuffled]))]
    widths = np.maximum(source_lengths, target_lengths)[order]
    batches, start, width = [], 0, 0
    for end, next_width in enumerate(widths.tolist()):
        width = max(width, next_width)
        if end > start and width * (end + 1 - start) > batch_tokens:
            batches.append(order[start:end])
            start, width = end, next_width
    batches.append(order[start:])
    return [batches[i] for i in generator.permutation(len(batches))]


def pad(rows: Sequence[Sequence[int] | NDArray[Any]]) -> Tensor:
    """Stack token lists of different lengths to (rows, longest) int64, with 0 at the end."""
    padded = np.zeros((len(rows), max((len(row) for row in rows), default=0)), dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


# A piece is repeatable if it follows itself in at least this share of its places in the text.
_REPEATED = 0.01
# Sentences in which that is counted.
_COUNTED = 1_000_000
# The share of the target's tokens that may count as unknown.
_STRAY = 2e-5
# Tokens counted at a time.
_TOKENS = 10_000_000


class ParallelBatches:
    """The batches of a tokenised parallel text, epoch by epoch.

    Args:
        sources: Source sentences.
        targets: Their translations.
        batch_tokens: See `plan_batches`.
        seed: See `plan_batches`.
        max_tokens: Pairs with a longer side are left out.
        counts: How often each pair occurs, (pairs,); None: once. One that occurs n times is in
            1 + floor(log2 n) batches of an epoch. Frequencies of strings are Zipfian: by plain
            counts a few hundred labels would take a quarter of the training of an interface.

    Attributes:
        written: How many pieces, the first, make up the targets, but for at most one token in
            50,000: a text that was written in one way and is read in another has a few others.
            These count as the unknown piece.

    Raises:
        VqnmtError: No pair is left.
    """

    unit = "tokens"

    def __init__(
        self,
        sources: TokenizedText,
        targets: TokenizedText,
        batch_tokens: int,
        seed: int,
        max_tokens: int,
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        self.sources, self.targets = sources, targets
        self.batch_tokens, self.seed = batch_tokens, seed
        self.written = _written(targets)
        longest = np.maximum(sources.lengths, targets.lengths)
        self.kept = np.flatnonzero(longest <= max_tokens)
        if len(self.kept) == 0:
            raise VqnmtError(
                f"max_train_tokens is {max_tokens}, but the shortest of {len(sources):,} pairs "
                f"has {min(longest.tolist(), default=0)} tokens: raise it"
            )
        # Each pair as often as an epoch has it.
        self.repeated = self.kept
        if counts is not None:
            copies = np.frexp(counts[self.kept])[1]  # 1 + floor(log2 n)
            self.repeated = np.repeat(self.kept, copies)

    def __len__(self) -> int:
        """Count the pairs that are trained on."""
        return len(self.kept)

    def repeatable(self, vocabulary_size: int) -> Tensor:
        """Mark (V,) the pieces that are often repeated in the targets.

        A repeated word is nearly always an error ("the the"), a repeated letter need not be.
        """
        ends = self.targets.offsets[: _COUNTED + 1]
        tokens = np.asarray(self.targets.tokens[: ends[-1]])
        same = tokens[1:] == tokens[:-1]
        inner = ends[(ends > 0) & (ends < ends[-1])]
        same[inner - 1] = False  # the last piece of a sentence and the first of the next
        count = np.bincount(tokens, minlength=vocabulary_size)
        again = np.bincount(tokens[1:][same], minlength=vocabulary_size)
        return torch.from_numpy((again > 0) & (again >= _REPEATED * count))

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Plan the batches of `epoch`."""
        lengths = self.sources.lengths[self.repeated], self.targets.lengths[self.repeated]
        plan = plan_batches(*lengths, self.batch_tokens, self.seed, epoch)
        return [self.repeated[indices] for indices in plan]

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return source (B, S) and target (B, T) of the pairs `indices`."""
        target = pad([self.targets[i] for i in indices])
        return pad([self.sources[i] for i in indices]), target.where(target < self.written, UNK)


def _written(targets: TokenizedText) -> int:
    """Count the pieces for `ParallelBatches.written`."""
    counts = np.zeros(UNK + 1, dtype=np.int64)
    for start in range(0, len(targets.tokens), _TOKENS):  # `bincount` makes int64 of them
        part = np.bincount(targets.tokens[start : start + _TOKENS], minlength=len(counts))
        part[: len(counts)] += counts
        counts = part
    from_here = counts[::-1].cumsum()[::-1]  # of piece i and all after it
    return max(int((from_here > _STRAY * from_here[0]).sum()), UNK + 1)
