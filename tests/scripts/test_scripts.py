"""The scripts as a user calls them: the same text everywhere, and errors in one sentence."""

import bz2
import errno
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from accelerate import PartialState

from vqnmt.data.splits import text_hash
from vqnmt.translate.pytorch import Translator

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def student(finished_run) -> Path:
    return finished_run.folder / "student"


def in_memory(model: Path, lines: list[str], beam: int = 1) -> list[str]:
    found = Translator.from_pretrained(model).translate(lines, beam=beam)
    return [translation.text for translation in found]


# --- the same text everywhere ----------------------------------------------------------------


def test_translate_in_a_process_of_its_own_writes_the_same(finished_run, student: Path) -> None:
    sources = finished_run.lines("corpus/test.test.en")
    # An empty line, Windows line ends, and none at the very end.
    text = "\n".join([*sources, "", *(source + "\r" for source in sources), sources[0]])
    result = subprocess.run(
        [sys.executable, "scripts/translate.py", "--model", str(student)],
        cwd=ROOT,
        input=text.encode(),
        # A locale without umlauts must not matter.
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0
    assert result.stderr.startswith(b"%d sentences in" % (2 * len(sources) + 2))
    expected = in_memory(student, sources)
    lines = [*expected, "", *expected, expected[0]]
    assert result.stdout.decode("utf-8") == "".join(line + "\n" for line in lines)


@pytest.mark.parametrize(("model", "beam"), [("student", 1), ("teacher", 4)])
def test_evaluate_and_translate_agree_with_the_run(
    finished_run, tmp_path: Path, script: Callable, model: str, beam: int
) -> None:
    corpus, folder = finished_run.folder / "corpus", finished_run.folder / model
    scores = {}
    for part in ("valid", "test.test"):
        outcome = script(
            "evaluate",
            "--model",
            folder,
            "--beam",
            beam,
            "--output",
            tmp_path / part,
            "--source",
            corpus / f"{part}.en",
            "--reference",
            corpus / f"{part}.de",
        )
        assert outcome.status == 0, outcome.err
        sources = finished_run.lines(f"corpus/{part}.en")
        stdin = "".join(source + "\n" for source in sources).encode()
        piped = script("translate", "--model", folder, "--beam", beam, stdin=stdin)
        expected = "".join(text + "\n" for text in in_memory(folder, sources, beam))
        assert (tmp_path / part).read_text(encoding="utf-8") == expected == piped.out
        scores[part] = outcome.out
    record = finished_run.records[-1 if model == "student" else 0]["metrics"]
    for part, test_set in (("valid", "valid"), ("test.test", "test")):
        bleu = f"BLEU   {record[f'bleu.{test_set}']:.2f}   {record['bleu_signature']}\n"
        chrf = f"chrF++ {record[f'chrf.{test_set}']:.2f}   {record['chrf_signature']}\n"
        assert scores[part] == bleu + chrf


def test_report_shows_the_translations_of_the_saved_model(finished_run, student: Path) -> None:
    report = (finished_run.folder / "report.md").read_text(encoding="utf-8")
    report = re.sub(" +", " ", report)  # tables are padded to align on a terminal
    for source in sorted(finished_run.lines("corpus/valid.en"), key=text_hash)[:10]:
        example = report.split(f"| source | {source} |")[1].split("| codes |")[0]
        (text,) = in_memory(student, [source])
        assert f"| vq_ctc_skd_nc3_lm | {' '.join(text.split())} |" in example


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_translate_in_chunks(student: Path, script: Callable, chunk: int) -> None:
    lines = ["bale gudo", "", "leka", "", "file bafi"]
    stdin = "".join(line + "\n" for line in lines).encode()
    with mock.patch("vqnmt.commands.translate.CHUNK", chunk):
        outcome = script("translate", "--model", student, stdin=stdin)
    assert outcome.out == "".join(text + "\n" for text in in_memory(student, lines))


@pytest.mark.parametrize("stdin", [b"", b"\n", b"\n\n\r\n"])
def test_empty_input_gives_as_many_empty_lines(
    student: Path, script: Callable, stdin: bytes
) -> None:
    outcome = script("translate", "--model", student, stdin=stdin)
    assert (outcome.status, outcome.out) == (0, "\n" * stdin.count(b"\n"))


def test_evaluate_on_a_corpus_of_the_catalogue(
    finished_run, student: Path, script: Callable
) -> None:
    """A small stand-in takes the corpus's place; --set chooses among its sets."""
    from vqnmt.data.corpus import load_corpus

    corpus = load_corpus(finished_run.folder / "corpus")
    with mock.patch("vqnmt.commands.evaluate.prepare_corpus", return_value=corpus):
        test = script("evaluate", "--model", student, "--corpus", "multi30k")
        valid = script("evaluate", "--model", student, "--corpus", "multi30k", "--set", "valid")
        other = script("evaluate", "--model", student, "--corpus", "multi30k", "--set", "other")
    metrics = finished_run.records[-1]["metrics"]
    assert test.out.startswith(f"BLEU   {metrics['bleu.test']:.2f} ")
    assert valid.out.startswith(f"BLEU   {metrics['bleu.valid']:.2f} ")
    assert other.status == 2 and "--set is other; multi30k has test, valid" in other.err


def test_distill_alone_leaves_what_the_run_goes_on_with(
    tmp_path: Path, overrides: list[str], script: Callable
) -> None:
    few = [f"run={tmp_path / 'run'}", *overrides, "teacher_training.steps=3"]
    outcome = script("distill", *few)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "run" / "distilled"
    assert outcome.out.endswith(f"translations: {folder}\n")
    assert not (tmp_path / "run" / "student").exists()
    before = (folder / "train.de").stat().st_mtime_ns
    with mock.patch.object(PartialState, "is_main_process", False):
        again = script("distill", *few)
    assert (again.status, again.out) == (0, ""), "of several processes one speaks"
    assert (folder / "train.de").stat().st_mtime_ns == before
    more = script("distill", *few, "recombined=1")
    assert more.status == 0, more.err
    assert more.out.endswith(f"made-up sources: {tmp_path / 'run' / 'recombined-1'}\n")
    assert (folder / "train.de").stat().st_mtime_ns == before


# --- errors ----------------------------------------------------------------------------------


def refuse(outcome, *parts: object) -> None:
    """Check for one sentence on standard error, and nothing of a stack trace."""
    last = outcome.err.rstrip("\n").splitlines()[-1]
    assert outcome.status == 2 and last.startswith("error: ")
    assert "Traceback" not in outcome.err
    for part in parts:
        assert str(part) in last


def test_error_of_a_process_of_its_own(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "scripts/translate.py", "--model", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        input="bale\n",
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {tmp_path / 'none'}: no such model folder")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["translate", "evaluate"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "spm.model"])
def test_incomplete_model_folder(
    tmp_path: Path, student: Path, script: Callable, name: str, file: str
) -> None:
    for part in {"config.json", "model.safetensors", "spm.model"} - {file}:
        shutil.copy(student / part, tmp_path / part)
    files = ("--source", "x", "--reference", "x") if name == "evaluate" else ()
    refuse(script(name, "--model", tmp_path, *files), tmp_path / file, "missing")


def test_translate_names_the_line_that_is_not_utf8(student: Path, script: Callable) -> None:
    stdin = b"bale\n" * 1200 + b"gu\xe4do\n" + b"bale\n"
    outcome = script("translate", "--model", student, stdin=stdin)
    refuse(outcome, "standard input, line 1201", "0xe4", "column 3", "convert")


def test_translate_counts_the_lines_that_are_too_long(student: Path, script: Callable) -> None:
    long = b"x" * 70 + b"\n"
    outcome = script("translate", "--model", student, stdin=b"bale\n" + long + b"gudo\n" + long)
    refuse(outcome, "line 2", "the model takes 60", "2 such lines in all", "split them")
    assert outcome.out == ""


def test_evaluate_reads_packed_files_and_pipes(
    tmp_path: Path, student: Path, script: Callable
) -> None:
    texts = [b"bale gudo\nleka file\n", b"Kakaen fifien\nbakaen bakaen\n"]
    for name, text in zip(("en", "de"), texts, strict=True):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "packed").write_bytes(bz2.compress(texts[1]))
    reading, writing = os.pipe()
    os.write(writing, lzma.compress(texts[0]))
    os.close(writing)
    model = ("evaluate", "--model", student, "--source")
    plain = script(*model, tmp_path / "en", "--reference", tmp_path / "de")
    packed = script(*model, f"/dev/fd/{reading}", "--reference", tmp_path / "packed")
    os.close(reading)
    assert plain.status == packed.status == 0 and plain.out == packed.out
    (tmp_path / "packed").write_bytes(bz2.compress(texts[1])[:-5])
    damaged = script(*model, tmp_path / "en", "--reference", tmp_path / "packed")
    refuse(damaged, tmp_path / "packed", "damaged or cut short")


def test_evaluate_names_files_and_counts(
    tmp_path: Path, student: Path, toy_corpus: Path, script: Callable
) -> None:
    one, good = tmp_path / "one.de", toy_corpus / "train.en"
    one.write_text("eine Zeile\n")
    invalid = tmp_path / "invalid.en"
    invalid.write_bytes(b"ok\nk\xff\n")
    model = ("evaluate", "--model", student)
    refuse(script(*model, "--source", good, "--reference", one), good, "600", one, "1")
    refuse(script(*model, "--source", tmp_path / "no", "--reference", one), tmp_path / "no")
    refuse(script(*model, "--source", invalid, "--reference", one), invalid, "line 2")
    refuse(script(*model), "--source and --reference, or --corpus")
    files = ("--source", one, "--reference", one)
    refuse(script(*model, *files, "--corpus", "multi30k"), "but not both")
    refuse(script(*model, *files, "--set", "valid"), "--set is valid, but only a --corpus")
    refuse(
        script(*model, "--source", one, "--reference", one, "--beam", 0),
        "--beam: 0 is not a whole number",
    )
    refuse(script(*model, "--corpus", "homeasistant"), "'homeasistant'", "homeassistant")
    refuse(script(*model, *files, "--output", one / "out"), f"--output={one}: {one} cannot be")
    finished = ("evaluate", "--model", one)
    refuse(script(*finished, "--corpus", "multi30k"), one, "give --source-language and")
    windows = tmp_path / "windows.de"
    windows.write_bytes(b"\xef\xbb\xbfeine Zeile\r\n")
    assert script("evaluate", "--model", windows, *files).out == script(*finished, *files).out


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["student_model.outputt=ctc"], ["student_model.outputt", "student_model.output?"]),
        (["corpus=homeasistant"], ["corpus=homeasistant", "homeassistant?"]),
        (["seed=abc"], ["seed is 'abc'"]),
        (["corpus.train.source=nowhere.en"], ["nowhere.en", "no such file"]),
        (["corpus.train.target={one}"], ["train.en has 600 lines", "one.de has 1"]),
        (["corpus.train.target={invalid}"], ["invalid.de", "line 2"]),
        (["corpus.train.source=null"], ["corpus.train has target=", "source and target"]),
        (["corpus.max_words=1"], ["corpus.max_words", "none is left to train on"]),
        (["teacher={one}"], ["teacher=", "one.de"]),
    ],
)
def test_train_refuses(
    tmp_path: Path, overrides: list[str], script: Callable, changes: list[str], parts: list[str]
) -> None:
    files = {"one": tmp_path / "one.de", "invalid": tmp_path / "invalid.de"}
    files["one"].write_text("eine Zeile\n")
    files["invalid"].write_bytes(b"ok\nk\xff\n")
    changes = [change.format(**files) for change in changes]
    outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides, *changes)
    refuse(outcome, *parts)
    run = tmp_path / "run"
    assert not (run / "corpus").exists() or (run / "corpus" / "corpus.json").exists()


def test_full_disk_is_one_sentence(tmp_path: Path, overrides, script: Callable) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("vqnmt.pipeline.translation.prepare_corpus", side_effect=full):
        outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides)
    refuse(outcome, "No space left on device", "start the same command again")


def test_bugs_keep_their_stack_trace(tmp_path: Path, overrides, script: Callable) -> None:
    bug = mock.patch("vqnmt.pipeline.translation.prepare_corpus", side_effect=ZeroDivisionError)
    with bug, pytest.raises(ZeroDivisionError):
        script("train_nmt", f"run={tmp_path / 'run'}", *overrides)


def test_help_lists_the_keys(script: Callable) -> None:
    outcome = script("train_nmt", "--help")
    assert outcome.status == 0, outcome.err
    for part in (
        "corpus=multi30k",
        "codebook_size=64\n",
        "teacher_training.*",
        "run=runs/homeassis",
    ):
        assert part in outcome.out
