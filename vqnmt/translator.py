"""Translation by PyTorch: loading, saving and running the models of `vqnmt.models`."""

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from vqnmt.data.batches import pad
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decoding import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text
from vqnmt.language_model import LANGUAGE_MODEL, load_language_model
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.models.codes import LatentTranslation
from vqnmt.models.pretrained import FORMAT, TranslationModel
from vqnmt.rescoring import score_targets
from vqnmt.search import Hypothesis
from vqnmt.translation import (
    DTYPES,
    BatchTranslator,
    TextTranslator,
    Translation,
    read_config,
)

__all__ = ["MODEL_FILES", "TextTranslator", "Translation", "Translator", "check_model_folder"]

# transformers reports on every load and save by default.
transformers_logging.disable_progress_bar()

MODEL_FILES = ("config.json", "model.safetensors", "spm.model")

_DTYPES = dict(zip(DTYPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))


class Translator(BatchTranslator):
    """A model that PyTorch runs, with its vocabulary.

    Args:
        model: An `AutoregressiveTransformer` or a `LatentTransformer`.
        vocabulary: The model's pieces.
        source_language: Language code of the source.
        target_language: Language code of the target.
        compile: Whether sentences that come alone are translated greedily by compiled code, see
            `vqnmt.compilation`: a batch or a beam has other work than to wait for Python.
        further: See `BatchTranslator`.

    Raises:
        VqnmtError: The model cannot be compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        source_language: str,
        target_language: str,
        *,
        compile: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(vocabulary, source_language, target_language, **further)
        self.model = model
        self._alone: Any = model
        if compile:
            from vqnmt.compilation import compiled_copy

            self._alone = compiled_copy(model)

    @classmethod
    def _fork_remedy(cls) -> str | None:
        """Refuse more than one thread; one waits for no other."""
        if torch.get_num_threads() == 1:
            return None
        return "call torch.set_num_threads(1) in it, or start it by multiprocessing's 'spawn'"

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        device: str | None = None,
        batch_tokens: int = 2048,
        *,
        dtype: str = "fp32",
        compile: bool = False,
    ) -> "Translator":
        """Load a model folder.

        Args:
            folder: Holds config.json, model.safetensors and spm.model; perhaps
                language_model.npz.
            device: Where to run; None takes a GPU where there is one.
            batch_tokens: See `BatchTranslator`.
            dtype: Of weights and activations, one of `DTYPES`; the quantizer stays in fp32.
            compile: See `Translator`.

        Raises:
            VqnmtError: A file is missing or damaged, the folder is of another version, or the
                model cannot be compiled.
        """
        if dtype not in _DTYPES:
            raise VqnmtError(f"dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}")
        folder = Path(folder)
        check_model_folder(folder)
        cls._refuse_fork()
        loaded = _load(folder)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            module = loaded.model.to(chosen, _DTYPES[dtype])
        except (RuntimeError, AssertionError) as error:  # unknown, or torch is built without it
            raise VqnmtError(f"device {chosen} cannot be used ({_first_line(error)})") from error
        vocabulary = Vocabulary.load(folder / "spm.model")
        if len(vocabulary) != loaded.config.vocabulary_size:
            raise VqnmtError(
                f"{folder / 'spm.model'}: has {len(vocabulary)} pieces, but vocabulary_size in "
                f"config.json is {loaded.config.vocabulary_size}: copy the folder again or save "
                "the model anew"
            )
        if isinstance(module, LatentTransformer):
            module.language_model = load_language_model(folder, len(vocabulary))
        return cls(
            module.eval(),
            vocabulary,
            loaded.config.source_language,
            loaded.config.target_language,
            batch_tokens=batch_tokens,
            # A GPU pads for nothing, but each of its batches costs the same hundreds of launches.
            spread=2.0 if chosen == "cpu" else math.inf,
            max_source_tokens=loaded.config.max_source_tokens,
            compile=compile,
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
        language_model = getattr(self.model, "language_model", None)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary)
            try:
                wrapped.save_pretrained(new)
                if language_model is not None:
                    language_model.save(new / LANGUAGE_MODEL)
                for path in new.glob("*.safetensors"):  # that library makes them private
                    shutil.copymode(new / "config.json", path)
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
            (folder / LANGUAGE_MODEL).unlink(missing_ok=True)
            names = ["README.md", "spm.model", "model.safetensors", "config.json"]
            for name in names if language_model is None else [LANGUAGE_MODEL, *names]:
                with atomic_path(folder / name) as path:
                    os.replace(new / name, path)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate one batch of token rows by the model's own search or samples."""
        model: Any = self._alone if len(rows) == 1 and settings.greedy else self.model
        found = [
            [_translation(candidate) for candidate in row]
            for row in model.candidates(pad(rows).to(self.device), settings)
        ]
        if settings.temperature is not None:
            for translations in found:
                translations.sort(key=lambda translation: -translation.score)
        return found

    def log_probabilities(
        self, rows: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[float]]:
        """Score candidates, see `BatchTranslator`."""
        if not isinstance(self.model, AutoregressiveTransformer):
            return super().log_probabilities(rows, targets)
        return score_targets(self.model, pad(rows).to(self.device), targets)

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


def _translation(candidate: LatentTranslation | Hypothesis) -> Translation:
    if isinstance(candidate, Hypothesis):
        return Translation("", candidate.log_probability, tokens=candidate.symbols)
    codes, tokens, spans = candidate
    return Translation("", codes.log_probability, codes.symbols, tokens, spans)


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
    except Exception as error:  # transformers and torch check little: damage shows in any way
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
    read_config(folder, MODEL_FILES, "vqnmt", FORMAT)
