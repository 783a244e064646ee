"""Prefix beam search over CTC's positions with trigrams: the loops, in Python or compiled.

`look_up` and `prefix_beam_search` are plain Python that numba can compile too (`pip install
'vqnmt[fast]'`). Both ways compute the same numbers in the same order and find the same text.
Compiled, a sentence takes a tenth of the time, but numba and the code must be loaded first.
"""

import math
import os
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vqnmt.tokens import BOS, EOS, PAD

Search = Callable[..., tuple[list[int], list[int]]]

# The sentences that Python reads in the time in which numba loads the compiled code from its cache,
# and in the time in which numba compiles it.
_LOADED, _COMPILED = 256, 1024
_asked = 0
_lock = threading.Lock()


def look_up(tables: tuple[Any, ...], first: int, second: int, piece: int) -> float:
    """Return log p(`piece` | `first`, `second`) in nats.

    Args:
        tables: The arrays of `vqnmt.decode.language_model.Tables` in their order, without `use`.
        first: BOS at the beginning of a sentence.
        second: As `first`.
        piece: EOS at the end.
    """
    trigrams, trigram_values, pairs, pair_values, bigrams, bigram_values, singles, pieces = tables
    size = len(pieces)
    pair = first * size + second
    key = pair * size + piece
    place = bisect_left(trigrams, key)
    if place < len(trigrams) and trigrams[place] == key:
        return float(trigram_values[place])
    left = 0.0
    place = bisect_left(pairs, pair)
    if place < len(pairs) and pairs[place] == pair:
        left = float(pair_values[place])
    key = second * size + piece
    place = bisect_left(bigrams, key)
    if place < len(bigrams) and bigrams[place] == key:
        return left + float(bigram_values[place])
    return left + float(singles[second]) + float(pieces[piece])


def prefix_beam_search(
    pieces: Sequence[Sequence[int]],
    likelihoods: Sequence[Sequence[float]],
    repeatable: Sequence[bool],
    tables: tuple[Any, ...],
    weight: float,
    bonus: float,
    beam: int,
    least: float,
    far: float,
) -> tuple[list[int], list[int]]:
    """Find the text of the highest log p(text | positions) + weight * log p(text) + bonus * length.

    Texts are kept as a tree: a prefix is a number, 0 the empty one, and has a parent.

    Args:
        pieces: At each of P positions some pieces, `PAD` for the blank.
        likelihoods: How likely each of them is, up to a factor.
        repeatable: Of each piece, whether it may be written twice in a row; any other piece that
            comes again after blanks counts as the same occurrence.
        tables: Of the language model, see `look_up`.
        weight: Of the language model's log-probability.
        bonus: Added for each piece, in nats.
        beam: Prefixes kept at each position.
        least: Pieces up to this likelihood are left out.
        far: Prefixes this far below the best, in nats, are dropped.

    Returns:
        The text's pieces, and the position that each was first read from.
    """
    # Of each prefix: its last two pieces, weight * log p + bonus * length, the prefix that it
    # continues, where its last piece was read, and its continuations as a linked list.
    last, firsts, seconds, added = [PAD], [BOS], [BOS], [0.0]
    parents, places, children, siblings = [0], [0], [0], [0]
    # The probability of its alignments at this position that end in a blank, and in a piece.
    blanks, ends = [0.0], [0.0]
    kept = [(0, 1.0, 0.0)]  # prefixes with these two probabilities
    for position in range(len(pieces)):
        row, shares = pieces[position], likelihoods[position]
        likely = [i for i in range(len(row)) if shares[i] > least]
        if len(likely) == 1 and row[likely[0]] == PAD:  # scales all prefixes alike
            for i in range(len(kept)):
                kept[i] = (kept[i][0], kept[i][1] + kept[i][2], 0.0)
            continue
        seen = [0]
        seen.clear()  # numba must see what a list holds
        for prefix, in_blank, in_piece in kept:
            both = in_blank + in_piece
            for i in likely:
                piece, p = row[i], shares[i]
                stays, leads = 0.0, both * p
                if piece == PAD or piece == last[prefix]:
                    stays, leads = both * p, 0.0
                    if piece != PAD and repeatable[piece]:
                        stays, leads = in_piece * p, in_blank * p
                if stays > 0.0:
                    if blanks[prefix] + ends[prefix] == 0.0:
                        seen.append(prefix)
                    if piece == PAD:
                        blanks[prefix] += stays
                    else:
                        ends[prefix] += stays
                if leads > 0.0:
                    longer = children[prefix]
                    while longer != 0 and last[longer] != piece:
                        longer = siblings[longer]
                    if longer == 0:
                        longer = len(last)
                        log_p = look_up(tables, firsts[prefix], seconds[prefix], piece)
                        added.append(added[prefix] + weight * log_p + bonus)
                        last.append(piece)
                        firsts.append(seconds[prefix])
                        seconds.append(piece)
                        parents.append(prefix)
                        places.append(position)
                        siblings.append(children[prefix])
                        children[prefix] = longer
                        children.append(0)
                        blanks.append(0.0)
                        ends.append(0.0)
                    if blanks[longer] + ends[longer] == 0.0:
                        seen.append(longer)
                    ends[longer] += leads
        best = [(0.0, 0)]
        best.clear()  # the highest values with their prefixes, falling
        for prefix in seen:
            one = (math.log(blanks[prefix] + ends[prefix]) + added[prefix], prefix)
            place = len(best)
            while place > 0 and one > best[place - 1]:
                place -= 1
            if place < beam:
                best.insert(place, one)
                if len(best) > beam:
                    best.pop()
        if best:
            lowest = best[0][0] - far
            scale = blanks[best[0][1]] + ends[best[0][1]]
            kept.clear()
            for value, prefix in best:
                if value > lowest:
                    kept.append((prefix, blanks[prefix] / scale, ends[prefix] / scale))
        for prefix in seen:
            blanks[prefix] = ends[prefix] = 0.0

    found, highest = 0, -math.inf
    for prefix, in_blank, in_piece in kept:
        if in_blank + in_piece > 0.0:
            log_p = look_up(tables, firsts[prefix], seconds[prefix], EOS)
            value = math.log(in_blank + in_piece) + added[prefix] + weight * log_p
            if value > highest:
                found, highest = prefix, value
    tokens, origins = [0], [0]
    tokens.clear()
    origins.clear()
    while found != 0:
        tokens.append(last[found])
        origins.append(places[found])
        found = parents[found]
    return tokens[::-1], origins[::-1]


def compiled_search(sentences: int | None = None) -> Search | None:
    """Return `prefix_beam_search` compiled, for arrays; None where Python should search.

    Args:
        sentences: How many will be read with the answer. Compiled code is loaded when the process
            has read enough of them for it to pay; None loads it at once, for all later calls.
    """
    global _asked
    with _lock:
        _asked += _COMPILED if sentences is None else sentences
        return None if _asked < (_LOADED if _can_cache() else _COMPILED) else _compile()


@cache
def _compile() -> Search | None:
    """Compile the search, or load it from the cache; None where numba is missing or fails.

    The compiled code is kept as Python keeps bytecode: in `__pycache__` beside this file, if that
    may be written, or else in `NUMBA_CACHE_DIR`, if that is set. Without either each process
    compiles anew, in 2 seconds.
    """
    try:
        import numba
        from numba.extending import overload, register_jitable
    except ImportError:  # not installed, or made for another NumPy
        return None
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None
    overload(bisect_left)(lambda keys, wanted: lambda keys, wanted: np.searchsorted(keys, wanted))
    register_jitable(look_up)
    integer, real = numba.int64, numba.float64

    def array(kind: Any, dimensions: int) -> Any:
        return numba.types.Array(kind, dimensions, "C", readonly=True)

    keys, values = array(integer, 1), array(numba.float32, 1)
    signature = (
        *(array(integer, 2), array(real, 2), array(numba.bool_, 1)),
        numba.types.Tuple((keys, values, keys, values, keys, values, values, values)),
        *(real, real, integer, real, real),
    )
    for cached in (True, False) if _can_cache() else (False,):
        try:
            compiler = numba.njit(signature, cache=cached, nogil=True)
            return compiler(prefix_beam_search)
        except Exception:  # the cache is damaged or the disk is full, or numba lacks something
            continue
    return None


@cache
def _can_cache() -> bool:
    if os.environ.get("NUMBA_CACHE_DIR"):
        return True
    here = Path(__file__).parent
    place = here / "__pycache__" if (here / "__pycache__").exists() else here
    return not (sys.dont_write_bytecode or sys.pycache_prefix) and os.access(place, os.W_OK)
