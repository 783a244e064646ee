"""Tokenised text on disk, memory-mapped."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from vqnmt.checksums import file_checksum
from vqnmt.data.filters import PairFilter
from vqnmt.data.readers import chunks
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.files import UNSUPPORTED, atomic_open, atomic_write_text, warn_once
from vqnmt.formality import tagged
from vqnmt.progress import Progress
from vqnmt.spans import protect_pair

# Pairs that are encoded at a time: bounds the memory that tokenising needs.
CHUNK = 10_000
# Raised whenever the same pairs give other files.
_FORMAT = 2
_SIDES = ("source", "target")
_FILES = tuple(f"{side}.{ending}" for side in _SIDES for ending in ("tokens", "offsets.npy"))
# Stands beside these where pairs have counts.
_COUNTS = "counts.npy"

Chunk = tuple[list[list[int]], list[list[int]], NDArray[np.bool_]]
"""Tokens of the sources and of the targets of the pairs that fit, and which of all pairs do."""


class TokenizedText:
    """Sentences in one array: sentence i is tokens[offsets[i] : offsets[i + 1]].

    Attributes:
        tokens: (all tokens,) uint16 or int32, memory-mapped.
        offsets: (sentences + 1,) int64.
    """

    def __init__(self, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        self.tokens, self.offsets = tokens, offsets

    def __len__(self) -> int:
        """Count the sentences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Return the tokens of one sentence."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each sentence, (sentences,)."""
        return np.diff(self.offsets)


def tokenize_pairs(
    sources: Sequence[str],
    targets: Sequence[str],
    vocabulary: Vocabulary,
    folder: Path,
    fit: PairFilter,
    description: str,
    counts: NDArray[np.int64] | None = None,
    span_patterns: Sequence[str] = (),
    formality: str = "",
) -> None:
    """Encode the pairs that `fit` lets through into `folder`, for `open_tokens` to open.

    With a vocabulary that has slots, they stand for the spans that a pair shares, and a pair whose
    placeholders differ is dropped; see `vqnmt.spans.protect_pair`.

    Nothing is done where the folder holds just these pairs already. All processes call this, of all
    machines, which see the same folder; the first of them works. Memory: `CHUNK` pairs, and 16
    bytes for each pair.

    Args:
        sources: Source sentences.
        targets: Their translations.
        vocabulary: Encodes both sides.
        folder: Gets the tokens of both sides and tokens.json, which marks them complete.
        fit: The limits on a pair.
        description: Whose pairs they are, for the progress report.
        counts: How often each pair occurs, (pairs,); None if that is not known.
        span_patterns: See `vqnmt.spans.find_spans`.
        formality: Language of the targets, if sources get tags for their register; see
            `vqnmt.formality`.

    Raises:
        VqnmtError: The folder cannot be written.
    """
    if PartialState().is_main_process:
        settings = [repr(fit), vocabulary.checksum(), str(_FORMAT), *span_patterns]
        if formality:
            settings.append(f"formality {formality}")
        if counts is not None:
            settings.append(hashlib.sha256(counts.tobytes()).hexdigest())
        digest = _digest(settings, sources, targets)
        if not _holds(folder, digest):
            (folder / "tokens.json").unlink(missing_ok=True)  # old files count as incomplete now
            kind = np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.int32)
            (folder / _COUNTS).unlink(missing_ok=True)
            with Progress(f"{description} tokens", len(sources), "pairs") as progress:
                encoded = _encode(
                    *(sources, targets, vocabulary, fit, span_patterns, formality, progress)
                )
                kept = _write(encoded, folder, kind)
            if counts is not None:
                with atomic_open(folder / _COUNTS) as file:
                    np.save(file, counts[kept])
            _mark_complete(folder, kind, digest)
    PartialState().wait_for_everyone()


def _encode(
    sources: Sequence[str],
    targets: Sequence[str],
    vocabulary: Vocabulary,
    fit: PairFilter,
    span_patterns: Sequence[str],
    formality: str,
    progress: Progress,
) -> Iterator[Chunk]:
    """Yield chunk by chunk the tokens of the pairs that fit, and which of the pairs do."""
    for start in range(0, len(sources), CHUNK):
        lines = (side[start : start + CHUNK] for side in (sources, targets))
        pairs = list(zip(*lines, strict=True))
        shown = [pair if fit.reason(*pair) is None else None for pair in pairs]
        if slots := vocabulary.slots:
            for i, pair in enumerate(shown):
                if pair is not None:
                    source, target = pair
                    first = _first_slot(source, slots)
                    shared = protect_pair(source, target, slots, span_patterns, first)
                    shown[i] = shared and (shared[0].text, shared[1])
        kept = [pair for pair in shown if pair is not None]
        if formality:
            kept = [(tagged(source, target, formality), target) for source, target in kept]
        source_rows, target_rows = (vocabulary.encode([pair[i] for pair in kept]) for i in (0, 1))
        yield source_rows, target_rows, np.array([pair is not None for pair in shown])
        progress.update(len(pairs))


def _first_slot(source: str, slots: int) -> int:
    """Choose slot 0, as in translation, for every second source, and for the others any one.

    So all slots are learnt, although few sentences have many spans.
    """
    return max(zlib.crc32(source.encode()) % (2 * slots) - slots, 0)


def _write(chunks: Iterable[Chunk], folder: Path, kind: np.dtype[Any]) -> NDArray[np.bool_]:
    """Write the tokens of all chunks; returns which of all pairs fit, (pairs,)."""
    lengths = [[np.zeros(1, dtype=np.int64)] for _ in _SIDES]
    fitting = [np.zeros(0, dtype=bool)]
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_open(folder / f"{side}.tokens")) for side in _SIDES]
        for *sides, fits in chunks:
            fitting.append(fits)
            for rows, file, its in zip(sides, files, lengths, strict=True):
                np.fromiter(chain.from_iterable(rows), kind).tofile(file)
                its.append(np.fromiter(map(len, rows), np.int64, len(rows)))
    for name, parts in zip(_SIDES, lengths, strict=True):
        with atomic_open(folder / f"{name}.offsets.npy") as file:
            np.save(file, np.concatenate(parts).cumsum())
    return np.concatenate(fitting)


def _mark_complete(folder: Path, kind: np.dtype[Any], digest: str) -> None:
    """Write tokens.json."""
    names = [*_FILES, *([_COUNTS] if (folder / _COUNTS).exists() else [])]
    content = {
        "digest": digest,
        "dtype": kind.name,
        "checksums": {name: file_checksum(folder / name) for name in names},
    }
    atomic_write_text(folder / "tokens.json", json.dumps(content, indent=2) + "\n")


def open_tokens(folder: Path) -> tuple[TokenizedText, TokenizedText]:
    """Open the sources and the targets that `tokenize_pairs` has left in `folder`.

    Raises:
        VqnmtError: A file is missing, cut short, or no such file.
    """
    try:
        kind = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["dtype"]
        if kind not in ("uint16", "int32"):
            raise ValueError(f"its type is {kind!r}")
        source, target = (_open_side(folder, side, kind) for side in _SIDES)
        if len(source) != len(target):
            raise ValueError(f"{len(source):,} sources and {len(target):,} targets")
    except Exception as error:  # numpy lets through whatever a damaged header brings
        raise VqnmtError(
            f"{folder}: the tokenised text is missing or damaged ({error}): remove the folder, and "
            "the same command makes it anew"
        ) from error
    return source, target


def open_counts(folder: Path) -> NDArray[np.int64] | None:
    """Return how often each tokenised pair occurs, (pairs,); None where that is not known.

    Raises:
        VqnmtError: The file cannot be read.
    """
    path = folder / _COUNTS
    if not path.exists():
        return None
    try:
        counts: NDArray[np.int64] = np.load(path)
    except Exception as error:  # as of `open_tokens`
        raise VqnmtError(f"{path}: damaged ({error}): remove the folder to make it anew") from error
    return counts


def _open_side(folder: Path, side: str, kind: str) -> TokenizedText:
    offsets = _mapped(np.load, folder / f"{side}.offsets.npy", mmap_mode="r")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"{side}.offsets.npy holds no offsets")
    offsets = np.array(offsets)  # a copy: the file is closed
    size = (folder / f"{side}.tokens").stat().st_size
    ends = [0, size // np.dtype(kind).itemsize]
    if offsets[[0, -1]].tolist() != ends or (np.diff(offsets) < 0).any():
        raise ValueError(f"{side}.tokens is not of the size that its offsets tell")
    if size == 0:  # an empty file cannot be mapped
        return TokenizedText(np.zeros(0, dtype=kind), offsets)
    return TokenizedText(
        _mapped(np.memmap, folder / f"{side}.tokens", dtype=kind, mode="r"), offsets
    )


def _mapped(open_: Callable[..., Any], path: Path, **options: Any) -> Any:
    """Map the array in `path` by `open_`, or read it where the disk cannot map files."""
    try:
        return open_(path, **options)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    warn_once("files on this disk cannot be mapped, and tokens are read into memory")
    return np.load(path) if path.suffix == ".npy" else np.fromfile(path, dtype=options["dtype"])


def _digest(settings: Sequence[str], *texts: Sequence[str]) -> str:
    """Digest everything that decides the tokens."""
    digest = hashlib.sha256(json.dumps([*settings, *map(len, texts)]).encode())
    for text in texts:
        for lines in chunks(text, CHUNK):
            digest.update("\n".join([*lines, ""]).encode())
    return digest.hexdigest()


def _holds(folder: Path, digest: str) -> bool:
    """Say whether `folder` has the undamaged tokens of this digest."""
    try:
        content = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        checksums = {name: file_checksum(folder / name) for name in content["checksums"]}
        return (content["digest"], content["checksums"]) == (digest, checksums)
    except (OSError, ValueError, KeyError, TypeError, VqnmtError):
        return False
