"""A stage of a pipeline: a folder that knows how it was made and whether it is complete."""

import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import PartialState

from vqnmt.checksums import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text, locked, remove_leftovers
from vqnmt.progress import print_once
from vqnmt.provenance import current_commit
from vqnmt.settings import to_flat
from vqnmt.training.metrics import METRICS, read_metrics

Settings = TypeVar("Settings")

# Seconds between two writes of the time spent: a kill loses at most this much.
NOTE_EVERY = 30.0


class Stage:
    """One stage: its folder, its settings, the seconds spent on it and the commits of the code.

    Args:
        folder: Folder of the stage's output and its `stage.json`.
        settings: All settings that decide the output, including upstream stages.

    Attributes:
        settings: As in `stage.json`, where there is one that agrees.
        commits: Of the code that has worked on the stage, one after the other.

    Raises:
        VqnmtError: The folder was made with other settings, or its `stage.json` is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.path = folder / "stage.json"
        self.complete, self.seconds = False, 0.0
        self.commits: list[str] = []
        self.checksums: dict[str, str] = {}
        if self.path.exists():
            self._read()

    def has(self, *names: str) -> bool:
        """Return whether the stage is complete and its files `names` still exist.

        Raises:
            VqnmtError: One of its files has changed since.
        """
        if not self.complete and self.path.exists():
            self._read()  # another process may have completed it
        paths = [self.folder / name for name in {*names, *self.checksums}]
        if not (self.complete and all(path.is_file() for path in paths)):
            return False
        for name, checksum in self.checksums.items():
            if file_checksum(self.folder / name) != checksum:
                raise VqnmtError(
                    f"{self.folder / name}: changed or damaged since it was made: remove this file "
                    "and start the same command again, which makes it anew"
                )
        return True

    def trained_already(self, *names: str) -> bool:
        """Return what `has` does of a training's files `names`, and say so.

        Raises:
            VqnmtError: See `has`.
        """
        if found := self.has(*names):
            print_once(f"{self.folder.name}: trained already")
        return found

    @property
    def training_folder(self) -> Path:
        """Folder of the checkpoints and metrics, where the stage trains a model."""
        return self.folder / "training"

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics of the stage's training; see `read_metrics`."""
        return read_metrics(self.training_folder / METRICS)

    @property
    def digest(self) -> str:
        """Digest of the settings, which the settings of later stages contain."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def commit(self) -> str:
        """Commits of the code that has worked on the stage, as text for records."""
        return ", ".join(self.commits) or "unknown"

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            before, self.complete = to_flat(found["settings"]), bool(found["complete"])
            self.seconds = float(found["seconds"])
            self.commits = [str(commit) for commit in found["commits"]]
            self.checksums = {str(k): str(v) for k, v in found["checksums"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
        # Later stages hold a digest of exactly these: null may stand for a key that is missing.
        self.settings = found["settings"]

    def work_unless_it_has(self, *names: str) -> AbstractContextManager[None]:
        """Return `work()`, or an empty context if the stage is complete."""
        return nullcontext() if self.has(*names) else self.work()

    @contextmanager
    def work(self, *names: str) -> Iterator[None]:
        """Measure the time of the block, and mark the stage complete when it succeeds.

        If a block fails before it writes a file, the stage is as if never begun, so that its
        settings can still be changed. Hidden files do not count: they are temporary.

        Args:
            names: Files that the block may write; `has` checks that they do not change.

        Raises:
            VqnmtError: Another command works on this stage, or its folder cannot be made.
        """
        with self._locked():
            before, start = self.seconds, time.perf_counter()
            if _commit() not in self.commits:
                self.commits.append(_commit())
            self.complete, self.checksums = False, {}

            def note() -> None:
                self.seconds = before + time.perf_counter() - start
                self._write()

            note()
            try:
                with _every(NOTE_EVERY, note):
                    yield
                paths = {name: self.folder / name for name in names}
                self.checksums = {n: file_checksum(p) for n, p in paths.items() if p.is_file()}
                self.complete = True
            finally:
                left = self.folder.iterdir() if self.folder.exists() else ()
                if self.complete or any(p != self.path and p.name[0] != "." for p in left):
                    note()
                else:
                    with suppress(OSError):  # other processes do the same
                        self.path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other commands; all processes of this command share the first one's lock."""
        if not PartialState().is_main_process:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VqnmtError(
                f"{self.folder}: the folder cannot be made ({error.strerror}): name another run=..."
            ) from error
        remedy = "which works in this folder: wait for its end, or name another run=..."
        try:
            with locked(self.folder / ".lock", 0, remedy):
                remove_leftovers(self.folder, below=True)
                yield
        finally:
            with suppress(OSError):  # not where something is left
                self.folder.rmdir()

    def _write(self) -> None:
        # Processes of different machines share the file.
        if not PartialState().is_main_process:
            return
        content = {
            "settings": self.settings,
            "complete": self.complete,
            "seconds": self.seconds,
            "commits": self.commits,
            "checksums": self.checksums,
        }
        atomic_write_text(self.path, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class Run(Generic[Settings]):
    """What all stages of a run need."""

    config: Settings
    """All settings."""
    folder: Path
    """Holds a folder for each stage."""
    stages: dict[str, Stage] = field(default_factory=dict)
    """The stages so far, by name."""

    def stage(self, name: str, settings: Mapping[str, Any], after: str | None = None) -> Stage:
        """Open a stage whose settings include a digest of those of the stages before it.

        Args:
            name: Of its folder.
            settings: See `Stage`.
            after: The stage before it.
        """
        if after is not None:
            settings = {**settings, f"digest of {after}": self.stages[after].digest}
        self.stages[name] = Stage(self.folder / name, settings)
        return self.stages[name]

    def branch(self, config: Settings, folder: Path) -> "Run[Settings]":
        """Return a run that shares the stages so far, and puts further ones into `folder`."""
        return replace(self, config=config, folder=folder, stages=dict(self.stages))


@functools.cache
def _commit() -> str:
    """Return the commit of the running code, which the repository may leave meanwhile."""
    return current_commit()


@contextmanager
def _every(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Call `function` periodically while the block runs, ignoring its errors."""
    over = threading.Event()

    def call() -> None:
        while not over.wait(seconds):
            with suppress(OSError, VqnmtError):
                function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def as_text(value: Any) -> str:
    """Write a value as on the command line and in YAML: null, true, 0.1."""
    return value if isinstance(value, str) else json.dumps(value)
