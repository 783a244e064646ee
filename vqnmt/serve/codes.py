"""What the page shows of codes: what each writes, what else could stand in its place."""

from typing import Any

from vqnmt.decode.settings import SearchSettings
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.code_index import CodeIndex, code_texts


def inspect_codes(
    translator: BatchTranslator,
    text: str,
    given: list[int] | None,
    complete: bool,
    index: CodeIndex,
) -> dict[str, Any]:
    """Translate a sentence by its own codes or by given ones, see `decode_codes`.

    The answer has for each code what it writes, and its entries of `index`, if there are any.

    Raises:
        VqnmtError: The sentence is too long, or `given` cannot be decoded.
    """
    if given is None:
        found = translator.translate([text])[0]
    else:
        found = translator.decode_codes(text, given, complete=complete)
    codes: list[dict[str, Any]] = []
    for code, part in zip(found.codes, code_texts(translator, found), strict=False):
        codes.append({"code": code, "text": part})
        if code in index:
            often = [{"text": known, "count": count} for known, count in index[code]]
            codes[-1]["writesOften"] = often
    return {"translatedText": found.text, "score": round(found.score, 3), "codes": codes}


def beam(translator: BatchTranslator, text: str, count: int) -> list[dict[str, Any]]:
    """Return up to `count` translations of a beam as wide, the best first."""
    (found,) = translator.n_best([text], SearchSettings(beam=count, candidates=count))
    return [{"text": one.text, "score": round(one.score, 3)} for one in found]


def alternatives(
    translator: BatchTranslator, text: str, codes: list[int], position: int, complete: bool
) -> list[dict[str, Any]]:
    """Return the likeliest codes at a position, their probabilities, and what they would write.

    The sentence's own code comes first, see `code_alternatives`; the others fall by probability.

    Raises:
        VqnmtError: The model cannot tell, or a code or the position is out of range.
    """
    answer = []
    likely = translator.code_alternatives(text, codes, position, 6)
    likely.sort(key=lambda one: one[0] not in codes[position : position + 1])
    for code, probability in likely:
        after = [] if complete else codes[position + 1 :]
        found = translator.decode_codes(text, [*codes[:position], code, *after], complete=complete)
        written = code_texts(translator, found)
        part = written[position] if position < len(written) else ""
        one = {"code": code, "probability": round(probability, 4), "text": part}
        answer.append({**one, "translatedText": found.text})
    return answer
