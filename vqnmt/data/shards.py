"""Work over a long text in shards: files that machines share and that survive a crash.

The first process of each machine, with all of its cores, makes every n-th shard. Then the first of
all goes through them in their order, makes what it does not find, and merges: the result is the
same whatever the number of machines, because a shard depends only on its place in the text.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from vqnmt.files import atomic_path

Arrays = dict[str, NDArray[Any]]


class Shards:
    """The shards of one piece of work, in a hidden folder until it is done.

    Args:
        folder: The folder of the result.
        keys: Everything that decides the shards; shards of other keys are ignored.
    """

    def __init__(self, folder: Path, *keys: str | int) -> None:
        digest = hashlib.sha256(repr(keys).encode()).hexdigest()
        self._result, self._folder = folder, folder / f".shards-{digest[:16]}"

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}"

    def read(self, number: int) -> Arrays | None:
        """Return a shard; None where it is missing or damaged."""
        try:
            content = memoryview(self._path(number).read_bytes())
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        with np.load(io.BytesIO(content[32:])) as arrays:
            return dict(arrays)

    def write(self, number: int, shard: Arrays) -> None:
        """Save a shard, completely or not at all.

        Raises:
            VqnmtError: The disk is full or the place cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **shard)  # type: ignore[arg-type]  # none is called allow_pickle
        content = buffer.getbuffer()
        with atomic_path(self._path(number)) as path, open(path, "wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)

    def share(
        self,
        make: Callable[[int, int], Iterable[Arrays]],
        merge: Callable[[Iterable[Arrays]], None],
    ) -> None:
        """Let the machines make shards, then the first process merge them; all processes call this.

        Args:
            make: Given m and n, yields the shards whose numbers are m modulo n, in their order:
                those that are there as they are, the others made, and saved as far as wanted.
            merge: Writes the result of all shards, which are then removed.
        """
        state = PartialState()
        machines = 1
        if state.num_processes > 1:  # torchrun, and accelerate with it, counts the machines so
            machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))
        if machines > 1:
            if state.is_local_main_process:
                for _ in make(int(os.environ["GROUP_RANK"]), machines):
                    pass
            state.wait_for_everyone()
        if state.is_main_process:
            merge(make(0, 1))
            for folder in self._result.glob(".shards-*"):  # those of other keys too
                shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()


def joined(pieces: Sequence[Arrays]) -> Arrays:
    """Join arrays of the same names along their first dimension."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
