"""What all scripts share: the command line's grammar, streams, signals, faults in sentences."""

import contextlib
import errno
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from vqnmt.commands.command_line import load_config

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from vqnmt.commands.defaults import help_text
from vqnmt.commands.fields import field_types
from vqnmt.errors import VqnmtError
from vqnmt.pipeline import PipelineConfig
from vqnmt.settings import from_mapping, to_flat
from vqnmt.training.process import Interruption

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def compose() -> Callable[..., dict]:
    return lambda *overrides, name="train_nmt": load_config(name, list(overrides))


# --- the grammar -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "größe.tsv",
        "toy (1).tsv",
        "2024_05_01",
        "1e3",
        "0x10",
        "true",
        "a,b",
        "a=b",
        "a: b",
        "[x",
        "{x}",
        "it's",
        '"quoted',
        "'a'b'",
        "back\\",
        "back\\'",
        "$HOME",
        " blanks ",
        "日本",
    ],
)
def test_text_is_taken_as_it_was_typed(compose: Callable, text: str) -> None:
    overrides = [f"{key}={text}" for key in ("run", "corpus.train.tsv", "teacher", "records")]
    values = compose("corpus=files", *overrides)
    assert values["corpus"]["train"]["tsv"] == text
    assert values["run"] == values["teacher"] == values["records"] == text
    assert from_mapping(PipelineConfig, values).run == text
    image = compose(f"data.train={text}", f"run={text}", name="train_image")
    assert image["run"] == image["data"]["train"] == text


@fuzz(30)
@given(text=st.text(st.characters(exclude_characters="\0")))
@example("runs\r\n\x1b")
@example("\udce9")
@example("???")
def test_any_path_comes_through_or_is_refused(compose: Callable, text: str) -> None:
    # What is Hydra's own: interpolations, quotes around the whole, null; and the user's home.
    assume("${" not in text and text[:1] not in ("'", '"', "~") and text != "null")
    try:
        found = compose(f"run={text}")["run"]
    except VqnmtError as error:
        assert "\n" not in str(error)
        assert text == "???" or not text.isprintable(), "only what nobody can read or name"
    else:
        assert found == text


def test_hydras_own_syntax_goes_on_working(compose: Callable) -> None:
    values = compose(
        "run='a b'",
        "records=null",
        "seed=7",
        "corpus=multi30k",
        "+student_model.depth=3",
        "evaluation.throughput_batches=[1,8]",
        'teacher="it\'s"',
        "~beam",
        "++seed=8",
        "decoding.temperature=${student_training.learning_rate}",
        "distill=false",
    )
    assert values["run"] == "a b" and values["records"] is None and values["seed"] == 8
    assert values["corpus"]["name"] == "multi30k" and values["student_model"]["depth"] == 3
    assert values["evaluation"]["throughput_batches"] == [1, 8] and values["teacher"] == "it's"
    assert "beam" not in values and values["distill"] is False
    rate = values["student_training"]["learning_rate"]
    assert values["decoding"]["temperature"] == rate
    assert compose("run=runs/${seed} (${corpus.name})")["run"] == "runs/1 (homeassistant)"


def test_every_key_of_the_settings_can_be_set_without_a_plus(compose: Callable) -> None:
    pattern = r"\{\w+\}|<.+?>"
    values = compose(f"vocabulary.span_pattern={pattern}")
    assert from_mapping(PipelineConfig, values).vocabulary.span_pattern == pattern
    values = compose("corpus=files", *(f"{key}=null" for key in field_types(PipelineConfig)))
    assert values["run"] is None


def test_the_home_of_the_user(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ä b")
    values = compose("corpus=files", "run=~/x", "corpus.train.source=~/y", "teacher='~/t'")
    assert values["run"] == "/home/ä b/x" and values["corpus"]["train"]["source"] == "/home/ä b/y"
    assert values["teacher"] == "~/t", "in quotes it is text"
    assert compose("vocabulary.span_pattern=~/z")["vocabulary"]["span_pattern"] == "~/z", "no path"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=1,2", r"^seed=1,2 has several values, but a command is one run: give --multirun"),
        ("seed=range(1,3)", r"^seed=range\(1,3\) has several values"),
        ("--info", "^--info is not an option of this command: write key=value"),
        ("--cfg", "^--cfg needs a value: write --cfg job$"),
        ("--config-dir", "^--config-dir needs a value: write --config-dir DIR$"),
        ("quantiser=ema", r"^quantiser is not a known key: did you mean quantizer\?$"),
        ("seed", "^seed has no =: write key=value, such as seed=1; --help lists"),
        ("my.tsv", r"^my.tsv has no =: .* such as corpus=files corpus\.train\.tsv=my\.tsv;"),
        ("corpsu=multi30k", r"^corpsu is not a known key: did you mean corpus\?$"),
        ("--config-dir=x", "^--config-dir is x, which is no folder: give one like configs"),
        ("hydra.run.dir=x", "^hydra.run.dir=x is a setting of Hydra's own, unused here"),
        ("seed=größe", "^seed=größe cannot be read: write key=value"),
        ("seed=[1", r"^seed=\[1 cannot be read"),
        ("größe=1", "^größe=1 cannot be read"),
        ("corpus=größe", "^corpus=größe is not a known choice: choose among"),
        ("corpus=a,b", "^corpus=a,b is not a known choice"),
        ("corpus.tsv=x", r"^corpus\.tsv is not a known key: did you mean .*corpus\.train\.tsv"),
        ("seed=${oc.env:NO_SUCH}", "Environment variable 'NO_SUCH' not found"),
        ("run=a\udce9", r"^'run=a\\udce9' is not UTF-8"),
    ],
)
def test_what_hydra_does_not_take_is_one_sentence(
    compose: Callable, word: str, message: str
) -> None:
    with pytest.raises(VqnmtError, match=message) as caught:
        compose(word)
    assert not re.search(r"\n|Exception|[a-z]Error|multirun to", str(caught.value))


@pytest.mark.parametrize("value", ["-1", str(10**20), "10**20", str(2**32)])
@pytest.mark.parametrize("name", ["train_nmt", "train_image"])
def test_seeds_out_of_range(compose: Callable, value: str, name: str) -> None:
    from vqnmt.images.config import ImagePipelineConfig

    kind = ImagePipelineConfig if name == "train_image" else PipelineConfig
    with pytest.raises(VqnmtError, match=r"^seed is .*(must|smaller)"):
        from_mapping(kind, compose(f"seed={value}", name=name))


# --- options ---------------------------------------------------------------------------------

WRONG = [
    *(("--threads", value) for value in ("-1", "0", str(10**6), "x")),
    *(("--seed", value) for value in ("-1", str(10**20), "1.5")),
    *(("--beam", value) for value in ("0", str(10**9), "-3", "")),
    ("--nbest", "0"),
    ("--candidates", "-1"),
    ("--candidates", str(10**9)),
    *(("--temperature", value) for value in ("nan", "-1", "inf", "0", "1e-300", "x")),
    ("--dtype", "int7"),
    ("--on-long", "x"),
    ("--nosuch", "1"),
    ("--model",),
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_options_are_one_sentence_before_a_model_is_loaded(
    script: Callable, words: tuple[str, ...]
) -> None:
    outcome = script("translate", *words, *([] if "--model" in words else ["--model", "nowhere"]))
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: ") and "nowhere" not in outcome.err
    assert words[0].lstrip("-") in outcome.err
    assert "usage" not in outcome.err and "Traceback" not in outcome.err


def test_update_tables_does_not_guess(script: Callable) -> None:
    with mock.patch("pathlib.Path.read_text", side_effect=AssertionError):
        outcome = script("update_tables", "--chekc")
    assert outcome.status == 2 and "--chekc" in outcome.err


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "compare_quantizers",
            ['students=["ema", "soft_em",', "collapse.*\n    Codebooks"],
        ),
        ("train_image", ["run=runs/images/cifar10-vqvae_em-cpu\n", "data.max_valid=1000\n    Val"]),
        ("train_nmt", ["seed=1\n    Fixes initial", "student_training.steps=1650\n    Optimiser"]),
    ],
)
def test_help_says_what_each_key_is(compose: Callable, name: str, parts: list[str]) -> None:
    values = compose(name=name)
    found = help_text(name, values)
    assert all(part in found for part in parts), found
    for key in to_flat(values):
        assert re.search(rf"^{re.escape(key)}=.*\n    \S", found, re.MULTILINE), key


@pytest.mark.parametrize("name", ["translate"])
def test_help_needs_no_torch(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPTS / f"{name}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"vqnmt {name}" in result.stdout
    assert not re.search(r"\| +torch$", result.stderr, re.MULTILINE)


# --- faults of the machine -------------------------------------------------------------------


def test_any_fault_with_a_file_of_the_users_is_one_sentence(
    script: Callable, tmp_path: Path
) -> None:
    def outcome(error: BaseException) -> Any:
        with mock.patch("vqnmt.commands.translate.main", side_effect=error):
            return script("translate")

    numbers = (
        "ENOENT EISDIR ENOTDIR EEXIST ENAMETOOLONG ELOOP EINVAL EIO EMFILE ESTALE ENOTSUP EXDEV "
        "EPERM EBUSY ENOTEMPTY ETXTBSY ENXIO"
    )
    for number in (getattr(errno, name) for name in numbers.split()):
        for place in (str(tmp_path / "x"), b"relative"):
            found = outcome(OSError(number, os.strerror(number), place))
            assert found.status == 2 and found.err.count("\n") == 1, number
            assert f"{os.fsdecode(place)}: {os.strerror(number)}" in found.err
    for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM):
        assert outcome(OSError(number, os.strerror(number))).status == 2
    # Bugs keep their stack trace.
    for bug in (
        FileNotFoundError(errno.ENOENT, "x", str(ROOT / "vqnmt" / "x")),
        FileNotFoundError(errno.ENOENT, "x", os.__file__),
        OSError(errno.EBADF, "x"),
        OSError("no number"),
        BrokenPipeError(errno.EPIPE, "of another pipe"),
    ):
        with pytest.raises(OSError):
            outcome(bug)


# --- streams ---------------------------------------------------------------------------------

# A script of our own, which loads nothing.
PROGRAM = """
import sys
sys.modules["__main__"].__file__ = {scripts!r} + "/program.py"
from vqnmt.commands import command_line
def main(arguments):
{body}
command_line.run(main)
"""


def program(body: str) -> list[str]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return [sys.executable, "-c", PROGRAM.format(scripts=str(SCRIPTS), body=lines)]


def sh(command: list[str], redirection: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_anything_is_printed_in_any_encoding(encoding: dict[str, str]) -> None:
    body = "for file in sys.stdout, sys.stderr: print('BLEU \\u00b7 \\u65e5 \\udce9', file=file)"
    result = sh(program(body), "", **encoding)
    assert result.returncode == 0
    for printed in (result.stdout, result.stderr):
        assert printed.startswith(b"BLEU ") and printed.count(b"\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_goes_to_a_closed_stream_goes_nowhere(closed: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Turn on the light\n")
    command = [sys.executable, "scripts/translate.py", str(text)]
    result = sh(command, closed)
    assert result.returncode == 0
    # What would go to a closed stream goes nowhere, in particular not to the other one.
    assert result.stdout.count(b"\n") == (" >&-" not in f" {closed}")
    assert (b"1 sentence in" in result.stderr) == ("2>&-" not in closed)
    # No file of the script's gets the number of a closed stream, and what is printed there.
    body = f"open({str(tmp_path / 'number')!r}, 'w').write(str(open({str(text)!r}).fileno()))"
    sh(program(body), closed)
    assert int((tmp_path / "number").read_text()) > 2
    assert sh([*command, "--nosuch"], closed).returncode == 2


@pytest.mark.parametrize("full", [">/dev/full", "2>/dev/full >/dev/full"])
def test_a_full_disk_under_a_stream(full: str) -> None:
    result = sh(program("print('x' * 10000)"), full)
    assert result.returncode == 2 and b"Exception" not in result.stderr
    assert result.stderr.count(b"No space left") == (full == ">/dev/full")


def test_the_prompt_is_no_part_of_a_redirected_output() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "scripts/translate.py", "--quiet"],
        cwd=ROOT,
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(slave)
        os.write(master, b"Turn on the light\n\x04")
        out, err = process.communicate(timeout=120)
        os.close(master)
    assert out.count(b"\n") == 1 and not out.startswith(b">")
    assert err == b"> > \n"


# --- signals ---------------------------------------------------------------------------------


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("module", ["vqnmt.commands.command_line", "numpy", "torch.utils"])
def test_ctrl_c_during_the_imports_is_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "scripts/compare_quantizers.py"]
    with started([*command, f"run={tmp_path}"]) as process:
        # Python says what it has imported.
        for line in process.stderr:
            if line.decode().rpartition("|")[2].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
        assert [line for line in rest if not line.startswith(b"import time:")] == [b"interrupted"]
        assert process.wait() == 130


def test_ctrl_c_later_says_what_is_kept() -> None:
    body = "import time\nprint('ready', flush=True)\ntime.sleep(100)"
    with started(program(body)) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        said = b"interrupted: finished parts are kept; start the same command again to go on\n"
        assert process.stderr.read() == said and process.wait() == 130
    with started([sys.executable, "scripts/translate.py"]) as process:
        process.stdin.write(b"Turn on the light\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = b"interrupted: what is written so far stands, the rest is missing\n"
        assert process.stderr.read() == said and process.wait() == 130


def test_ignored_signals_stay_ignored() -> None:
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('went on')"
    result = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" "$@"', *program(body)],
        capture_output=True,
        check=False,
    )
    assert result.stdout == b"went on\n" and result.returncode == 0
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        previous = signal.signal(number, signal.SIG_IGN)
        try:
            with Interruption() as interruption:
                assert signal.getsignal(number) is signal.SIG_IGN
                os.kill(os.getpid(), number)
                assert not any(interruption.flags())
            assert signal.getsignal(number) is signal.SIG_IGN
        finally:
            signal.signal(number, previous)


def test_a_reader_that_has_enough_is_quiet() -> None:
    body = "while True:\n    print('x' * 1000)"
    for both in ("", "2>&1"):
        command = f'("$0" "$@" {both}; echo $? >&3) 3>&2 | head -n 1'
        result = subprocess.run(["sh", "-c", command, *program(body)], capture_output=True)
        assert result.stdout.count(b"\n") == 1 and result.stderr == b"1\n"
