"""Two processes train one model, write its folder once, and stop together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vqnmt.training.metrics import read_metrics

from .conftest import (
    WHOLE,
    Planned,
    TinyBatches,
    assert_same_gradients,
    plain_model,
    watch_gradients,
)

pytestmark = pytest.mark.distributed


def launch(kind: str, folder: Path, signalled: int = -1) -> list[dict]:
    """Run two processes to their end; return what each left."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        worker = Path(__file__).with_name("distributed_worker.py")
        command = [sys.executable, str(worker), kind, str(folder), str(signalled)]
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", ["autoregressive", "ema"])
def test_two_processes_train_one_model(tmp_path, kind):
    # With a continuous start some parameters have no gradient in the first steps.
    first, second = launch(kind, tmp_path / "run")
    assert first["step"] == second["step"] == 8
    for part in ("weights", "averaged"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)
    steps = [
        row["step"]
        for row in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if "train/total" in row
    ]
    assert steps == list(range(1, 9))  # one process writes


def test_two_processes_have_the_gradient_of_one(tmp_path, make_trainer):
    # Three batches accumulated, one with a single pair for both, against one batch of all pairs.
    found = launch("plain", tmp_path / "two")
    trainer = make_trainer(plain_model(), batches=Planned(*WHOLE), steps=1)
    expected = watch_gradients(trainer)
    trainer.train()
    for state in found:
        assert_same_gradients(state["gradients"][0], expected[0])


def test_two_stopped_processes_go_on_as_if_never_stopped(tmp_path):
    # Each with its own dropout and its own counts of used codes.
    whole = launch("ema", tmp_path / "whole")
    stopped = launch("ema", tmp_path / "stopped", signalled=1)
    assert stopped[0]["step"] in (3, 4)
    resumed = launch("ema", tmp_path / "stopped")
    for rank in range(2):
        for name, value in whole[rank]["weights"].items():
            assert torch.equal(value, resumed[rank]["weights"][name]), (rank, name)
    rows = [
        [
            {key: value for key, value in row.items() if "per_second" not in key}
            for row in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "stopped")
    ]
    assert rows[0] == rows[1]
    # The first two steps are in the continuous start. A code stands for two tokens, and the
    # single pair of the fourth batch is counted once, by the one process that has it.
    (usage,) = (row["epoch/usage"] for row in rows[0] if "epoch/usage" in row)
    assert sum(usage) == sum(-(-len(target) // 2) for target in TinyBatches().rows[1][12:])


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path, signalled):
    first, second = launch("autoregressive", tmp_path / "run", signalled)
    assert first["step"] == second["step"]
    assert first["step"] in (3, 4)
    for state in (first, second):
        assert "interrupted" in state["averaged"]["error"]
    assert (tmp_path / "run" / f"checkpoint-{first['step']}.pt").exists()
