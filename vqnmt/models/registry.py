"""The models that translate, by name: ours, and those of plug-ins."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.models.ctc import CtcConfig, CtcTransformer
from vqnmt.models.fertility import FertilityConfig, FertilityTransformer
from vqnmt.models.latent import LatentConfig, LatentTransformer
from vqnmt.models.shared import TiedEmbedding
from vqnmt.quantizers.registry import check_registration

ModelT = TypeVar("ModelT", bound=nn.Module)


class Architecture(NamedTuple):
    """A kind of model and its settings."""

    config: type
    model: type[nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "autoregressive": Architecture(AutoregressiveConfig, AutoregressiveTransformer),
    "ctc": Architecture(CtcConfig, CtcTransformer),
    "fertility": Architecture(FertilityConfig, FertilityTransformer),
    "latent": Architecture(LatentConfig, LatentTransformer),
}
OURS = tuple(ARCHITECTURES)
"""The names of the models that are not of plug-ins."""


def register_student(name: str, *, config: type) -> Callable[[type[ModelT]], type[ModelT]]:
    """Make a student known: `student=<name>` trains it, with the settings `plugin_student`.

    Args:
        name: What `student` calls it.
        config: Its settings: a dataclass, every field with a default.

    Returns:
        A decorator of a module that is built by `(config, vocabulary_size)`. Its
        `forward(source, target)` takes tokens (B, S) and (B, T) and returns `Losses`; its attribute
        `config` is the settings and `embedding` a `TiedEmbedding`. A subclass of one of our models
        is searched as that model is; another one has a method
        `find_translations(source, settings)`, see `vqnmt.translate.generation`.

    Raises:
        VqnmtError: The name is taken, the settings are no dataclass, or a method is missing.
    """

    def register(kind: type[ModelT]) -> type[ModelT]:
        taken = ARCHITECTURES.get(name)
        forward = getattr(kind, "forward", nn.Module.forward)
        missing = ["forward"] if forward is nn.Module.forward else []
        ours = tuple(ARCHITECTURES[own].model for own in OURS)
        if not issubclass(kind, ours) and not hasattr(kind, "find_translations"):
            missing.append("find_translations")
        place = check_registration("student", name, kind, taken and taken.model, missing)
        if not dataclasses.is_dataclass(config):
            raise VqnmtError(f"{place} has the config {config.__name__}: make it a dataclass")
        ARCHITECTURES[name] = Architecture(config, kind)
        return kind

    return register


def build_model(name: str, config: Any, vocabulary_size: int) -> nn.Module:
    """Build an untrained model.

    Args:
        name: A key of `ARCHITECTURES`.
        config: Its settings.
        vocabulary_size: Pieces in the joint vocabulary.

    Raises:
        VqnmtError: It cannot be built of these settings, or lacks the table of pieces.
    """
    model = ARCHITECTURES[name].model(config, vocabulary_size)
    if not isinstance(getattr(model, "embedding", None), TiedEmbedding):
        raise VqnmtError(
            f"the student {name} has no attribute embedding of the class "
            "vqnmt.models.shared.TiedEmbedding: give it one"
        )
    return model
