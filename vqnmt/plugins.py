"""Plug-ins: modules from outside that register quantizers, students or outputs when imported."""

import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from vqnmt.errors import VqnmtError

GROUP = "vqnmt.plugins"
"""The entry points by which installed packages name their modules."""


def load_plugins(names: Iterable[str] = ()) -> None:
    """Import the plug-ins of installed packages, and the modules `names`.

    A module that is not installed is looked for in the current folder.

    Raises:
        VqnmtError: A module is missing or cannot be imported, or registers what cannot be; names
            the plug-in and the remedy.
    """
    _load_installed()
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise VqnmtError(
                f"plugins names {name!r}: give the name of a module, such as my_quantizer for the "
                "file my_quantizer.py in the current folder"
            )
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise VqnmtError(
                f"plugins names {name}, which is a module of Python itself: give your file another "
                "name"
            )
        if name not in sys.modules and not _is_found(name) and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
            importlib.invalidate_caches()
        if name not in sys.modules and not _is_found(name):
            raise VqnmtError(
                f"plugins names {name}, but there is no such module: install its package, or "
                f"start the command in the folder that holds {name.split('.')[0]}.py"
            )
        _import(name, functools.partial(importlib.import_module, name), "mend it")


def require_plugins(names: Iterable[str]) -> None:
    """Refuse a model whose plug-ins are not imported yet, besides those of installed packages.

    The names come from a model folder, which may be anybody's: it must not choose what is run.

    Raises:
        VqnmtError: Names the module and how to import it.
    """
    _load_installed()
    for name in names:
        if name not in sys.modules:
            raise VqnmtError(
                f"the model needs the plug-in {name!r:.80}, and no code is run because a model "
                "folder names it: give --plugins MODULE, in training plugins=[MODULE], or import "
                "it in Python"
            )


class NamesPlugins:
    """Base of settings whose key `plugins` names modules to import; see `load_plugins`."""

    __slots__ = ()

    @classmethod
    def resolve(cls, values: Mapping[str, Any], default: Any) -> tuple[type, Mapping[str, Any]]:
        """Import the plug-ins before the other values are read, see `vqnmt.settings`.

        What is no list of names is left to the check of the settings' types.
        """
        names = values.get("plugins")
        if isinstance(names, list):
            load_plugins(name for name in names if isinstance(name, str))
        return cls, values


def plugins_of(parts: Iterable[object]) -> list[str]:
    """List the modules from outside that define the classes of `parts`."""
    modules = {type(part).__module__ for part in parts}
    return sorted(name for name in modules if name.partition(".")[0] != "vqnmt")


@functools.cache
def _load_installed() -> None:
    for entry in entry_points(group=GROUP):
        _import(f"{entry.name} ({entry.value})", entry.load, "mend or uninstall its package")


def _is_found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:  # the package that should hold it is missing
        return not f"{name}.".startswith(f"{error.name}.")
    except Exception:  # its package is there, and says what is wrong when it is imported
        return True


def _import(name: str, load: Callable[[], object], remedy: str) -> None:
    """Import a plug-in; whatever it raises becomes one sentence."""
    try:
        load()
    except VqnmtError as error:
        raise VqnmtError(f"the plug-in {name}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError):
            file, line, said = error.filename, error.lineno, error.msg
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            file, line, said = last.filename, last.lineno, str(error)
        raise VqnmtError(
            f"the plug-in {name} cannot be imported ({type(error).__name__}: "
            f"{' '.join(said.split()):.200}, {file}, line {line}): {remedy}, or leave it out"
        ) from error
