"""Further attempts at parts whose translation is empty, or loses or invents a protected span.

Needs no PyTorch.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from vqnmt.decode.settings import SearchSettings
from vqnmt.translate.candidates import distinct, mean_score
from vqnmt.translate.parts import Part, around_spans
from vqnmt.translate.translation import Rescorer, Translation, faults

# Candidates among which a translation with all protected spans is looked for.
_CANDIDATES = 4


class Repair:
    """Puts an intact translation of each failing part first.

    Args:
        translator: The `BatchTranslator` that has made the translations; it imports this module.
        parts: The parts of all texts.
        rows: Their tokens; a part without words has none.
        found: The translations of each part, the best first; changed in place.
        settings: How they were searched.
    """

    def __init__(
        self,
        translator: Any,
        parts: Sequence[Part],
        rows: Sequence[list[int]],
        found: list[list[Translation]],
        settings: SearchSettings,
    ) -> None:
        self.translator, self.parts, self.rows = translator, parts, rows
        self.found, self.settings = found, settings

    def _failing(self) -> list[int]:
        pairs = enumerate(zip(self.rows, self.found, strict=True))
        return [i for i, (row, its) in pairs if row and (not its or its[0].warnings)]

    def _put(self, i: int, translation: Translation) -> None:
        self.found[i] = distinct([translation, *self.found[i]])[: self.settings.candidates]

    def by_wider_search(self, rescorer: Rescorer | None) -> None:
        """Take the best intact one of several candidates."""
        settings = self.settings
        few = settings.candidates < _CANDIDATES and settings.temperature is None
        if not (self.translator.searches and few and (some := self._failing())):
            return
        wider = replace(settings, beam=max(settings.beam, _CANDIDATES), candidates=_CANDIDATES)
        chosen = [self.parts[i] for i in some], [self.rows[i] for i in some]
        for indices, ranked in self.translator.search_parts(*chosen, wider, rescorer):
            for i, row in zip(indices, ranked, strict=True):
                if row and not row[0].warnings:
                    self._put(some[i], row[0])

    def by_another_model(self, other: Any) -> None:
        """Take the translation of another `BatchTranslator`, where it is intact."""
        if some := self._failing():
            sources = [self.parts[i].source for i in some]
            translations = other.translate(sources, beam=4, repair=False)
            for i, translation in zip(some, translations, strict=True):
                if not translation.warnings:  # its tokens are another vocabulary's
                    mark = translation.score
                    self._put(i, Translation(translation.text, mark, teacher_score=mark))

    def around_spans(self) -> None:
        """Translate the text between the spans; a part without spans stays as it is."""
        some, patterns = self._failing(), self.translator.span_patterns
        texts = [around_spans(self.parts[i].source, patterns) for i in some]
        words = [text[1] for text in chain.from_iterable(texts) if isinstance(text, tuple)]
        beam, reads = self.settings.beam, self.settings.language_model
        between = iter(
            self.translator.translate(words, beam=beam, language_model=reads, repair=False)
            if words
            else ()
        )
        for i, pieces in zip(some, texts, strict=True):
            source, its = self.parts[i].source, self.found[i]
            spans = [piece for piece in pieces if isinstance(piece, str)]
            if spans:
                written = [next(between) for piece in pieces if not isinstance(piece, str)]
                ordered = iter(written)
                text = "".join(
                    piece
                    if isinstance(piece, str)
                    else piece[0] + (next(ordered).text.rstrip(".!?") or piece[1]) + piece[2]
                    for piece in pieces
                )
                warnings = [f"translated around {', '.join(spans)}"]
                warnings += faults(source, text, patterns)
                self._put(i, Translation(text, mean_score(written), warnings=warnings))
            elif not (its and its[0].text):
                kept = ["left as it is: the model wrote nothing"]
                self._put(i, Translation(source, warnings=kept))
