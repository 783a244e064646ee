"""A toy corpus, and one finished run of the whole pipeline on it, shared by all tests."""

import contextlib
import gc
import importlib
import io
import json
import os
import random
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

# Read where PyTorch loads OpenMP: threads that wait leave their core to the other test processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import torch

import vqnmt  # noqa: F401  before onnxruntime is imported anywhere: it sets what that reads
from vqnmt.commands import command_line
from vqnmt.evaluation.records import Record

# One thread here and in the processes that tests start, so that test processes do not fight for
# cores; VQNMT_TEST_THREADS=2 runs them on two.
THREADS = os.environ.setdefault("VQNMT_TEST_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = THREADS
torch.set_num_threads(int(THREADS))

# The same cases every time, however busy the machine is.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# A background job of a shell ignores Ctrl-C, one under nohup SIGHUP, and so would the processes to
# which tests send these signals.
for number, action in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, action)

SCRIPTS = Path(__file__).parent.parent / "scripts"


@dataclass(frozen=True)
class Outcome:
    """What a script left: its exit status and what it printed."""

    status: int
    out: str
    err: str


def call_script(name: str, *arguments: object, stdin: bytes = b"") -> Outcome:
    """Run a script in this process, which saves the seconds of its imports.

    Only what `command_line.run` lets through as an exception, a bug, is raised.
    """
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    module = importlib.import_module(name)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    status = 0
    with (
        mock.patch.object(sys, "argv", [f"scripts/{name}.py", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            if hasattr(module, "main"):
                command_line.run(module.main)
            else:  # calls a command of vqnmt
                runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Outcome(status, *texts)


def toy_pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Distinct sentences of made-up words with their word-by-word translations."""
    generator = random.Random(seed)
    syllables = ["ba", "do", "fi", "gu", "ka", "le"]
    words = sorted(a + b for a in syllables for b in syllables)
    generator.shuffle(words)
    lexicon = {
        word: other.title() if i % 3 == 0 else other + "en"
        for i, (word, other) in enumerate(zip(words[:18], words[18:], strict=True))
    }
    sentences: dict[tuple[str, ...], None] = {}
    while len(sentences) < count:
        sentences[tuple(generator.choices(words[:18], k=generator.randint(3, 7)))] = None
    return [(" ".join(s), " ".join(lexicon[word] for word in s)) for s in sentences]


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.en and train.de, 600 pairs."""
    folder = tmp_path_factory.mktemp("toy")
    pairs = toy_pairs(600)
    for side, language in enumerate(("en", "de")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (folder / f"train.{language}").write_text(text, encoding="utf-8")
    return folder


def training(name: str, steps: int, **further: object) -> list[str]:
    """Overrides of a short training."""
    values = {
        "steps": steps,
        "batch_tokens": 512,
        "learning_rate": 0.01,
        "warmup": 10,
        "log_every": 10,
        "validate_every": max(steps // 3, 1),
        **further,
    }
    return [f"{name}_training.{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="session")
def overrides(toy_corpus: Path) -> list[str]:
    """Overrides that train on the toy corpus; the run folder is not among them."""
    return [
        "records=null",
        "model=tiny",
        "corpus=files",
        f"corpus.train.source={toy_corpus / 'train.en'}",
        f"corpus.train.target={toy_corpus / 'train.de'}",
        "corpus.valid_share=0.05",
        "corpus.test_share=0.05",
        "corpus.min_test_words=3",
        "vocabulary.size=318",
        "student_model.quantizer.codebook_size=16",
        "max_source_tokens=60",
        *training("teacher", 90, average=2),
        # With an average over one snapshot, the last validation saw the final model.
        *training("student", 60, average=1),
        "reward_training.steps=6",
        "reward_training.sources=40",
        "reward_training.candidates=3",
        "evaluation.latency_sentences=3",
        "evaluation.latency_rounds=1",
        "evaluation.latency_warmup=1",
    ]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its overrides and what it printed."""

    folder: Path
    overrides: list[str]
    outcome: Outcome

    @property
    def records(self) -> list[dict]:
        """The content of results.json."""
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    def lines(self, file: str) -> list[str]:
        """The lines of a text file in the run folder."""
        return (self.folder / file).read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, overrides: list[str]) -> Run:
    """Return one run of `train_nmt.py` on the toy corpus; tests must not change its folder."""
    folder = tmp_path_factory.mktemp("run") / "toy"
    outcome = call_script("train_nmt", f"run={folder}", *overrides)
    assert outcome.status == 0, outcome.err
    return Run(folder, overrides, outcome)


@pytest.fixture(scope="session")
def script() -> Callable[..., Outcome]:
    """Return `call_script`."""
    return call_script


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that fork first, then the files with slow tests, so that all cores end at once.

    A process in which another test has started threads, OpenMP's or a library's own, can no longer
    be forked: the child waits for them forever.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.get_closest_marker("forks"), item.path not in slow))


def pytest_collection_finish() -> None:
    """Spare later garbage collections the objects of all imports, millions of them.

    Each collection would take half a second, and a measurement makes one before every turn.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def quick_disk() -> Iterator[None]:
    """Have nothing wait for the disk: tests kill processes, but the machine lives on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    """Keep this machine's own data and proxies out of the tests."""
    monkeypatch.delenv("VQNMT_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """Build a record: `make_record("student", seed=2)`."""

    def make(system: str = "student", **changes) -> Record:
        record = Record(
            system=system,
            corpus="homeassistant en-de",
            overrides=["quantizer=ema"],
            seed=1,
            commit="abc",
            training_commit="abb",
            hardware={"processor": "a processor", "threads": 2, "torch": "2"},
            wall_seconds=12.5,
            parameters=1_000,
            metrics={"bleu.test": 20.5, "bleu_signature": "nrefs:1", "latency_ms.median": 7.0},
        )
        return replace(record, **changes)

    return make
