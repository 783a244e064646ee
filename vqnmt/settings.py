"""From plain mappings (YAML, JSON) to the typed, self-checking settings, and back.

A dataclass with several kinds, such as the settings of a quantizer, has two class methods:
`resolve(values, default)` chooses the kind that a mapping is for and completes it with the values
that differ at its place, and `variants()` lists all kinds.
"""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar

from vqnmt.errors import VqnmtError

SettingsT = TypeVar("SettingsT")

NO_NUMBER: Mapping[str, Any] = {"decides no number": True}
"""Metadata of a field that changes no weight, no translation and no score: how often a training
reports, or where a file of known content stands. What has been made with another value is used."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What `Annotated` adds to the type of a field: the values allowed."""

    words: str
    """The values, in a sentence after "it must be"."""
    holds: Callable[[Any], bool]
    """Tells whether a value is allowed."""


def between(least: float, most: float, why: str = "") -> Constraint:
    """Both bounds are allowed; `why` ends the sentence."""
    return Constraint(f"from {least:,} to {most:,}{why}", lambda value: least <= value <= most)


def at_least(least: float) -> Constraint:
    """Finite, and `least` or more."""
    return Constraint(f"{least:,} or more", lambda value: least <= value < math.inf)


def above(bound: float) -> Constraint:
    """The bound is not allowed, infinity is."""
    return Constraint(f"above {bound:,}", lambda value: value > bound)


def below(bound: float) -> Constraint:
    """The bound is not allowed."""
    return Constraint(f"below {bound:,}", lambda value: value < bound)


def matching(pattern: str, words: str) -> Constraint:
    """Text that a regular expression matches from end to end."""
    expression = re.compile(pattern, re.DOTALL)
    return Constraint(words, lambda value: expression.fullmatch(value) is not None)


PositiveInt = Annotated[int, at_least(1)]
NonNegativeInt = Annotated[int, at_least(0)]
PositiveFloat = Annotated[float, above(0)]
Fraction = Annotated[float, at_least(0), below(1)]
Name = Annotated[str, matching(r".*\S.*", "a name, not blank")]
Seed = Annotated[int, between(0, 2**32 - 1)]
"""What both numpy and torch take."""


@dataclass(kw_only=True, slots=True)
class Settings:
    """Base of the settings: a dataclass that checks the types and ranges of its fields.

    The fields' types say what is allowed, `Annotated[int, at_least(1)]` or `Literal["a", "b"]`. A
    subclass whose fields depend on each other checks that in `__post_init__`, after `check`.

    Raises:
        VqnmtError: A value has the wrong type or is out of range; the message names the key.
    """

    group: InitVar[str] = ""
    """Dotted key of these settings, for errors. Subclasses have a default, `from_mapping` gives the
    key where they stand."""

    def __post_init__(self, group: str) -> None:
        """Check every field."""
        check(self, group)


def check(settings: Any, group: str = "") -> None:
    """Check the types and ranges of the fields of a dataclass; whole numbers become floats.

    Args:
        settings: The dataclass.
        group: Its dotted key, for errors.

    Raises:
        VqnmtError: Names the key, its value and what is allowed.
    """
    for name, hint, alternatives in _checks(type(settings)):  # type: ignore[arg-type]
        value = getattr(settings, name)
        # Settings are checked with each translation: what needs no change is told quickly.
        if not any(
            type(value) is plain
            and (plain is not int or abs(value) < 2**63)
            and all(constraint.holds(value) for constraint in constraints)
            for plain, _, constraints in alternatives
        ):
            value = checked(hint, value, dotted(group, name))
            object.__setattr__(settings, name, value)  # frozen dataclasses too


def from_mapping(
    kind: type[SettingsT],
    values: Mapping[str, Any],
    path: str = "",
    default: SettingsT | None = None,
) -> SettingsT:
    """Build the dataclass `kind` from `values`, nested dataclasses included.

    Args:
        kind: A dataclass; a field without default must be given.
        values: Its fields by name.
        path: The key of `values`, for errors.
        default: Has the fields that `values` lacks; None: the defaults of `kind`.

    Raises:
        VqnmtError: A key is unknown or missing, or a value has the wrong type or is out of
            range; the message names the key.
    """
    if hasattr(kind, "resolve"):
        try:
            kind, values = kind.resolve(values, default)  # type: ignore[attr-defined]
        except VqnmtError as error:
            raise _placed(error, path) from None
        default = None
    hints = _hints(kind)  # type: ignore[arg-type]
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(hints)}"
            shown = str(key) if str(key).isprintable() else repr(key)
            raise VqnmtError(f"{dotted(path, shown)} is not a known key: {remedy}")
    arguments = {}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        if not f.init:
            continue
        key = dotted(path, f.name)
        arguments[f.name] = _default(f) if default is None else getattr(default, f.name)
        if f.name in values:
            arguments[f.name] = checked(hints[f.name], values[f.name], key, arguments[f.name])
        elif arguments[f.name] is dataclasses.MISSING:
            raise VqnmtError(f"{key} is missing: give it a value")
    if path and issubclass(kind, Settings):
        arguments["group"] = path
    try:
        return kind(**arguments)
    except VqnmtError as error:
        if issubclass(kind, Settings):
            raise
        raise _placed(error, path) from error


def _placed(error: VqnmtError, path: str) -> VqnmtError:
    """Name the keys where they stand: a quantizer's own errors know only the name of its group."""
    own = path.rpartition(".")[2]
    return VqnmtError(str(error).replace(f"{own}.", f"{path}."))


def dotted(path: str, key: object) -> str:
    """Return the dotted key of a field `key` of the group `path`; "" is the top."""
    return f"{path}.{key}" if path else str(key)


def _default(f: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or MISSING."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the annotated type of each field that a dataclass is made from."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


@functools.cache
def _checks(kind: Any) -> list[tuple[str, Any, list[tuple[Any, list[type], list[Constraint]]]]]:
    """Return the name, the hint and the `_alternatives` of each field of a dataclass."""
    return [(name, hint, _alternatives(hint)) for name, hint in _hints(kind).items()]


def checked(hint: Any, value: Any, key: str, default: Any = None) -> Any:
    """Return the value in the type that a hint asks for.

    Args:
        hint: A type, `Literal`, `Annotated` with constraints, a list of one, a union of several, or
            a dataclass.
        value: Of any type; a mapping for a dataclass.
        key: Its dotted key, for errors.
        default: Has the fields of a dataclass that the value lacks.

    Raises:
        VqnmtError: Names the key, its value and what is allowed.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise VqnmtError(f"{key} is {value!r:.80}: it must be a group of keys")
        return from_mapping(hint, value, key, default if isinstance(default, hint) else None)
    alternatives = _alternatives(hint)
    for plain, kinds, constraints in alternatives:
        if type(value) in kinds or any(_is_of(value, kind) for kind in kinds):
            return _in_range(plain, constraints, value, key)
    types_of = dict.fromkeys(kind for _, kinds, _ in alternatives for kind in kinds)
    names = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in types_of)
    shown = f"{_shown(value)} ({type(value).__name__})"
    raise VqnmtError(f"{key} is {shown}: it must be of type {names}")


@functools.cache
def _alternatives(hint: Any) -> list[tuple[Any, list[type], list[Constraint]]]:
    """Return the hints of a union without their constraints, the types of values, constraints."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    found: list[tuple[Any, list[type], list[Constraint]]] = []
    for one in typing.get_args(hint) if union else (hint,):
        annotated = typing.get_origin(one) is Annotated
        plain, *constraints = typing.get_args(one) if annotated else (one,)
        if typing.get_origin(plain) is Literal:
            kinds = [type(choice) for choice in typing.get_args(plain)]
        else:
            kinds = [object if plain is Any else typing.get_origin(plain) or plain]
        found.append((plain, kinds, constraints))
    return found


def _is_of(value: Any, kind: type) -> bool:
    """Tell whether a value has a type; whole numbers are floats too, and bools are no numbers."""
    if isinstance(value, bool):
        return kind in (bool, object)
    abstract: dict[type, type] = {int: Integral, float: Real}
    return isinstance(value, abstract.get(kind, kind))


def _shown(value: Any) -> str:
    large = isinstance(value, int) and abs(value) >= 2**63
    return "a number beyond 2^63" if large else f"{value!r:.80}"


def _in_range(hint: Any, constraints: list[Constraint], value: Any, key: str) -> Any:
    """Return a value of the right type, as a built-in number, if it is one of those allowed."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list:
        value = [checked(arguments[0], one, f"{key}[{i}]") for i, one in enumerate(value)]
    elif typing.get_origin(hint) is Literal and value not in arguments:
        choices = [str(one).lower() if isinstance(one, bool) else one for one in arguments]
        raise VqnmtError(f"{key} is {_shown(value)}; choose one of {', '.join(choices)}")
    if not all(constraint.holds(value) for constraint in constraints):
        words = " and ".join(constraint.words for constraint in constraints)
        raise VqnmtError(f"{key} is {_shown(value)}; it must be {words}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise VqnmtError(f"{key} is {_shown(value)}: it must be smaller")
    return hint(value) if hint in (int, float) else value


def deciding(settings: Any) -> dict[str, Any]:
    """Return what `dataclasses.asdict` does, without the fields that decide no number.

    Fields with the metadata {"omitted at default": True} are left out at their default, so that the
    run folders that were made without them go on.
    """
    values = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        omitted = f.metadata.get("omitted at default") and value == _default(f)
        if not (f.metadata.get("decides no number") or omitted):
            values[f.name] = deciding(value) if dataclasses.is_dataclass(value) else value
    return values


def to_mapping(settings: Any, *, differing: bool = False) -> dict[str, Any]:
    """Return what `from_mapping` takes: the values of settings, or the defaults of a class.

    Args:
        settings: A dataclass or an instance.
        differing: Of a group of several kinds, only the kind's name and what differs from its own
            defaults: as the defaults of a command, which may choose another kind.
    """
    values = {}
    for f in dataclasses.fields(settings):
        value = _default(f) if isinstance(settings, type) else getattr(settings, f.name)
        if not f.init or value is dataclasses.MISSING:
            continue
        if not dataclasses.is_dataclass(value):
            values[f.name] = value
        elif differing and hasattr(value, "resolve"):
            own = to_mapping(type(value))
            given = to_mapping(value)
            values[f.name] = {k: v for k, v in given.items() if k == "name" or own[k] != v}
        else:
            values[f.name] = to_mapping(value, differing=differing)
    return values


def to_flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= to_flat(value, dotted(path, key))
        else:
            flat[dotted(path, key)] = value
    return flat
