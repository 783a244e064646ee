"""New source sentences from old ones: text that a teacher can translate where nobody else has.

A student of a few ten thousand sentences learns them by heart. What it should learn is its teacher,
and a teacher can be asked about any sentence: it needs only sentences of the same kind.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from vqnmt.data.normalization import normalize, sentence_key
from vqnmt.data.words import split_words
from vqnmt.splits import text_hash

# Sentences that others are made of, at most: bounds the memory to some 200 MB.
PARENTS = 200_000
# Trials for each sentence wanted, before fewer are returned.
TRIALS = 20


def recombine(
    sentences: Sequence[str], count: int, seed: int, taken: Iterable[str] = ()
) -> list[str]:
    """Make up sentences: the beginning of one and the end of another that share two words.

    The two words stand inside both, so that any three neighbours in the result are neighbours in
    `sentences`: "A man in a hat" and "Two dogs in a small boat" give "A man in a small boat".

    Args:
        sentences: What to take apart: into words, or into characters where a script has no blanks
            between words, see `split_words`.
        count: Sentences wanted.
        seed: The same one gives the same sentences.
        taken: Sentences that may not come out, such as those of a test set. `sentences` never do.

    Returns:
        The new sentences, all different by `sentence_key`; fewer than `count` where the words of
        the old ones do not allow more.
    """
    chance = random.Random(seed)
    chosen = sentences
    if len(sentences) > PARENTS:
        chosen = [sentences[i] for i in sorted(chance.sample(range(len(sentences)), PARENTS))]
    parents = [words for one in chosen if len(words := split_words(normalize(one))) >= 4]
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for number, words in enumerate(parents):
        for place in _inside(words):
            places[words[place], words[place + 1]].append((number, place))
    known = {_key_hash(sentence) for sentence in chain(sentences, taken)}
    found: list[str] = []
    for _ in range(TRIALS * count if parents else 0):
        if len(found) == count:
            break
        first = chance.choice(parents)
        cut = chance.choice(_inside(first))
        number, place = chance.choice(places[first[cut], first[cut + 1]])
        sentence = "".join(first[:cut] + parents[number][place:])
        if (hashed := _key_hash(sentence)) not in known:
            known.add(hashed)
            found.append(sentence)
    return found


def _inside(words: Sequence[str]) -> range:
    """Return the places of two neighbouring words that have one before and one after them."""
    return range(1, len(words) - 2)


def _key_hash(sentence: str) -> int:
    return text_hash(sentence_key(sentence))
