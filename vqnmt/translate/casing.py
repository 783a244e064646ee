"""Text in capitals, or with a capital at most words, in the case that a model knows it in.

Needs no PyTorch.
"""

import re
from collections.abc import Callable, Sequence

from vqnmt.data.vocabulary import Vocabulary

_WORD = re.compile(r"[^\W\d_]+")
# A title has so many words, and a capital at each of so many letters. Shorter ones are labels,
# which interface text has in this form.
_TITLE, _LONG = 4, 4
# Nats by which the small letters of a title's word must be likelier, so that names stay.
_MARGIN = 1.0


def usual_case(text: str, vocabulary: Vocabulary) -> str:
    """Write words of a text in capitals, or of a title, in small letters where that is usual.

    "INSERT A USB STICK" becomes "Insert A USB stick": a word in capitals changes if its small
    letters have fewer pieces. "Click Here to Visit Boston" becomes "Click here to visit Boston": a
    word of a title changes if its small letters are likelier. Any other text stays as it is.
    """
    words = _WORD.findall(text)
    if text.isupper():
        small = [word.lower() if i else word.capitalize() for i, word in enumerate(words)]
        return _changed(text, words, small, vocabulary, lambda row: -len(row), 0)
    if _is_title(words):
        small = [word.lower() if i and word.istitle() else word for i, word in enumerate(words)]
        return _changed(text, words, small, vocabulary, vocabulary.log_probability, _MARGIN)
    return text


def _changed(
    text: str,
    words: Sequence[str],
    small: Sequence[str],
    vocabulary: Vocabulary,
    score: Callable[[list[int]], float],
    margin: float,
) -> str:
    """Replace the words whose small form's pieces score higher, by more than `margin`."""
    scores = [score(row) for row in vocabulary.encode([*words, *small])]
    pairs = zip(words, small, scores, scores[len(words) :], strict=False)
    chosen = iter([other if its > own + margin else word for word, other, own, its in pairs])
    return _WORD.sub(lambda _: next(chosen), text)


def _is_title(words: Sequence[str]) -> bool:
    capitals = [word[0].isupper() for word in words]
    return (
        len(words) >= _TITLE
        and sum(capitals) >= _TITLE - 1
        and all(big or len(word) < _LONG for big, word in zip(capitals, words, strict=True))
    )
