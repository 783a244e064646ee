"""Translate lines: one in, one out, order kept, empty lines stay empty.

vqnmt translate in.txt more.txt.gz > out.txt
echo "Turn on the light" | vqnmt translate --model DIR
vqnmt translate                  a prompt, on a terminal
vqnmt translate app.po -o app.de.po      a string file: PO, XLIFF, JSON, Android XML, Fluent,
                                 .properties, TMX, TSV; unit by unit

With --nbest, --scores or --show-codes a line has columns between tabs: the number of the source
line (--nbest), the score by which the translations of a line fall (--scores; log-probability over
length, in nats; 0 where nothing is to be translated), the rescorer's, which then decides
(--rescore), the translation, and each code with the pieces that it writes (--show-codes). Those
that lack a span of the source, such as a placeholder, come last.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vqnmt.commands.command_line import PLACE, READER, SEED, SWITCH, THREADS, WIDTH, Options

from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.formality import TAGS
from vqnmt.localization.files import refuse_strings, translate_file
from vqnmt.spans import check_patterns
from vqnmt.streams import count_lines, open_file, read_lines, unpacked
from vqnmt.translate.base import DTYPES, ON_LONG, BatchTranslator
from vqnmt.translate.loading import load_translator
from vqnmt.translate.translation import Translation

# Lines translated together from a file or a full pipe: bounds the memory.
CHUNK = 1000
CHOICE = "translations to choose from"
KEPT = "what stays as it is, beside placeholders, tags, numbers and the like"
RESCORER = "a teacher, exported or not, that chooses"


class Command:
    """One call of the command: the model, its settings and the form of the output."""

    def __init__(self, options: argparse.Namespace) -> None:
        start = time.perf_counter()
        self.options = options
        self.settings = SearchSettings(
            beam=options.beam,
            candidates=max(options.candidates, options.nbest),
            temperature=options.temperature,
            language_model=options.language_model,
        )
        self.translator = load(options.model, options, dtype=options.dtype)
        self.translator.formality = options.formality
        self.rescorer = load_rescorer(self.translator, options) if options.rescore else None
        if options.temperature is not None:
            import torch

            torch.manual_seed(options.seed)
        self.loading = time.perf_counter() - start
        self.sentences, self.seconds = 0, 0.0

    def translate(self, lines: list[str], name: str, first: int = 1, progress: Any = None) -> None:
        """Translate lines, the first of them number `first` of `name`, and write what comes."""
        start = time.perf_counter()
        try:
            found = self.translator.n_best(lines, self.settings, self.rescorer, progress, first)
        except VqnmtError as error:
            place = f"{name}, " if str(error).startswith("line ") else ""
            raise VqnmtError(f"{place}{error}") from error
        for number, translations in enumerate(found, first):
            self.sentences += 1
            for warning in translations[0].warnings:
                print(f"{name}, line {number}: {warning}", file=sys.stderr)
            for translation in translations[: self.options.nbest]:
                line = "\t".join(self.columns(translation)) + "\n"
                sys.stdout.buffer.write(line.encode())  # UTF-8 in any locale
        sys.stdout.buffer.flush()
        self.seconds += time.perf_counter() - start

    def columns(self, translation: Translation) -> Iterator[str]:
        """Lay out one translation."""
        if self.options.nbest > 1:
            yield str(self.sentences)
        if self.options.scores:
            yield f"{translation.score:.4f}"
            if self.rescorer is not None:  # which has not seen what has no words
                yield f"{translation.teacher_score or 0.0:.4f}"
        yield translation.text
        if self.options.show_codes:
            pieces = self.translator.code_pieces(translation)
            pairs = zip(translation.codes, pieces, strict=False)
            yield " ".join(f"{code}:{''.join(written)}" for code, written in pairs)

    def report(self) -> None:
        """Say on standard error how fast it was."""
        if self.options.quiet or not self.sentences:
            return
        rate = self.sentences / max(self.seconds, 1e-9)
        noun = "sentence" if self.sentences == 1 else "sentences"
        print(
            f"{self.sentences:,} {noun} in {self.seconds:.2f} s: {rate:,.1f} sentences/s, "
            f"{1000 / rate:.2f} ms a sentence; loaded in {self.loading:.2f} s",
            file=sys.stderr,
        )


def load(folder: str | None, options: argparse.Namespace, **further: Any) -> BatchTranslator:
    """Load a model, the shipped one where none is named."""
    translator = load_translator(folder, options.device, options.threads, **further)
    translator.on_long = options.on_long
    translator.span_patterns += options.keep
    return translator


def load_rescorer(translator: BatchTranslator, options: argparse.Namespace) -> BatchTranslator:
    """Load the model that chooses, which must be able to score what `translator` writes."""
    found = load(options.rescore, options)
    wanted, known = (f"{x.source_language} to {x.target_language}" for x in (translator, found))
    if wanted != known:
        raise VqnmtError(
            f"--rescore {options.rescore} translates {known}, but the model {wanted}: give a "
            "teacher of the same languages"
        )
    try:
        found.score(["."], [["."]])
    except VqnmtError as error:
        raise VqnmtError(f"--rescore {options.rescore}: {error}") from error
    return found


def translate_stream(command: Command, stream: BinaryIO, name: str) -> None:
    """Translate a file or a pipe; the length of a file is known, so that it has a progress bar."""
    with ExitStack() as stack:
        progress, first = None, 1
        if stream.seekable() and not sys.stdout.isatty() and not command.options.quiet:
            from vqnmt.progress import Progress

            progress = stack.enter_context(Progress(name, count_lines(stream), "sentences"))
        text, replace = unpacked(stream, name), command.options.invalid_utf8 == "replace"
        for lines in read_lines(text, name, CHUNK, replace):
            if first == 1 and stream.seekable():
                refuse_strings(name, "\n".join(lines).encode())
            command.translate(lines, name, first, progress)
            first += len(lines)


def translate_strings(command: Command, path: Path, output: Path) -> None:
    """Translate a string file unit by unit, and say what has become of the units."""
    translator, options = command.translator, command.options
    translator.on_long = "split"

    def best(texts: list[str]) -> list[str]:
        found = translator.n_best(texts, command.settings, command.rescorer)
        return [translations[0].text for translations in found]

    languages = translator.source_language, translator.target_language
    report = translate_file(path, output, best, languages, every=options.all, memory=options.memory)
    print(*report.memory_lines(str(path)), report.summary(str(path)), sep="\n", file=sys.stderr)


def prompt(command: Command) -> None:
    """Translate what is typed, until the end of input; an error ends nothing."""
    with suppress(ImportError):  # line editing and history for input()
        import readline  # noqa: F401

    while True:
        try:
            # What is asked and answered on the terminal is no part of a redirected output.
            if not sys.stdout.isatty():
                print("> ", end="", file=sys.stderr, flush=True)
            line = input("> " if sys.stdout.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        typed = io.BytesIO(line.encode(errors="surrogateescape") + b"\n")  # may be no UTF-8
        try:
            for lines in read_lines(typed, "input", 1, command.options.invalid_utf8 == "replace"):
                command.translate(lines, "input")
        except VqnmtError as error:
            print(error, file=sys.stderr)


def main(arguments: list[str]) -> None:
    """Translate files, or standard input, to standard output."""
    parser = Options(__doc__)
    parser.add_argument(
        "files",
        nargs="*",
        help="UTF-8 text, plain or packed by gzip, bzip2 or xz; - or none: standard input",
    )
    parser.add_argument(
        "--model", type=PLACE, help="model or exported folder; default: the shipped en-de"
    )
    parser.add_argument("--beam", type=WIDTH, default=1, help="beam over tokens or codes")
    parser.add_argument("--candidates", type=WIDTH, default=1, help=CHOICE)
    parser.add_argument("--temperature", type=float, help="draw candidates: 1 from the model")
    parser.add_argument("--language-model", action=SWITCH, default=True, help=READER)
    parser.add_argument("--rescore", type=PLACE, metavar="DIR", help=RESCORER)
    parser.add_argument("--nbest", type=WIDTH, default=1, help="translations a line")
    parser.add_argument("--scores", action="store_true", help="write what decides, in nats")
    parser.add_argument("--show-codes", action="store_true", help="write codes and their pieces")
    parser.add_argument("--on-long", choices=ON_LONG, default="refuse", help="too long a line")
    parser.add_argument("--keep", action="append", default=[], metavar="REGEX", help=KEPT)
    parser.add_argument("--formality", choices=TAGS, help="German du or Sie; default: as learnt")
    parser.add_argument("--invalid-utf8", choices=("refuse", "replace"), default="refuse")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU where there is one")
    parser.add_argument("--threads", type=THREADS, help="of an exported model; default: all")
    parser.add_argument("--dtype", choices=DTYPES, help="of a model that PyTorch runs")
    parser.add_argument("--seed", type=SEED, default=1, help="for --temperature")
    parser.add_argument("--quiet", action="store_true", help="no progress, no speed")
    strings = parser.add_argument_group("string files")
    strings.add_argument("-o", "--output", type=PLACE, metavar="FILE", help="what to write")
    strings.add_argument("--all", action="store_true", help="translated units too")
    strings.add_argument("--memory", type=PLACE, metavar="FILE", help="TMX, PO, XLIFF or TSV")
    options = parser.parse_args(arguments)
    check_patterns(options.keep, "--keep")
    for name in options.files:
        word = name == Path(name).stem  # neither folders nor an ending
        if (word or " " in name) and name != "-" and not os.path.lexists(name):
            raise VqnmtError(
                f"{name}: there is no such file; to translate words, pipe them in: echo '{name}' | "
                "vqnmt translate"
            )
    if options.output and len(options.files) != 1:
        raise VqnmtError(
            f"-o is for one string file, and {len(options.files)} are given: translate text with "
            "vqnmt translate in.txt > out.txt"
        )
    columns = {"--nbest": options.nbest > 1, "--scores": options.scores}
    columns["--show-codes"] = options.show_codes
    if options.output and any(columns.values()):
        given = ", ".join(option for option, asked in columns.items() if asked)
        raise VqnmtError(
            f"{given}: -o writes a string file, which has one translation a unit: leave it out, "
            "or give lines of text without -o"
        )
    if not options.output and (options.all or options.memory):
        raise VqnmtError("--all and --memory are for string files: give -o FILE")
    command = Command(options)
    if options.output:
        return translate_strings(command, Path(options.files[0]), Path(options.output))
    for name in options.files or ["-"]:
        if name != "-":
            with open_file(name) as stream:
                translate_stream(command, stream, name)
        elif sys.stdin.isatty():
            prompt(command)
        else:
            translate_stream(command, sys.stdin.buffer, "standard input")
    command.report()
