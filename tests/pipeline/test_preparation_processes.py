"""Corpus, vocabulary, distillation and tokens: the same files from one process and from two.

Two processes are on one machine or, as far as the launcher's variables go, on two.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parent.parent.parent
WORKER = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}]
from vqnmt.commands.command_line import load_config
from vqnmt.pipeline import distillation
from vqnmt.data import build, tokenized
from vqnmt.data.corpus import ParallelText
from vqnmt.data.lines import Lines
from vqnmt.pipeline import PipelineConfig, make_corpus, make_vocabulary, start_run
from vqnmt.pipeline.translation import make_batches
from vqnmt.settings import from_mapping
from vqnmt.translate.pytorch import Translation

class Shouter:
    def translate(self, sentences, **options):
        return [Translation(sentence.upper()) for sentence in sentences]

build._CHUNK, build._SEVERAL_PROCESSES = 20, 0
tokenized.CHUNK = 30
distillation.PART = 40
config = from_mapping(PipelineConfig, load_config("train_nmt", sys.argv[1:]))
run = start_run(config)
corpus = make_corpus(run)
vocabulary = make_vocabulary(run, corpus)
path = run.folder / "distilled" / "train.de"
distillation.distill(Shouter(), corpus.train.sources, path)
text = ParallelText(corpus.train.sources, Lines(path))
batches = make_batches(config, text, vocabulary, run.folder / "tokens", 512, "test")
plan = [batch.tolist() for batch in batches.plan(epoch=1)]
rank = os.environ.get("RANK", "0")
(run.folder / f"plan-{{rank}}").write_text(repr(plan))
"""


def run(folder: Path, overrides: list[str], number: int, machines: int = 1) -> list[str]:
    """Prepare in `number` processes; return the errors of those that failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    local = number // machines
    for rank in range(number):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if number > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank % local)}
            environment |= {"GROUP_RANK": str(rank // local), "GROUP_WORLD_SIZE": str(machines)}
            environment |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(local)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-c", WORKER, f"run={folder}", *overrides]
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
        return [e for e, process in zip(errors, processes, strict=True) if process.returncode]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def prepare(folder: Path, overrides: list[str], number: int, machines: int = 1) -> dict[str, bytes]:
    """Prepare in `number` processes; return all files but for the clock's."""
    assert run(folder, overrides, number, machines) == []
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "stage.json"
    }


def test_two_processes_and_two_machines_prepare_as_one(
    tmp_path: Path, overrides: list[str]
) -> None:
    one = prepare(tmp_path / "one", overrides, 1)
    two = prepare(tmp_path / "two", overrides, 2)
    machines = prepare(tmp_path / "machines", overrides, 2, machines=2)
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
    errors = run(tmp_path / "run", bad, 2, machines=2)
    assert len(errors) == 2
    assert "bad.de, line 60: byte 0xff at column 1 is not UTF-8" in errors[0]
    # With the fault mended, the settings are other ones; nothing is in their way.
    assert not (tmp_path / "run" / "corpus" / "stage.json").exists()
