"""What launchers leave in the environment: joined, waited for aloud, or refused in one sentence."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.training import distribution
from vqnmt.training.distribution import _launched, _waiting_aloud

ROOT = Path(__file__).parent.parent.parent
NAMES = [*(name for pair in distribution._LAUNCHERS for name in pair), "LOCAL_RANK"]
PLACE = "MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets nothing but the variables of a line."""
    for name in (*NAMES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def put(line: str) -> None:
        for pair in line.split():
            monkeypatch.setenv(*pair.split("="))

    return put


@pytest.mark.parametrize(
    ("line", "gpu", "processes"),
    [
        ("", False, 1),
        ("MASTER_ADDR=host MASTER_PORT=1", False, 1),  # as some clusters' profiles have it
        ("WORLD_SIZE=1 RANK=0", False, 1),
        ("WORLD_SIZE=1", True, 1),
        (f"WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 {PLACE}", True, 1),  # torchrun with one process
        (f"WORLD_SIZE=4 RANK=3 LOCAL_RANK=1 {PLACE}", True, 4),
        (f"WORLD_SIZE=2 RANK=1 {PLACE}", False, 2),
        (f"WORLD_SIZE=2 RANK=1 LOCAL_RANK=0 PMI_SIZE=8 {PLACE}", False, 2),
        ("PMI_SIZE=1 PMI_RANK=0", False, 1),
        ("PMI_SIZE=4", True, 1),  # accelerate asks it of processes on CPUs alone
        ("OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2 MASTER_ADDR=host", False, 3),
    ],
)
def test_complete_sets(environment, line: str, gpu: bool, processes: int) -> None:
    environment(line)
    assert _launched(gpu) == processes


@pytest.mark.parametrize(
    ("line", "gpu", "message"),
    [
        ("WORLD_SIZE=2", False, "^the environment has WORLD_SIZE=2, but RANK and MASTER_ADDR and"),
        ("WORLD_SIZE=2", False, "unset WORLD_SIZE to train alone, or start by torchrun"),
        (f"WORLD_SIZE=2 RANK=0 {PLACE}", True, "WORLD_SIZE=2, RANK=0, but LOCAL_RANK is not set"),
        ("RANK=1", False, "has RANK=1, but WORLD_SIZE and MASTER_ADDR and MASTER_PORT are not set"),
        ("LOCAL_RANK=0", False, "has LOCAL_RANK=0, but WORLD_SIZE and RANK and"),
        ("WORLD_SIZE=2 RANK=0 MASTER_ADDR=x", False, "but MASTER_PORT is not set: unset WORLD_SI"),
        ("PMI_SIZE=2", False, "^the environment has PMI_SIZE=2, but PMI_RANK and MASTER_ADDR are"),
        ("PMI_SIZE=2 PMI_RANK=1", False, "PMI_SIZE=2, PMI_RANK=1, but MASTER_ADDR is not set"),
        ("WORLD_SIZE=1 RANK=0 MV2_COMM_WORLD_SIZE=2", False, "has MV2_COMM_WORLD_SIZE=2, but"),
        ("WORLD_SIZE=two", False, "has WORLD_SIZE=two, which is not a number: unset WORLD_SIZE"),
        (f"WORLD_SIZE=2 RANK=2 {PLACE}", False, "WORLD_SIZE=2, RANK=2: ranks count from 0"),
    ],
)
def test_incomplete_sets_are_named(environment, line: str, gpu: bool, message: str) -> None:
    environment(line)
    with pytest.raises(VqnmtError, match=message) as caught:
        _launched(gpu)
    assert "\n" not in str(caught.value)


def test_who_is_waited_for_is_said(environment, monkeypatch, capsys) -> None:
    environment(PLACE)
    monkeypatch.setattr(distribution, "_PATIENCE", 0.02)
    before = signal.getsignal(signal.SIGINT)
    with _waiting_aloud(2):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        time.sleep(0.2)
    assert signal.getsignal(signal.SIGINT) is before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[0].startswith("waiting for 1 of 2 processes at 127.0.0.1: ")
    with _waiting_aloud(1):
        time.sleep(0.1)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_process_that_waits_in_vain_says_so_and_can_be_interrupted() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from vqnmt.training import distribution; distribution._PATIENCE = 0.1; "
        "distribution.join_processes()"
    )
    names = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | names | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = next(line for line in process.stderr if line.startswith("waiting"))
            assert "1 of 2 processes" in said and "unset WORLD_SIZE" in said
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == -signal.SIGINT
        finally:
            process.kill()
