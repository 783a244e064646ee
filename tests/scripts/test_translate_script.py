"""translate.py for people: columns, streams, faults, constant memory."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from vqnmt.checksums import CHECKSUMS
from vqnmt.commands import translate
from vqnmt.translate.pytorch import Translator
from vqnmt.translate.translation import Translation

ROOT = Path(__file__).parent.parent.parent
PRETRAINED = ROOT / "pretrained" / "en-de"


@pytest.fixture
def student(finished_run) -> Path:
    return finished_run.folder / "student"


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "scripts/translate.py", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as running:  # type: ignore[call-overload]
        try:
            yield running
        finally:
            running.kill()


def test_a_pipe_is_answered_line_by_line_and_may_break() -> None:
    with process() as running:
        for line in (b"Open the door\n", b"\n", b"Turn on the light\n"):
            running.stdin.write(line)
            running.stdin.flush()
            assert running.stdout.readline().endswith(b"\n"), "before the next line is written"
        running.stdout.close()  # the reader goes away
        running.stdin.write(b"Open the door\n" * 100)
        running.stdin.close()
        assert running.wait(timeout=60) == 1
        assert running.stderr.read() == b""


def test_string_files_are_translated_by_units_and_refused_as_text(
    student: Path, tmp_path: Path, script: Callable
) -> None:
    po, out, memory = (tmp_path / name for name in ("app.po", "app.de.po", "memory.tsv"))
    po.write_text('msgid "bale gudo"\nmsgstr ""\n\nmsgid "leka"\nmsgstr "kept"\n', "utf-8")
    memory.write_text("bale gudo\tremembered\n", "utf-8")
    result = script("translate", "--model", student, po)
    assert result.status != 0 and "it is a string file (gettext PO)" in result.err
    assert "give -o FILE" in result.err and result.out == ""
    result = script("translate", "--model", student, po, "-o", out, "--memory", memory)
    assert result.status == 0 and result.out == ""
    assert f"{po}, line 1: from the memory: remembered\n" in result.err
    assert "1 units translated, 1 of them from the memory; 1 had a translation" in result.err
    changed = po.read_text("utf-8").replace('msgstr ""', 'msgstr "remembered"', 1)
    assert out.read_text("utf-8") == "#, fuzzy\n" + changed
    result = script("translate", "--model", student, po, "-o", out)
    assert result.status != 0 and "is there already" in result.err
    assert script("translate", "--model", student, po, "-o", out, "--all").status == 0
    assert 'msgstr "kept"' not in out.read_text("utf-8")
    result = script("translate", "--model", student, po, "--all")
    assert result.status != 0 and "give -o FILE" in result.err


@pytest.mark.parametrize("option", [["--nbest", 2], ["--scores"], ["--show-codes", "--scores"]])
def test_columns_are_refused_for_string_files(tmp_path: Path, script: Callable, option) -> None:
    po, out = tmp_path / "app.po", tmp_path / "app.de.po"
    po.write_text('msgid "Open"\nmsgstr ""\n', "utf-8")
    result = script("translate", po, "-o", out, *option)
    assert result.status == 2 and "-o writes a string file" in result.err
    assert all(str(word) in result.err for word in option if str(word).startswith("--"))
    assert result.err.count("\n") == 1 and result.out == "" and not out.exists()
    assert script("translate", po, "-o", out, "--nbest", 1).status == 0


def test_files_columns_and_speed(student: Path, tmp_path: Path, script: Callable) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("bale gudo\n\n", encoding="utf-8")
    second.write_text("leka", encoding="utf-8")  # no line end
    outcome = script("translate", "--model", student, "--scores", "--show-codes", first, second)
    found = Translator.from_pretrained(student).translate(["bale gudo", "", "leka"])
    assert outcome.status == 0
    for line, translation in zip(outcome.out.split("\n"), found, strict=False):
        score, text, codes = line.split("\t")
        assert (score, text) == (f"{translation.score:.4f}", translation.text)
        assert [int(pair.split(":")[0]) for pair in codes.split()] == translation.codes
        written = "".join(pair.split(":", 1)[1] for pair in codes.split())
        assert written.replace("▁", " ").strip() == text
    assert outcome.out.count("\n") == 3
    assert outcome.err.splitlines()[-1].startswith("3 sentences in ")
    assert "sentences/s" in outcome.err and "loaded in" in outcome.err
    quiet = script("translate", "--model", student, "--quiet", first)
    assert quiet.err == ""


def test_packed_files_pipes_and_standard_input(
    student: Path, tmp_path: Path, script: Callable
) -> None:
    model = ("translate", "--model", student)
    text = b"bale gudo\nleka\n"
    expected = script(*model, stdin=text).out
    assert expected.count("\n") == 2
    for name, pack in (("a.gz", gzip.compress), ("b.xz", lzma.compress), ("c", bz2.compress)):
        (tmp_path / name).write_bytes(pack(text))
        assert script(*model, tmp_path / name).out == expected
        assert script(*model, stdin=pack(text)).out == expected
    reading, writing = os.pipe()
    os.write(writing, gzip.compress(text))
    os.close(writing)
    try:
        mixed = script(*model, "-", tmp_path / "a.gz", f"/dev/fd/{reading}", stdin=text)
    finally:
        os.close(reading)
    assert mixed.out == 3 * expected
    for content, fault in (
        (b"a\0b\0\n\0", "standard input, line 1: a NUL byte at column 2: the file is UTF-16"),
        (b"\x28\xb5\x2f\xfd1234", "standard input: it is packed by zstd: unpack it"),
        (gzip.compress(text)[:-3], "standard input: the packed file is damaged or cut short"),
    ):
        refused = script(*model, stdin=content)
        assert refused.status == 2 and f"error: {fault}" in refused.err
        again = script(*model, "-", stdin=content)
        assert again.err.splitlines()[-1] == refused.err.splitlines()[-1]


def test_several_translations_a_line(student: Path, finished_run, script: Callable) -> None:
    stdin = b"bale gudo\nleka file\n"
    arguments = ("translate", "--model", student, "--nbest", 3, "--scores")
    lines = [line.split("\t") for line in script(*arguments, stdin=stdin).out.splitlines()]
    teacher = finished_run.folder / "teacher"
    odd = b"...\n\n"  # what no model sees has as many columns
    rescored = script(*arguments, "--rescore", teacher, stdin=stdin + odd).out.splitlines()
    assert [rescored.pop() for _ in range(2)] == ["4\t0.0000\t0.0000\t", "3\t0.0000\t0.0000\t..."]
    both = (lines, 1), ([line.split("\t") for line in rescored], 2)
    for columns, deciding in both:
        for number in ("1", "2"):
            mine = [line for line in columns if line[0] == number]
            scores = [float(line[deciding]) for line in mine]
            assert 1 <= len({line[-1] for line in mine}) == len(mine) <= 3
            assert scores == sorted(scores, reverse=True)
        assert [line[0] for line in columns] == sorted(line[0] for line in columns)
        assert len(columns) > 2  # a sentence has several
    drawn = [
        script(*arguments, "--temperature", 1, "--seed", seed, stdin=stdin).out
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_prompt_on_a_terminal(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = mock.Mock(side_effect=["bale gudo", "x" * 70, "gu\udce4do", "leka", EOFError])
    with (
        mock.patch("builtins.input", typed),
        mock.patch.object(sys, "stdin", mock.Mock(isatty=lambda: True)),
    ):
        translate.main(["--model", str(student)])
    found = Translator.from_pretrained(student).translate(["bale gudo", "leka"])
    out, err = capsys.readouterr()
    assert out.split("\n")[:2] == [translation.text for translation in found]
    assert "the model takes 60" in err and "2 sentences in" in err
    assert "input, line 1: byte 0xe4 at column 3 is not UTF-8" in err
    assert ">" not in out


def test_bad_lines_are_split_replaced_or_named(
    student: Path, script: Callable, tmp_path: Path
) -> None:
    model = ("translate", "--model", student)
    long = b"bale " * 70 + b"\n"
    split = script(*model, "--on-long", "split", stdin=b"gudo\n" + long)
    assert split.status == 0 and split.out.count("\n") == 2
    control = "a b\x07\x1b[31m \U0001f600 \ufeff\u200b\x85\n".encode()
    assert script(*model, stdin=control).out.count("\n") == 1
    replaced = script(*model, "--invalid-utf8", "replace", stdin=b"gu\xe4do\n")
    assert replaced.status == 0 and replaced.out.count("\n") == 1
    place = tmp_path / "long"
    place.write_bytes(b"gudo\n" * 1500 + long)
    refused = script(*model, place)
    assert refused.status == 2
    assert f"{place}, line 1501: the source has" in refused.err.splitlines()[-1]
    assert refused.out.count("\n") >= 1000, "what came before stands"
    endless = script(*model, stdin=b"x" * (1 << 21))
    assert endless.status == 2 and "line 1: more than 1048576 bytes" in endless.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rescore", "STUDENT"), "student: only an autoregressive model can rescore"),
        (("--rescore", PRETRAINED), "en-de: only an autoregressive model can rescore"),
        (("--rescore", "REVERSED"), "reversed translates de to en, but the model en to de: give"),
        (("--dtype", "bf16", "--model", PRETRAINED), "en-de is exported: leave it out"),
    ],
)
def test_wrong_options_are_named_in_the_last_line(
    student: Path, script: Callable, tmp_path: Path, arguments, message: str
) -> None:
    teacher = shutil.copytree(student.parent / "teacher", tmp_path / "reversed")
    config = (teacher / "config.json").read_text(encoding="utf-8")
    for old, new in (("source", "de"), ("target", "en")):
        config = re.sub(rf'"{old}_language": "\w+"', f'"{old}_language": "{new}"', config)
    (teacher / "config.json").write_text(config, encoding="utf-8")
    (teacher / CHECKSUMS).unlink()  # the change is meant
    places = {"STUDENT": student, "REVERSED": teacher}
    arguments = [places.get(argument, argument) for argument in arguments]
    outcome = script("translate", "--model", student, *arguments)
    assert outcome.status == 2 and message in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-file.txt",), "no-such-file.txt: there is no such file: check the path"),
        (("Turn it on.",), "pipe them in: echo 'Turn it on.' | vqnmt translate"),
        (
            ("Hello",),
            "Hello: there is no such file; to translate words, pipe them in: echo 'Hello'",
        ),
        (
            ("-o", "out.txt"),
            "and 0 are given: translate text with vqnmt translate in.txt > out.txt",
        ),
        (
            ("IN", "-o", "out.txt"),
            "lines of text are translated without -o: vqnmt translate in.txt",
        ),
        (("--modle", "x"), "unrecognized arguments: --modle: did you mean --model?"),
        (("--modle=x",), "did you mean --model?"),
        (("--nosuch",), "unrecognized arguments: --nosuch: --help lists the options"),
        (("--beam", "x"), "--beam: x is not a whole number from 1 to 1000: --help lists"),
        (("--device", "cuda"), "is exported for a CPU: leave it out, or give"),
        (("--model", ""), "folder is '' (str): give a path"),
        (("--model", ROOT / "pretrained"), f"is no model folder: give one in it, {PRETRAINED}"),
    ],
    ids=str,
)
def test_what_a_newcomer_may_type(
    tmp_path: Path, script: Callable, arguments: tuple, message: str
) -> None:
    (tmp_path / "in.txt").write_text("Open the door\n")
    arguments = tuple(tmp_path / "in.txt" if one == "IN" else one for one in arguments)
    outcome = script("translate", *arguments)
    assert outcome.status == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_without_a_model_it_says_where_it_looked(script: Callable, tmp_path: Path) -> None:
    with mock.patch("vqnmt.translate.loading.PRETRAINED", tmp_path / "none"):
        outcome = script("translate", stdin=b"bale\n")
    assert outcome.status == 2 and f"{tmp_path / 'none'}: no such model folder" in outcome.err


def test_many_lines_take_constant_memory_and_time() -> None:
    """100,000 lines through the script, with a translator that only repeats them."""

    class Repeater:
        on_long = "refuse"

        def __init__(self) -> None:
            self.span_patterns: list[str] = []

        def n_best(self, lines, *_: object) -> list[list[Translation]]:
            return [[Translation(line)] for line in lines]

    class Source(io.RawIOBase):
        left, peak = 100_000, 0

        def read1(self, size: int) -> bytes:
            count = min(self.left, size // 100)
            self.left -= count
            Source.peak = max(Source.peak, tracemalloc.get_traced_memory()[1])
            return (b"x" * 99 + b"\n") * count

        def peek(self, size: int) -> bytes:
            return b"x"

        def seekable(self) -> bool:
            return False

    class Sink:
        lines = 0

        def write(self, content: bytes) -> None:
            Sink.lines += content.count(b"\n")

        def flush(self) -> None: ...

    options = ["--model", "x"]
    with (
        mock.patch.object(translate, "load_translator", lambda *_, **__: Repeater()),
        mock.patch.object(sys, "stdin", mock.Mock(buffer=Source(), isatty=lambda: False)),
        mock.patch.object(sys, "stdout", mock.Mock(buffer=Sink())),
    ):
        tracemalloc.start()
        start = time.perf_counter()
        try:
            translate.main(options)
        finally:
            tracemalloc.stop()
    assert Sink.lines == 100_000
    assert Source.peak < 4_000_000, "10 MB went through"
    assert time.perf_counter() - start < 60
