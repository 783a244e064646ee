"""Checksums of a model folder, of text and image models.

`SHA256SUMS` is written into every model folder, in the form that `sha256sum -c` reads. It lists the
files of the model and no other: README.md and what else is put beside them may change. A folder
without it is read as it is: a user who changes a file on purpose removes it.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text
from vqnmt.streams import check_rereadable

CHECKSUMS = "SHA256SUMS"
AGAIN = "copy the folder again or save the model anew"

# The most bytes of files that are read into memory as a whole.
_MOST_BYTES = {CHECKSUMS: 1 << 20, "config.json": 1 << 24, "spm.model": 1 << 28}


def file_checksum(path: Path, algorithm: str = "sha256") -> str:
    """Return "algorithm:hex" of a file's bytes, read in blocks.

    Raises:
        VqnmtError: The file is missing or unreadable, or no regular file: it will be read again.
    """
    check_rereadable(path)
    try:
        return f"{algorithm}:{_digest(path, algorithm)}"
    except FileNotFoundError as error:
        raise VqnmtError(f"{path}: there is no such file: check the path") from error
    except OSError as error:
        raise VqnmtError(f"{path}: cannot be read ({error.strerror}): check the path") from error


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` of the files `names`, paths within `folder` with forward slashes.

    Raises:
        VqnmtError: The disk is full or the folder cannot be written.
    """
    lines = [f"{_digest(folder / name)}  {name}\n" for name in sorted(names)]
    atomic_write_text(folder / CHECKSUMS, "".join(lines))


def check_files(folder: Path, files: Sequence[str]) -> None:
    """Refuse a model folder with a file that is missing, too large or changed.

    Args:
        folder: The model folder.
        files: Names of files that it must have, besides those that its `SHA256SUMS` lists.

    Raises:
        VqnmtError: Names the file.
    """
    for name in _MOST_BYTES:
        refuse_large(folder, name)
    listed = _read_checksums(folder)
    for name in (*files, *listed):
        if not (folder / name).is_file():
            raise VqnmtError(
                f"{folder / name}: missing, so the model folder is incomplete: {AGAIN}"
            )
    for name, checksum in listed.items():
        if _digest(folder / name) != checksum:
            raise VqnmtError(
                f"{folder / name}: is not the file that was saved, by its checksum in {CHECKSUMS}: "
                f"copy the folder again, or remove {CHECKSUMS} if the change is meant"
            )


def refuse_large(folder: Path, name: str) -> None:
    """Refuse the file `name` of a model folder if it is larger than any good one.

    Raises:
        VqnmtError: Names the file and its size.
    """
    path, most = folder / name, _MOST_BYTES[name]
    if path.is_file() and (size := path.stat().st_size) > most:
        raise VqnmtError(f"{path}: has {size:,} bytes, but {most:,} at most are read: {AGAIN}")


def _digest(path: Path, algorithm: str = "sha256") -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _read_checksums(folder: Path) -> dict[str, str]:
    """Return the listed files with their checksums; none where there is no list."""
    place = folder / CHECKSUMS
    if not place.is_file():
        return {}
    lines = place.read_bytes().splitlines()
    found = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([ -~]+)", line.decode(errors="replace"))
        path = PurePosixPath(match[2]) if match else PurePosixPath("/")
        if match is None or path.is_absolute() or ".." in path.parts:
            raise VqnmtError(
                f"{place}, line {number}: is no checksum of a file in this folder: {AGAIN}"
            )
        found[match[2]] = match[1]
    return found
