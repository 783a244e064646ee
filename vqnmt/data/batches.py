"""Tokenised text on disk and the batches that training draws from it.

Lengths are in tokens. A plan of batches follows from (seed, epoch) alone: every process computes
the same plan and takes its share.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path

# Sentences that are encoded at a time: bounds the memory that tokenising needs.
CHUNK = 10_000


class TokenizedText:
    """Sentences in one memory-mapped array: sentence i is tokens[offsets[i] : offsets[i + 1]].

    Attributes:
        tokens: (all tokens,) int32.
        offsets: (sentences + 1,) int64.
    """

    def __init__(self, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> None:
        self.tokens, self.offsets = tokens, offsets

    def __len__(self) -> int:
        """Count the sentences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Return the tokens of one sentence."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each sentence, (sentences,)."""
        return np.diff(self.offsets)

    @classmethod
    def encode(
        cls, sentences: Iterable[str], vocabulary: Vocabulary, path: Path
    ) -> "TokenizedText":
        """Encode `sentences` chunk by chunk into `path`.tokens and `path`.offsets.npy."""
        lengths = [np.zeros(1, dtype=np.int64)]
        with atomic_path(beside(path, ".tokens")) as temporary, open(temporary, "wb") as file:
            for chunk in _chunks(sentences):
                rows = vocabulary.encode(chunk)
                lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
                np.array([t for row in rows for t in row], dtype=np.int32).tofile(file)
        with atomic_path(beside(path, ".offsets.npy")) as temporary, open(temporary, "wb") as f:
            np.save(f, np.concatenate(lengths).cumsum())
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "TokenizedText":
        """Open what `encode` has written."""
        offsets = np.load(beside(path, ".offsets.npy"))
        if offsets[-1] == 0:  # an empty file cannot be mapped
            return cls(np.zeros(0, dtype=np.int32), offsets)
        return cls(np.memmap(beside(path, ".tokens"), dtype=np.int32, mode="r"), offsets)


def beside(path: Path, ending: str) -> Path:
    """Append `ending` to the whole name: unlike a suffix it replaces nothing."""
    return path.with_name(path.name + ending)


def _chunks(sentences: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for sentence in sentences:
        chunk.append(sentence)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


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
        The indices of each batch; every pair stands in exactly one.
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


def pad(rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> Tensor:
    """Stack token lists of different lengths to (rows, longest) int64, with 0 at the end."""
    padded = np.zeros((len(rows), max((len(row) for row in rows), default=0)), dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


class ParallelBatches:
    """The batches of a tokenised parallel text, epoch by epoch.

    Args:
        sources: Source sentences.
        targets: Their translations.
        batch_tokens: See `plan_batches`.
        seed: See `plan_batches`.
        max_tokens: Pairs with a longer side are left out.

    Raises:
        VqnmtError: No pair is left.
    """

    def __init__(
        self,
        sources: TokenizedText,
        targets: TokenizedText,
        batch_tokens: int,
        seed: int,
        max_tokens: int,
    ) -> None:
        self.sources, self.targets = sources, targets
        self.batch_tokens, self.seed = batch_tokens, seed
        longest = np.maximum(sources.lengths, targets.lengths)
        self.kept = np.flatnonzero(longest <= max_tokens)
        if len(self.kept) == 0:
            raise VqnmtError(
                f"max_train_tokens is {max_tokens}, but the shortest of {len(sources):,} pairs "
                f"has {min(longest.tolist(), default=0)} tokens: raise it"
            )

    def __len__(self) -> int:
        """Count the pairs that are trained on."""
        return len(self.kept)

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Plan the batches of `epoch`."""
        lengths = self.sources.lengths[self.kept], self.targets.lengths[self.kept]
        plan = plan_batches(*lengths, self.batch_tokens, self.seed, epoch)
        return [self.kept[indices] for indices in plan]

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return source (B, S) and target (B, T) of the pairs `indices`."""
        return pad([self.sources[i] for i in indices]), pad([self.targets[i] for i in indices])
