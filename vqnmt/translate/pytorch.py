"""Translation by PyTorch: loading, saving and running the models of `vqnmt.models`."""

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from vqnmt.checksums import AGAIN, CHECKSUMS
from vqnmt.data.batches import pad
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.language_model import LANGUAGE_MODEL, TrigramModel
from vqnmt.decode.search import Hypothesis
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text, temporary_folder
from vqnmt.models import (
    AutoregressiveTransformer,
    CtcTransformer,
    FertilityTransformer,
    LatentTransformer,
)
from vqnmt.plugins import require_plugins
from vqnmt.spans import Protected, protect_pair, restore
from vqnmt.translate.base import DTYPES, BatchTranslator
from vqnmt.translate.code_index import CODE_INDEX
from vqnmt.translate.folder import located, read_config
from vqnmt.translate.generation import (
    LatentTranslation,
    find_translations,
    force_codes,
    reconstruct,
)
from vqnmt.translate.pretrained import (
    FORMAT,
    SavedConfig,
    VqnmtConfig,
    VqnmtForConditionalGeneration,
)
from vqnmt.translate.rescoring import score_targets
from vqnmt.translate.translation import TextTranslator, Translation

__all__ = ["MODEL_FILES", "TextTranslator", "Translation", "Translator", "check_model_folder"]

# transformers reports on every load and save by default.
transformers_logging.disable_progress_bar()

MODEL_FILES = ("config.json", "model.safetensors", "spm.model")

_DTYPES = dict(zip(DTYPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))


class Translator(BatchTranslator):
    """A model that PyTorch runs, with its vocabulary.

    Args:
        model: A translation model of `vqnmt.models`.
        vocabulary: The model's pieces.
        source_language: Language code of the source.
        target_language: Language code of the target.
        language_model: Trigram model that reads the output of a model with CTC, see
            `vqnmt.decode.ctc`; with None the best path is read.
        further: See `BatchTranslator`.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        source_language: str,
        target_language: str,
        *,
        language_model: TrigramModel | None = None,
        **further: Any,
    ) -> None:
        super().__init__(vocabulary, source_language, target_language, **further)
        self.model, self.language_model = model, language_model

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
    ) -> "Translator":
        """Load a model folder.

        Args:
            folder: Holds config.json, model.safetensors and spm.model; perhaps
                language_model.npz. "hf://user/repo" is a copy of it on the Hub.
            device: Where to run; None takes a GPU where there is one.
            batch_tokens: See `BatchTranslator`.
            dtype: Of weights and activations, one of `DTYPES`; the quantizer stays in fp32.

        Raises:
            VqnmtError: A file is missing or damaged, or the folder is of another version.
        """
        if dtype not in _DTYPES:
            raise VqnmtError(f"dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}")
        cls._refuse_fork()
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_device(chosen)
        folder = located(folder)
        loaded = _load(folder, check_model_folder(folder))
        module = loaded.model.to(chosen, _DTYPES[dtype])
        vocabulary = Vocabulary.load(folder / "spm.model")
        if len(vocabulary) != loaded.config.vocabulary_size:
            raise VqnmtError(
                f"{folder / 'spm.model'}: has {len(vocabulary)} pieces, but vocabulary_size in "
                f"config.json is {loaded.config.vocabulary_size}: copy the folder again or save "
                "the model anew"
            )
        return cls(
            module.eval(),
            vocabulary,
            loaded.config.source_language,
            loaded.config.target_language,
            batch_tokens=batch_tokens,
            # On a GPU padding is nearly free and every batch costs the same few hundred kernel
            # launches, so batches are made as large as fit.
            spread=2.0 if chosen == "cpu" else math.inf,
            max_source_tokens=loaded.config.max_source_tokens,
            span_patterns=loaded.config.span_patterns,
            language_model=loaded.language_model,
        )

    def save_pretrained(self, folder: Path | str, card: str) -> None:
        """Write the model folder; a full disk leaves an earlier model there as it was.

        Raises:
            VqnmtError: The disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        wrapped = VqnmtForConditionalGeneration.around(
            self.model,
            source_language=self.source_language,
            target_language=self.target_language,
            max_source_tokens=self.max_source_tokens,
            span_patterns=self.span_patterns,
        )
        wrapped.language_model = self.language_model
        with temporary_folder(folder) as new:
            try:
                self.vocabulary.save(new / "spm.model")
                wrapped.save_pretrained(new)  # checksums of all that is there, too
                for path in new.glob("*.safetensors"):  # that library makes them private
                    with suppress(OSError):  # a disk without modes
                        shutil.copymode(new / "config.json", path)
                atomic_write_text(new / "README.md", card)
            except (OSError, SafetensorError, VqnmtError) as error:
                reason = _first_line(error.__cause__ or error)
                raise VqnmtError(
                    f"{folder}: the model cannot be saved ({reason}); an earlier one there is "
                    "untouched: free some space and start the same command again"
                ) from error
            # Everything is on disk. Until the last move the folder has no config.json: incomplete.
            (folder / "config.json").unlink(missing_ok=True)
            (folder / CHECKSUMS).unlink(missing_ok=True)
            for name in (LANGUAGE_MODEL, CODE_INDEX):  # of another model
                (folder / name).unlink(missing_ok=True)
            names = ["README.md", "spm.model", "model.safetensors", CHECKSUMS, "config.json"]
            for name in names if self.language_model is None else [LANGUAGE_MODEL, *names]:
                with atomic_path(folder / name) as path:
                    os.replace(new / name, path)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def engine(self) -> str:
        """See `BatchTranslator`."""
        return f"{type(self.model).__name__} in PyTorch on {self.device}"

    @property
    def searches(self) -> bool:
        """Whether a beam finds further candidates; a model without search draws them or has one."""
        return not isinstance(self.model, FertilityTransformer | CtcTransformer)

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate one batch of token rows by the model's own search or samples."""
        source = pad(rows).to(self.device)
        return [
            [_translation(candidate, settings.length_penalty) for candidate in row]
            for row in find_translations(self.model, source, settings, self.language_model)
        ]

    def log_probabilities(
        self, rows: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[float]]:
        """Score candidates, see `BatchTranslator`."""
        if not isinstance(self.model, AutoregressiveTransformer):
            return super().log_probabilities(rows, targets)
        return score_targets(self.model, pad(rows).to(self.device), targets)

    @property
    def codebook_size(self) -> int:
        """See `BatchTranslator`."""
        if not isinstance(self.model, LatentTransformer):
            return super().codebook_size
        return self.model.end_of_codes

    @property
    def joint_end(self) -> bool:
        """See `BatchTranslator`."""
        assert isinstance(self.model, LatentTransformer)
        return self.model.config.joint_end

    @property
    def tokens_per_code(self) -> int:
        """See `BatchTranslator`."""
        assert isinstance(self.model, LatentTransformer)
        return 2**self.model.config.compression

    def force_codes(
        self, row: list[int], given: list[int], limit: int
    ) -> tuple[Translation, NDArray[np.float32]]:
        """Translate from given codes, see `BatchTranslator`."""
        assert isinstance(self.model, LatentTransformer)
        source = pad([row]).to(self.device)
        found, log_p = force_codes(self.model, source, given, limit, self.language_model)
        return _translation(found, self.length_penalty), log_p.numpy(force=True)

    def reconstruct(
        self,
        sentences: Sequence[str],
        targets: Sequence[str],
        given: Sequence[list[int]] | None = None,
    ) -> list[str]:
        """Translate whole strings with the codes of the true `targets`, the oracle, or given ones.

        Latent models only; the best path is read.

        Args:
            sentences: Sources, each one string of at most `max_source_tokens`.
            targets: Their true translations.
            given: Codes of each string, instead of those of its target.
        """
        assert isinstance(self.model, LatentTransformer)
        rows, target_rows, spans = self.encode_pairs(sentences, targets)
        texts = [""] * len(rows)
        for indices, source, target in self._padded(rows, target_rows):
            codes = None if given is None else [given[i] for i in indices]
            tokens = reconstruct(self.model, source, target, codes)
            for i, text in zip(indices, self.vocabulary.decode(tokens), strict=True):
                texts[i] = restore(text, spans[i])
        return texts

    def encode_pairs(
        self, sentences: Sequence[str], targets: Sequence[str]
    ) -> tuple[list[list[int]], list[list[int]], list[list[str]]]:
        """Encode sources and translations with slots for the spans that they share, as in training.

        Returns:
            The tokens of the sources and of the targets, and the spans of each pair's slots.
        """
        slots, patterns, pairs = self.vocabulary.slots, self.span_patterns, []
        for source, target in zip(sentences, targets, strict=True):
            found = protect_pair(source, target, slots, patterns) if slots else None
            pairs.append(found or (Protected(source, []), target))
        rows = self.vocabulary.encode([source.text for source, _ in pairs])
        target_rows = self.vocabulary.encode([target for _, target in pairs])
        return rows, target_rows, [source.spans for source, _ in pairs]

    def paired_batches(
        self, sentences: Sequence[str], targets: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield batches of whole strings of similar length; sources without tokens are left out.

        Yields:
            Which strings, their sources (B, S) and targets (B, T), padded.
        """
        rows, target_rows, _ = self.encode_pairs(sentences, targets)
        yield from self._padded(rows, target_rows)

    def _padded(
        self, rows: list[list[int]], target_rows: list[list[int]]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        for indices in self._batches(rows):
            sides = pad([rows[i] for i in indices]), pad([target_rows[i] for i in indices])
            yield indices, sides[0].to(self.device), sides[1].to(self.device)


def _check_device(name: str) -> None:
    """Refuse a device that PyTorch cannot compute on, before anything is loaded."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # unknown, or not built in
        raise VqnmtError(
            f"device is {name!r}, which PyTorch cannot use here ({type(error).__name__}): give "
            f"{'cuda or ' if torch.cuda.is_available() else ''}cpu"
        ) from error


def _translation(candidate: LatentTranslation | Hypothesis, length_penalty: float) -> Translation:
    if isinstance(candidate, Hypothesis):
        score, ended = candidate.score(length_penalty), candidate.ended
        return Translation("", score, tokens=candidate.symbols, ended=ended)
    codes, tokens, spans = candidate
    score = codes.score(length_penalty)
    return Translation("", score, codes.symbols, tokens, spans, ended=codes.ended)


def _load(folder: Path, config: SavedConfig) -> VqnmtForConditionalGeneration:
    """Load a saved model; the file must have exactly its weights, of its shapes."""
    place, known = folder / "model.safetensors", dataclasses.asdict(config)
    try:
        require_plugins(config.plugins)  # not on the device of the next line
        with torch.device("meta"):  # takes no memory, whatever sizes config.json names
            model = VqnmtForConditionalGeneration(VqnmtConfig(**known))
        wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    except VqnmtError as error:
        raise VqnmtError(f"{folder / 'config.json'}: {error}") from error
    except Exception as error:  # torch has errors of many kinds for sizes that it cannot take
        raise VqnmtError(
            f"{folder / 'config.json'}: no model has these sizes ({type(error).__name__}): {AGAIN}"
        ) from error
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what does not fit is reported below
    try:
        with safe_open(place, "pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if found != wanted:
            raise VqnmtError(
                f"{place}: does not fit config.json: {_difference(found, wanted)}: {AGAIN}"
            )
        return VqnmtForConditionalGeneration.from_pretrained(
            folder, config=model.config, local_files_only=True
        )
    except VqnmtError:
        raise
    except Exception as error:  # transformers and torch check little: damage shows in any way
        raise VqnmtError(
            f"{place}: does not fit config.json or is damaged ({type(error).__name__}): {AGAIN}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _difference(found: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    """Say by its first weight how one set of weights differs from another."""
    for kind, names in (
        ("missing", wanted.keys() - found.keys()),
        ("unexpected", found.keys() - wanted.keys()),
    ):
        if names:
            first = min(names).removeprefix("model.")
            return f"{kind} weights: {len(names)}, the first is {first:.80}"
    name = min(name for name in wanted if found[name] != wanted[name])
    return f"{name.removeprefix('model.')} is {found[name]}, not {wanted[name]}"


def _first_line(error: BaseException) -> str:
    """Take the first line of a library's message, or the error's type where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def check_model_folder(folder: Path) -> SavedConfig:
    """Refuse a model folder that cannot be loaded; return its config.

    Raises:
        VqnmtError: A file is missing or changed, or config.json is damaged or of another version.
    """
    return read_config(folder, MODEL_FILES, SavedConfig, "vqnmt", FORMAT)
