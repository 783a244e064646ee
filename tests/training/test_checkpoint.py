"""Checkpoints and snapshots: complete or absent, averaged rightly; the metrics file."""

import errno
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.training.checkpoint import Checkpoints
from vqnmt.training.metrics import MetricsLog, read_metrics


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps(folder: Path) -> list[str]:
    """Names without their checksums."""
    return sorted({re.sub(r"-[0-9a-f]{16}", "", name) for name in names(folder)})


def load(checkpoints: Checkpoints) -> dict[str, Any] | None:
    path = checkpoints.newest()
    return None if path is None else checkpoints.load(path)


def test_the_newest_checkpoint_is_loaded_and_old_ones_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    assert checkpoints.newest() is None
    for step in (5, 10, 100):  # by number, not by name
        checkpoints.save(step, {"step": step, "values": torch.arange(3)})
    assert steps(tmp_path) == ["checkpoint-10.pt", "checkpoint-100.pt"]
    state = load(checkpoints)
    assert state is not None and state["step"] == 100
    assert state["values"].tolist() == [0, 1, 2]


def test_the_best_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, average=1)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(step, {"step": step}, best)
    assert steps(tmp_path) == ["checkpoint-2.pt", "checkpoint-4.pt"]
    checkpoints.save(5, {"step": 5}, 5)
    assert steps(tmp_path) == ["checkpoint-5.pt"]


def test_the_name_holds_the_checksum(tmp_path):
    Checkpoints(tmp_path, keep=1, average=1).save(7, {"step": 7})
    (path,) = tmp_path.iterdir()
    assert path.name == f"checkpoint-7-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.pt"


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1, average=1)
    checkpoints.save(1, {"step": 1})

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(VqnmtError, match=r"checkpoint-2-\w+\.pt: the disk is full"):
            checkpoints.save(2, {"step": 2})
    assert steps(tmp_path) == ["checkpoint-1.pt"]
    assert load(checkpoints) == {"step": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_truly_full_disk_is_told_as_such(tmp_path, monkeypatch):
    # The temporary file is a link to the device that is always full.
    checkpoints = Checkpoints(tmp_path, keep=1, average=1)
    state = {"step": 2, "values": torch.zeros(100_000)}
    checkpoints.save(2, state)
    (path,) = tmp_path.iterdir()
    path.unlink()
    checkpoints.save(1, {"step": 1})
    monkeypatch.setattr("vqnmt.files._create", lambda path: path.symlink_to("/dev/full"))
    with pytest.raises(VqnmtError, match="the disk is full"):
        checkpoints.save(2, state)
    assert steps(tmp_path) == ["checkpoint-1.pt"]
    assert load(checkpoints) == {"step": 1}


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"empty": 0, "short": 100, "truncated": len(data) - 1}.get(how)])


DAMAGES = ("empty", "short", "truncated", "flipped")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, how, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "values": torch.arange(1000)})
    (newest,) = tmp_path.glob("checkpoint-3-*")
    spoil(newest, how)
    state = load(checkpoints)
    assert state is not None and state["step"] == 2
    assert f"warning: {newest}: damaged" in capsys.readouterr().out
    # It does not take the place of a good one, and goes.
    checkpoints.save(3, {"step": 3})
    assert steps(tmp_path) == ["checkpoint-2.pt", "checkpoint-3.pt"]
    assert load(checkpoints) == {"step": 3}


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    for step in (10, 20):
        checkpoints.save(step, {"step": step})
    (newest,) = tmp_path.glob("checkpoint-20-*")
    spoil(newest, "flipped")
    assert load(checkpoints) == {"step": 10}
    checkpoints.save(25, {"step": 25})  # interrupted before step 20 came again
    assert steps(tmp_path) == ["checkpoint-10.pt", "checkpoint-25.pt"]


def test_only_damaged_checkpoints_do_not_begin_anew(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    for path in tmp_path.iterdir():
        spoil(path, "truncated")
    (tmp_path / "checkpoint-3.pt").write_bytes(b"without a checksum")
    with pytest.raises(VqnmtError, match="none of its 3 checkpoints is whole: remove this folder"):
        checkpoints.newest()
    assert capsys.readouterr().out.count("passed over") == 3


def test_a_checkpoint_that_only_the_first_process_sees_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    with pytest.raises(VqnmtError, match="a file system that all machines share"):
        checkpoints.load(tmp_path / "checkpoint-1-0123456789abcdef.pt")


def test_what_a_killed_process_left_is_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, average=1)
    checkpoints.save(1, {"step": 1})
    (tmp_path / ".checkpoint-2-0123456789abcdef.pt.99.01234567.tmp").write_bytes(b"half")
    (tmp_path / ".weights-2-0123456789abcdef.safetensors.99.01234567.tmp").write_bytes(b"half")
    assert load(checkpoints) == {"step": 1}
    assert steps(tmp_path) == ["checkpoint-1.pt"]


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
        checkpoints.snapshot(step, model.state_dict())
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    assert len(names(tmp_path)) == 3
    found = checkpoints.averaged({"weight", "bias"})
    assert found.keys() == model.state_dict().keys()
    mean = torch.stack([state["weight"] for state in states[1:]]).mean(0)
    torch.testing.assert_close(found["weight"], mean)
    assert torch.equal(found["running_mean"], states[-1]["running_mean"])
    assert found["num_batches_tracked"] == 11


def test_a_damaged_snapshot_is_left_out_of_the_average(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=1, average=3)
    for step in (1, 2, 3):
        checkpoints.snapshot(step, {"weight": torch.full((3,), float(step))})
    (newest,) = tmp_path.glob("weights-3-*")
    spoil(newest, "flipped")
    assert checkpoints.averaged({"weight"})["weight"].tolist() == [1.5] * 3
    assert f"warning: {newest}: damaged" in capsys.readouterr().out


def test_averaging_nothing_is_an_error(tmp_path):
    with pytest.raises(VqnmtError, match="no whole weights"):
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


@pytest.mark.parametrize(
    "broken",
    [
        b'{"step": 2, "lo',
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"loss": 1.0}',
        b'{"step": "2"}',
        b"",
        b"[" * 9999,
        b'{"step": 2, "loss": "x"}',
        b'{"step": 2, "loss": {}}',
    ],
)
def test_a_broken_row_of_metrics_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    rows = [b'{"step": %d, "loss": NaN}' % step for step in (1, 3)]
    path.write_bytes(b"\n".join([rows[0], broken, rows[1], b""]))
    for read in (read_metrics, lambda path: MetricsLog(path.parent, 5)):
        with pytest.raises(VqnmtError, match=r"metrics\.jsonl, line 2: damaged: remove the line"):
            read(path)
    path.write_bytes(b"\n".join([*rows, broken]))
    assert [row["step"] for row in read_metrics(path)] == [1, 3], "the last may be cut off"
    path.write_bytes(b"\n".join(rows))
    assert [row["step"] for row in read_metrics(path)] == [1, 3], "whole, without a line feed"
    path.unlink()
    path.mkdir()
    with pytest.raises(VqnmtError, match=r"metrics\.jsonl: cannot be read"):
        read_metrics(path)


def test_there_are_no_metrics_before_the_file_is_there(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_snapshot_of_another_make_is_refused_in_a_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, average=2)
    checkpoints.snapshot(1, {"weight": torch.ones(2)})
    for trained, weights in (
        ("other", {"weight": torch.ones(2)}),
        ("weight", {"weight": torch.ones(3)}),
    ):
        checkpoints.snapshot(2, weights)
        with pytest.raises(
            VqnmtError, match=r"weights-\d-\w+.safetensors: another version of vqnmt"
        ):
            checkpoints.averaged({trained})


def test_a_checkpoint_that_torch_did_not_write_is_refused_in_a_sentence(tmp_path):
    for content in (b"", b"no checkpoint", b"PK\x03\x04 nor an archive"):
        name = f"checkpoint-3-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VqnmtError, match=f"{name}: another version of vqnmt wrote it"):
            Checkpoints(tmp_path, keep=1, average=1).load(tmp_path / name)
