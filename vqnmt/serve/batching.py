"""Requests that arrive together are translated together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

Work = Callable[[list[str], int], list[list[Any]]]
"""Takes sentences and how many translations of each; returns them, the best first."""


Result = TypeVar("Result")


class QueueFull(Exception):
    """Too many sentences wait."""


@dataclass(slots=True)
class _Job:
    sentences: list[str]
    candidates: int
    done: asyncio.Future[list[list[Any]]]


class Batcher:
    """Collects the sentences of requests and translates them in one thread, a batch at a time.

    While a batch is being translated the next one gathers. A request that finds the thread idle
    waits for others for `wait` seconds.

    Args:
        work: Translates; a translation must not depend on the other sentences of its batch.
        wait: Seconds.
        batch: Sentences of a batch; a request of more is a batch of its own.
        queue: Sentences that may wait; a request of more must be the only one.
        observe: Told of the number of sentences of each batch.
    """

    def __init__(
        self,
        work: Work,
        *,
        wait: float,
        batch: int,
        queue: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._wait, self.batch, self._limit = work, wait, batch, queue
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "translation")
        self.waiting = 0
        """Sentences that wait now."""

    async def translate(self, sentences: Sequence[str], candidates: int = 1) -> list[list[Any]]:
        """Translate sentences as soon as it is their turn.

        Raises:
            QueueFull: Too many wait already.
            TimeoutError: Of `asyncio.timeout` around the call; they are then translated no more.
        """
        if not sentences:
            return []
        if self.waiting and self.waiting + len(sentences) > self._limit:
            raise QueueFull
        job = _Job(list(sentences), candidates, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(sentences)
        self._arrived.set()
        return await job.done

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run other work of the model in the thread, between two batches.

        Raises:
            QueueFull: Too much waits already.
        """
        if self.waiting >= self._limit:
            raise QueueFull
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.waiting -= 1

    async def run(self) -> None:
        """Translate what arrives until cancelled."""
        try:
            while True:
                idle = not self._jobs
                await self._arrived.wait()
                if idle and self._wait and self.waiting < self.batch:
                    await asyncio.sleep(self._wait)
                jobs = self._take()
                if jobs:
                    await self._translate(jobs)
        finally:
            self._thread.shutdown(wait=False)

    def _take(self) -> list[_Job]:
        """Take what waits, in order, up to a batch; all of one number of candidates."""
        taken: list[_Job] = []
        size = 0
        while self._jobs:
            job = self._jobs[0]
            fits = size + len(job.sentences) <= self.batch
            if taken and not (fits and job.candidates == taken[0].candidates):
                break
            self._jobs.popleft()
            self.waiting -= len(job.sentences)
            if not job.done.done():  # its client waits no more
                taken.append(job)
                size += len(job.sentences)
        if not self._jobs:
            self._arrived.clear()
        return taken

    async def _translate(self, jobs: list[_Job]) -> None:
        sentences = [sentence for job in jobs for sentence in job.sentences]
        self._observe(len(sentences))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._thread, self._work, sentences, jobs[0].candidates
            )
        except Exception as error:
            if len(jobs) > 1:  # one of them is at fault, and only that one shall fail
                for job in jobs:
                    await self._translate([job])
                return
            with contextlib.suppress(asyncio.InvalidStateError):
                jobs[0].done.set_exception(error)
            return
        rest = iter(found)
        for job in jobs:
            part = [next(rest) for _ in job.sentences]
            if not job.done.done():
                job.done.set_result(part)
