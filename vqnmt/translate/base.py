"""From text to text: what all engines share. Needs no PyTorch.

Training-time validation, files, pipes, evaluation and the exported engines all translate by
`BatchTranslator`. It tokenises, batches sentences of similar length, passes text without words
through, refuses or splits long sources, and chooses among candidates by score or by a rescorer.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vqnmt.data.normalization import normalize
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.settings import ReadingSettings, SearchSettings, Width
from vqnmt.errors import VqnmtError
from vqnmt.formality import TAGS
from vqnmt.settings import checked
from vqnmt.spans import (
    SLOT,
    Protected,
    check_patterns,
    protect,
    protect_like,
    restore,
    slot,
)
from vqnmt.tokens import length_limit
from vqnmt.translate.candidates import distinct, joined, rescore, restored
from vqnmt.translate.casing import usual_case
from vqnmt.translate.parts import Part, cut, join, split_row
from vqnmt.translate.repair import Repair
from vqnmt.translate.translation import (
    Rescorer,
    Translation,
    as_codes,
    as_sentences,
    check_attribute,
    faults,
    untranslated,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vqnmt.progress import Progress

ON_LONG = ("refuse", "split")
"""What can be done with a source that is longer than the model takes."""

DTYPES = ("fp32", "bf16", "fp16")
"""What PyTorch computes in."""

_READING = ReadingSettings()


class BatchTranslator(ABC):
    """A model with its vocabulary, whatever runs the model.

    Args:
        vocabulary: The model's pieces.
        source_language: Language code of the source.
        target_language: Language code of the target.
        batch_tokens: Source tokens translated at a time, padding included.
        spread: A batch's longest source has at most this many times the tokens of its shortest: on
            a CPU a padded position costs as much as a token.
        max_source_tokens: The longest source that the model takes.
        length_penalty: See `SearchSettings`.
        on_long: One of `ON_LONG`: whether a longer sentence is refused, or split into parts that
            are translated one by one.
        span_patterns: Regular expressions of strings that stay as they are, beside those that
            `vqnmt.spans` finds.

    Raises:
        VqnmtError: A setting is out of range.
    """

    # Where this engine's threads run: in the process that has loaded a model first.
    _process: int | None = None
    folder: Path | None = None
    """What `load_translator` has loaded it from."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        source_language: str,
        target_language: str,
        *,
        batch_tokens: int = 2048,
        spread: float = 2.0,
        max_source_tokens: int = 256,
        length_penalty: float = 1.0,
        on_long: str = "refuse",
        span_patterns: Sequence[str] = (),
    ) -> None:
        least = {"batch_tokens": batch_tokens, "spread": spread}
        for key, value in {**least, "max_source_tokens": max_source_tokens}.items():
            if not value >= 1:
                raise VqnmtError(f"{key} is {value}; it must be 1 or more")
        self.vocabulary = vocabulary
        self.source_language, self.target_language = source_language, target_language
        self.batch_tokens, self.spread = batch_tokens, spread
        self.max_source_tokens = max_source_tokens
        self.length_penalty, self.on_long = length_penalty, on_long
        self.span_patterns = list(span_patterns)
        self._check_attributes()
        self._formality: str | None = None
        kind = type(self)
        kind._process = kind._process or os.getpid()

    def __repr__(self) -> str:
        """Say what it is."""
        pair = f"{self.source_language} to {self.target_language}"
        return f"<{type(self).__name__}: {pair}, {self.engine}, {len(self.vocabulary):,} pieces>"

    def _check_attributes(self) -> None:
        """Check what a caller may set on a loaded translator, too."""
        if self.on_long not in ON_LONG:
            raise VqnmtError(f"on_long is {self.on_long!r}; choose one of {', '.join(ON_LONG)}")
        check_patterns(self.span_patterns, "span_patterns")

    @property
    def formality(self) -> str | None:
        """Register of all translations: "informal" or "formal"; None leaves it to the model.

        Raises:
            VqnmtError: Another value, or a model that has not learnt it, is given.
        """
        return self._formality

    @formality.setter
    def formality(self, value: str | None) -> None:
        if value is not None and value not in tuple(TAGS):
            raise VqnmtError(f"formality is {value!r}; choose one of {', '.join(TAGS)}, or None")
        if value is not None and not self.vocabulary.formality:
            raise VqnmtError(
                f"formality is {value!r}, but this model has not learnt it: train one with "
                "vocabulary.formality=true"
            )
        self._formality = value

    @property
    def engine(self) -> str:
        """What runs the model, in words."""
        return "unknown engine"

    @overload
    def __call__(self, text: str, **options: Any) -> Translation: ...

    @overload
    def __call__(self, text: Iterable[str], **options: Any) -> list[Translation]: ...

    def __call__(
        self, text: str | Iterable[str], **options: Any
    ) -> Translation | list[Translation]:
        """Translate one sentence, or each of several.

        `print(translator("Hello"))` prints the translation's text.

        Args:
            text: A string, or any iterable of strings.
            options: Those of `translate`.

        Returns:
            One translation for a string, else a list.
        """
        if isinstance(text, str):
            return self.translate([text], **options)[0]
        sentences = as_sentences(text, "text", "give a string, or a list of strings")
        return self.translate(sentences, **options)

    @classmethod
    def _fork_remedy(cls) -> str | None:
        """What to do in a forked process, where the engine would wait for threads for ever."""
        return None

    @classmethod
    def _refuse_fork(cls) -> None:
        if cls._process not in (None, os.getpid()) and (remedy := cls._fork_remedy()):
            raise VqnmtError(
                f"this process was forked from process {cls._process}, which had loaded a model, "
                f"and its translations would never end: {remedy}"
            )

    @abstractmethod
    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate one batch of token rows, none of them empty; the texts are left empty.

        Returns:
            For each row its candidates, in any order; different ones may read alike.
        """

    @property
    def searches(self) -> bool:
        """Whether a beam finds further candidates."""
        return True

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 1,
        candidates: int = 1,
        temperature: float | None = None,
        language_model: bool = True,
        reading: ReadingSettings | None = None,
        rescorer: Rescorer | None = None,
        progress: "Progress | None" = None,
        first_line: int = 1,
        repair: bool = True,
    ) -> list[Translation]:
        """Translate `sentences`, in order; an empty one stays empty.

        A text of several sentences or lines is translated part by part, and white space between
        them stays. The model sees the form of `normalize`. What has no words, such as "...", an
        address or a placeholder alone, comes back as it is.

        Args:
            sentences: A list of texts, of one sentence or more.
            beam: Beam of the search over tokens or codes; 1 is greedy.
            candidates: Translations of each sentence to choose from.
            temperature: See `SearchSettings`.
            language_model: See `SearchSettings`.
            reading: See `SearchSettings`.
            rescorer: Chooses among the candidates; without one their own score does.
            progress: Told of each text done.
            first_line: Number of the first text, for errors.
            repair: Whether a part whose translation is empty, or loses or invents a protected span,
                gets another: the best of four candidates that is intact, the rescorer's, or one of
                the text around the spans. `Translation.warnings` says what is not intact, and what
                was translated around its spans.

        Raises:
            VqnmtError: Sources are longer than the model takes or no strings, or a setting is out
                of range.
        """
        settings = SearchSettings(
            beam=beam,
            candidates=candidates,
            temperature=temperature,
            length_penalty=self.length_penalty,
            language_model=language_model,
            reading=reading or _READING,
        )
        found = self.n_best(sentences, settings, rescorer, progress, first_line, repair)
        return [translations[0] for translations in found]

    def n_best(
        self,
        sentences: Sequence[str],
        settings: SearchSettings | None = None,
        rescorer: Rescorer | None = None,
        progress: "Progress | None" = None,
        first_line: int = 1,
        repair: bool = True,
        *,
        num_return_sequences: int | None = None,
    ) -> list[list[Translation]]:
        """Translate each text in up to `settings.candidates` ways that read differently.

        For the other arguments see `translate`.

        Args:
            sentences: A list of one sentence each.
            settings: How to search; None searches for `num_return_sequences` candidates.
            rescorer: Chooses among the candidates.
            progress: Told of each sentence done.
            first_line: Number of the first sentence, for errors.
            repair: See `translate`.
            num_return_sequences: Translations wanted for each sentence, instead of `settings`;
                None takes one.

        Returns:
            For each text its translations, no two with the same text: first those with all
            protected spans, then the others, both by falling `teacher_score` where there is a
            rescorer, else by falling `score`.
        """
        if settings is None:
            count = 1 if num_return_sequences is None else num_return_sequences
            checked(Width, count, "num_return_sequences")
            settings = SearchSettings(candidates=count, length_penalty=self.length_penalty)
        elif num_return_sequences is not None:
            raise VqnmtError(
                f"num_return_sequences is {num_return_sequences} beside settings: give it as their "
                "candidates"
            )
        settings = checked(SearchSettings, settings, "settings")
        check_attribute("rescorer", rescorer, "score")
        check_attribute("progress", progress, "update")
        self._check_attributes()
        self._refuse_fork()
        sentences = as_sentences(sentences)
        parts, owners, rows = self._fit(list(map(self.cut, sentences)), first_line)
        last = {owner: i for i, (owner, row) in enumerate(zip(owners, rows, strict=True)) if row}
        found: list[list[Translation]] = [[] for _ in parts]
        for indices, translations in self.search_parts(parts, rows, settings, rescorer):
            for i, ranked in zip(indices, translations, strict=True):
                found[i] = ranked
            if progress is not None:
                progress.update(sum(last[owners[i]] == i for i in indices))
        if progress is not None and (done := sum(map(bool, sentences)) - len(last)):
            progress.update(done)
        if repair:
            attempts = Repair(self, parts, rows, found, settings)
            attempts.by_wider_search(rescorer)
            if isinstance(rescorer, BatchTranslator):
                attempts.by_another_model(rescorer)
            attempts.around_spans()
        groups: list[list[int]] = [[] for _ in sentences]
        for i, owner in enumerate(owners):
            groups[owner].append(i)
        return [
            joined([parts[i] for i in group], [found[i] for i in group])
            if group
            else [untranslated(sentence)]
            for sentence, group in zip(sentences, groups, strict=True)
        ]

    def cut(self, text: str) -> list[Part]:
        """Cut `text` into what the model translates one by one; none if nothing can be seen."""
        if not normalize(text):
            return []
        parts = cut(text, self.source_language, self.vocabulary.slots, self.span_patterns)
        for part in parts:
            if part.shown and self.vocabulary.slots:  # without slots spans stand in the text
                shown = usual_case(part.shown, self.vocabulary)
                part.capitals = part.shown.isupper() and shown != part.shown
                part.shown = shown
            if self.formality and part.shown:
                part.shown += TAGS[self.formality]
        return parts

    def search_parts(
        self,
        parts: Sequence[Part],
        rows: list[list[int]],
        settings: SearchSettings,
        rescorer: Rescorer | None,
    ) -> Iterator[tuple[list[int], list[list[Translation]]]]:
        """Translate the parts whose rows are not empty, by batches; yields their indices too."""
        for indices in self._batches(rows):
            found = self.find([rows[i] for i in indices], settings)
            texts = iter(self.vocabulary.decode([one.tokens for row in found for one in row]))
            ranked = []
            for i, row in zip(indices, found, strict=True):
                for translation in row:
                    text = next(texts)
                    translation.text = restored(text, parts[i])
                    if any(one >= slot(len(parts[i].spans)) for one in SLOT.findall(text)):
                        translation.warnings = ["a span that it made up is left out"]
                ranked.append(distinct(sorted(row, key=lambda one: -one.score)))
            if rescorer is not None:  # to which text in capitals says little
                pairs = zip(indices, ranked, strict=True)
                seen = [(parts[i].source, row) for i, row in pairs if not parts[i].capitals]
                rescore([source for source, _ in seen], [row for _, row in seen], rescorer)
            for i, row in zip(indices, ranked, strict=True):
                for translation in row:
                    translation.warnings += faults(
                        parts[i].source, translation.text, self.span_patterns
                    )
                row.sort(key=lambda one: bool(one.warnings))
            yield indices, ranked

    def score(
        self, sentences: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Score candidate translations by this autoregressive model, as its beam search would.

        Args:
            sentences: Sources.
            candidates: The candidates of each; equal ones are scored once.

        Returns:
            For each candidate its log-probability / length ** length_penalty, the end included; 0
            where the source is empty.

        Raises:
            VqnmtError: The model is not autoregressive, a source is longer than it takes, or there
                are not as many lists of candidates as sources.
        """
        self._refuse_fork()
        sources = [self._shown(text) for text in as_sentences(sentences)]
        rows = self.vocabulary.encode([source.text for source in sources])
        self._refuse_long(rows)
        if not isinstance(candidates, Sequence) or len(candidates) != len(rows):
            raise VqnmtError(
                f"candidates is {candidates!r:.40}: give a list of strings for each of the "
                f"{len(rows)} sentences"
            )
        texts = [as_sentences(some, f"candidates[{i}]") for i, some in enumerate(candidates)]
        distinct = [list(dict.fromkeys(some)) for some in texts]
        targets = [
            self.vocabulary.encode(
                [protect_like(text, source.spans, self.span_patterns) for text in some]
            )
            for some, source in zip(distinct, sources, strict=True)
        ]
        scores = [[0.0] * len(some) for some in texts]
        for indices in self._batches(rows):
            batch = [rows[i] for i in indices], [targets[i] for i in indices]
            found = self.log_probabilities(*batch)
            for i, log_p in zip(indices, found, strict=True):
                by_text = {
                    text: value / (len(tokens) + 1) ** self.length_penalty
                    for text, tokens, value in zip(distinct[i], targets[i], log_p, strict=True)
                }
                scores[i] = [by_text[text] for text in texts[i]]
        return scores

    def _shown(self, text: str) -> Protected:
        """Put slots in the place of the spans of a whole `text`, if there are enough."""
        protected = protect(text, self.span_patterns) if self.vocabulary.slots else None
        if protected is None or len(protected.spans) > self.vocabulary.slots:
            return Protected(text, [])
        return protected

    def log_probabilities(
        self, rows: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[float]]:
        """Score the candidates `targets` of each of `rows`, one batch, none of the rows empty.

        Returns:
            For each candidate its log-probability in nats, the end included.

        Raises:
            VqnmtError: The model is not autoregressive.
        """
        raise VqnmtError("only an autoregressive model can rescore: give a teacher's folder")

    # --- codes -------------------------------------------------------------------------------

    @property
    def codebook_size(self) -> int:
        """How many codes a latent model has.

        Raises:
            VqnmtError: The model has no codes.
        """
        raise VqnmtError("only a latent model has codes: give a student's folder")

    @property
    def tokens_per_code(self) -> int:
        """2^n_c, of a latent model."""
        raise NotImplementedError

    @property
    def joint_end(self) -> bool:
        """Whether a latent model says with each code whether it is the last, see `LatentConfig`."""
        raise NotImplementedError

    def force_codes(
        self, row: list[int], given: list[int], limit: int
    ) -> "tuple[Translation, NDArray[np.float32]]":
        """Translate one row of tokens from given codes; latent models only.

        Args:
            row: Not empty.
            given: The predictor's first symbols, see `LatentTransformer`; after them the likeliest
                is taken at each step.
            limit: The most codes.

        Returns:
            The translation without its text, and the log-probabilities of all symbols at each
            step, (steps, V).
        """
        raise NotImplementedError

    def codes(self, text: str) -> list[int]:
        """Return the codes that the model predicts for `text`, one for 2^n_c tokens each."""
        return self.translate([text])[0].codes

    def decode_codes(
        self, text: str, codes: Sequence[int], *, complete: bool = False
    ) -> Translation:
        """Translate `text` from given codes.

        `decode_codes(text, codes(text))` is the greedy translation.

        Args:
            text: One sentence.
            codes: Codes from 0 to `codebook_size` - 1.
            complete: Whether the model predicts further codes after them, or these are all.

        Raises:
            VqnmtError: The model has no codes, `text` has nothing to translate or is too long, or
                a code is out of range, one too many, or missing.
        """
        parts, row, limit = self._code_part(text)
        given = as_codes(codes, self.codebook_size, limit)
        if not self.joint_end:
            given += [] if complete else [self.codebook_size]
        elif given:
            last = given[-1] + self.codebook_size
            if complete and len(given) < limit:
                _, log_p = self.force_codes(row, given, len(given))
                complete = bool(log_p[-1, given[-1]] >= log_p[-1, last])
            if not complete or len(given) == limit:
                given[-1] = last
        elif not complete:
            raise VqnmtError(
                "codes is empty, but every translation of this model has a code: give one, or "
                "complete=True"
            )
        if given:
            found, _ = self.force_codes(row, given, limit)
        else:
            settings = SearchSettings(length_penalty=self.length_penalty)
            ((found,),) = self.find([row], settings)
        (shown,) = self.vocabulary.decode([found.tokens])
        found.text = join(
            parts, [restored(shown, part) if part.shown else part.source for part in parts]
        )
        return found

    def code_alternatives(
        self, text: str, codes: Sequence[int], position: int, count: int = 5
    ) -> list[tuple[int, float]]:
        """Return the likeliest codes at a position, given the codes before it.

        Args:
            text: One sentence.
            codes: Its codes; those from `position` on do not matter.
            position: 0 for the first code, at most `len(codes)`.
            count: How many alternatives.

        Returns:
            Codes and their probabilities, falling. Those of all codes sum to 1, with that of the
            end, which is not among them, if the model has one of its own. With `joint_end` a code
            may stand above the one that greedy search takes: its probability is the sum of two
            symbols, the last code or not, and the search takes the likeliest symbol.

        Raises:
            VqnmtError: See `decode_codes`; or `position` or `count` is out of range.
        """
        _, row, limit = self._code_part(text)
        given = as_codes(codes, self.codebook_size, limit)
        last = min(len(given), limit - 1)
        if not isinstance(position, Integral) or not 0 <= position <= last:
            raise VqnmtError(
                f"position is {position!r}; it must be a whole number from 0 to {last}"
            )
        checked(Width, count, "count")
        position = int(position)
        _, log_p = self.force_codes(row, [*given[:position], 0], position + 1)
        here, size = [math.exp(value) for value in log_p[position].tolist()], self.codebook_size
        if self.joint_end:  # as the last code or not
            here = [sum(pair) for pair in zip(here[:size], here[size:], strict=True)]
        best = sorted(range(size), key=lambda code: -here[code])[:count]
        return [(code, here[code]) for code in best]

    def _code_part(self, text: str) -> tuple[list[Part], list[int], int]:
        """Return the parts of a text with one sentence, its tokens and the most codes it may have.

        The other parts have no words.
        """
        most = self.codebook_size  # refuses models without codes
        (text,) = as_sentences([text], "text")
        parts = self.cut(text)
        shown = [part.shown for part in parts if part.shown]
        if not shown:
            raise VqnmtError(f"{text!r:.40} has no words, so it has none of the {most} codes")
        if len(shown) > 1:
            raise VqnmtError(
                f"{text!r:.40} has {len(shown)} sentences or lines, each with codes of its own: "
                "give one of them"
            )
        (row,) = self.vocabulary.encode(shown)
        self._refuse_long([row])
        return parts, row, length_limit(len(row)) // self.tokens_per_code + 1

    def code_pieces(self, translation: Translation) -> list[list[str]]:
        """Return the pieces that each code of `translation` writes."""
        check_attribute("translation", translation, "tokens")
        pieces = iter(self.vocabulary.pieces(translation.tokens))
        return [[next(pieces) for _ in range(span)] for span in translation.spans]

    def _batches(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Group the sentences that are not empty by length."""
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        start = 0
        for end in range(1, len(order) + 1):
            if end < len(order):
                # Sorted by length: the next sentence would set the width of the batch.
                longest, shortest = len(rows[order[end]]), len(rows[order[start]])
                fits = longest * (end + 1 - start) <= self.batch_tokens
                if fits and longest <= self.spread * shortest:
                    continue
            yield order[start:end]
            start = end

    def _fit(
        self, texts: Sequence[list[Part]], first_line: int
    ) -> tuple[list[Part], list[int], list[list[int]]]:
        """Refuse or split what is too long; returns parts, the text of each, and its tokens.

        A part without words has no tokens.
        """
        parts = [part for text in texts for part in text]
        owners = [i for i, text in enumerate(texts) for _ in text]
        rows = self.vocabulary.encode([part.shown for part in parts])
        long = {i for i, row in enumerate(rows) if len(row) > self.max_source_tokens}
        if not long:
            return parts, owners, rows
        if self.on_long == "refuse":
            self._refuse_long(rows, first_line, owners)
        if not self.vocabulary.slots:  # else a span might be cut in two
            divided = [self._divided(part) if i in long else [part] for i, part in enumerate(parts)]
            owners = [owner for owner, some in zip(owners, divided, strict=True) for _ in some]
            parts = [part for some in divided for part in some]
            rows = self.vocabulary.encode([part.shown for part in parts])
        shorter: tuple[list[Part], list[int], list[list[int]]] = ([], [], [])
        for part, owner, row in zip(parts, owners, rows, strict=True):
            split = split_row(row, self.vocabulary.pieces(row), self.max_source_tokens)
            shown = self.vocabulary.decode(split) if len(split) > 1 else [part.shown]
            for i, text in enumerate(shown):
                source = restore(text, part.spans) if len(split) > 1 else part.source
                shorter[0].append(
                    replace(part, source=source, shown=text, before=None if i else part.before)
                )
            shorter[1].extend([owner] * len(split))
            shorter[2].extend(split)
        return shorter

    def _divided(self, part: Part) -> list[Part]:
        """Cut a part at its spans."""
        first, *others = cut(part.source, self.source_language, 0, self.span_patterns, apart=True)
        return [replace(first, before=part.before), *others]

    def _refuse_long(
        self, rows: list[list[int]], first_line: int | None = None, owners: Sequence[int] = ()
    ) -> None:
        """Refuse what is too long; without `first_line`, where nothing can be split."""
        long = [i for i, row in enumerate(rows) if len(row) > self.max_source_tokens]
        if not long:
            return
        has = f"source has {len(rows[long[0]])} tokens and the model takes {self.max_source_tokens}"
        if first_line is None:
            raise VqnmtError(f"a {has}: split it")
        line = first_line + (owners or range(len(rows)))[long[0]]
        raise VqnmtError(
            f"line {line}: the {has} ({len(long)} such lines in all): split them, or set on_long "
            "to 'split' (--on-long split)"
        )
