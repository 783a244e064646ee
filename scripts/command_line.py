"""What the scripts share: configuration by Hydra, options, signals, and errors in one sentence."""

import argparse
import contextlib
import errno
import functools
import io
import os
import re
import select
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import vqnmt
from vqnmt.decode.settings import MOST, MOST_THREADS
from vqnmt.errors import VqnmtError

# Errors of the machine, which its user can mend, whichever file they concern. Errors that name a
# file of the user are mistakes of the user too; any other OSError is a bug.
MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG),
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
)
# Files in these folders are not the user's.
INSTALLED = [Path(vqnmt.__file__).parent, Path(__file__).parent]
INSTALLED += [Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")]

# For argparse: --key and --no-key.
SWITCH = argparse.BooleanOptionalAction
# The help of --language-model.
READER = "whether a student that has a trigram model reads its output with its help"

# Keys of places in the file system, which change no result.
PLACES = ("run", "records", "corpus.cache", "data.cache")

# Printed after Ctrl-C by a script that can resume.
RESUMES = "interrupted: finished parts are kept; start the same command again to go on"


class Options(argparse.ArgumentParser):
    """A script's options: its docstring as help, and errors in one sentence."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below its usage.

        Raises:
            VqnmtError: Always.
        """
        message = re.sub(r"^argument (?:-\w/)?", "", message)
        raise VqnmtError(f"{message}: --help lists the options")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return the `type` of an option that takes whole numbers in a range, its ends included."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} to {most}")

    return read


# The `type` of --beam and --nbest, of --threads, of --seed, and of a file or folder: the shell does
# not know ~ in --out=~/x.
WIDTH = whole(1, MOST)
THREADS = whole(1, MOST_THREADS)
SEED = whole(0, 2**32 - 1)
PLACE = os.path.expanduser


def deciding(arguments: list[str], *others: str) -> list[str]:
    """Return the overrides of a command that a record keeps: those that can change a result.

    Args:
        arguments: The command's overrides.
        others: Keys that change no result either, beside `PLACES`.
    """
    return [a for a in arguments if a.lstrip("+").partition("=")[0] not in (*PLACES, *others)]


def load_config(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose `configs/<name>.yaml` with the command's `overrides` to a plain mapping.

    Raises:
        VqnmtError: A key or a choice is unknown, or an override cannot be read.
    """
    # Imported here because translating with an exported model does without these packages.
    import defaults
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from overrides import CONFIGS, for_hydra, sentence

    words = for_hydra(name, overrides)
    defaults.register(name)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(name, words)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    # Some overrides, such as corpus=null and +=, make Hydra raise errors of other libraries.
    except Exception as error:
        if not overrides:
            raise
        known = functools.partial(load_config, name, [])
        raise VqnmtError(sentence(error, overrides, known)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def run(
    main: Callable[[list[str]], None], config: str | None = None, interrupted: str = RESUMES
) -> None:
    """Run `main` on the command's arguments; a mistake of the user ends in one sentence.

    Args:
        main: The script.
        config: With `--help`, print the keys of this configuration below the script's docstring.
        interrupted: Printed after Ctrl-C.
    """
    global _running
    arguments = sys.argv[1:]
    _running = True
    try:
        if config is not None and {"-h", "--help"} & set(arguments):
            import defaults

            print(sys.modules["__main__"].__doc__)
            print(defaults.help_text(config, load_config(config, [])))
        else:
            main(arguments)
        sys.stdout.flush()
    except VqnmtError as error:
        _stop(f"error: {error}", error.status)
    except OSError as error:
        # The reader of a pipe, such as `head`, has closed it.
        if isinstance(error, BrokenPipeError) and _abandon_streams():
            sys.exit(1)
        if not _is_users(error):
            raise
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _stop(f"error: {place}{error.strerror}: start the same command again once it is mended", 2)
    except KeyboardInterrupt:
        _stop(interrupted, 130)


def _is_users(error: OSError) -> bool:
    """Return whether an error is due to the machine or to a file of the user, not to a bug."""
    if error.errno in MACHINE:
        return True
    if error.errno is None or not isinstance(error.filename, str | bytes):
        return False
    path = Path(os.fsdecode(error.filename)).absolute()
    return not any(path.is_relative_to(folder) for folder in INSTALLED)


def _stop(sentence: str, status: int) -> NoReturn:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(sentence, file=sys.stderr)
    _abandon_streams()
    sys.exit(status)


def _abandon_streams() -> bool:
    """Redirect streams that can no longer be written, or Python would report them when it ends.

    Returns:
        Whether the reader of one of them has closed it.
    """
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            reader = select.poll()
            reader.register(stream, 0)  # errors alone
            broken = bool(reader.poll(0))
            gone |= broken
        except io.UnsupportedOperation:  # no file
            broken = False
        except OSError as error:
            broken = True
            gone |= isinstance(error, BrokenPipeError)
        if broken:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


# --- before the imports of the script, which take seconds ----------------------------------------

_running = False


def _take_streams() -> None:
    """Open what the caller has closed, and print in any encoding."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Otherwise the next file to be opened would get this number, and libraries' output.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but end at once while modules are imported.

    During an import the exception could be swallowed, turned into another one, or print a traceback
    through every importing module.
    """
    importing = not _running
    while frame is not None and not importing:
        importing = frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if importing:
        with contextlib.suppress(OSError):
            os.write(2, b"interrupted\n")
        os._exit(130)
    raise KeyboardInterrupt


def _is_script() -> bool:
    """Tell whether this process runs one of the scripts; tests and other programs import them."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and Path(main).resolve().parent == Path(__file__).resolve().parent


if _is_script():
    _take_streams()
    # Ignored, as by nohup or in the background of a script, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
