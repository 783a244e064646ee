"""The commit and the machine that made a result, for records and reports."""

import contextlib
import os
import platform
import subprocess
from pathlib import Path

import torch


def current_commit(file: Path | str = __file__) -> str:
    """Return the commit of the repository that tracks `file`.

    "-dirty" is added when a tracked file outside `results/` has changed; "unknown" means code
    outside git, such as an installed package.
    """
    folder, name = os.path.split(os.path.abspath(file))
    try:
        # A package installed inside somebody else's repository is not tracked by it.
        _git(folder, "ls-files", "--error-unmatch", name)
        commit = _git(folder, "rev-parse", "HEAD")
        # Records are outputs: the first one written must not make the next commit look dirty.
        changed = _git(
            folder,
            *("status", "--porcelain", "--untracked-files=no", "--"),
            *(":(top)", ":(top,exclude)results"),
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(folder: str, *arguments: str) -> str:
    # A hook's GIT_DIR or GIT_INDEX_FILE would point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    result = subprocess.run(
        ["git", "-C", folder, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return result.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_hardware(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Describe the machine as records and reports name it.

    Args:
        device: Where the models run; a CUDA device adds its name as `gpu`.
    """
    hardware: dict[str, str | int] = {
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    device = torch.device(device)
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware
