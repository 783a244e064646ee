"""Which quantizers there are, those of plug-ins included, and building one from its settings."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer, lasting_tensors
from vqnmt.quantizers.config import CONFIGS, QuantizerConfig

QUANTIZERS: dict[str, type[Quantizer]] = {}
"""The quantizers by name; `register_quantizer` fills it."""

QuantizerT = TypeVar("QuantizerT", bound=Quantizer)


def register_quantizer(
    name: str, *, config: type[QuantizerConfig]
) -> Callable[[type[QuantizerT]], type[QuantizerT]]:
    """Make a quantizer known under `name`: to YAML, the command line and `build_quantizer`.

    Args:
        name: What `quantizer.name` calls it.
        config: Its settings: a dataclass, every key with a default.

    Returns:
        A decorator of a concrete subclass of `Quantizer`.

    Raises:
        VqnmtError: The name is taken, the settings are no such dataclass, or the quantizer lacks
            a method.
    """

    def register(kind: type[QuantizerT]) -> type[QuantizerT]:
        if not issubclass(kind, Quantizer):
            raise VqnmtError(
                f"{kind.__module__}.{kind.__qualname__} is registered as the quantizer {name}: "
                "make it a subclass of vqnmt.quantizers.Quantizer"
            )
        missing = sorted(kind.__abstractmethods__)
        place = check_registration("quantizer", name, kind, QUANTIZERS.get(name), missing)
        if not (issubclass(config, QuantizerConfig) and "__dataclass_fields__" in vars(config)):
            raise VqnmtError(
                f"{place} has the config {config.__name__}: make it a dataclass(kw_only=True) and "
                "a subclass of vqnmt.quantizers.QuantizerConfig"
            )
        for f in dataclasses.fields(config):
            if f.default is f.default_factory is dataclasses.MISSING:
                raise VqnmtError(f"{place}: {config.__name__}.{f.name} has no default: give it one")
        QUANTIZERS[name], CONFIGS[name] = kind, config
        kind.config_class = config
        return kind

    return register


def check_registration(
    what: str, name: str, kind: type[Any], taken: type[Any] | None, missing: list[str]
) -> str:
    """Check a class that registers under a name.

    Args:
        what: A quantizer, a student or an output.
        name: The name.
        kind: The class.
        taken: What has the name already. A module that is imported again may register its own
            class again.
        missing: Methods that the class lacks.

    Returns:
        What errors call it.

    Raises:
        VqnmtError: The name is taken, or a method is missing.
    """
    place = f"the {what} {kind.__module__}.{kind.__qualname__}"
    holder = None if taken is None else f"{taken.__module__}.{taken.__qualname__}"
    if holder is not None and not place.endswith(f" {holder}"):
        raise VqnmtError(
            f"{place} registers the name {name!r}, which {holder} has: give it another name"
        )
    if missing:
        raise VqnmtError(f"{place} lacks the method {', '.join(missing)}: write it")
    return place


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """Build the quantizer that `config.name` names, with fp32 weights under any default dtype.

    Args:
        config: The settings.
        dim: d, the size of the encoder's vectors.

    Raises:
        VqnmtError: d does not fit the settings, or a package is missing.
    """
    with lasting_tensors():
        return QUANTIZERS[config.name](dim, config).float()
