"""From text to text: what all engines share. Needs no PyTorch.

Training-time validation, files, pipes, evaluation and the exported engines all translate by
`BatchTranslator`: one tokenisation, one order of batches, one treatment of what is too long.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decoding import SearchSettings
from vqnmt.errors import VqnmtError

if TYPE_CHECKING:
    from vqnmt.progress import Progress

ON_LONG = ("refuse", "split")
"""What can be done with a source that is longer than the model takes."""

DTYPES = ("fp32", "bf16", "fp16")
"""What PyTorch computes in."""


@dataclass(slots=True)
class Translation:
    """A translated sentence."""

    text: str
    """The translation; empty for an empty source."""
    score: float = 0.0
    """Log-probability in nats of the tokens (autoregressive) or of the codes (latent)."""
    codes: list[int] = field(default_factory=list)
    """The latent codes, each for 2^n_c tokens; none for an autoregressive model."""
    tokens: list[int] = field(default_factory=list)
    """The pieces of the translation."""
    spans: list[int] = field(default_factory=list)
    """How many of the tokens each code writes, in order."""
    teacher_score: float | None = None
    """What the rescorer gave it, where there was one, see `Rescorer`."""


class TextTranslator(Protocol):
    """What can be timed, scored and used as a teacher."""

    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: "Progress | None" = None
    ) -> list[Translation]:
        """Translate `sentences`, in order."""


class Rescorer(Protocol):
    """Who chooses among candidates."""

    def score(
        self, sentences: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Score the candidate translations of each sentence; the highest is the best."""


class BatchTranslator(ABC):
    """A model with its vocabulary, whatever runs the model.

    Args:
        vocabulary: The model's pieces.
        source_language: Language code of the source.
        target_language: Language code of the target.
        batch_tokens: Source tokens translated at a time, padding included.
        spread: The longest source of a batch over its shortest, at most: on a CPU padding costs
            what words cost.
        max_source_tokens: The longest source that the model takes.
        length_penalty: Of beam search, see `SearchSettings`.
        on_long: Of `ON_LONG`: a longer source is refused, or split between words and, where it
            can, between sentences, its parts translated one by one.
    """

    # Where this engine's threads run: in the process that has loaded a model first.
    _process: int | None = None

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
    ) -> None:
        if on_long not in ON_LONG:
            raise VqnmtError(f"on_long is {on_long!r}; choose one of {', '.join(ON_LONG)}")
        self.vocabulary = vocabulary
        self.source_language, self.target_language = source_language, target_language
        self.batch_tokens, self.spread = batch_tokens, spread
        self.max_source_tokens = max_source_tokens
        self.length_penalty, self.on_long = length_penalty, on_long
        kind = type(self)
        kind._process = kind._process or os.getpid()

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
            For each row its candidates, the best first.
        """

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 1,
        candidates: int = 1,
        temperature: float | None = None,
        language_model: bool = True,
        rescorer: Rescorer | None = None,
        progress: "Progress | None" = None,
        first_line: int = 1,
    ) -> list[Translation]:
        """Translate `sentences`, in order; an empty one stays empty.

        Args:
            sentences: One sentence each, without line breaks.
            beam: Beam of the search over tokens or codes; 1 is greedy.
            candidates: Translations of each sentence to choose from.
            temperature: See `SearchSettings`.
            language_model: See `SearchSettings`.
            rescorer: Chooses among the candidates; without one their own score does.
            progress: Told of each sentence done.
            first_line: Number of the first sentence, for errors.

        Raises:
            VqnmtError: Sources are longer than the model takes, or a setting is out of range.
        """
        settings = SearchSettings(
            beam=beam,
            candidates=candidates,
            temperature=temperature,
            length_penalty=self.length_penalty,
            language_model=language_model,
        )
        found = self.n_best(sentences, settings, rescorer, progress, first_line)
        return [translations[0] for translations in found]

    def n_best(
        self,
        sentences: Sequence[str],
        settings: SearchSettings,
        rescorer: Rescorer | None = None,
        progress: "Progress | None" = None,
        first_line: int = 1,
    ) -> list[list[Translation]]:
        """Translate each sentence in up to `settings.candidates` ways, the best first.

        For the arguments see `translate`; different candidates may read alike.
        """
        self._refuse_fork()
        parts, owners = self._fit(self.vocabulary.encode(sentences), first_line)
        found: list[list[Translation]] = [[] for _ in parts]
        for indices in self._batches(parts):
            rows = [parts[i] for i in indices]
            for i, translations in zip(indices, self._translate(rows, settings), strict=True):
                found[i] = translations
            if rescorer is not None:
                _rescore(self.vocabulary.decode(rows), [found[i] for i in indices], rescorer)
            if progress is not None:
                progress.update(
                    sum(i + 1 == len(owners) or owners[i] != owners[i + 1] for i in indices)
                )
        if len(parts) == len(sentences):
            return [translations or [Translation("")] for translations in found]
        return [
            [_join(ranked) for ranked in zip(*(found[i] for i in group), strict=False)]
            or [Translation("")]
            for group in _groups(owners, len(sentences))
        ]

    def score(
        self, sentences: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Score candidate translations by this autoregressive model, as its beam search would.

        Args:
            sentences: Sources, none of them empty.
            candidates: The candidates of each; equal ones are scored once.

        Returns:
            For each candidate its log-probability / length ** length_penalty, the end included.

        Raises:
            VqnmtError: The model is not autoregressive, or a source is longer than it takes.
        """
        self._refuse_fork()
        rows = self.vocabulary.encode(sentences)
        self._refuse_long(rows, 1)
        distinct = [list(dict.fromkeys(texts)) for texts in candidates]
        targets = [self.vocabulary.encode(texts) for texts in distinct]
        scores: list[list[float]] = [[] for _ in rows]
        for indices in self._batches(rows):
            batch = [rows[i] for i in indices], [targets[i] for i in indices]
            found = self.log_probabilities(*batch)
            for i, log_p in zip(indices, found, strict=True):
                by_text = {
                    text: value / (len(tokens) + 1) ** self.length_penalty
                    for text, tokens, value in zip(distinct[i], targets[i], log_p, strict=True)
                }
                scores[i] = [by_text[text] for text in candidates[i]]
        return scores

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

    def code_pieces(self, translation: Translation) -> list[list[str]]:
        """Return the pieces that each code of `translation` writes."""
        pieces = iter(self.vocabulary.pieces(translation.tokens))
        return [[next(pieces) for _ in range(span)] for span in translation.spans]

    def _translate(
        self, rows: list[list[int]], settings: SearchSettings
    ) -> list[list[Translation]]:
        found = self.find(rows, settings)
        flat = [translation for translations in found for translation in translations]
        texts = self.vocabulary.decode([translation.tokens for translation in flat])
        for translation, text in zip(flat, texts, strict=True):
            translation.text = text
        return found

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

    def _fit(self, rows: list[list[int]], first_line: int) -> tuple[list[list[int]], list[int]]:
        """Refuse or split what is too long; returns parts, and the sentence of each part."""
        if all(len(row) <= self.max_source_tokens for row in rows):
            return rows, list(range(len(rows)))
        if self.on_long == "refuse":
            self._refuse_long(rows, first_line)
        pairs = [
            (part, i)
            for i, row in enumerate(rows)
            for part in split_row(row, self.vocabulary.pieces(row), self.max_source_tokens)
        ]
        return [part for part, _ in pairs], [i for _, i in pairs]

    def _refuse_long(self, rows: list[list[int]], first_line: int) -> None:
        long = [i for i, row in enumerate(rows) if len(row) > self.max_source_tokens]
        if long:
            raise VqnmtError(
                f"line {first_line + long[0]}: the source has {len(rows[long[0]])} tokens and the "
                f"model takes {self.max_source_tokens} ({len(long)} such lines in all): split them"
            )


def split_row(row: list[int], pieces: list[str], limit: int) -> list[list[int]]:
    """Split tokens into parts of at most `limit`.

    A part ends behind the last sentence that fits, else behind the last word, else where it must.

    Args:
        row: Token ids.
        pieces: Their pieces, words beginning with ▁.
        limit: Tokens a part, 1 or more.
    """
    parts, start = [], 0
    while len(row) - start > limit:
        places = range(start + limit, start, -1)
        words = [i for i in places if pieces[i].startswith("▁")]
        ends = [i for i in words if pieces[i - 1].endswith((".", "!", "?", "…", "。"))]
        end = next(iter(ends or words), start + limit)
        parts.append(row[start:end])
        start = end
    return [*parts, row[start:]]


def load_translator(
    folder: Path | str,
    device: str | None = None,
    threads: int | None = None,
    *,
    dtype: str | None = None,
    compile: bool = False,
) -> BatchTranslator:
    """Load a model folder of any kind: one for PyTorch, or an exported one.

    Args:
        folder: What scripts/train_nmt.py or scripts/export.py has written.
        device: Where PyTorch runs; None takes a GPU where there is one.
        threads: That one translation of an exported model runs on; None takes one for each core.
        dtype: In which PyTorch computes, one of `DTYPES`; None takes `fp32`.
        compile: Whether PyTorch translates sentences that come alone, greedily, by compiled code,
            on a GPU by CUDA graphs; takes a C++ compiler and, when the model is loaded, a minute.

    Raises:
        VqnmtError: A file is missing or damaged, the folder is of another version, the engine is
            not installed, or an option is not for this folder or this machine.
    """
    folder = Path(folder)
    if (folder / "model.onnx").exists() or (folder / "ctranslate2").exists():
        from vqnmt.export.runtime import load_exported

        if device not in (None, "cpu"):
            raise VqnmtError(f"device is {device}, but {folder} is exported for a CPU")
        if dtype is not None or compile:
            raise VqnmtError(
                f"dtype and compile are for models that PyTorch runs, but {folder} is exported: "
                "leave them out, or give the model folder that it was exported from"
            )
        return load_exported(folder, threads)
    from vqnmt.translator import Translator

    return Translator.from_pretrained(folder, device, dtype=dtype or "fp32", compile=compile)


# What any model of ours says of itself.
_CONFIG_TYPES = {"source_language": str, "target_language": str, "max_source_tokens": int}


def read_config(folder: Path, files: Sequence[str], model_type: str, version: int) -> dict:
    """Read the config.json of a model folder, after a look at what else must be there.

    Raises:
        VqnmtError: A file is missing, or config.json is damaged or of another version.
    """
    if not folder.is_dir():
        raise VqnmtError(f"{folder}: no such model folder; give one that train_nmt.py has written")
    for name in files:
        if not (folder / name).is_file():
            raise VqnmtError(
                f"{folder / name}: missing, so the model folder is incomplete: copy it again or "
                "save the model anew"
            )
    try:
        config: dict = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config["model_type"], config["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise VqnmtError(
            f"{folder / 'config.json'}: not the config of a vqnmt model "
            f"({type(error).__name__}): copy the folder again or save the model anew"
        ) from error
    if found != (model_type, version):
        raise VqnmtError(
            f"{folder / 'config.json'}: model_type and format are {found}, this version reads "
            f"{(model_type, version)}: train again or install the version that wrote it"
        )
    for key, kind in _CONFIG_TYPES.items():
        if type(config.get(key)) is not kind:
            raise VqnmtError(
                f"{folder / 'config.json'}: {key} is {config.get(key)!r:.40}, which is not of type "
                f"{kind.__name__}: copy the folder again or save the model anew"
            )
    return config


def _rescore(
    sentences: Sequence[str], found: Sequence[list[Translation]], rescorer: Rescorer
) -> None:
    """Give every candidate its teacher score, and put the best of each sentence first."""
    texts = [[translation.text for translation in row] for row in found]
    for row, scores in zip(found, rescorer.score(sentences, texts), strict=True):
        for translation, score in zip(row, scores, strict=True):
            translation.teacher_score = score
        row.sort(key=lambda translation: -(translation.teacher_score or 0.0))


def _groups(owners: list[int], count: int) -> list[list[int]]:
    groups: list[list[int]] = [[] for _ in range(count)]
    for part, owner in enumerate(owners):
        groups[owner].append(part)
    return groups


def _join(parts: Sequence[Translation]) -> Translation:
    """Join the translations of a sentence's parts."""
    scores = [part.teacher_score for part in parts if part.teacher_score is not None]
    return Translation(
        " ".join(part.text for part in parts if part.text),
        sum(part.score for part in parts),
        [code for part in parts for code in part.codes],
        [token for part in parts for token in part.tokens],
        [span for part in parts for span in part.spans],
        sum(scores) if scores else None,
    )
