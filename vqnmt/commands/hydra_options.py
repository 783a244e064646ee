"""Hydra's own options that commands take: --config-dir, --cfg job and --multirun."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from vqnmt.errors import VqnmtError

FOLDER = "--config-dir="
SWEEPS = ("-m", "--multirun")

Compose: TypeAlias = Callable[[list[str]], dict[str, Any]]
"""Composes a command's configuration with its overrides."""


def joined(arguments: Sequence[str]) -> list[str]:
    """Write options that take a value as one word each: `--config-dir DIR`, `--cfg job`."""
    words: list[str] = []
    for argument in arguments:
        if words and words[-1] in ("--config-dir", "--cfg", "-c", "-cd"):
            words[-1] = {"-c": "--cfg", "-cd": "--config-dir"}.get(words[-1], words[-1])
            words[-1] += f"={argument}"
        else:
            words.append(argument)
    return words


def config_folders(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Take the folders of `--config-dir=` out of a command's words.

    Raises:
        VqnmtError: One is no folder.
    """
    folders = [Path(word.removeprefix(FOLDER)) for word in words if word.startswith(FOLDER)]
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise VqnmtError(f"--config-dir is {folder}, which is no folder: give one like configs")
    others = [word for word in words if not word.startswith(FOLDER)]
    return others, [folder.expanduser().absolute() for folder in folders]


def print_config(words: Sequence[str], compose: Compose) -> None:
    """Print the configuration as composed, for `--cfg job`.

    Raises:
        VqnmtError: Another part of Hydra's configuration is asked for.
    """
    from omegaconf import OmegaConf

    for word in words:
        if word.startswith("--cfg=") and word != "--cfg=job":
            raise VqnmtError(f"{word.replace('=', ' ', 1)}: only the job has settings: --cfg job")
    overrides = [word for word in words if word != "--cfg=job" and word not in SWEEPS]
    print(OmegaConf.to_yaml(OmegaConf.create(compose(overrides))), end="")


def run_each(words: Sequence[str], compose: Compose) -> None:
    """Run the command once for each combination of values, as `--multirun` says.

    Each run is a process of its own, and its folder is a subfolder of `run` that is named by the
    values: `runs/x/seed=2`. The first that fails ends this process with its status.
    """
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
    choices = [_values(word) for word in words if word not in SWEEPS]
    jobs = []
    for job in itertools.product(*choices):
        several = zip(job, choices, strict=True)
        swept = [word for word, values in several if len(values) > 1]
        overrides = list(job)
        if swept and not any(word.startswith("run=") for word in swept):
            folder = ",".join(swept).replace("/", "_")
            overrides.append(f"run={compose(overrides)['run']}/{folder}")
        compose(overrides)
        jobs.append(overrides)
    for number, overrides in enumerate(jobs, 1):
        print(f"run {number} of {len(jobs)}: {' '.join(overrides)}", file=sys.stderr, flush=True)
        status = subprocess.run([*program, *overrides], check=False).returncode
        if status:
            sys.exit(status if status > 0 else 128 - status)


def _values(word: str) -> list[str]:
    """Write a word once for each of its values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            return [word]
        key = override.get_key_element()
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except HydraException:  # text that is not in Hydra's grammar, or an option
        return [word]
