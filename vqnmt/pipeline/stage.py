"""A stage of a pipeline: a folder that knows how it was made and whether it is complete."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text
from vqnmt.settings import to_flat


class Stage:
    """One stage: its folder, its settings and the seconds spent on it.

    Args:
        folder: Where the stage's output stands, with a `stage.json` beside it.
        settings: All that decides the output, upstream stages included.

    Raises:
        VqnmtError: The folder was made with other settings, or its `stage.json` is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.path = folder / "stage.json"
        self.complete, self.seconds = False, 0.0
        if self.path.exists():
            self._read()

    def has(self, *names: str) -> bool:
        """Say whether the stage is complete, by now, and its files `names` are still there."""
        if not self.complete and self.path.exists():
            self._read()  # another process may have completed it
        return self.complete and all((self.folder / name).is_file() for name in names)

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            before, self.complete = to_flat(found["settings"]), bool(found["complete"])
            self.seconds = float(found["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise VqnmtError(
                f"{self.path}: damaged ({type(error).__name__}): remove the folder to make it anew"
            ) from error
        now = to_flat(self.settings)
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise VqnmtError(
                    f"{self.folder} was made with {key}={as_text(before.get(key))}, now asked for "
                    f"is {as_text(now.get(key))}: name another run=..., or remove this folder"
                )

    def work_unless_it_has(self, *names: str) -> AbstractContextManager[None]:
        """Return `work()`, or nothing to enter where the stage is complete."""
        return nullcontext() if self.has(*names) else self.work()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the time of the block, and mark the stage complete when it succeeds.

        A block that fails before it leaves anything behind leaves the stage as if never begun,
        so that its settings can still be changed. Hidden files do not count: they are scratch.

        Raises:
            VqnmtError: Another command works on this stage.
        """
        with self._locked():
            self._write()
            start = time.perf_counter()
            try:
                yield
                self.complete = True
            finally:
                self.seconds += time.perf_counter() - start
                left = self.folder.iterdir() if self.folder.exists() else ()
                if self.complete or any(p != self.path and p.name[0] != "." for p in left):
                    self._write()
                else:
                    with suppress(OSError):  # other processes do the same
                        self.path.unlink()

    def count_at_least(self, seconds: float) -> None:
        """Take earlier work as this long where less was counted: who is killed writes no time."""
        self.seconds = max(self.seconds, seconds)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other commands out; the processes of this one share what its first has locked."""
        if not PartialState().is_main_process:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".lock"
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise VqnmtError(
                f"{path}: held by another process, which works in this folder: wait for its end, "
                "or name another run=..."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # still held: who waits for it sees that its name is gone
            lock.release()
            with suppress(OSError):  # not where something is left
                self.folder.rmdir()

    def _write(self) -> None:
        # Processes of different machines may have one number, and so one temporary file.
        if not PartialState().is_main_process:
            return
        content = {"settings": self.settings, "complete": self.complete, "seconds": self.seconds}
        atomic_write_text(self.path, json.dumps(content, indent=2) + "\n")


def as_text(value: Any) -> str:
    """Write a value as on the command line and in YAML: null, true, 0.1."""
    return value if isinstance(value, str) else json.dumps(value)
