"""Files are complete or absent; a full disk leaves the old file and says so."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text


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
