"""Corpus, vocabulary, distillation and tokens: the same files from one process and from two.

Two processes are on one machine or, as far as the launcher's variables go, on two.
"""

import os
from pathlib import Path

from vqnmt.commands.command_line import load_config

import pytest

from tests.processes import run_processes
from vqnmt.data import build, tokenized
from vqnmt.data.corpus import ParallelText
from vqnmt.data.lines import Lines
from vqnmt.pipeline import PipelineConfig, distillation, make_corpus, make_vocabulary, start_run
from vqnmt.pipeline.translation import make_batches
from vqnmt.settings import from_mapping
from vqnmt.translate.pytorch import Translation

pytestmark = pytest.mark.distributed


# Parts that are as small as the corpus.
SMALL = (
    (build, "_CHUNK", 20),
    (build, "_SEVERAL_PROCESSES", 0),
    (tokenized, "CHUNK", 30),
    (distillation, "PART", 40),
)


class Shouter:
    def translate(self, sentences, **_: object) -> list[Translation]:
        return [Translation(sentence.upper()) for sentence in sentences]


def prepare_run(arguments: list[str]) -> None:
    for module, name, value in SMALL:
        setattr(module, name, value)
    config = from_mapping(PipelineConfig, load_config("train_nmt", arguments))
    run = start_run(config)
    corpus = make_corpus(run)
    vocabulary = make_vocabulary(run, corpus)
    path = run.folder / "distilled" / "train.de"
    distillation.distill(Shouter(), corpus.train.sources, path)
    text = ParallelText(corpus.train.sources, Lines(path))
    batches = make_batches(config, text, vocabulary, run.folder / "tokens", 512, "test")
    plan = [batch.tolist() for batch in batches.plan(epoch=1)]
    (run.folder / f"plan-{os.environ.get('RANK', '0')}").write_text(repr(plan))


def run(folder: Path, overrides: list[str], machines: int) -> list[str]:
    """Prepare in two processes; return the errors of those that failed."""
    arguments, place = [f"run={folder}", *overrides], folder.with_name(f"errors of {folder.name}")
    processes = run_processes(prepare_run, arguments, folder=place, machines=machines)
    return [errors for status, errors in processes if status != 0]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files but for the clock's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "stage.json"
    }


def test_two_processes_and_two_machines_prepare_as_one(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    prepare_run([f"run={tmp_path / 'one'}", *overrides])
    assert run(tmp_path / "two", overrides, machines=1) == []
    assert run(tmp_path / "machines", overrides, machines=2) == []
    one, two, machines = (contents(tmp_path / name) for name in ("one", "two", "machines"))
    assert two.pop("plan-1") == machines.pop("plan-1") == one["plan-0"]
    assert two == one and machines == one
    assert sum(name.startswith("distilled/parts/") for name in one) > 10
    assert {"corpus/corpus.json", "vocabulary/spm.model", "tokens/tokens.json"} <= set(one)


def test_a_fault_in_the_text_ends_all_machines(tmp_path: Path, overrides: list[str]) -> None:
    """The first process names it; a launcher ends the others, as here the lost connection does."""
    target = next(x for x in overrides if x.startswith("corpus.train.target=")).partition("=")[2]
    lines = Path(target).read_bytes().split(b"\n")
    lines[59] = b"\xff"
    (tmp_path / "bad.de").write_bytes(b"\n".join(lines))
    bad = [*overrides, f"corpus.train.target={tmp_path / 'bad.de'}"]
    errors = run(tmp_path / "run", bad, machines=2)
    assert len(errors) == 2
    assert "bad.de, line 60: byte 0xff at column 1 is not UTF-8" in errors[0]
    # With the fault mended, the settings are other ones; nothing is in their way.
    assert not (tmp_path / "run" / "corpus" / "stage.json").exists()
