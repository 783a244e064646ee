"""Our models in transformers: its Auto classes load, run, save and share them.

They are registered when this module is imported, which `import vqnmt` sees to where transformers is
imported too. A model folder holds `config.json`, `model.safetensors`, `spm.model`, `SHA256SUMS` and
`README.md`; that of a latent model with CTC output `language_model.npz` too.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import cached_file

from vqnmt.checksums import write_checksums
from vqnmt.data.batches import pad
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.language_model import LANGUAGE_MODEL, TrigramModel, load_language_model
from vqnmt.decode.search import Hypothesis
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.layers import Losses
from vqnmt.layers.transformer import Positions, sinusoids
from vqnmt.models.parallel import ParallelTransformer
from vqnmt.models.registry import ARCHITECTURES, build_model
from vqnmt.plugins import plugins_of, require_plugins
from vqnmt.quantizers import Quantizer
from vqnmt.settings import between, from_mapping
from vqnmt.tokens import BOS, EOS, PAD, UNK
from vqnmt.translate.folder import MOST_PIECES, ModelConfig
from vqnmt.translate.generation import LatentTranslation, find_translations

# Raised whenever saved weights no longer fit the code; older folders are refused by name.
FORMAT = 3

# Settings of `from_pretrained` that say where a file of the Hub is.
_HUB_SETTINGS = {
    *("cache_dir", "force_download", "local_files_only", "proxies"),
    *("revision", "subfolder", "token"),
}


@dataclasses.dataclass(kw_only=True)
class SavedConfig(ModelConfig):
    """What config.json says of a saved model; for the keys see `VqnmtConfig`."""

    architecture: str
    settings: dict[str, Any]
    vocabulary_size: Annotated[int, between(1, MOST_PIECES)]
    written_pieces: int
    plugins: list[str] = dataclasses.field(default_factory=list)


class VqnmtConfig(PretrainedConfig):
    """What a saved model is: its architecture, its settings and its languages.

    Args:
        architecture: A key of `ARCHITECTURES`.
        settings: The architecture's config as a plain mapping.
        vocabulary_size: Pieces in the joint vocabulary.
        written_pieces: See `TiedEmbedding.written`; None means all.
        source_language: Language code of the source.
        target_language: Language code of the target.
        max_source_tokens: Longer sources are refused.
        plugins: Modules from outside that define a part of the model; they are imported.
        span_patterns: See `BatchTranslator`.
        format: See `FORMAT`.
    """

    model_type = "vqnmt"

    def __init__(
        self,
        architecture: str = "latent",
        settings: dict[str, Any] | None = None,
        vocabulary_size: int = 1,
        written_pieces: int | None = None,
        source_language: str = "en",
        target_language: str = "de",
        max_source_tokens: int = 256,
        plugins: list[str] | None = None,
        span_patterns: list[str] | None = None,
        format: int = FORMAT,
        **further: Any,
    ) -> None:
        self.architecture = architecture
        self.settings = settings or {}
        self.vocabulary_size = vocabulary_size
        self.written_pieces = vocabulary_size if written_pieces is None else written_pieces
        self.source_language = source_language
        self.target_language = target_language
        self.max_source_tokens = max_source_tokens
        self.plugins = plugins or []
        self.span_patterns = span_patterns or []
        self.format = format
        super().__init__(**further)


class VqnmtForConditionalGeneration(PreTrainedModel):
    """A `PreTrainedModel` around one of our models, which is `.model`.

    `language_model` reads the output of a latent model with CTC, as in `Translator`.
    """

    config_class = VqnmtConfig
    main_input_name = "input_ids"
    language_model: TrigramModel | None = None

    def __init__(self, config: VqnmtConfig) -> None:
        super().__init__(config)
        require_plugins(config.plugins)
        if config.architecture not in ARCHITECTURES:
            raise VqnmtError(
                f"config.json: architecture is {config.architecture!r}; this version knows "
                f"{', '.join(ARCHITECTURES)}"
            )
        kind = ARCHITECTURES[config.architecture].config
        settings: Any = from_mapping(kind, config.settings, "settings")
        self.model = build_model(config.architecture, settings, config.vocabulary_size)
        written = config.written_pieces
        if not (isinstance(written, int) and UNK < written <= config.vocabulary_size):
            raise VqnmtError(
                f"config.json: written_pieces is {written!r}; it must be a whole number above "
                f"{UNK} and at most vocabulary_size, {config.vocabulary_size}"
            )
        self.model.embedding.written = written
        self.post_init()

    @classmethod
    def around(cls, model: nn.Module, **further: Any) -> "VqnmtForConditionalGeneration":
        """Wrap a trained module; its weights are shared, not copied.

        Args:
            model: The module.
            further: Languages, limit and patterns, see `VqnmtConfig`.
        """
        parts = [model, *(part for part in model.modules() if isinstance(part, Quantizer))]
        parts.append(getattr(model, "output", model))
        architecture = next(
            name for name, known in ARCHITECTURES.items() if type(model) is known.model
        )
        wrapped = cls(
            VqnmtConfig(
                architecture=architecture,
                settings=dataclasses.asdict(model.config),  # type: ignore[call-overload]
                vocabulary_size=model.embedding.num_embeddings,  # type: ignore
                written_pieces=model.embedding.written,  # type: ignore
                plugins=plugins_of(parts),
                **further,
            )
        )
        wrapped.model = model
        return wrapped

    @classmethod
    def from_pretrained(cls, *arguments: Any, **settings: Any) -> Any:
        """Load a model folder, see transformers; it computes the same bits as the saved model.

        Weights that are mapped from the file may be unaligned in memory, and on some CPUs the last
        bits of a product depend on alignment: each weight is copied to memory of its own.

        Args:
            arguments: See transformers.
            settings: See transformers; `dtype` leaves out the quantizer, which stays in fp32.
        """
        dtype = settings.pop("dtype", None)
        found = super().from_pretrained(*arguments, **settings)
        model = found[0] if isinstance(found, tuple) else found  # with output_loading_info
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        if isinstance(model.model, ParallelTransformer):
            place = cached_file(
                arguments[0],
                LANGUAGE_MODEL,
                _raise_exceptions_for_missing_entries=False,
                **{key: settings[key] for key in _HUB_SETTINGS & settings.keys()},
            )
            if place is not None:
                folder, size = Path(place).parent, model.config.vocabulary_size
                model.language_model = load_language_model(folder, size)
        if dtype not in (None, "auto"):
            model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return found

    def save_pretrained(
        self, save_directory: str | os.PathLike[Any], *arguments: Any, **settings: Any
    ) -> None:
        """Write the model's files and `SHA256SUMS`, see transformers; the tokenizer's are its own.

        Args:
            save_directory: The model folder.
            arguments: See transformers.
            settings: See transformers.
        """
        folder = Path(save_directory)
        super().save_pretrained(folder, *arguments, **settings)
        if self.language_model is not None:
            self.language_model.save(folder / LANGUAGE_MODEL)
        names = ("config.json", "model.safetensors", "spm.model", LANGUAGE_MODEL)
        write_checksums(folder, [name for name in names if (folder / name).is_file()])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Seq2SeqLMOutput:
        """Compute the training loss.

        Args:
            input_ids: Source tokens (B, S), padded at the end with `PAD`, with or without EOS.
            attention_mask: (B, S), 0 at padding.
            labels: Target tokens (B, T), padded with -100 or `PAD`, with or without EOS.

        Returns:
            Has `loss`, a scalar: a mean over target tokens plus the quantizer's terms. It has no
            logits: the positions of a latent model are not those of the labels.

        Raises:
            VqnmtError: There are no labels.
        """
        if labels is None:
            raise VqnmtError("labels is None: forward computes a loss; to translate call generate")
        source = _plain(input_ids, attention_mask)
        losses: Losses = self.model(source, _plain(labels.masked_fill(labels < 0, PAD)))
        return Seq2SeqLMOutput(loss=losses.total)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        num_beams: int = 1,
        num_return_sequences: int = 1,
    ) -> Tensor:
        """Translate.

        Args:
            input_ids: Source tokens (B, S), padded at the end with `PAD`, with or without EOS.
            attention_mask: (B, S), 0 at padding.
            num_beams: Beam of the search over tokens or codes.
            num_return_sequences: Translations n of each sentence.

        Returns:
            Tokens (B * n, T), each row ended by EOS and padded with `PAD`; those of a sentence side
            by side, the best first. Where fewer exist, the last is repeated.

        Raises:
            VqnmtError: A source is longer than the model takes, or a number out of range.
        """
        settings = SearchSettings(beam=num_beams, candidates=num_return_sequences)
        source = _plain(input_ids, attention_mask)
        longest = int((source != PAD).sum(dim=1).max()) if source.numel() else 0
        if longest > self.config.max_source_tokens:
            raise VqnmtError(
                f"input_ids: a source has {longest} tokens and the model takes "
                f"{self.config.max_source_tokens}: split it"
            )
        rows = []
        for found in find_translations(self.model.eval(), source, settings, self.language_model):
            best: list[Any] = sorted(found, key=lambda one: -_hypothesis(one).score(1.0))
            for i in range(num_return_sequences):
                one = best[min(i, len(best) - 1)]
                tokens = one.symbols if isinstance(one, Hypothesis) else one.tokens
                rows.append([*tokens, EOS])
        return pad(rows).to(input_ids.device)

    def _init_weights(self, module: nn.Module) -> None:
        """Restore what is computed, not stored, after transformers has loaded the rest."""
        if isinstance(module, Positions):
            module.table = sinusoids(len(module.table), module.dim).to(module.table.device)


class VqnmtTokenizer(PreTrainedTokenizer):
    """A `Vocabulary` as a tokenizer of transformers: spm.model.

    Its tokens have no begin and no end, which the models add themselves, and what it decodes has
    the invariants of `clean_output`, as any translation has.

    Args:
        vocab_file: The file spm.model.
        further: See transformers.
    """

    vocab_files_names = {"vocab_file": "spm.model"}  # noqa: RUF012  as transformers has it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, **further: Any) -> None:
        self.vocabulary = Vocabulary.load(vocab_file)
        self._pieces = self.vocabulary.pieces(range(len(self.vocabulary)))
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
        further |= {key: self._pieces[index] for key, index in names.items()}
        super().__init__(**{"special_tokens_pattern": "none", **further})

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        """Return the pieces with their ids."""
        return dict(self._ids)

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write spm.model; returns its path."""
        name = "-".join(filter(None, (filename_prefix, "spm.model")))
        self.vocabulary.save(Path(save_directory) / name)
        return (str(Path(save_directory) / name),)

    def _tokenize(self, text: str, **further: Any) -> list[str]:
        return self.vocabulary.pieces(self.vocabulary.encode([text])[0])

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, UNK)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text of pieces; special ones are dropped."""
        return self.vocabulary.decode([[self._convert_token_to_id(x) for x in tokens]])[0]

    def _decode(self, token_ids: int | list[int], *arguments: Any, **further: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self.vocabulary.decode([ids])[0]


def _plain(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return token rows (B, S) padded with `PAD` alone, without begin and end."""
    real = (tokens != PAD) & (tokens != BOS) & (tokens != EOS)
    if mask is not None:
        real &= mask.bool()
    order = (~real).to(torch.int8).argsort(dim=1, stable=True)  # what is real first
    return tokens.masked_fill(~real, PAD).gather(1, order)


def _hypothesis(found: Hypothesis | LatentTranslation) -> Hypothesis:
    return found if isinstance(found, Hypothesis) else found.codes


AutoConfig.register("vqnmt", VqnmtConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(VqnmtConfig, VqnmtForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(VqnmtConfig, slow_tokenizer_class=VqnmtTokenizer, exist_ok=True)
