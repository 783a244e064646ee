"""Tokenised text on disk, memory-mapped."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqnmt.data.filters import PairFilter
from vqnmt.data.readers import chunks
from vqnmt.data.sources import file_checksum
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text
from vqnmt.progress import Progress

# Pairs that are encoded at a time: bounds the memory that tokenising needs.
CHUNK = 10_000
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

    Nothing is done where the folder holds just these pairs already. One process calls this. The
    pairs are streamed: what is held of them is a chunk, and 16 bytes a pair.

    Args:
        sources: Source sentences.
        targets: Their translations.
        vocabulary: Encodes both sides.
        folder: Gets the tokens of both sides and tokens.json, which vouches for them.
        fit: Judges the pairs.
        description: Whose pairs they are, for the progress report.

    Raises:
        VqnmtError: The folder cannot be written.
    """
    kind = np.uint16 if len(vocabulary) <= 1 << 16 else np.int32
    digest = _digest([repr(fit), vocabulary.checksum(), str(_FORMAT)], sources, targets)
    if _holds(folder, digest):
        return
    (folder / "tokens.json").unlink(missing_ok=True)  # from here on nothing vouches for old files
    lengths = [[np.zeros(1, dtype=np.int64)] for _ in _SIDES]
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                open(stack.enter_context(atomic_path(folder / f"{side}.tokens")), "wb")
            )
            for side in _SIDES
        ]
        progress = stack.enter_context(
            Progress(f"{description} tokens", len(sources), unit="pairs")
        )
        for chunk in chunks(zip(sources, targets, strict=True), CHUNK):
            fitting = [pair for pair in chunk if fit.reason(*pair) is None]
            for side, file in enumerate(files):
                rows = vocabulary.encode([pair[side] for pair in fitting])
                lengths[side].append(np.fromiter(map(len, rows), np.int64, len(rows)))
                np.fromiter(chain.from_iterable(rows), kind).tofile(file)
            progress.update(len(chunk))
    for name, parts in zip(_SIDES, lengths, strict=True):
        with atomic_path(folder / f"{name}.offsets.npy") as path, open(path, "wb") as file:
            np.save(file, np.concatenate(parts).cumsum())
    content = {
        "digest": digest,
        "dtype": np.dtype(kind).name,
        "checksums": {name: file_checksum(folder / name) for name in _FILES},
    }
    atomic_write_text(folder / "tokens.json", json.dumps(content, indent=2) + "\n")


def open_tokens(folder: Path) -> tuple[TokenizedText, TokenizedText]:
    """Open the sources and the targets that `tokenize_pairs` has left in `folder`."""
    kind = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["dtype"]

    def text(side: str) -> TokenizedText:
        offsets = np.load(folder / f"{side}.offsets.npy")
        if offsets[-1] == 0:  # an empty file cannot be mapped
            return TokenizedText(np.zeros(0, dtype=kind), offsets)
        return TokenizedText(np.memmap(folder / f"{side}.tokens", dtype=kind, mode="r"), offsets)

    return text("source"), text("target")


def _digest(settings: Sequence[str], *texts: Sequence[str]) -> str:
    """Digest all that decides the tokens."""
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
