"""Reading CTC's output positions with a language model, by prefix beam search. No PyTorch.

Graves et al. 2006 define the probability of a text as the sum over all its alignments. The best
path, the likeliest piece of each position, need not spell the likeliest text, and its neighbouring
pieces may come from different texts. The search sums over alignments and adds the score of a
language model, as in speech recognition (Hannun et al. 2014).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqnmt.decode.language_model import TrigramModel
from vqnmt.decode.prefix_search import Search, compiled_search, prefix_beam_search
from vqnmt.decode.settings import ReadingSettings
from vqnmt.errors import VqnmtError
from vqnmt.tokens import PAD

# Prefixes this far below the best, in nats, are dropped: they hardly ever win.
_TOO_FAR = 6.0


def read_likely(
    logits: np.ndarray,
    pieces: np.ndarray,
    lengths: Sequence[int],
    stride: int,
    language_model: TrigramModel,
    repeatable: NDArray[np.bool_],
    reading: ReadingSettings | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Read a batch of decoded sentences.

    Args:
        logits: Of the likeliest pieces of each position, (B, P, n), falling.
        pieces: These pieces, (B, P, n).
        lengths: How many of the P positions of each sentence are real.
        stride: Positions a code.
        language_model: Of the target text, V pieces.
        repeatable: (V,), True where a piece may be written twice in a row.
        reading: How to search; by default as `ReadingSettings` says.

    Returns:
        The tokens of each sentence, and how many of them each of its codes writes.

    Raises:
        VqnmtError: A likeliest piece has no finite score, or a piece is not in the vocabulary.
    """
    if not np.isfinite(logits[..., 0]).all():
        raise VqnmtError(
            "the decoder's scores are not finite: translate with dtype=fp32, or train anew"
        )
    # Compiled code reads whatever lies behind the end of a table.
    if pieces.size and not 0 <= pieces.min() <= pieces.max() < language_model.size:
        raise VqnmtError(
            f"the decoder writes piece {pieces.max()}, but the vocabulary has "
            f"{language_model.size}: copy the model folder again or train anew"
        )
    reading = reading or ReadingSettings()
    logits, pieces = logits[..., : reading.pieces], pieces[..., : reading.pieces]
    # The sum over all pieces is the same for each reading: no need of a softmax.
    fusion = language_model.fusion
    scores = logits - fusion.blank_penalty * (pieces == PAD)
    likelihoods = np.exp(scores - scores.max(axis=-1, keepdims=True))
    further = fusion.weight, fusion.piece_bonus, reading.beam, reading.least_likely, _TOO_FAR
    rows: tuple[Any, Any]
    model: tuple[Any, ...]
    search: Search
    if compiled := compiled_search(len(pieces)):
        search = compiled
        rows = pieces.astype(np.int64, "C"), likelihoods.astype(np.float64, "C")
        model = np.ascontiguousarray(repeatable), language_model.arrays, *further
    else:
        search, rows = prefix_beam_search, (pieces.tolist(), likelihoods.tolist())
        model = repeatable.tolist(), language_model.views, *further
    found = []
    for names, shares, length in zip(*rows, lengths, strict=True):
        tokens, places = search(names[:length], shares[:length], *model)
        spans = [0] * (length // stride)
        for place in places:
            spans[place // stride] += 1
        found.append((tokens, spans))
    return found
