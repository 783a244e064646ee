"""What the scripts share: configuration by Hydra, and errors in one sentence."""

import argparse
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vqnmt.errors import VqnmtError
from vqnmt.settings import to_flat

# Faults of the machine that its user can mend; any other OSError is a bug.
NAMED_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)

# For argparse: keep the line breaks of a script's docstring.
RAW = argparse.RawDescriptionHelpFormatter
# For argparse: --key and --no-key.
SWITCH = argparse.BooleanOptionalAction
# The help of --language-model.
READER = "whether a student that has a trigram model reads its output with its help"

# Where things stand: it decides no number.
PLACES = ("run", "records", "corpus.cache", "data.cache")

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def deciding(arguments: list[str], *others: str) -> list[str]:
    """Return those of a command's overrides that decide numbers: what a record keeps.

    Args:
        arguments: The command's overrides.
        others: Keys that decide none either, beside `PLACES`.
    """
    return [a for a in arguments if a.lstrip("+").partition("=")[0] not in (*PLACES, *others)]


def load_config(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose `configs/<name>.yaml` with the command's `overrides` to a plain mapping.

    Raises:
        VqnmtError: A key or a choice is unknown, or an override cannot be read.
    """
    # Not for every script: an exported model is translated from without them.
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(name, overrides)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    # Hydra answers some with errors that are none of its own: corpus=null, +=.
    except Exception as error:
        message = str(error) or f"Hydra cannot read {' '.join(overrides)}"
        raise VqnmtError(_sentence(message, name)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _sentence(message: str, name: str) -> str:
    """Say Hydra's message in one sentence, without its hints at its own syntax."""
    if match := re.search(r"Could not override '([^']*)'", message):
        keys = to_flat(load_config(name, []))
        near = difflib.get_close_matches(match[1], keys, n=1)
        remedy = f"did you mean {near[0]}?" if near else "--help lists all keys"
        return f"{match[1]} is not a known key: {remedy}"
    if match := re.search(r"Could not find '([^/']*)/([^']*)'", message):
        group, choice = match.groups()
        choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        near = difflib.get_close_matches(choice, choices, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(choices)}"
        return f"{group}={choice} is not a known choice: {remedy}"
    lines = [line.strip().rstrip(".") for line in message.splitlines()]
    kept = [x for x in lines if x and not x.startswith(("full_key", "object_type", "See http"))]
    return f"command line: {'; '.join(kept)} (write key=value; --help lists all keys)"


def run(main: Callable[[list[str]], None], config: str | None = None) -> None:
    """Run `main` on the command's arguments; a fault of the user's ends in one sentence.

    Args:
        main: The script.
        config: With `--help`, print this composed configuration below the script's docstring.
    """
    arguments = sys.argv[1:]
    try:
        if config is not None and {"-h", "--help"} & set(arguments):
            from omegaconf import OmegaConf

            print(sys.modules["__main__"].__doc__)
            print(OmegaConf.to_yaml(OmegaConf.create(load_config(config, []))))
            return
        main(arguments)
    except VqnmtError as error:
        _stop(f"error: {error}", error.status)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in NAMED_FAULTS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _stop(f"error: {place}{error.strerror}: start the same command again once it is mended", 2)
    except KeyboardInterrupt:
        _stop("interrupted: finished parts are kept; start the same command again to go on", 130)


def _stop(sentence: str, status: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(status)
