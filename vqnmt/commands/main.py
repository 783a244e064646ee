"""`vqnmt COMMAND ...`: finds the command by its name and runs it."""

import difflib
import importlib
import sys
from dataclasses import dataclass

from vqnmt.commands.command_line import RESUMES, call, faults_in_sentences

import vqnmt
from vqnmt.errors import VqnmtError


@dataclass(frozen=True)
class Command:
    """One command; its function `main` is in the module of its name."""

    summary: str
    config: str | None = None
    """The file of configs/ whose keys it takes."""
    interrupted: str = RESUMES
    """What it says after Ctrl-C."""


COMMANDS = {
    "train": Command("train a teacher, distil it, train a student", "train_nmt"),
    "translate": Command(
        "translate lines of text",
        interrupted="interrupted: what is written so far stands, the rest is missing",
    ),
    "evaluate": Command(
        "score a model, or translations, with BLEU and chrF++",
        interrupted="interrupted: nothing is scored and nothing written",
    ),
    "distill": Command("only what comes before the student's training", "train_nmt"),
    "export": Command(
        "write a folder that translates without PyTorch",
        interrupted="interrupted: nothing is exported",
    ),
    "serve": Command("answer requests as LibreTranslate does, with a page", interrupted="stopped"),
    "images": Command("train an image model and its prior", "train_image"),
}

USAGE = """usage: vqnmt COMMAND ...

Translation with few steps: discrete codes, and all target tokens at once.

{}

`vqnmt COMMAND --help` says more; `vqnmt --version` prints the version."""


def run_command(name: str) -> None:
    """Run the command `name` on the arguments of this process."""
    command = COMMANDS[name]
    with faults_in_sentences(command.interrupted):
        main = importlib.import_module(f"vqnmt.commands.{name}").main
        call(main, command.config)


def main() -> None:
    """Run the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"vqnmt {name}", *arguments]  # argparse names the first one in its usage
        return run_command(name)
    with faults_in_sentences():
        if name == "--version":
            print(f"vqnmt {vqnmt.__version__}")
        elif name in ("-h", "--help", "help"):
            width = max(map(len, COMMANDS))
            lines = [f"  {key:{width}}  {command.summary}" for key, command in COMMANDS.items()]
            print(USAGE.format("\n".join(lines)))
        else:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"choose among {', '.join(COMMANDS)}"
            if " " in name:
                remedy = f"to translate words, pipe them in: echo '{name:.60}' | vqnmt translate"
            raise VqnmtError(f"{name!r:.60} is not a command of vqnmt: {remedy}")
