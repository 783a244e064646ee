"""Corpus, vocabulary, distillation and tokens: the same files from one process and from two."""

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
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "scripts")!r}]
from command_line import load_config
from vqnmt import distillation
from vqnmt.data.corpus import ParallelText
from vqnmt.data.lines import Lines
from vqnmt.pipeline import PipelineConfig, TranslationPipeline
from vqnmt.settings import from_mapping
from vqnmt.translator import Translation

class Shouter:
    def translate(self, sentences, **options):
        return [Translation(sentence.upper()) for sentence in sentences]

distillation.PART = 40
pipeline = TranslationPipeline(from_mapping(PipelineConfig, load_config("train_nmt", sys.argv[1:])))
pipeline.prepare_corpus()
pipeline.train_vocabulary()
path = pipeline.folder / "distilled" / "train.de"
distillation.distill(Shouter(), pipeline.corpus.train.sources, path)
text = ParallelText(pipeline.corpus.train.sources, Lines(path))
batches = pipeline.batches(pipeline.folder / "tokens", text, 512, "test")
plan = [batch.tolist() for batch in batches.plan(epoch=1)]
name = "plan-" + os.environ.get("RANK", "0")
(pipeline.folder / name).write_text(repr(plan))
"""


def prepare(folder: Path, overrides: list[str], number: int) -> dict[str, bytes]:
    """Prepare in `number` processes; return all files but for the clock's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(number):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if number > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            environment |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-c", WORKER, f"run={folder}", *overrides]
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "stage.json"
    }


def test_two_processes_prepare_as_one(tmp_path: Path, overrides: list[str]) -> None:
    one = prepare(tmp_path / "one", overrides, 1)
    two = prepare(tmp_path / "two", overrides, 2)
    assert two.pop("plan-1") == two["plan-0"]
    assert two == one
    assert sum(name.startswith("distilled/parts/") for name in one) > 10
    assert {"corpus/corpus.json", "vocabulary/spm.model", "tokens/tokens.json"} <= set(one)
