"""Files that are either complete or absent, whatever interrupts the writer."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vqnmt.errors import VqnmtError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_PLACE = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


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

    The temporary file is flushed to disk before the move, so that `path` holds either its old
    or its new content even after a power cut. On any failure the temporary file is removed and
    `path` stays as it was.

    Raises:
        VqnmtError: The disk is full or the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
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
