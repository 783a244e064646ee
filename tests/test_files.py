"""Files are complete or absent; a full disk leaves the old file and says so."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from vqnmt.errors import VqnmtError
from vqnmt.files import (
    atomic_path,
    atomic_write_text,
    check_writable,
    locked,
    remove_leftovers,
    temporary_folder,
)


def test_writes_utf8_with_line_feeds_into_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    atomic_write_text(path, "ä\r\n…\n")
    assert path.read_bytes() == "ä\r\n…\n".encode()
    atomic_write_text(path, "second")
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def save_with_torch(path: Path) -> None:
    torch.save({"weights": torch.zeros(100_000)}, path)


def save_with_numpy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(100_000))


def save_with_safetensors(path: Path) -> None:
    # Its writer does not go through the name it is given: this is what it says on a full disk.
    raise SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
@pytest.mark.parametrize(
    "save",
    [
        lambda path: path.write_text("new"),
        save_with_torch,
        save_with_numpy,
        save_with_safetensors,
    ],
    ids=["text", "torch", "numpy", "safetensors"],
)
def test_full_disk_keeps_the_old_file_and_says_so(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with (
        pytest.raises(VqnmtError, match="file: the disk is full; the previous file is untouched"),
        atomic_path(path) as temporary,
    ):
        temporary.unlink()
        temporary.symlink_to("/dev/full")  # accepts to be opened, refuses every byte
        save(temporary)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VqnmtError, match="cannot be written"):
        atomic_write_text(tmp_path / "file" / "inside", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(VqnmtError, match="folder: cannot be written"):
        atomic_write_text(tmp_path / "folder", "x")


def test_other_faults_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "file"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert caught.value.errno == errno.EIO
    with pytest.raises(RuntimeError, match="bug"), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError("bug")


def test_a_link_laid_under_a_foreseen_name_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)
    names = []
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            names.append(temporary.name)
            assert not temporary.is_symlink() and temporary.read_bytes() == b""
            temporary.write_text(text)
    assert victim.read_text() == "precious" and path.read_text() == "two"
    assert names[0] != names[1]


def test_of_a_link_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(real)  # which need not be there yet
    for text in ("new", "newer"):
        atomic_write_text(link, text)
        assert link.is_symlink() and real.read_text() == text and not real.is_symlink()


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VqnmtError, match=r"pipe: cannot be replaced .it is no regular file"):
        atomic_write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_names_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / ("ä" * 127), "x")
    with pytest.raises(VqnmtError, match=r"cannot be written .File name too long"):
        atomic_write_text(tmp_path / ("ä" * 128), "x")


KILLED = """
import os, signal, sys
from pathlib import Path
from vqnmt.files import atomic_path, temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder, atomic_path(sys.argv[1] + "/file") as path:
    (folder / "inside").write_text("half")
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for folder in (tmp_path, tmp_path / "deep"):
        subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert len(list(tmp_path.iterdir())) == 3 and len(list((tmp_path / "deep").iterdir())) == 2
    mine = [tmp_path / name for name in ("file.tmp", ".tmp", ".notes.tmp", ".a.b.tmp")]
    for path in mine:
        path.write_text("the user's own")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "deep"])
    assert len(list((tmp_path / "deep").iterdir())) == 2
    remove_leftovers(tmp_path, below=True)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_disk_that_cannot_flush_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    atomic_write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_a_failing_disk_is_no_disk_that_cannot_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        atomic_write_text(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    # No other kind of lock either, which would stay after a kill.
    with locked(tmp_path / "lock", 0, "wait"), locked(tmp_path / "lock", 0, "wait"):
        (tmp_path / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        locked(tmp_path / "lock", 0, "wait"),
        pytest.raises(VqnmtError, match="lock: held by another process, start it later"),
        locked(tmp_path / "lock", 0.2, "start it later"),
    ):
        pass
    assert time.monotonic() - start >= 0.2 and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_and_nothing_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/no/such")):
        with pytest.raises(VqnmtError, match=f"run={bad}: .* cannot be written .*another folder"):
            check_writable(bad, "run")
    for good in (tmp_path, tmp_path / "new" / "folder"):
        check_writable(good, "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with temporary_folder(tmp_path) as folder:
        check_writable(folder, "run")
