"""Reading CTC's output positions with a language model, by prefix beam search. No PyTorch.

Graves et al. 2006 define the probability of a text as the sum over all its alignments; the best
path, one piece a position, need not be of the best text, and neighbouring pieces of it may be
halves of two readings. The search sums over alignments and adds a language model to the choice, as
speech recognition does (Hannun et al. 2014).
"""

import math
from collections.abc import Collection, Sequence

import numpy as np

from vqnmt.data.vocabulary import EOS_ID, PAD_ID
from vqnmt.language_model import TrigramModel

MOST_LIKELY = 8
"""Pieces of a position that a language model may choose from."""
# Of them those that have a twentieth of the likeliest one's probability or more.
_LEAST_LIKELY = -math.log(20)
# Prefixes kept: 8 gave 0.05 BLEU more in twice the time.
_PREFIXES = 4
_NEVER = -math.inf

# The beginning of a text, without the positions that it was read from.
Prefix = tuple[int, ...]


def read_likely(
    logits: np.ndarray,
    pieces: np.ndarray,
    lengths: Sequence[int],
    stride: int,
    language_model: TrigramModel,
    repeatable: Collection[int],
) -> list[tuple[list[int], list[int]]]:
    """Read a batch of decoded sentences.

    Args:
        logits: Of the likeliest pieces of each position, (B, P, n).
        pieces: These pieces, (B, P, n).
        lengths: How many of the P positions of each sentence are real.
        stride: Positions a code.
        language_model: Of the target text.
        repeatable: See `prefix_beam_search`.

    Returns:
        The tokens of each sentence, and how many of them each of its codes writes.
    """
    # The sum over all pieces is the same for each reading: no need of log-probabilities.
    scores = logits - language_model.blank_penalty * (pieces == PAD_ID)
    scores -= scores.max(axis=-1, keepdims=True)
    found = []
    for columns, names, length in zip(scores.tolist(), pieces.tolist(), lengths, strict=True):
        rows = zip(columns[:length], names[:length], strict=True)
        positions = [
            [(piece, score) for score, piece in zip(*row, strict=True) if score > _LEAST_LIKELY]
            for row in rows
        ]
        tokens, places = prefix_beam_search(positions, language_model, repeatable, _PREFIXES)
        spans = [0] * (length // stride)
        for place in places:
            spans[place // stride] += 1
        found.append((tokens, spans))
    return found


def prefix_beam_search(
    positions: Sequence[Sequence[tuple[int, float]]],
    language_model: TrigramModel,
    repeatable: Collection[int],
    beam: int,
) -> tuple[list[int], list[int]]:
    """Find the text of the highest log p(text | positions) + weight * log p(text).

    Args:
        positions: At each position the likely pieces, `PAD_ID` for the blank, and their scores in
            nats, up to a constant.
        language_model: Says p(text), and has the weight.
        repeatable: The pieces that may be written twice in a row; another one that comes again
            behind blanks is the same once more.
        beam: Prefixes kept at each position.

    Returns:
        The text's pieces, and the position that each was read from.
    """
    added = language_model.added
    # Of each prefix: the position that each piece was first read from, and what the language model
    # adds. One that was dropped and comes again is the same prefix.
    known: dict[Prefix, tuple[tuple[int, ...], float]] = {(): ((), 0.0)}
    # Of each prefix in the beam: log-probability of its alignments that end in a blank, in a piece.
    scores: dict[Prefix, tuple[float, float]] = {(): (0.0, _NEVER)}
    for position, likely in enumerate(positions):
        if len(likely) == 1 and likely[0][0] == PAD_ID:  # most positions: all prefixes pay alike
            scores = {prefix: (_add(*pair), _NEVER) for prefix, pair in scores.items()}
            continue
        blanks: dict[Prefix, float] = {}
        pieces: dict[Prefix, float] = {}
        for prefix, (in_blank, in_piece) in scores.items():
            both = _add(in_blank, in_piece)
            last = prefix[-1] if prefix else PAD_ID
            for piece, score in likely:
                if piece == PAD_ID:
                    blanks[prefix] = both + score
                    continue
                leads = both
                if piece == last:
                    twice = piece in repeatable
                    stays = (in_piece if twice else both) + score
                    pieces[prefix] = _add(pieces.get(prefix, _NEVER), stays)
                    leads = in_blank if twice else _NEVER
                if leads == _NEVER:
                    continue
                longer = (*prefix, piece)
                if longer not in known:
                    places, so_far = known[prefix]
                    known[longer] = ((*places, position), so_far + added(prefix, piece))
                pieces[longer] = _add(pieces.get(longer, _NEVER), leads + score)
        scores = {
            prefix: (blanks.get(prefix, _NEVER), pieces.get(prefix, _NEVER))
            for prefix in blanks | pieces
        }
        if len(scores) > beam:
            total = {prefix: _add(*pair) + known[prefix][1] for prefix, pair in scores.items()}
            best = sorted(total, key=total.__getitem__, reverse=True)[:beam]
            scores = {prefix: scores[prefix] for prefix in best}

    def whole(prefix: Prefix) -> float:
        return _add(*scores[prefix]) + known[prefix][1] + added(prefix, EOS_ID)

    found = max(scores, key=whole)
    return list(found), list(known[found][0])


def _add(a: float, b: float) -> float:
    """Add two probabilities, in logarithms."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
