"""Checkpoints and snapshots: complete or absent, averaged rightly; the metrics file."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.training.checkpoint import Checkpoints
from vqnmt.training.metrics import MetricsLog, read_metrics


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_is_loaded_and_old_ones_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    assert checkpoints.load() is None
    for step in (5, 10, 100):  # by number, not by name
        checkpoints.save(step, {"step": step, "values": torch.arange(3)})
    assert names(tmp_path) == ["checkpoint-10.pt", "checkpoint-100.pt"]
    state = checkpoints.load()
    assert state is not None and state["step"] == 100
    assert state["values"].tolist() == [0, 1, 2]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1, average=1)
    checkpoints.save(1, {"step": 1})

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(VqnmtError, match=r"checkpoint-2\.pt: the disk is full"):
            checkpoints.save(2, {"step": 2})
    assert names(tmp_path) == ["checkpoint-1.pt"]
    assert checkpoints.load() == {"step": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_truly_full_disk_is_told_as_such(tmp_path):
    # torch.save hides the OSError in an error of its own. The temporary file is a link to the
    # device that is always full.
    checkpoints = Checkpoints(tmp_path, keep=1, average=1)
    checkpoints.save(1, {"step": 1})
    (tmp_path / f".checkpoint-2.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(VqnmtError, match="the disk is full"):
        checkpoints.save(2, {"step": 2, "values": torch.zeros(100_000)})
    assert names(tmp_path) == ["checkpoint-1.pt"]
    assert checkpoints.load() == {"step": 1}


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, size):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    for step in (1, 2):
        checkpoints.save(step, {"step": step, "values": torch.arange(1000)})
    path = tmp_path / "checkpoint-2.pt"
    data = path.read_bytes()
    path.write_bytes(data[:size] if size >= 0 else data[: len(data) // 2])
    with pytest.raises(VqnmtError, match=r"checkpoint-2\.pt: not a complete checkpoint"):
        checkpoints.load()
    path.unlink()  # as the message says
    state = checkpoints.load()
    assert state is not None and state["step"] == 1


def test_an_error_while_saving_leaves_no_temporary_file(tmp_path, monkeypatch):
    def broken(state, file, *args, **kwargs):
        Path(file).write_bytes(b"half") if isinstance(file, str | Path) else file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path, keep=1, average=1).save(1, {})
    assert names(tmp_path) == []


def test_averaged_weights_are_the_mean_of_the_last_snapshots(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, average=3)
    model = nn.BatchNorm1d(4)  # has parameters, buffers and an integer
    states = []
    for step in (8, 9, 10, 11):
        with torch.no_grad():
            model.weight.normal_()
            model.running_mean.normal_()
            model.num_batches_tracked.fill_(step)
        checkpoints.snapshot(step, model)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    assert len(names(tmp_path)) == 3
    found = checkpoints.averaged({"weight", "bias"})
    assert found.keys() == model.state_dict().keys()
    mean = torch.stack([state["weight"] for state in states[1:]]).mean(0)
    torch.testing.assert_close(found["weight"], mean)
    assert torch.equal(found["running_mean"], states[-1]["running_mean"])
    assert found["num_batches_tracked"] == 11


def test_averaging_nothing_is_an_error(tmp_path):
    with pytest.raises(VqnmtError, match="no weights"):
        Checkpoints(tmp_path, keep=1, average=1).averaged(set())


def test_metrics_are_cut_back_to_the_step_of_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2, "usage": [step, 0]})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # a crash in the middle of a row
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    log = MetricsLog(tmp_path, 2)
    log.write(3, {"loss": 9.0})
    log.close()
    expected = [
        {"step": 1, "loss": 0.5, "usage": [1, 0]},
        {"step": 2, "loss": 1.0, "usage": [2, 0]},
        {"step": 3, "loss": 9.0},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
