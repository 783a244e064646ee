"""Candidate translations: of a sentence, ordered, and those of a text, joined of its parts'.

Needs no PyTorch.
"""

from collections.abc import Callable, Iterable, Sequence

from vqnmt.data.normalization import normalize
from vqnmt.spans import SLOT, restore, slot
from vqnmt.translate.parts import Part, join
from vqnmt.translate.translation import Rescorer, Translation


def rescore(
    sentences: Sequence[str], found: Sequence[list[Translation]], rescorer: Rescorer
) -> None:
    """Give every candidate its teacher score, and put the best of each sentence first."""
    texts = [[translation.text for translation in row] for row in found]
    for row, scores in zip(found, rescorer.score(sentences, texts), strict=True):
        for translation, score in zip(row, scores, strict=True):
            translation.teacher_score = score
        row.sort(key=lambda translation: -(translation.teacher_score or 0.0))


def distinct(ranked: Iterable[Translation]) -> list[Translation]:
    """Keep the first of the translations with the same text."""
    first: dict[str, Translation] = {}
    for translation in ranked:
        first.setdefault(translation.text, translation)
    return list(first.values())


def restored(text: str, part: Part) -> str:
    """Give what a model has written for `part` its capitals and, instead of the slots, its spans.

    Slots that are made up are left out.
    """
    beyond = slot(len(part.spans))
    text = SLOT.sub(lambda m: m[0] if m[0] < beyond else "", text)
    return restore(normalize(text.upper() if part.capitals else text), part.spans)


def joined(parts: Sequence[Part], found: Sequence[list[Translation]]) -> list[Translation]:
    """Join the translations of a text's parts: the best of each, the second best, and so on."""
    if len(parts) == 1 and found[0]:
        return found[0]
    count = min((len(ranked) for ranked in found if ranked), default=1)
    rows = [
        ranked or [Translation(part.source)] * count
        for part, ranked in zip(parts, found, strict=True)
    ]
    texts = [_join(parts, rank) for rank in zip(*rows, strict=False)]
    return distinct(sorted(texts, key=lambda one: (bool(one.warnings), -_deciding(one))))


def _deciding(translation: Translation) -> float:
    """Return the score by which a translation is compared."""
    rescored = translation.teacher_score
    return translation.score if rescored is None else rescored


def mean_score(
    translations: Iterable[Translation],
    score: Callable[[Translation], float] = lambda one: one.score,
) -> float:
    """The mean of scores over the symbols of all `translations`; 0 where a model wrote none."""
    written = [one for one in translations if one.codes or one.tokens]
    total = max(sum(one.length for one in written), 1)
    return sum(score(one) * one.length for one in written) / total


def _join(parts: Sequence[Part], rank: Sequence[Translation]) -> Translation:
    """Join the translations of a text's parts; scores become means over all their symbols."""
    rescored = any(one.teacher_score is not None for one in rank)
    return Translation(
        join(parts, [one.text for one in rank]),
        mean_score(rank),
        [code for one in rank for code in one.codes],
        [token for one in rank for token in one.tokens],
        [span for one in rank for span in one.spans],
        mean_score(rank, lambda one: one.teacher_score or 0.0) if rescored else None,
        list(dict.fromkeys(warning for one in rank for warning in one.warnings)),
    )
