"""What single codes of a latent model mean: their words, and what another code would write."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from vqnmt.evaluation.code_plots import CodeWords, Swap, Swaps
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.code_index import code_texts


def code_words(
    translator: BatchTranslator, sentences: Sequence[str], codes: int, words: int
) -> list[CodeWords]:
    """Translate sentences, and count the words that each code writes.

    A word is what stands between blanks; one that two codes write is halved, so that the halves
    count as words.

    Args:
        translator: A latent model.
        sentences: Sources.
        codes: How many codes are returned, the most used first.
        words: How many words of each.
    """
    used: Counter[int] = Counter()
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for translation in translator.translate(sentences, repair=False):
        used.update(translation.codes)
        texts = code_texts(translator, translation)
        for code, text in zip(translation.codes, texts, strict=False):
            counts[code].update(text.split())
    total: Counter[str] = sum(counts.values(), Counter())
    found = []
    for code, times in used.most_common(codes):
        mine = counts[code]
        share = mine.total() / max(total.total(), 1)

        def distinctive(word: str, mine: Counter[str] = mine, share: float = share) -> float:
            """Return the word's term of the Kullback-Leibler divergence, up to a factor."""
            return mine[word] * math.log(mine[word] / (total[word] * share))

        frequent = [word for word, _ in mine.most_common(words)]
        own = sorted(mine, key=distinctive, reverse=True)[:words]
        found.append(CodeWords(code, times / used.total(), frequent, own))
    return found


def code_swaps(translator: BatchTranslator, sentence: str, position: int, count: int) -> Swaps:
    """Translate a sentence with the `count` likeliest codes at one position, the others kept.

    Its own code comes first, see `code_alternatives`; the others fall by probability.

    Raises:
        VqnmtError: The model cannot decode given codes, or the position is out of range.
    """
    codes = translator.codes(sentence)
    swaps = []
    likely = translator.code_alternatives(sentence, codes, position, count)
    likely.sort(key=lambda one: one[0] != codes[position])
    for code, probability in likely:
        changed = [*codes[:position], code, *codes[position + 1 :]]
        text = translator.decode_codes(sentence, changed).text
        swaps.append(Swap(changed, probability, text))
    return Swaps(sentence, position, swaps)
