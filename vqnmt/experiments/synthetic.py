"""A made-up parallel corpus of any size, to measure what large corpora cost.

Words follow Zipf's law, frequent words are short, and lengths are spread as in WMT14
English-German, about 26 and 25 words a side. The sentences have no meaning, so no translation
can be learnt from them.
"""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from vqnmt.files import atomic_open
from vqnmt.progress import Progress

# Words of a language.
TYPES = 500_000
# Pairs that are drawn at a time.
_CHUNK = 20_000
_LONGEST = 120
_STEMS = 4000
# Each language has its letters, frequent ones several times.
_LETTERS = (
    "eeeeaaaooiiittttnnnsssrrhhdllcumfpgwybvk",
    "eeeeeennnniiisssrrraattdhhuullcgmobwfkzpüä",
)


def write_synthetic(source: Path, target: Path, pairs: int, seed: int) -> None:
    """Write `pairs` sentence pairs; the same arguments give the same bytes.

    Args:
        source: File of sources; compressed if its name ends in `.gz`.
        target: File of targets, likewise.
        pairs: How many.
        seed: Fixes all random draws.

    Raises:
        VqnmtError: A file cannot be written.
    """
    generator = np.random.default_rng(seed)
    words = [_words(letters) for letters in _LETTERS]
    with ExitStack() as stack:
        files = []
        for path in (source, target):
            file = stack.enter_context(atomic_open(path))
            if path.suffix == ".gz":  # without name and time, which would differ from run to run
                file = stack.enter_context(gzip.GzipFile("", "wb", 1, file, mtime=0))  # type: ignore
            files.append(file)
        progress = stack.enter_context(Progress("synthetic corpus", pairs, "pairs"))
        for start in range(0, pairs, _CHUNK):
            count = min(_CHUNK, pairs - start)
            # A pair's lengths belong together; both medians are 21 words.
            lengths = generator.lognormal(np.log(21), 0.65, count)
            for file, lexicon in zip(files, words, strict=True):
                side = np.clip(lengths * generator.normal(1, 0.1, count), 1, _LONGEST).astype(int)
                file.write("".join(_sentences(lexicon, side, generator)).encode())
            progress.update(count)


def _sentences(
    lexicon: np.ndarray, lengths: np.ndarray, generator: np.random.Generator
) -> Iterator[str]:
    # u uniform: floor(N^u) has the value r with probability log(1 + 1/r) / log(N), so about 1/r.
    ranks = len(lexicon) ** generator.random(lengths.sum())
    drawn = lexicon[ranks.astype(np.int64) - 1].tolist()
    start = 0
    for end in lengths.cumsum().tolist():
        yield " ".join(drawn[start:end]) + "\n"
        start = end


def _words(letters: str) -> np.ndarray:
    """Return `TYPES` words, frequent ones first: stems, then words of two to four stems."""
    generator = np.random.default_rng(len(letters))
    sizes = generator.integers(2, 6, _STEMS)
    stems = ["".join(generator.choice(list(letters), size)) for size in sizes]
    # Stems follow Zipf's law too: endings such as -ed and -ung.
    parts = 2 + generator.binomial(2, 0.2, TYPES - _STEMS)
    drawn = (_STEMS ** generator.random(parts.sum())).astype(np.int64) - 1
    ends = parts.cumsum()
    compounds = [
        "".join([stems[i] for i in drawn[start:end]])
        for start, end in zip(ends - parts, ends, strict=True)
    ]
    return np.array(stems + compounds, dtype=object)
