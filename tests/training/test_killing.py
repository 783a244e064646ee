"""A training that is killed again and again ends with the weights of one that was not."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

from vqnmt.training.loop import Trainer
from vqnmt.training.metrics import read_metrics

KILLS = 12
# A checkpoint and a snapshot every step: most of the time is spent in saving.
SETTINGS = {"steps": 70, "validate_every": 1, "average": 3, "log_every": 7}

pytestmark = [
    pytest.mark.forks,
    pytest.mark.skipif(
        not hasattr(os, "fork") or torch.get_num_threads() > 1,
        reason="forks children, which would wait for the threads of a parent that has several",
    ),
]


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a child process, which has all modules loaded; return its number."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def ended_by(child: int, seconds: float = 240) -> int:
    """Wait for a child; return its exit status, or minus the signal that it died of."""
    deadline = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number == child:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"the child {child} had not ended after {seconds} s and was killed")
        time.sleep(0.002)


def assert_same_runs(one: Trainer, other: Trainer) -> None:
    """Compare weights, codebook, optimiser and metrics bit for bit."""
    for name, value in one.inner.state_dict().items():
        assert torch.equal(value, other.inner.state_dict()[name]), name
    states = [trainer.optimizer.state_dict()["state"] for trainer in (one, other)]
    for index, moments in states[0].items():
        for name, value in moments.items():
            assert torch.equal(value, states[1][index][name]), (index, name)
    rows = [
        [{k: v for k, v in row.items() if "per_second" not in k} for row in found]
        for found in (read_metrics(trainer.folder / "metrics.jsonl") for trainer in (one, other))
    ]
    assert rows[0] == rows[1]


def newest_step(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(make_trainer):
    whole = make_trainer("soft_em", "whole", **SETTINGS)
    expected = whole.train()
    folder = whole.folder.parent / "killed"
    generator = random.Random(7)
    for _ in range(KILLS):
        # Some way into the training, however fast the machine is now; then at any moment of a step.
        goal = newest_step(folder) + generator.randint(0, 6)
        child = in_child(lambda: make_trainer("soft_em", "killed", **SETTINGS).train())
        deadline = time.monotonic() + 60
        while newest_step(folder) < goal and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert ended_by(child) == -signal.SIGKILL, "the training had ended by itself"
    assert KILLS < newest_step(folder) < SETTINGS["steps"]
    last = make_trainer("soft_em", "killed", **SETTINGS)
    found = last.train()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert_same_runs(whole, last)
    assert not any(folder.glob(".*.tmp"))


@pytest.mark.slow
def test_sigterm_ends_the_script_with_a_status_of_its_own(script, tmp_path, overrides):
    optimize = Trainer._optimize

    def terminated(self, group):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return optimize(self, group)

    with mock.patch.object(Trainer, "_optimize", terminated):
        outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides)
    assert outcome.status == 143
    place = tmp_path / "run" / "teacher" / "training"
    assert f"{place}: terminated at step 3 and saved: start the same command" in outcome.err
    assert newest_step(place) == 3


def half_a_write(path: Path, content: bytes) -> None:
    path.open("wb").write(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("target", "place", "fatal"),
    [
        (Path, "write_bytes", half_a_write),
        (os, "fsync", die),
        (os, "replace", die),
        (Path, "unlink", die),  # the new checkpoint stands, the old ones are not yet removed
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_a_kill_in_the_middle_of_a_save_changes_nothing(make_trainer, target, place, fatal, kind):
    settings = {"steps": 6, "validate_every": 2, "keep": 1, "average": 1}
    whole = make_trainer("ema", "whole", **settings)
    expected = whole.train()
    original = getattr(target, place)

    def train() -> None:
        trainer = make_trainer("ema", "killed", **settings)

        def deadly(*arguments):
            # The frames of the save say which file it is.
            frame, names = sys._getframe(1), []
            while frame is not None and len(names) < 6:
                names.append(str(frame.f_locals.get("name", "")))
                frame = frame.f_back
            if trainer.step == 4 and any(name.startswith(f"{kind}-4") for name in names):
                fatal(*arguments)
            return original(*arguments)

        with mock.patch.object(target, place, deadly):
            trainer.train()

    assert ended_by(in_child(train)) == -signal.SIGKILL
    resumed = make_trainer("ema", "killed", **settings)
    found = resumed.train()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert_same_runs(whole, resumed)
