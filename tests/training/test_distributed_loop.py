"""Two processes train one model as one would, write its folder once, and stop together."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from vqnmt.training.metrics import read_metrics

from .conftest import (
    EXACT,
    WHOLE,
    Planned,
    TinyBatches,
    assert_same_gradients,
    plain_model,
    train_exact,
    watch_gradients,
)
from .distributed_worker import run_rank

pytestmark = pytest.mark.distributed


def launch(kind: str, folder: Path, signalled: int = -1, status: int = 0) -> list[dict]:
    """Run two processes to their end, which must have `status`; return what each left."""
    for found, errors in run_processes(run_rank, kind, folder, signalled, folder=folder):
        assert found == status, errors[-2000:]
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


def rows(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    found = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in found]


def assert_close_rows(one: Path, other: Path) -> None:
    """Compare all losses and statistics to 1e-5, and the codes used to the last one."""
    ours, theirs = rows(one), rows(other)
    assert len(ours) == len(theirs)
    for row, expected in zip(ours, theirs, strict=True):
        used = row.pop("epoch/code_usage", None)
        assert used == expected.pop("epoch/code_usage", None), row["step"]
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5), row["step"]


# --- one process and two ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact_single(tmp_path_factory) -> dict:
    """Folder and weights of each model, trained by one process."""
    folder = tmp_path_factory.mktemp("single")
    trainers = {kind: train_exact(kind, folder / kind) for kind in EXACT}
    return {
        kind: (trainer.folder, trainer.inner.state_dict()) for kind, trainer in trainers.items()
    }


def test_two_processes_train_as_one(tmp_path, exact_single, capsys):
    found = launch(" ".join(("exact", *EXACT)), tmp_path)
    for kind in EXACT:
        folder, expected = exact_single[kind]
        assert_close_rows(tmp_path / kind, folder)
        codebook = [name for name in expected if "codebook." in name]
        assert len(codebook) > 4
        for name in codebook:
            for rank in range(2):
                torch.testing.assert_close(
                    found[rank][kind][name], expected[name], rtol=1e-5, atol=1e-5, msg=name
                )
        # One process goes on from the two's checkpoint of step 25.
        for path in (tmp_path / kind).glob("*-50-*"):
            path.unlink()
        resumed = train_exact(kind, tmp_path / kind)
        assert "resumed at step 25, processes: 1, before 2" in capsys.readouterr().out
        assert_close_rows(tmp_path / kind, folder)
        for name in codebook:
            torch.testing.assert_close(
                resumed.inner.state_dict()[name], expected[name], rtol=1e-5, atol=1e-5, msg=name
            )


def test_one_processes_checkpoint_is_resumed_by_two(tmp_path, exact_single):
    folder, _ = exact_single["ema"]
    shutil.copytree(folder, tmp_path / "ema")
    for path in (tmp_path / "ema").glob("*-50-*"):
        path.unlink()
    launch("exact ema", tmp_path)
    assert_close_rows(tmp_path / "ema", folder)


def test_two_processes_have_the_gradient_of_one(tmp_path, make_trainer):
    # Three batches accumulated, one with a single pair for both, against one batch of all pairs.
    found = launch("plain", tmp_path / "two")
    trainer = make_trainer(plain_model(), batches=Planned(*WHOLE), steps=1)
    expected = watch_gradients(trainer)
    trainer.train()
    parameters = sum(parameter.numel() for parameter in trainer.inner.parameters())
    for state in found:
        assert_same_gradients(state["gradients"][0], expected[0])
        assert sum(state["sums"]) == parameters, "the gradient is summed up once a step"


# --- random numbers, faults and signals ------------------------------------------------------


@pytest.mark.parametrize("kind", ["autoregressive", "ema"])
def test_two_processes_train_one_model(tmp_path, kind):
    # With a continuous start some parameters have no gradient in the first steps.
    first, second = launch(kind, tmp_path / "run")
    assert first["step"] == second["step"] == 8
    for part in ("weights", "averaged"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)
    steps = [row["step"] for row in rows(tmp_path / "run") if "train/total" in row]
    assert steps == list(range(1, 9))  # one process writes


def test_two_stopped_processes_go_on_as_if_never_stopped(tmp_path):
    # Each with its own dropout and its own counts of used codes.
    whole = launch("ema", tmp_path / "whole")
    stopped = launch("ema", tmp_path / "stopped", signalled=1, status=143)
    assert stopped[0]["step"] == stopped[1]["step"]
    assert stopped[0]["step"] in (3, 4)
    for state in stopped:
        assert f"terminated at step {state['step']} and saved" in state["error"]
    resumed = launch("ema", tmp_path / "stopped")
    for rank in range(2):
        for name, value in whole[rank]["weights"].items():
            assert torch.equal(value, resumed[rank]["weights"][name]), (rank, name)
    found = [rows(tmp_path / name) for name in ("whole", "stopped")]
    assert found[0] == found[1]
    # The first two steps are in the continuous start. A code stands for two tokens, and the
    # single pair of the fourth batch is counted once, by the one process that has it.
    (usage,) = (row["epoch/code_usage"] for row in found[0] if "epoch/code_usage" in row)
    assert sum(usage) == sum(-(-len(target) // 2) for target in TinyBatches().rows[1][12:])


def test_a_fault_in_one_process_is_skipped_by_both(tmp_path):
    first, second = launch("faulty", tmp_path / "run")
    assert first["step"] == second["step"] == 8
    assert first["skipped"] == second["skipped"] == 3
    for name, value in first["weights"].items():
        assert value.isfinite().all(), name
        assert torch.equal(value, second["weights"][name]), name
    steps = [row["step"] for row in rows(tmp_path / "run") if "train/total" in row]
    assert steps == [1, 2, 4, 6, 8]
