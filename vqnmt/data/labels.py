"""Labels that a model has been trained on: whether it knows them says how well it has learnt."""

from vqnmt.data.corpus import ParallelText
from vqnmt.data.normalization import is_translatable
from vqnmt.data.words import count_words
from vqnmt.splits import text_hash

# Labels that are asked for.
SEEN_LABELS = 1500
# Longest label in words.
_WORDS = 3


def seen_labels(train: ParallelText, count: int = SEEN_LABELS) -> ParallelText:
    """Draw labels of one to three words from the training text, each with all its translations.

    The same text gives the same labels, in whatever order it stands.

    Args:
        train: The training pairs; gone through twice. Memory grows with its different labels.
        count: Labels wanted; fewer come where the text has fewer.
    """
    labels = {
        text for text in train.sources if count_words(text) <= _WORDS and is_translatable(text)
    }
    chosen = sorted(labels, key=text_hash)[:count]
    found: dict[str, dict[str, int]] = {label: {} for label in chosen}
    for i, (source, target) in enumerate(zip(train.sources, train.targets, strict=True)):
        if source in found:
            found[source][target] = 1 if train.counts is None else int(train.counts[i])
    references = [sorted(its, key=its.__getitem__, reverse=True) for its in found.values()]
    return ParallelText(chosen, [first for first, *_ in references], references=references)
