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
        place = f"the quantizer {kind.__module__}.{kind.__qualname__}"
        taken = QUANTIZERS.get(name)
        if taken is not None and _place(taken) != _place(kind):
            raise VqnmtError(
                f"{place} registers the name {name!r}, which {'.'.join(_place(taken))} has: give "
                "it another name"
            )
        if not issubclass(kind, Quantizer):
            raise VqnmtError(f"{place} must be a subclass of vqnmt.quantizers.Quantizer")
        if missing := sorted(kind.__abstractmethods__):
            raise VqnmtError(f"{place} lacks the method {', '.join(missing)}: write it")
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


def _place(kind: type[Any]) -> tuple[str, str]:
    """Where a class stands: a module that is imported again may register it again."""
    return kind.__module__, kind.__qualname__


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
