"""No entry point opens a socket to anywhere, or leaves a file that was not asked for."""

import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = ROOT / "pretrained" / "en-de"
# Of the system call `socket`, by the machine's architecture.
SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())

FILTERS = sys.platform == "linux" and SOCKET is not None
needs_filter = pytest.mark.skipif(not FILTERS, reason="needs a seccomp filter")


def forbid_sockets() -> None:
    """Have the kernel kill this process, and its children, at any socket but one within the host.

    Native code, which no patch in Python reaches, is caught too: sockets for a name's look-up and
    for connections are made by the same call. Sockets between processes (AF_UNIX) are allowed.
    """
    load, equals, ret = 0x20, 0x15, 0x06
    allow, kill, family = 0x7FFF0000, 0x80000000, 16  # `family` is where the first argument lies
    program = [
        (load, 0, 0, 0),  # the call's number
        (equals, 0, 3, SOCKET),
        (load, 0, 0, family),
        (equals, 1, 0, 1),  # AF_UNIX
        (ret, 0, 0, kill),
        (ret, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    filters = struct.pack("HL", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp here")


def run(
    command: Sequence[object], places: Path, stdin: str = "", root: Path = ROOT
) -> subprocess.CompletedProcess:
    """Run Python in an empty home without sockets; `places` gets the folders home and tmp."""
    for name in ("home", "tmp"):
        (places / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(places / "home"),
        "TMPDIR": str(places / "tmp"),
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=root,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=forbid_sockets if FILTERS else None,
    )


@needs_filter
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import ctypes; ctypes.CDLL(None).socket(2, 2, 0)", -signal.SIGSYS),
        ("import socket; socket.getaddrinfo('example.com', 80)", -signal.SIGSYS),
        ("import socket; socket.socketpair(); socket.socket(socket.AF_UNIX)", 0),
    ],
)
def test_the_filter_catches_native_code_too(tmp_path: Path, code: str, status: int) -> None:
    assert run(["-c", code], tmp_path).returncode == status


def commands() -> dict[str, Callable[[Path, Path], list[object]]]:
    """Return each entry point's arguments, given a finished run and a folder for what it writes."""
    script = ROOT / "scripts"
    return {
        "translate": lambda run, out: [script / "translate.py"],
        "translate by PyTorch": lambda run, out: [
            script / "translate.py",
            "--model",
            run / "student",
            "--candidates",
            2,
            "--rescore",
            run / "teacher",
        ],
        "evaluate": lambda run, out: [
            script / "evaluate.py",
            "--model",
            PRETRAINED,
            "--output",
            out / "found.de",
            "--source",
            run / "corpus/valid.en",
            "--reference",
            run / "corpus/valid.de",
        ],
        "export": lambda run, out: [
            script / "export.py",
            "--model",
            run / "student",
            "--out",
            out / "export",
        ],
        "export a teacher": lambda run, out: [
            script / "export.py",
            "--model",
            run / "teacher",
            "--out",
            out / "export",
        ],
        **{
            f"{name} --help": lambda run, out, name=name: [script / f"{name}.py", "--help"]  # type: ignore[misc]
            for name in ("train_image", "compare_quantizers")
        },
    }


QUICK = ("translate", "evaluate")


@needs_filter
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in commands()],
)
def test_no_socket_and_no_file(finished_run, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ctranslate2")
    out = tmp_path / "out"
    out.mkdir()
    result = run(commands()[name](finished_run.folder, out), tmp_path, "The light is on.\n")
    assert result.returncode == 0, result.stderr
    assert left(tmp_path) == []


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a fresh repository of all tracked files."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    folder = tmp_path / "clone"
    for name in git(ROOT, "ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.mark.slow
def test_a_training_with_its_report_writes_in_its_run_folder_alone(
    clone: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """Data, vocabulary, training, checkpoints, evaluation, TensorBoard and pictures."""
    values = [value for value in overrides if not value.startswith("records=")]
    steps = ["teacher_training.steps=2", "student_training.steps=2"]
    result = run(["scripts/train_nmt.py", *values, *steps], tmp_path, root=clone)
    assert result.returncode == 0, result.stderr
    folder = clone / "runs" / "files-en-de"
    assert (folder / "report.md").exists()
    assert list(folder.rglob("*.png")), "no pictures, so nothing is tested of them"
    assert left(tmp_path) == []
    assert git(clone, "status", "--porcelain") == ""


def left(places: Path) -> list[Path]:
    """List the files that a command has left in the home and in the folder for temporary ones.

    PyTorch makes an empty folder there when it is imported, which is let pass.
    """
    found = [path for name in ("home", "tmp") for path in (places / name).rglob("*")]
    return [path for path in found if not path.is_dir()]
