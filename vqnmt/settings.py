"""From plain mappings (YAML, JSON) to the typed, self-checking settings, and back.

A dataclass of which there are several kinds, such as the settings of a quantizer, has the class
methods `resolve(values, default)`, which chooses the kind that a mapping is for and completes it
with the values that differ at its place, and `variants()`, which lists all kinds. Its method
`unread()` lists the keys that former versions wrote, but that it has not.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vqnmt.errors import VqnmtError

SettingsT = TypeVar("SettingsT")

NO_NUMBER: Mapping[str, Any] = {"decides no number": True}
"""Metadata of a field that changes no weight, no translation and no score: how often a training
reports, or where a file of known content stands. What has been made with another value is used."""


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
            raise VqnmtError(_located(str(error), ["name"], path)) from None
        default = None
    hints = typing.get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    names = [f.name for f in fields]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(names)}"
            shown = str(key) if str(key).isprintable() else repr(key)
            raise VqnmtError(f"{_join(path, shown)} is not a known key: {remedy}")
    arguments = {}
    for f in fields:
        key = _join(path, f.name)
        arguments[f.name] = _default(f) if default is None else getattr(default, f.name)
        if f.name in values:
            arguments[f.name] = _convert(hints[f.name], values[f.name], key, arguments[f.name])
        elif arguments[f.name] is dataclasses.MISSING:
            raise VqnmtError(f"{key} is missing: give it a value")
    try:
        return kind(**arguments)
    except VqnmtError as error:
        raise VqnmtError(_located(str(error), names, path)) from None


def _located(text: str, names: list[str], path: str) -> str:
    """Name the fields by their paths.

    A dataclass does not know that: of "training.steps is 0", raised for the settings under
    `teacher_training`, this makes "teacher_training.steps is 0".
    """
    first = re.match(r"(?:(\w+)\.)?(\w+)", text)
    if not path or text.startswith(f"{path}.") or first is None:
        return text
    if first[2] not in names:
        return f"{path}: {text}"
    if first[1] is None:
        return f"{path}.{text}"
    return re.sub(rf"\b{first[1]}\.(?=\w)", f"{path}.", text)


def check_seed(seed: int) -> None:
    """Check the seed of a run.

    Raises:
        VqnmtError: numpy or torch would not take it.
    """
    if not 0 <= seed < 2**32:
        raise VqnmtError(f"seed is {seed}; it must be 0 or more and below 2^32")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _default(f: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or MISSING."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _convert(hint: Any, value: Any, key: str, default: Any = None) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise VqnmtError(f"{key} is {value!r:.80}: it must be a group of keys")
        return from_mapping(hint, value, key, default if isinstance(default, hint) else None)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        raise VqnmtError(f"{key} is a number beyond 2^63: it must be smaller")
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return value if int in allowed else float(value)
    plain = tuple(typing.get_origin(a) or a for a in allowed if a is not Any)
    exact = isinstance(value, plain) and (bool in plain or not isinstance(value, bool))
    if Any not in allowed and not exact:
        kinds = " or ".join(getattr(a, "__name__", str(a)) for a in plain)
        raise VqnmtError(
            f"{key} is {value!r:.80} ({type(value).__name__}): it must be of type {kinds}"
        )
    lists = [a for a in allowed if typing.get_origin(a) is list]
    if isinstance(value, list) and lists:
        (inner,) = typing.get_args(lists[0])
        return [_convert(inner, item, f"{key}[{index}]") for index, item in enumerate(value)]
    return value


def deciding(settings: Any) -> dict[str, Any]:
    """Return what `dataclasses.asdict` does, without the fields that decide no number.

    Fields with the metadata {"added later": True}, which runs of former versions lack, are left out
    at their default.
    """
    values = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        later = f.metadata.get("added later") and value == _default(f)
        if not (f.metadata.get("decides no number") or later):
            values[f.name] = deciding(value) if dataclasses.is_dataclass(value) else value
    return values


def undecided(settings: Any, path: str = "") -> list[str]:
    """List the dotted keys under `path` that decide no number, and those of former versions."""
    keys = [_join(path, key) for key in settings.unread()] if hasattr(settings, "unread") else []
    for f in dataclasses.fields(settings):
        key, value = _join(path, f.name), getattr(settings, f.name)
        if f.metadata.get("decides no number"):
            keys.append(key)
        elif dataclasses.is_dataclass(value):
            keys += undecided(value, key)
    return keys


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


def _kinds(kind: type) -> list[type]:
    """Return the kinds of a dataclass that has several, or itself alone."""
    return kind.variants() if hasattr(kind, "variants") else [kind]


def to_flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= to_flat(value, _join(path, key))
        else:
            flat[_join(path, key)] = value
    return flat


def field_types(kind: type, path: str = "") -> dict[str, Any]:
    """Return the type of every setting of a dataclass by its dotted key, the nested ones too.

    A group of several kinds has the keys of all of them.
    """
    found: dict[str, Any] = {}
    for variant in _kinds(kind):
        hints = typing.get_type_hints(variant)
        for f in dataclasses.fields(variant):
            key = _join(path, f.name)
            if f.init and dataclasses.is_dataclass(hints[f.name]):
                found |= field_types(hints[f.name], key)
            elif f.init:
                found.setdefault(key, hints[f.name])
    return found


def open_groups(kind: type, path: str = "") -> set[str]:
    """Return the dotted keys of the groups whose own keys depend on another value."""
    found: set[str] = set()
    hints = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        key, hint = _join(path, f.name), hints[f.name]
        if hasattr(hint, "variants") or typing.get_origin(hint) is dict:
            found.add(key)
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= open_groups(hint, key)
    return found


def field_docs(kind: type, path: str = "") -> dict[str, str]:
    """Return the first sentence below each field of a dataclass by its dotted key.

    A nested dataclass's own fields follow it, those of all its kinds if there are several. A
    subclass may leave out what its base says.
    """
    found: dict[str, str] = {}
    for variant in _kinds(kind):
        hints, texts = typing.get_type_hints(variant), _texts(variant)
        for f in dataclasses.fields(variant):
            if f.init:
                found.setdefault(_join(path, f.name), " ".join(texts[f.name].split()))
                if dataclasses.is_dataclass(hints[f.name]):
                    found |= field_docs(hints[f.name], _join(path, f.name))
    return found


def _texts(kind: type) -> dict[str, str]:
    """Return the first sentence below each field of a dataclass or of its bases, by name."""
    texts = {}
    for base in reversed(kind.__mro__[:-1]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for node, below in itertools.pairwise(body.body):
            match node, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = re.split(r"(?<=\.)\s+(?=[A-Z`])", inspect.cleandoc(text))[0]
    return texts


def field_defaults(kind: type, path: str = "") -> dict[str, Any]:
    """Return the default of every setting of a dataclass that has one, by its dotted key."""
    found: dict[str, Any] = {}
    for variant in _kinds(kind):
        for key, value in to_flat(to_mapping(variant), path).items():
            found.setdefault(key, value)
        hints = typing.get_type_hints(variant)
        for f in dataclasses.fields(variant):
            if f.init and dataclasses.is_dataclass(hints[f.name]):
                found = field_defaults(hints[f.name], _join(path, f.name)) | found
    return found
