import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from tests.data.stand_ins import lines, write
from vqnmt.data import build
from vqnmt.data.config import CorpusConfig, TextFiles
from vqnmt.data.corpus import prepare_corpus
from vqnmt.data.workers import map_in_order
from vqnmt.errors import VqnmtError


def slow_square(number: int) -> int:
    """Take the longer the smaller the number is, so that results come back in another order."""
    time.sleep(0.002 * (5 - number % 5))
    return number * number


def refuse(number: int) -> int:
    if number == 7:
        raise VqnmtError(f"item {number}: refused")
    return number


def end_process(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(processes):
    squares = [n * n for n in range(40)]
    assert list(map_in_order(slow_square, range(40), processes)) == squares
    assert list(map_in_order(slow_square, [], processes)) == []


def test_items_are_read_only_as_far_as_needed():
    read = []

    def stream():
        for number in itertools.count():  # without end
            read.append(number)
            yield number

    results = map_in_order(slow_square, stream(), 2)
    assert list(itertools.islice(results, 10)) == [n * n for n in range(10)]
    results.close()
    assert len(read) <= 10 + 2 * 2 + 1


def test_errors_of_function_and_stream_come_through():
    with pytest.raises(VqnmtError, match=r"^item 7: refused$"):
        list(map_in_order(refuse, range(100), 2))

    def stream():
        yield from range(3)
        raise VqnmtError("the file ends in line 3")

    with pytest.raises(VqnmtError, match="line 3"):
        list(map_in_order(slow_square, stream(), 2))


def test_a_killed_process_is_an_error_and_no_wait_without_end():
    with pytest.raises(BrokenExecutor):
        list(map_in_order(end_process, range(100), 2))


PARENT = """
import itertools, os, time
from vqnmt.data.workers import map_in_order

def process(number):
    time.sleep(0.01)
    return os.getpid()

for pid in map_in_order(process, itertools.count(), 2):
    print(pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_no_process_outlives_the_one_that_was_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = {int(parent.stdout.readline()) for _ in range(20)}
    assert len(children) == 2 and parent.pid not in children
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # One that has ended (Z) stays in the list until somebody takes note of it.
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_corpus_is_the_same_from_several_processes(tmp_path, monkeypatch):
    texts = [f"This is  sentence number {n % 2700}\tDas ist Satz {n % 2900}" for n in range(4000)]
    texts += ["\tnothing", "long " * 200 + "\tlang", "short\t" + "kurz " * 40, *texts[:50]]
    train = TextFiles(tsv=str(write(tmp_path / "train.tsv", lines(texts))))
    config = CorpusConfig(name="files", train=train, valid_share=0.1, test_share=0.1)
    corpora = [prepare_corpus(config, tmp_path / "one")]
    monkeypatch.setattr(build, "_SEVERAL_PROCESSES", 0)
    monkeypatch.setattr(build, "available_cores", lambda: 3)
    corpora.append(prepare_corpus(config, tmp_path / "three"))
    assert corpora[0].report == corpora[1].report  # checksums of all files included
    dropped = corpora[0].report["parts"]["train"]["dropped"]
    assert set(dropped) == {"empty", "too long", "length ratio", "duplicate"}


def test_a_corpus_process_that_is_killed_leaves_nothing_behind(tmp_path, monkeypatch):
    texts = [f"This is sentence number {n}\tDas ist Satz {n}" for n in range(9000)]
    train = TextFiles(tsv=str(write(tmp_path / "train.tsv", lines(texts))))
    config = CorpusConfig(name="files", train=train, valid_share=0.1, test_share=0.1)
    monkeypatch.setattr(build, "_SEVERAL_PROCESSES", 0)
    monkeypatch.setattr(build, "available_cores", lambda: 2)
    monkeypatch.setattr(build.CorpusFilter, "__call__", lambda self, pairs: end_process(7))
    with pytest.raises(VqnmtError, match="ended from outside"):
        prepare_corpus(config, tmp_path / "out")
    assert not any((tmp_path / "out").glob("*"))
