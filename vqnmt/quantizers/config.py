"""The settings that every quantizer has, and how a name and keys become those of one quantizer."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vqnmt.errors import VqnmtError

CONFIGS: dict[str, type["QuantizerConfig"]] = {}
"""The settings of each quantizer by its name; `register_quantizer` fills it."""

# Usage is counted for each code, so that more codes fit no memory.
MOST_CODES = 1 << 24


@dataclass(kw_only=True)
class QuantizerConfig:
    """Settings of a quantizer; each quantizer has a subclass with settings of its own.

    `QuantizerConfig(name="soft_em", samples=5)` makes that of the named quantizer, as
    `pathlib.Path` makes a path of the system's kind; without a name it is `ema`.

    Raises:
        VqnmtError: A name or key is unknown, or a value is out of range; the message names the
            key as `quantizer.<key>`.
    """

    name: str = ""
    """`gradient`, `ema`, `hard_em`, `soft_em`, `gumbel_softmax`, `semhash`, `product`, `residual`,
    `fsq`, `lfq` or `sim_vq` of vector-quantize-pytorch, or that of a plug-in."""

    codebook_size: int = 256
    """K, the number of codes; of the combined codes where there are `parts`, each of which has
    K^(1/parts); a power of two for `semhash` and `lfq`; the product of `levels` for `fsq`. At most
    2^24."""

    powers_of_two: ClassVar[bool] = False
    """Whether K must be a power of two."""
    can_be_part: ClassVar[bool] = True
    """Whether `product` and `residual` take it as a part."""

    def __new__(cls, *, name: str = "", **values: Any) -> "QuantizerConfig":
        """Choose the class by `name`, and check that it has the keys of `values`."""
        kind = cls
        if cls is QuantizerConfig:
            kind = named(name or "ema")
        check_keys(kind, values)
        return object.__new__(kind)

    def __post_init__(self) -> None:
        self.name = self.name or next((n for n, kind in CONFIGS.items() if kind is type(self)), "")
        if named(self.name) is not type(self):
            raise VqnmtError(
                f"quantizer.name is {self.name!r}: its settings are {named(self.name).__name__}, "
                f"not {type(self).__name__}."
            )
        self.require_between("codebook_size", 1, MOST_CODES)
        if self.powers_of_two:
            check_power_of_two(self.name, self.codebook_size)

    @classmethod
    def resolve(
        cls, values: Mapping[str, Any], default: "QuantizerConfig | None"
    ) -> tuple[type["QuantizerConfig"], dict[str, Any]]:
        """Choose the class that `values` of YAML or JSON are for; see `vqnmt.settings`.

        Args:
            values: By key; `name` decides.
            default: Of the place where the quantizer is used. What it sets otherwise than its class
                is taken over by every quantizer that has such a key.

        Returns:
            The class, and the values with those taken over. Keys that the quantizer lacks are left
            out where they have the default's values, because nobody has asked for them.
        """
        name = values.get("name", default.name if default is not None else "ema")
        kind = named(name)
        own = {f.name for f in dataclasses.fields(kind)}
        place = {} if default is None else differences(default)
        given = {
            key: value
            for key, value in values.items()
            if key in own or not (key in place and place[key] == value)
        }
        taken_over = {key: value for key, value in place.items() if key in own}
        return kind, {**taken_over, **given, "name": name}

    @classmethod
    def variants(cls) -> list[type["QuantizerConfig"]]:
        """List the classes that `resolve` chooses among."""
        return list(dict.fromkeys(CONFIGS.values())) if cls is QuantizerConfig else [cls]

    def as_named(self, name: str, **changes: Any) -> "QuantizerConfig":
        """Return the settings of the quantizer `name`, with those of these that it has too."""
        kind = named(name)
        shared = {f.name for f in dataclasses.fields(self)} - {"name"}
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(kind) if f.name in shared}
        return kind(name=name, **(kept | changes))

    # --- checks ------------------------------------------------------------------------------

    def require(self, key: str, holds: bool, remedy: str) -> None:
        """Raise an error about the value of `key` unless it `holds`: "it must be <remedy>"."""
        if not holds:
            raise VqnmtError(f"quantizer.{key} is {getattr(self, key)!r}: it must be {remedy}.")

    def require_between(self, key: str, least: int, most: int) -> None:
        """Check that a value is from `least` to `most`, or None."""
        value = getattr(self, key)
        self.require(key, value is None or least <= value <= most, f"{least} to {most}")

    def require_weight(self, key: str) -> None:
        """Check that a value is 0 or more, and finite."""
        value = getattr(self, key)
        self.require(key, math.isfinite(value) and value >= 0, "0 or more")

    def require_positive(self, key: str) -> None:
        """Check that a value is above 0 and finite, or None."""
        value = getattr(self, key)
        self.require(key, value is None or (math.isfinite(value) and value > 0), "above 0")

    def require_fraction(self, key: str) -> None:
        """Check that a value is 0 or more and below 1."""
        self.require(key, 0 <= getattr(self, key) < 1, "in [0, 1)")

    def require_choice(self, key: str, choices: tuple[str, ...]) -> None:
        """Check that a value is one of `choices`."""
        self.require(key, getattr(self, key) in choices, f"one of {', '.join(choices)}")


def named(name: Any) -> type[QuantizerConfig]:
    """Return the settings' class of the quantizer `name`.

    Raises:
        VqnmtError: There is none of this name.
    """
    if not isinstance(name, str) or name not in CONFIGS:
        raise VqnmtError(
            f"quantizer.name is {name!r}: it must be one of {', '.join(CONFIGS)}, or that of a "
            "plug-in, named by plugins=[module]."
        )
    return CONFIGS[name]


def check_keys(kind: type[QuantizerConfig], values: Mapping[str, Any]) -> None:
    """Refuse keys that settings of a `kind` have not.

    Raises:
        VqnmtError: Names the key and those that exist.
    """
    keys = [f.name for f in dataclasses.fields(kind)]
    for key in values:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(keys)}."
            raise VqnmtError(f"quantizer.{key} is not a key of {kind.__name__}: {remedy}")


def differences(config: QuantizerConfig) -> dict[str, Any]:
    """Return the values of `config` that are not the defaults of its class; never its name."""
    found = {}
    for f in dataclasses.fields(config):
        factory = f.default_factory
        default = f.default if factory is dataclasses.MISSING else factory()
        if f.name != "name" and getattr(config, f.name) != default:
            found[f.name] = getattr(config, f.name)
    return found


def check_power_of_two(name: str, size: int, parts: int = 1) -> None:
    """Check that the K = `size` of a quantizer, or of each of its `parts`, is a power of two.

    Raises:
        VqnmtError: Names K and sizes near it that fit.
    """
    floor = 2 ** max(size.bit_length() - 1, 1)
    if size != floor:
        kind = "a power of two" if parts == 1 else f"of {parts} powers of two"
        raise VqnmtError(
            f"quantizer.codebook_size is {size**parts!r}: it must be {kind}, 2 or more, "
            f"beside {name}, such as {floor**parts} or {(2 * floor) ** parts}."
        )
