"""What all commands share: configuration by Hydra, options, signals, and errors in one sentence."""

import argparse
import contextlib
import difflib
import errno
import functools
import io
import os
import re
import select
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import vqnmt
from vqnmt.commands import hydra_options
from vqnmt.decode.settings import MOST, MOST_THREADS
from vqnmt.errors import VqnmtError, missing_extra

# Errors of the machine, which its user can mend, whichever file they concern. Errors that name a
# file of the user are mistakes of the user too; any other OSError is a bug.
MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG),
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
)
PACKAGE = Path(vqnmt.__file__).resolve().parent
SCRIPTS = PACKAGE.parent / "scripts"  # of the source tree
# Files in these folders are not the user's.
INSTALLED = [PACKAGE, SCRIPTS]
INSTALLED += [Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")]

# For argparse: --key and --no-key.
SWITCH = argparse.BooleanOptionalAction
# The help of --plugins and of --language-model.
PLUGINS = "a module that a model needs, installed or in the current folder"
READER = "whether a student that has a trigram model reads its output with its help"

# Keys of places in the file system, which change no result and which records leave out. They keep
# others that decide no number, `vqnmt.settings.NO_NUMBER`: plug-ins are needed to run it again.
PLACES = ("run", "records", "corpus.cache", "data.cache")

# What a command says that goes on where it was interrupted.
RESUMES = "interrupted: finished parts are kept; start the same command again to go on"


class Options(argparse.ArgumentParser):
    """A command's options: its docstring as help, and errors in one sentence."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--plugins", action="append", default=[], metavar="MODULE", help=PLUGINS)

    def parse_args(self, *given: Any) -> argparse.Namespace:  # type: ignore[override]
        """Parse the options, and import the plug-ins that they name.

        Raises:
            VqnmtError: An option is wrong, or a plug-in cannot be imported.
        """
        options = super().parse_args(*given)
        if options.plugins:
            from vqnmt.plugins import load_plugins

            load_plugins(options.plugins)
        return options

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below its usage.

        Raises:
            VqnmtError: Always.
        """
        message = re.sub(r"^argument (?:-\w/)?", "", message)
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = unknown and difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
        remedy = f"did you mean {near[0]}?" if near else "--help lists the options"
        raise VqnmtError(f"{message}: {remedy}")


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
    keys = (*PLACES, *others, hydra_options.FOLDER.rstrip("="))
    return [a for a in arguments if a.lstrip("+").partition("=")[0] not in keys]


def load_config(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose `configs/<name>.yaml` with the command's `overrides` to a plain mapping.

    Choices of groups are taken from the folders of `--config-dir=` too.

    Raises:
        VqnmtError: A key or a choice is unknown, or an override cannot be read.
    """
    # Not for every command: an exported model is translated from without them.
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vqnmt.commands import defaults
    from vqnmt.commands.overrides import CONFIGS, for_hydra, sentence

    overrides, folders = hydra_options.config_folders(overrides)
    words = for_hydra(name, overrides, folders)
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
        raise VqnmtError(sentence(error, overrides, known, folders)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def run(
    main: Callable[[list[str]], None], config: str | None = None, interrupted: str = RESUMES
) -> None:
    """Run `main` on the command's arguments; a mistake of the user ends in one sentence.

    Args:
        main: The command.
        config: See `call`.
        interrupted: What to say after Ctrl-C.
    """
    with faults_in_sentences(interrupted):
        call(main, config)


def call(main: Callable[[list[str]], None], config: str | None = None) -> None:
    """Call `main` with the command's arguments.

    Args:
        main: The command.
        config: With `--help`, print the keys of this configuration below the docstring of `main`'s
            module instead.
    """
    arguments = sys.argv[1:]
    if config is None:
        return main(arguments)
    arguments = hydra_options.joined(arguments)
    if {"-h", "--help"} & set(arguments):
        from vqnmt.commands import defaults

        print(sys.modules[main.__module__].__doc__)
        print(defaults.help_text(config, load_config(config, [])))
    elif any(word.startswith("--cfg=") for word in arguments):
        hydra_options.print_config(arguments, functools.partial(load_config, config))
    elif set(hydra_options.SWEEPS) & set(arguments):
        hydra_options.run_each(arguments, functools.partial(load_config, config))
    else:
        main(arguments)


@contextlib.contextmanager
def faults_in_sentences(interrupted: str = RESUMES) -> Iterator[None]:
    """End this process with one sentence after a fault of the user's, or after Ctrl-C."""
    global _running
    _running = True
    try:
        yield
        sys.stdout.flush()
    except VqnmtError as error:
        _stop(f"error: {error}", error.status)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        _stop(f"error: {missing}", 2)
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


# --- before the imports of the command, which take seconds ----------------------------------------

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


def _is_command() -> bool:
    """Tell whether this process runs a command; tests and other programs import this module."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    place = Path(main).resolve() if main else Path()
    return place.stem == "vqnmt" or place.parent in (PACKAGE, SCRIPTS)


if _is_command():
    _take_streams()
    # Ignored, as by nohup or in the background of a script, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
