"""From text to text: the one path that validation, files, pipes and evaluation share."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from vqnmt.data.batches import pad
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text
from vqnmt.models import LatentTransformer
from vqnmt.models.pretrained import FORMAT, TranslationModel
from vqnmt.progress import Progress

# transformers reports on every load and save by default.
transformers_logging.disable_progress_bar()

MODEL_FILES = ("config.json", "model.safetensors", "spm.model")


@dataclass(slots=True)
class Translation:
    """A translated sentence."""

    text: str
    """The translation; empty for an empty source."""
    score: float = 0.0
    """Log-probability in nats of the tokens (autoregressive) or of the codes (latent)."""
    codes: list[int] = field(default_factory=list)
    """The latent codes, each for 2^n_c tokens; none for an autoregressive model."""


class TextTranslator(Protocol):
    """What can be timed, scored and used as a teacher."""

    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: Progress | None = None
    ) -> list[Translation]:
        """Translate `sentences`, in order."""


class Translator:
    """A model with its vocabulary.

    Args:
        model: An `AutoregressiveTransformer` or a `LatentTransformer`.
        vocabulary: The model's pieces.
        source_language: Language code of the source.
        target_language: Language code of the target.
        batch_tokens: Source tokens translated at a time, padding included.
        max_source_tokens: Longer sources are refused.
        length_penalty: Of beam search, see `vqnmt.search.search`.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        source_language: str,
        target_language: str,
        *,
        batch_tokens: int = 2048,
        max_source_tokens: int = 256,
        length_penalty: float = 1.0,
    ) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.source_language, self.target_language = source_language, target_language
        self.batch_tokens, self.max_source_tokens = batch_tokens, max_source_tokens
        self.length_penalty = length_penalty

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, device: str | None = None, batch_tokens: int = 2048
    ) -> "Translator":
        """Load a model folder.

        Args:
            folder: Holds config.json, model.safetensors and spm.model.
            device: Where to run; None takes a GPU where there is one.
            batch_tokens: See `Translator`.

        Raises:
            VqnmtError: A file is missing or damaged, or the folder is of another version.
        """
        folder = Path(folder)
        check_model_folder(folder)
        loaded = _load(folder)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            module = loaded.model.to(chosen)
        except (RuntimeError, AssertionError) as error:  # unknown, or torch is built without it
            raise VqnmtError(f"device {chosen} cannot be used ({_first_line(error)})") from error
        return cls(
            module.eval(),
            Vocabulary.load(folder / "spm.model"),
            loaded.config.source_language,
            loaded.config.target_language,
            batch_tokens=batch_tokens,
            max_source_tokens=loaded.config.max_source_tokens,
        )

    def save_pretrained(self, folder: Path | str, card: str) -> None:
        """Write the model folder; a full disk leaves an earlier model there as it was.

        Raises:
            VqnmtError: The disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        wrapped = TranslationModel.around(
            self.model, self.source_language, self.target_language, self.max_source_tokens
        )
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary)
            try:
                wrapped.save_pretrained(new)
                shutil.copymode(new / "config.json", new / "model.safetensors")  # was private
                self.vocabulary.save(new / "spm.model")
                atomic_write_text(new / "README.md", card)
            except (OSError, SafetensorError, VqnmtError) as error:
                reason = _first_line(error.__cause__ or error)
                raise VqnmtError(
                    f"{folder}: the model cannot be saved ({reason}); an earlier one there is "
                    "untouched: free some space and start the same command again"
                ) from error
            # All is on disk. While names change hands, a folder without config.json is incomplete.
            (folder / "config.json").unlink(missing_ok=True)
            for name in ("README.md", "spm.model", "model.safetensors", "config.json"):
                with atomic_path(folder / name) as path:
                    os.replace(new / name, path)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 1,
        progress: Progress | None = None,
        first_line: int = 1,
    ) -> list[Translation]:
        """Translate `sentences`, in order; an empty one stays empty.

        Args:
            sentences: One sentence each, without line breaks.
            beam: Beam of the search over tokens or codes; 1 is greedy.
            progress: Told of each sentence done.
            first_line: Number of the first sentence, for errors.

        Raises:
            VqnmtError: Sources are longer than the model takes, or `beam` is below 1.
        """
        if beam < 1:
            raise VqnmtError(f"beam is {beam}; it must be 1 or more")
        rows = self.vocabulary.encode(list(sentences))
        self._refuse_too_long(rows, first_line)
        translations = [Translation("") for _ in rows]
        for indices in self._batches(rows):
            source = pad([rows[i] for i in indices]).to(self.device)
            for i, translation in zip(indices, self._translate(source, beam), strict=True):
                translations[i] = translation
            if progress is not None:
                progress.update(len(indices))
        return translations

    def reconstruct(self, sentences: Sequence[str], targets: Sequence[str]) -> list[str]:
        """Translate with the codes of the true `targets`: the oracle, latent models only."""
        assert isinstance(self.model, LatentTransformer)
        rows, target_rows = (
            self.vocabulary.encode(list(sentences)),
            self.vocabulary.encode(list(targets)),
        )
        texts = [""] * len(rows)
        for indices in self._batches(rows):
            tokens = self.model.reconstruct(
                pad([rows[i] for i in indices]).to(self.device),
                pad([target_rows[i] for i in indices]).to(self.device),
            )
            for i, text in zip(indices, self.vocabulary.decode(tokens), strict=True):
                texts[i] = text
        return texts

    def _translate(self, source: Tensor, beam: int) -> list[Translation]:
        model: Any = self.model
        found = model.generate(source, beam=beam, length_penalty=self.length_penalty)
        if isinstance(model, LatentTransformer):
            texts = self.vocabulary.decode([tokens for _, tokens in found])
            return [
                Translation(text, codes.log_probability, codes.symbols)
                for text, (codes, _) in zip(texts, found, strict=True)
            ]
        texts = self.vocabulary.decode([hypothesis.symbols for hypothesis in found])
        return [
            Translation(text, hypothesis.log_probability)
            for text, hypothesis in zip(texts, found, strict=True)
        ]

    def _batches(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Group the sentences that are not empty by length, within `batch_tokens`."""
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        start = 0
        for end in range(1, len(order) + 1):
            # Sorted by length: the next sentence would set the width of the batch.
            if end == len(order) or len(rows[order[end]]) * (end + 1 - start) > self.batch_tokens:
                yield order[start:end]
                start = end

    def _refuse_too_long(self, rows: list[list[int]], first_line: int) -> None:
        long = [i for i, row in enumerate(rows) if len(row) > self.max_source_tokens]
        if long:
            raise VqnmtError(
                f"line {first_line + long[0]}: the source has {len(rows[long[0]])} tokens and the "
                f"model takes {self.max_source_tokens} ({len(long)} such lines in all): split them"
            )


def _load(folder: Path) -> Any:
    """Load a `TranslationModel`; all weights must be there and fit."""
    place, remedy = folder / "model.safetensors", "copy the folder again or save the model anew"
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of what does not fit is ours to give
    try:
        found: Any = TranslationModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except VqnmtError as error:
        raise VqnmtError(f"{folder / 'config.json'}: {error}") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise VqnmtError(
            f"{place}: does not fit config.json or is damaged ({type(error).__name__}): {remedy}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    loaded, report = found
    # transformers only warns of these, and leaves missing weights random.
    for fault in ("missing", "unexpected"):
        if names := sorted(report[f"{fault}_keys"]):
            raise VqnmtError(
                f"{place}: does not fit config.json: {fault} weights: {len(names)}, the first is "
                f"{names[0].removeprefix('model.')}: {remedy}"
            )
    return loaded


def _first_line(error: BaseException) -> str:
    """Take the first line of a library's message, or the error's type where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def check_model_folder(folder: Path) -> None:
    """Refuse a model folder that cannot be loaded.

    Raises:
        VqnmtError: A file is missing, config.json is damaged or of another version.
    """
    if not folder.is_dir():
        raise VqnmtError(f"{folder}: no such model folder; give one that train_nmt.py has written")
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise VqnmtError(
                f"{folder / name}: missing, so the model folder is incomplete: copy it again or "
                "save the model anew"
            )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config["model_type"], config["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise VqnmtError(
            f"{folder / 'config.json'}: not the config of a vqnmt model ({error!r})"
        ) from error
    if found != ("vqnmt", FORMAT):
        raise VqnmtError(
            f"{folder / 'config.json'}: model_type and format are {found}, this version reads "
            f"{('vqnmt', FORMAT)}: train again or install the version that wrote it"
        )
