"""The words of a command, key=value, for Hydra: text is taken as it was typed."""

import difflib
import itertools
import os
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vqnmt.commands.defaults import open_groups, types
from vqnmt.errors import VqnmtError
from vqnmt.files import shipped
from vqnmt.settings import to_flat

CONFIGS = shipped("configs")

# What a user may have written in Hydra's grammar for text: null, or quotes around all of it.
_OWN = re.compile(r"""null|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# Keys of files and folders, where a leading ~ is the user's home.
_PATHS = re.compile(
    r"run|records|teacher|(?:corpus|data)\.(?:cache|(?:train|valid|test)(?:\.\w+)?)"
)


def for_hydra(name: str, words: Sequence[str], folders: Sequence[Path] = ()) -> list[str]:
    """Quote text values: Hydra's grammar has no accents, blanks or brackets, and 1_0 is a number.

    Interpolations (`${...}`) in text work as ever.

    Args:
        name: Of the configuration.
        words: Those of the command.
        folders: Where configurations are, beside `CONFIGS`.

    Raises:
        VqnmtError: A word is an option, one of Hydra's own settings, or not UTF-8.
    """
    for word in words:
        _check(word)
    keys = {word.partition("=")[0].lstrip("+") for word in words}
    # Keys that choose a file.
    groups = {path.name for folder in (CONFIGS, *folders) for path in folder.iterdir()}
    fields, open_ = (types(name), open_groups(name)) if keys - groups else ({}, set())
    rewritten = [_rewritten(word, fields, open_, groups) for word in words]
    if folders:
        path = ",".join(f"'file://{folder}'" for folder in folders)
        rewritten.append(f"hydra.searchpath=[{path}]")
    return rewritten


def _rewritten(word: str, fields: dict[str, Any], open_: set[str], groups: set[str]) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    key, equals, value = word.partition("=")
    plain = key.lstrip("+")
    if key == plain and plain.rpartition(".")[0] in open_:
        key = f"++{key}"  # the settings know which keys the chosen kind has
    if plain in groups:
        is_text = value[:1] != "["
    else:
        hint = fields.get(plain)
        kinds = {hint} if typing.get_origin(hint) is list else set(typing.get_args(hint) or (hint,))
        kinds -= {type(None)}
        is_text = all(kind is str or isinstance(kind, str) for kind in kinds)  # or a Literal's
    if is_text and value and not _OWN.fullmatch(value):
        if _PATHS.fullmatch(plain):
            value = os.path.expanduser(value)
        value = QuotedString(text=value, quote=Quote.single).with_quotes()
    return f"{key}{equals}{value}"


def _check(word: str) -> None:
    if word in ("--cfg", "--config-dir"):
        raise VqnmtError(
            f"{word} needs a value: write {word} {'job' if word == '--cfg' else 'DIR'}"
        )
    if word.startswith("-"):
        raise VqnmtError(
            f"{shown(word)} is not an option of this command: write key=value; --help lists all "
            "keys"
        )
    if "=" not in word and word[:1] != "~":  # Hydra's ~key leaves a key out
        example = f"corpus=files corpus.train.tsv={word}" if word.endswith(".tsv") else "seed=1"
        raise VqnmtError(
            f"{shown(word)} has no =: write key=value, such as {example}; --help lists all keys"
        )
    if re.match(r"[+~]*hydra[./]", word):
        raise VqnmtError(f"{shown(word)} is a setting of Hydra's own, unused here: leave it out")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise VqnmtError(
            f"{word!r} is not UTF-8: give the file another name, or call by a link"
        ) from None


def sentence(
    error: Exception,
    words: Sequence[str],
    defaults: Callable[[], dict[str, Any]],
    folders: Sequence[Path] = (),
) -> str:
    """Say in one sentence what Hydra or OmegaConf has found, without their names and hints.

    Args:
        error: What was raised.
        words: Those of the command.
        defaults: Composes the configuration without them.
        folders: See `for_hydra`.
    """
    message = str(error)
    if match := re.search(r"Could not override '([^']+)'", message):
        keys = sorted(to_flat(defaults()))
        last = match[1].rpartition(".")[2]
        groups = {path.name for folder in (CONFIGS, *folders) for path in folder.glob("*/")}
        near = difflib.get_close_matches(match[1], {*keys, *groups} - {match[1]}, n=1)
        near = [key for key in keys if key.rpartition(".")[2] == last] or near
        remedy = f"did you mean {' or '.join(near)}?" if near else "--help lists all keys"
        return f"{shown(match[1])} is not a known key: {remedy}"
    if match := re.search(r"Could not (?:find|load) '([^/']+)/(.*)'", message):
        group, choice = match.groups()
        found = itertools.chain(*((x / group).glob("*.yaml") for x in (CONFIGS, *folders)))
        choices = sorted(path.stem for path in found)
        near = difflib.get_close_matches(choice, choices, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(choices)}"
        return f"{group}={shown(choice)} is not a known choice: {remedy}"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", message):
        return (
            f"{shown(match[1].lstrip('+'))} has several values, but a command is one run: give "
            "--multirun for a run with each of them, or write key=[a,b] where a list is wanted"
        )
    return (
        f"{', '.join(map(shown, words))} cannot be read{_reason(error)}: write key=value, lists as "
        "key=[a,b], words with accents, blanks or brackets in quotes; --help lists all keys"
    )


def _reason(error: Exception) -> str:
    """Return the reason in brackets where a user can make something of it."""
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, OmegaConfBaseException):
        return ""
    first = next(iter(str(error).splitlines()), "")
    first = re.sub(r"\w+ raised while resolving interpolation: ", "", first).strip('"')
    return f" ({first})" if first and not re.search(r"[a-z](Error|Exception)\b", first) else ""


def shown(text: str) -> str:
    """Return text as it is where it can be printed."""
    return text if text.isprintable() else repr(text)
