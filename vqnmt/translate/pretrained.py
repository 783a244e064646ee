"""Our models as `PreTrainedModel`s of transformers: saving, loading and sharing.

A model folder holds `config.json`, `model.safetensors`, `spm.model`, `SHA256SUMS` and `README.md`;
that of a latent model with CTC output `language_model.npz` too.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from vqnmt.errors import VqnmtError
from vqnmt.layers import Losses
from vqnmt.layers.transformer import Positions, sinusoids
from vqnmt.models.registry import ARCHITECTURES, build_model
from vqnmt.plugins import load_plugins, plugins_of
from vqnmt.quantizers import Quantizer
from vqnmt.settings import from_mapping
from vqnmt.tokens import UNK
from vqnmt.translate.folder import MOST_PIECES, ModelConfig, check_range

# Raised whenever saved weights no longer fit the code; older folders are refused by name.
FORMAT = 3


@dataclasses.dataclass(kw_only=True)
class SavedConfig(ModelConfig):
    """What config.json says of a saved model; for the keys see `TranslationConfig`."""

    architecture: str
    settings: dict[str, Any]
    vocabulary_size: int
    written_pieces: int | None = None
    plugins: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the values; those of `settings` are the architecture's to check."""
        super().__post_init__()
        check_range(self, "vocabulary_size", 1, MOST_PIECES)


class TranslationConfig(PretrainedConfig):
    """What a saved model is: its architecture, its settings and its languages.

    Args:
        architecture: A key of `ARCHITECTURES`.
        settings: The architecture's config as a plain mapping.
        vocabulary_size: Pieces in the joint vocabulary.
        written_pieces: See `TiedEmbedding.written`; None, as in older folders, means all.
        source_language: Language code of the source.
        target_language: Language code of the target.
        max_source_tokens: Longer sources are refused.
        plugins: Modules from outside that define a part of the model; they are imported.
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
        self.format = format
        super().__init__(**further)


class TranslationModel(PreTrainedModel):
    """A `PreTrainedModel` around one of our models, which is `.model`."""

    config_class = TranslationConfig

    def __init__(self, config: TranslationConfig) -> None:
        super().__init__(config)
        load_plugins(config.plugins)
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
    def around(
        cls, model: nn.Module, source_language: str, target_language: str, max_source_tokens: int
    ) -> "TranslationModel":
        """Wrap a trained module; its weights are shared, not copied."""
        parts = [model, *(part for part in model.modules() if isinstance(part, Quantizer))]
        parts.append(getattr(model, "output", model))
        architecture = next(
            name for name, known in ARCHITECTURES.items() if type(model) is known.model
        )
        wrapped = cls(
            TranslationConfig(
                architecture=architecture,
                settings=dataclasses.asdict(model.config),  # type: ignore[call-overload]
                vocabulary_size=model.embedding.num_embeddings,  # type: ignore
                written_pieces=model.embedding.written,  # type: ignore
                source_language=source_language,
                target_language=target_language,
                max_source_tokens=max_source_tokens,
                plugins=plugins_of(parts),
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
        if dtype not in (None, "auto"):
            model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return found

    def forward(self, source: Tensor, target: Tensor) -> Losses:
        """Training losses of `target` (B, T) given `source` (B, S)."""
        losses: Losses = self.model(source, target)
        return losses

    def _init_weights(self, module: nn.Module) -> None:
        """Restore what is computed, not stored, after transformers has loaded the rest."""
        if isinstance(module, Positions):
            module.table = sinusoids(len(module.table), module.dim).to(module.table.device)
