"""Prefix beam search over CTC's output positions, with a language model. No PyTorch.

Graves et al. 2006 define the probability of a text as the sum over all its alignments; the best
path, one piece a position, need not be of the best text, and neighbouring pieces of it may be
halves of two readings. The search sums over alignments and adds a language model to the choice, as
speech recognition does (Hannun et al. 2014).
"""

import math
from collections.abc import Collection, Sequence

from vqnmt.language_model import TrigramModel

_NEVER = -math.inf

# The beginning of a text, without the positions that it was read from.
Prefix = tuple[int, ...]


def prefix_beam_search(
    positions: Sequence[Sequence[tuple[int, float]]],
    language_model: TrigramModel,
    *,
    blank: int,
    begin: int,
    end: int,
    repeatable: Collection[int],
    beam: int,
) -> tuple[list[int], list[int]]:
    """Find the text of the highest log p(text | positions) + weight * log p(text).

    Args:
        positions: At each position the likely pieces and their scores in nats, up to a constant.
        language_model: Says p(text), and has the weight.
        blank: The blank's id.
        begin: Id of the beginning of a text, for the language model.
        end: Id of its end.
        repeatable: The pieces that may be written twice in a row; another one that comes again
            behind blanks is the same once more.
        beam: Prefixes kept at each position.

    Returns:
        The text's pieces, and the position that each was read from.
    """
    language, weight = language_model.log_probability, language_model.weight
    # Of each prefix: the position that each piece was first read from, and what the language model
    # adds. One that was dropped and comes again is the same prefix.
    known: dict[Prefix, tuple[tuple[int, ...], float]] = {(): ((), 0.0)}
    # Of each prefix in the beam: log-probability of its alignments that end in a blank, in a piece.
    scores: dict[Prefix, tuple[float, float]] = {(): (0.0, _NEVER)}
    for position, likely in enumerate(positions):
        blanks: dict[Prefix, float] = {}
        pieces: dict[Prefix, float] = {}
        for prefix, (in_blank, in_piece) in scores.items():
            both = _add(in_blank, in_piece)
            last = prefix[-1] if prefix else blank
            for piece, score in likely:
                if piece == blank:
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
                    places, added = known[prefix]
                    added += weight * language(*(begin, begin, *longer)[-3:])
                    known[longer] = ((*places, position), added)
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
        ended = language(*(begin, begin, *prefix, end)[-3:])
        return _add(*scores[prefix]) + known[prefix][1] + weight * ended

    found = max(scores, key=whole)
    return list(found), list(known[found][0])


def _add(a: float, b: float) -> float:
    """Add two probabilities, in logarithms."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
