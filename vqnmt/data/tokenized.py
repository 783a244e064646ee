"""Tokenised text on disk, memory-mapped."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from vqnmt.data.filters import PairFilter
from vqnmt.data.readers import chunks
from vqnmt.data.shards import Arrays, Shards, joined
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.downloads import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.files import UNSUPPORTED, atomic_path, atomic_write_text, warn_once
from vqnmt.progress import Progress

# Pairs that are encoded at a time: bounds the memory that tokenising needs.
CHUNK = 10_000
# Pairs of a shard: the most work that a crash can lose, for each machine.
SHARD = 100_000
# Raised whenever the same pairs give other files.
_FORMAT = 1
_SIDES = ("source", "target")
_FILES = tuple(f"{side}.{ending}" for side in _SIDES for ending in ("tokens", "offsets.npy"))


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
) -> None:
    """Encode the pairs that `fit` lets through into `folder`, for `open_tokens` to open.

    Nothing is done if the folder holds exactly these pairs already. All processes call this, of all
    machines, which see the same folder; the first of each machine works. What is held of the pairs
    is a shard, and 16 bytes a pair.

    Args:
        sources: Source sentences.
        targets: Their translations.
        vocabulary: Encodes both sides.
        folder: Gets the tokens of both sides and tokens.json, which marks them complete.
        fit: The limits on a pair.
        description: Whose pairs they are, for the progress report.

    Raises:
        VqnmtError: The folder cannot be written.
    """
    digest = None
    if PartialState().is_main_process:
        digest = _digest([repr(fit), vocabulary.checksum(), str(_FORMAT)], sources, targets)
        if _holds(folder, digest):
            digest = None
        else:  # from here on old files count as incomplete
            (folder / "tokens.json").unlink(missing_ok=True)
    (digest,) = broadcast_object_list([digest])
    if digest is None:
        return
    kind = np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.int32)
    shards = Shards(folder, digest, SHARD)

    def encode(start: int, stop: int) -> Arrays:
        pairs = zip(sources[start:stop], targets[start:stop], strict=True)
        fitting = [pair for pair in pairs if fit.reason(*pair) is None]
        arrays = {}
        for i, side in enumerate(_SIDES):
            rows = vocabulary.encode([pair[i] for pair in fitting])
            arrays[f"{side} lengths"] = np.fromiter(map(len, rows), np.int64, len(rows))
            arrays[f"{side} tokens"] = np.fromiter(chain.from_iterable(rows), kind)
        return arrays

    def encoded(machine: int, machines: int) -> Iterator[Arrays]:
        """Read or make the shards of a machine; those that are full are saved."""
        starts = range(machine * SHARD, len(sources), machines * SHARD)
        total = sum(min(SHARD, len(sources) - start) for start in starts)
        with Progress(f"{description} tokens", total, "pairs") as progress:
            for start in starts:
                stop = min(start + SHARD, len(sources))
                shard = shards.read(start // SHARD)
                if shard is None:
                    edges = [*range(start, stop, CHUNK), stop]
                    shard = joined([encode(*edge) for edge in pairwise(edges)])
                    if stop - start == SHARD:
                        shards.write(start // SHARD, shard)
                yield shard
                progress.update(stop - start)

    shards.share(encoded, lambda every: _merge(every, folder, kind, digest))


def _merge(shards: Iterable[Arrays], folder: Path, kind: np.dtype[Any], digest: str) -> None:
    """Write the tokens of all shards, and then tokens.json."""
    lengths = [[np.zeros(1, dtype=np.int64)] for _ in _SIDES]
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                open(stack.enter_context(atomic_path(folder / f"{side}.tokens")), "wb")
            )
            for side in _SIDES
        ]
        for shard in shards:
            for side, file, its in zip(_SIDES, files, lengths, strict=True):
                shard[f"{side} tokens"].tofile(file)
                its.append(shard[f"{side} lengths"])
    for name, parts in zip(_SIDES, lengths, strict=True):
        with atomic_path(folder / f"{name}.offsets.npy") as path, open(path, "wb") as file:
            np.save(file, np.concatenate(parts).cumsum())
    content = {
        "digest": digest,
        "dtype": kind.name,
        "checksums": {name: file_checksum(folder / name) for name in _FILES},
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


def _open_side(folder: Path, side: str, kind: str) -> TokenizedText:
    offsets = np.load(folder / f"{side}.offsets.npy", mmap_mode="r")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"{side}.offsets.npy holds no offsets")
    offsets = np.array(offsets)  # a copy: the file is closed
    size = (folder / f"{side}.tokens").stat().st_size
    ends = [0, size // np.dtype(kind).itemsize]
    if offsets[[0, -1]].tolist() != ends or (np.diff(offsets) < 0).any():
        raise ValueError(f"{side}.tokens is not of the size that its offsets tell")
    if size == 0:  # an empty file cannot be mapped
        return TokenizedText(np.zeros(0, dtype=kind), offsets)
    path = folder / f"{side}.tokens"
    try:
        return TokenizedText(np.memmap(path, dtype=kind, mode="r"), offsets)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn_once("files on this disk cannot be mapped, and tokens are read into memory")
        return TokenizedText(np.fromfile(path, dtype=kind), offsets)


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
        checksums = {name: file_checksum(folder / name) for name in _FILES}
        return (content["digest"], content["checksums"]) == (digest, checksums)
    except (OSError, ValueError, KeyError, TypeError, VqnmtError):
        return False
