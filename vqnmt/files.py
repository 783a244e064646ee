"""Files that are either complete or absent, whatever interrupts the writer.

A file is written beside its destination under an unpredictable name,
`.<name>.<process>.<8 characters>.tmp`, and then moved. `remove_leftovers` removes the temporary
files of killed processes.
"""

import contextlib
import errno
import functools
import glob
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from vqnmt.errors import VqnmtError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)
# Errors of network and user-space file systems for operations that only local disks support.
UNSUPPORTED = (
    *(errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.ENODEV),
)
_TEMPORARY = re.compile(r"\..+\.\d+\.[a-z0-9_]{8}\.tmp")


def shipped(name: str) -> Path:
    """Return a folder that comes with vqnmt: in an installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def as_path(given: Path | str, name: str) -> Path:
    """Return the path that a caller has given.

    Raises:
        VqnmtError: It is no path, or empty; calls it `name`.
    """
    if not isinstance(given, str | os.PathLike) or given == "":
        kind = type(given).__name__
        raise VqnmtError(f"{name} is {given!r:.80} ({kind}): give a path, as text or a Path")
    return Path(given)


def _is_full(temporary: Path, error: Exception) -> bool:
    """Find out why a write failed: torch, numpy and safetensors hide the number of the fault."""
    if os.strerror(errno.ENOSPC) in str(error):
        return True
    if temporary.exists():  # ask the disk itself
        try:
            with open(temporary, "ab") as file:
                file.write(bytes(2**20))
        except OSError as error:
            return error.errno in FULL
    return False


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `path` and move it onto `path` when the block succeeds.

    The temporary file is there already, empty. It is flushed to disk before the move, so that
    `path` holds either its old or its new content even after a power cut. On any failure the
    temporary file is removed and `path` stays as it was. If `path` is a symbolic link, its target
    is replaced and the link stays.

    Raises:
        VqnmtError: The disk is full, the place cannot be written, or a device or pipe is there.
    """
    path = Path(path)
    place = Path(os.path.realpath(path)) if os.path.islink(path) else path
    # A name may have 255 bytes.
    temporary = place.with_name(f".{place.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        _check_kind(place, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        _create(temporary)
        yield temporary
        _flush(temporary)
        os.replace(temporary, place)
    except VqnmtError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or (number is None and _is_full(temporary, error)):
            raise VqnmtError(
                f"{path}: the disk is full; the previous file is untouched: "
                "free some space and start the same command again"
            ) from error
        if number in NO_PLACE:
            raise VqnmtError(f"{path}: cannot be written ({os.strerror(number)})") from error
        raise
    finally:
        with contextlib.suppress(OSError):  # there is none, or not even a folder for it
            temporary.unlink()


def _check_kind(place: Path, path: Path) -> None:
    """Refuse to put a file where a device, a pipe or a socket is."""
    with contextlib.suppress(OSError):
        mode = place.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise VqnmtError(f"{path}: cannot be replaced (it is no regular file): name a file")


def _create(path: Path) -> None:
    """Create an empty file; an existing file or link of this name is an error."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666))


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            warn_once(
                "files cannot be flushed to this disk, and a power cut may lose the last of them"
            )


@functools.cache
def warn_once(sentence: str) -> None:
    """Print a warning, the same one once."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def atomic_open(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file for bytes that becomes `path` when the block succeeds; see `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text` to `path` completely or not at all.

    Raises:
        VqnmtError: The disk is full or the place cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def atomic_write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write `lines`, which hold no line feed, in UTF-8 to `path`, all of them or none.

    Raises:
        VqnmtError: The disk is full or the place cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(line + "\n" for line in lines)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, removed afterwards, or by `remove_leftovers` after a kill."""
    prefix = f".folder.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, suffix=".tmp") as folder:
        yield Path(folder)


def remove_leftovers(folder: Path, name: str = "", *, below: bool = False) -> None:
    """Remove temporary files and folders that killed processes have left in `folder`.

    Args:
        folder: No other process may write there now.
        name: Only those of this file.
        below: Whether subfolders are searched too.
    """
    pattern = f".{glob.escape(name[:50])}.*.tmp" if name else ".*.tmp"
    for path in [*(folder.rglob if below else folder.glob)(pattern)]:
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def check_writable(folder: Path | str, key: str) -> None:
    """Refuse, before hours of work, a folder that cannot be made or written; leave no trace.

    Args:
        folder: It need not be there yet.
        key: The setting that names it, for the message.

    Raises:
        VqnmtError: Says why not.
    """
    place = Path(folder).absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    temporary = place / f".probe.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        _create(temporary)
    except OSError as error:
        raise VqnmtError(
            f"{key}={folder}: {place} cannot be written ({error.strerror}): name another folder"
        ) from error
    temporary.unlink()


@contextlib.contextmanager
def locked(path: Path, seconds: float, remedy: str) -> Iterator[None]:
    """Keep other processes out of the block while it runs, by a lock on the file `path`.

    The file is removed afterwards. A process that is killed locks nothing. Where the file system
    has no locks, the block runs without one, after a warning.

    Args:
        path: Of the lock file, in a folder that is there.
        seconds: How long to wait for another process.
        remedy: What the user can do if that is too short.

    Raises:
        VqnmtError: Another process holds the lock.
    """
    lock = FileLock(path, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise VqnmtError(f"{path}: held by another process, {remedy}") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn_once("this disk has no locks: start only one command at a time that writes there")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still held: who waits for it sees that its name is gone
        lock.release()
