"""A trigram model of the target text, which helps to choose among likely readings. No PyTorch.

Interpolated Kneser-Ney smoothing with one discount an order (Ney et al. 1994; Chen and Goodman
1999, equations 24 to 27). The trigrams are sorted arrays searched by bisection, so that a model
loads at once and takes 12 bytes a trigram.
"""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqnmt.decode.prefix_search import look_up
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_open
from vqnmt.tokens import BOS, EOS

Keys = NDArray[np.int64]
Floats = NDArray[np.float32]

LANGUAGE_MODEL = "language_model.npz"
"""File in the folder of a latent model with CTC output."""
# Bytes of an array that are read and checked at a time.
_CHUNK = 1 << 20
# A log-probability of 0 may be rounded to a little more.
_ROUNDED = 1e-5
# Rarer trigrams are left to the bigrams: most trigrams are rare and add little.
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Tables:
    """Log-probabilities in nats, V pieces. The key of pieces a, b, c is (a V + b) V + c."""

    trigrams: Keys
    """Sorted keys of a, b, c."""
    trigram_values: Floats
    """log p(c | a, b) of each."""
    pairs: Keys
    """Sorted keys of a, b that occur before a piece."""
    pair_values: Floats
    """Log of what each leaves to the bigrams."""
    bigrams: Keys
    """Sorted keys of b, c."""
    bigram_values: Floats
    """log p(c | b) of each."""
    single_values: Floats
    """(V,), log of what b leaves to the single pieces."""
    pieces: Floats
    """(V,), log p(c)."""
    use: Floats
    """(3,), the `FusionWeights`; the name is that of the file format."""


class FusionWeights(NamedTuple):
    """Weights that combine the language model's score with the decoder's (shallow fusion).

    Each piece lowers the probability of a text under a language model; the last two weights keep
    texts from being too short.
    """

    weight: float = 0.0
    """Factor of the language model's log-probability."""
    blank_penalty: float = 0.0
    """Subtracted from the blank's score at each position, in nats."""
    piece_bonus: float = 0.0
    """Added for each piece of a text, in nats (the word count of Hannun et al. 2014)."""


class TrigramModel:
    """p(piece | the two pieces before it).

    Args:
        tables: As `count` makes them.

    Attributes:
        fusion: How the model is combined with a decoder; chosen on validation after training.
        arrays: The tables of `look_up`.
        views: The same as memoryviews, for Python.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables, self.size = tables, len(tables.pieces)
        self.fusion = FusionWeights(*tables.use.tolist())
        arrays = (getattr(tables, name) for name in Tables.__slots__ if name != "use")
        self.arrays = tuple(np.ascontiguousarray(values) for values in arrays)
        # Bisection reads single numbers, which a memoryview gives faster than an array.
        self.views = tuple(values.data for values in self.arrays)

    @classmethod
    def count(
        cls, tokens: NDArray[Any], offsets: NDArray[np.int64], vocabulary_size: int
    ) -> "TrigramModel":
        """Count the trigrams of a text; the fusion weights are 0.

        Args:
            tokens: All sentences, concatenated.
            offsets: (sentences + 1,): sentence i is tokens[offsets[i] : offsets[i + 1]].
            vocabulary_size: V.
        """
        size = vocabulary_size
        stream = _with_ends(tokens, offsets)
        inner = stream[2:] != BOS  # a trigram may end at a piece or at the end
        keys = (stream[:-2] * size + stream[1:-1]) * size + stream[2:]
        trigrams, counts = np.unique(keys[inner], return_counts=True)
        # Chen and Goodman's N1+: lower orders count distinct predecessors, not how often.
        bigrams, bigram_counts = np.unique(trigrams % size**2, return_counts=True)
        pieces, piece_counts = np.unique(bigrams % size, return_counts=True)

        left = 1.0 - (piece_counts - _discount(piece_counts)).sum() / piece_counts.sum()
        p_piece = np.full(size, left / size)
        p_piece[pieces] += (piece_counts - _discount(piece_counts)) / piece_counts.sum()

        firsts, p_bigram, singles_left = _shares(bigrams, bigram_counts, size, bigram_counts > 0)
        p_bigram += _found(firsts, singles_left, bigrams // size) * p_piece[bigrams % size]
        single_values = np.zeros(size)
        single_values[firsts] = np.log(singles_left)

        kept = counts >= _LEAST
        pairs, p_trigram, pairs_left = _shares(trigrams, counts, size, kept)
        lower = _found(bigrams, p_bigram, trigrams % size**2)  # every trigram ends in a bigram
        p_trigram += _found(pairs, pairs_left, trigrams // size) * lower
        values = (
            *(trigrams[kept], np.log(p_trigram[kept]), pairs, np.log(pairs_left)),
            *(bigrams, np.log(p_bigram), single_values, np.log(p_piece)),
            np.array(FusionWeights()),
        )
        names = Tables.__slots__
        return cls(Tables(**{name: _small(v) for name, v in zip(names, values, strict=True)}))

    def log_probability(self, first: int, second: int, piece: int) -> float:
        """Return log p(`piece` | `first`, `second`) in nats; BOS precedes a sentence."""
        return look_up(self.views, first, second, piece)

    def __reduce__(self) -> tuple[type["TrigramModel"], tuple[Tables]]:
        """Copy and pickle the tables; everything else is computed from them."""
        return type(self), (replace(self.tables, use=np.array(self.fusion)),)

    def save(self, path: Path | str) -> None:
        """Write the tables to an .npz file, whole or not at all."""
        (tables,) = self.__reduce__()[1]
        with atomic_open(path) as file:
            np.savez_compressed(file, **{name: getattr(tables, name) for name in Tables.__slots__})

    @classmethod
    def load(cls, path: Path | str, vocabulary_size: int) -> "TrigramModel":
        """Read what `save` has written.

        Raises:
            VqnmtError: The file is damaged, or of another vocabulary.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                model = cls(_Reader(archive, vocabulary_size).tables())
        except Exception as error:  # zipfile, zlib and NumPy's headers: damage shows in any way
            reason = str(error) if type(error) is ValueError else type(error).__name__
            raise VqnmtError(
                f"{path}: not a language model of vqnmt for {vocabulary_size} pieces ({reason}): "
                "copy the model folder again or train anew"
            ) from error
        return model


class _Reader:
    """Reads the arrays of an .npz file in chunks, each checked before the next is read.

    Headers and stated sizes are not trusted: an array that is no table of this vocabulary is
    refused before more than one chunk of it is in memory.

    Args:
        archive: The .npz file.
        size: V.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size

    def tables(self) -> Tables:
        """Read all tables.

        Raises:
            ValueError: Says what is wrong.
        """
        found, expected = sorted(self._archive.namelist()), sorted(Tables.__slots__)
        if found != [f"{name}.npy" for name in expected]:
            raise ValueError(f"it holds {', '.join(found)}"[:200])
        size = self._size
        pieces = self._values("pieces", size)  # first: its length is the vocabulary's
        trigrams, pairs = self._keys("trigrams", size**3), self._keys("pairs", size**2)
        bigrams = self._keys("bigrams", size**2)
        return Tables(
            *(trigrams, self._values("trigram_values", len(trigrams))),
            *(pairs, self._values("pair_values", len(pairs))),
            *(bigrams, self._values("bigram_values", len(bigrams))),
            *(self._values("single_values", size), pieces),
            self._values("use", len(FusionWeights._fields), np.float64, math.inf),
        )

    def _keys(self, name: str, end: int) -> Keys:
        """Read rising keys from 0 to below `end`."""
        last, chunks = -1, []
        for chunk in self._chunks(name, np.dtype(np.int64), None):
            if chunk[0] <= last or (chunk[1:] <= chunk[:-1]).any() or chunk[-1] >= end:
                raise ValueError(f"{name} are not rising keys below {end}")
            last = int(chunk[-1])
            chunks.append(chunk)
        return np.concatenate([np.empty(0, np.int64), *chunks])

    def _values(
        self, name: str, count: int, kind: Any = np.float32, most: float = _ROUNDED
    ) -> NDArray[Any]:
        """Read `count` finite numbers of at most `most`."""
        chunks = []
        for chunk in self._chunks(name, np.dtype(kind), count):
            if not (np.isfinite(chunk) & (chunk <= most)).all():
                raise ValueError(f"{name} are not all finite and at most {most:g}")
            chunks.append(chunk)
        return np.concatenate([np.empty(0, kind), *chunks])

    def _chunks(self, name: str, kind: np.dtype[Any], count: int | None) -> Iterator[NDArray[Any]]:
        """Yield the numbers of a one-dimensional array, `count` of them where it is given."""
        with self._archive.open(f"{name}.npy") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{name} are of another version of NumPy's format")
            shape, _, found = np.lib.format.read_array_header_1_0(file)
            if found != kind or len(shape) != 1 or count not in (None, *shape):
                wanted = "any number" if count is None else count
                raise ValueError(f"{name} are {found} {shape}, not {kind} ({wanted},)"[:200])
            left = shape[0] * kind.itemsize
            while left > 0:
                content = file.read(min(left, _CHUNK))
                if not content or len(content) % kind.itemsize:
                    raise ValueError(f"{name} end too early")
                left -= len(content)
                yield np.frombuffer(content, kind)
            if file.read(1):  # at the end the archive's own checksum is compared too
                raise ValueError(f"{name} go on behind their end")


def load_language_model(folder: Path, vocabulary_size: int) -> TrigramModel | None:
    """Read the language model of a model folder, exported or not; None where there is none.

    Raises:
        VqnmtError: The file is damaged, or of another vocabulary.
    """
    path = folder / LANGUAGE_MODEL
    return TrigramModel.load(path, vocabulary_size) if path.is_file() else None


def _with_ends(tokens: NDArray[Any], offsets: NDArray[np.int64]) -> Keys:
    """Put two BOS before each sentence and an EOS after it."""
    count = len(offsets) - 1
    stream = np.full(len(tokens) + 3 * count, BOS, dtype=np.int64)
    sentence = np.repeat(np.arange(count), np.diff(offsets))
    stream[np.arange(len(tokens)) + 3 * sentence + 2] = tokens
    stream[offsets[1:] + 3 * np.arange(count) + 2] = EOS
    return stream


def _discount(counts: NDArray[np.int64]) -> float:
    """Return n1 / (n1 + 2 n2); one is added to both, so that it lies between 0 and 1."""
    once, twice = (int((counts == n).sum()) + 1 for n in (1, 2))
    return once / (once + 2 * twice)


def _shares(
    keys: Keys, counts: NDArray[np.int64], size: int, kept: NDArray[np.bool_]
) -> tuple[Keys, NDArray[np.float64], NDArray[np.float64]]:
    """Distribute each context's probability among what was seen after it, less the discount.

    Returns:
        The contexts, sorted; each key's share, 0 where it is not `kept`; and what each context
        leaves to the lower order.
    """
    contexts, index = np.unique(keys // size, return_inverse=True)
    totals = np.bincount(index, weights=counts)
    share: NDArray[np.float64] = np.where(kept, counts - _discount(counts), 0.0) / totals[index]
    taken: NDArray[Any] = np.bincount(index, weights=share)
    return contexts, share, 1.0 - taken


def _found(keys: Keys, values: NDArray[np.float64], wanted: Keys) -> NDArray[np.float64]:
    return values[np.searchsorted(keys, wanted)]


def _small(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.int64 else values.astype(np.float32)
