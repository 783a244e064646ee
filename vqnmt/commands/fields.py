"""The fields of settings by their dotted keys, for commands: types, first sentences, defaults.

A group of several kinds, see `vqnmt.settings`, has the keys of all of them.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from vqnmt.settings import dotted, to_flat, to_mapping


def _kinds(kind: type) -> list[type]:
    """Return the kinds of a dataclass that has several, or itself alone."""
    return kind.variants() if hasattr(kind, "variants") else [kind]


def _walk(kind: type, path: str) -> Iterator[tuple[str, str, Any, type]]:
    """Yield key, name, type and dataclass of each field; a group comes before its own fields."""
    for variant in _kinds(kind):
        hints = typing.get_type_hints(variant)
        for f in dataclasses.fields(variant):
            if f.init:
                key = dotted(path, f.name)
                yield key, f.name, hints[f.name], variant
                if dataclasses.is_dataclass(hints[f.name]):
                    yield from _walk(hints[f.name], key)


def field_types(kind: type, path: str = "") -> dict[str, Any]:
    """Return the type of every setting of a dataclass by its dotted key, the nested ones too."""
    found: dict[str, Any] = {}
    for key, _, hint, _ in _walk(kind, path):
        if not dataclasses.is_dataclass(hint):
            found.setdefault(key, hint)
    return found


def open_groups(kind: type, path: str = "") -> set[str]:
    """Return the dotted keys of the groups whose own keys depend on another value."""
    found: set[str] = set()
    hints = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        key, hint = dotted(path, f.name), hints[f.name]
        if hasattr(hint, "variants") or typing.get_origin(hint) is dict:
            found.add(key)
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= open_groups(hint, key)
    return found


def field_docs(kind: type, path: str = "") -> dict[str, str]:
    """Return the first sentence below each field of a dataclass, and below its groups.

    A subclass may leave out what its base says.
    """
    found: dict[str, str] = {}
    for key, name, _, variant in _walk(kind, path):
        found.setdefault(key, " ".join(_texts(variant)[name].split()))
    return found


@functools.cache
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
                found = field_defaults(hints[f.name], dotted(path, f.name)) | found
    return found
