"""Processes forked from a server that has loaded PyTorch, alone or as a launcher starts several.

Each begins as a new process does, with another hash seed than this one's, but without the seconds
that imports take.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "vqnmt.pipeline", "vqnmt.training.loop"])


def run_processes(
    work: Callable[..., object],
    *arguments: object,
    folder: Path,
    number: int = 2,
    machines: int = 1,
) -> list[tuple[int, str]]:
    """Call `work` in each of `number` processes; return their exit statuses and errors.

    Args:
        work: Function of a module; a number that it returns is its process's exit status.
        arguments: What it is called with.
        folder: Gets a file with the errors of each process.
        number: Processes; a single one finds no launcher's variables.
        machines: As many as the launcher's variables tell of.
    """
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    local = number // machines
    processes, files = [], []
    for rank in range(number):
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        if number > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank % local)}
            environment |= {"GROUP_RANK": str(rank // local), "GROUP_WORLD_SIZE": str(machines)}
            environment |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(local)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        files.append(folder / f"errors-{rank}")
        child = (environment, files[-1], work, arguments)
        processes.append(CONTEXT.Process(target=_begin, args=child))
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=240)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [
        (process.exitcode, file.read_text(encoding="utf-8"))
        for process, file in zip(processes, files, strict=True)
    ]


def _begin(
    environment: dict[str, str],
    errors: Path,
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.environ.update(environment)
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    status = work(*arguments)
    sys.exit(status if isinstance(status, int) else 0)
