"""scripts/setup.sh on a small copy of the project, with wheels made here and no network."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "scripts" / "setup.sh"
SETUPTOOLS, TORCH = "84.2.1", "2.13.0"


def write_wheel(folder, name, version, files, requires=()):
    """Writes a wheel of (path -> text) files; also the source of the copy's build backend."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    wheel = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        archive.writestr(f"{info}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


BACKEND = f"""\
import os, zipfile
{inspect.getsource(write_wheel)}
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return write_wheel(wheel_directory, "vqnmt", "0.1.0", {{"vqnmt.pth": os.getcwd()}})
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


class Clone:
    """A stand-in for a clone: the real setup.sh, small packages, and a machine with or without GPU.

    Its torch comes as the CPU build, as the general build (which needs `cuda_packages`), or both.
    """

    def __init__(self, folder: Path, torch_builds: tuple[str, ...]) -> None:
        self.root, self.wheels, self.bin = folder / "clone", folder / "wheels", folder / "bin"
        for new in (self.root / "scripts", self.root / "vqnmt", self.wheels, self.bin):
            new.mkdir(parents=True)
        shutil.copy(SETUP, self.root / "scripts")
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "vqnmt" / "__init__.py").write_text("")
        self.write_lock()
        write_wheel(self.wheels, "setuptools", SETUPTOOLS, {"setuptools/__init__.py": ""})
        write_wheel(self.wheels, "extra", "1.0", {"extra.py": ""})
        write_wheel(self.wheels, "cuda_packages", "1.0", {"cuda_packages.py": ""})
        build = "from types import SimpleNamespace\nversion = SimpleNamespace(cuda={})\n"
        if "cpu" in torch_builds:
            files = {"torch/__init__.py": build.format(None)}
            write_wheel(self.wheels, "torch", f"{TORCH}+cpu", files)
        if "general" in torch_builds:
            files = {"torch/__init__.py": "import cuda_packages\n" + build.format("'13.0'")}
            write_wheel(self.wheels, "torch", TORCH, files, requires=["cuda_packages"])
        self.set_gpu(False)

    def write_lock(self, *more: str) -> None:
        lines = (f"setuptools=={SETUPTOOLS}", f"torch=={TORCH}", *more)
        (self.root / "requirements.lock").write_text("\n".join(lines) + "\n")

    def set_gpu(self, there: bool) -> None:
        program = self.bin / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + ("echo 'GPU 0: some GPU'\n" if there else "exit 9\n"))
        program.chmod(0o755)

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs setup.sh from another folder, with pip limited to the wheels made here."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        settings = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_TARGET": str(self.root / "elsewhere"),  # must not take effect
            "PYTHON": sys.executable,
        }
        return subprocess.run(
            ["sh", str(self.root / "scripts" / "setup.sh")],
            cwd=self.bin,
            env={**clean, **settings, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, code: str) -> str:
        command = [str(self.root / ".venv/bin/python"), "-I", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def packages(self) -> set[str]:
        code = (
            "import importlib.metadata as m\n"
            "print(*(f'{d.name}=={d.version}' for d in m.distributions() if d.name != 'pip'))"
        )
        return set(self.python(code).split())


EVERYWHERE = {f"setuptools=={SETUPTOOLS}", "vqnmt==0.1.0"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has no +cpu build")
def test_a_machine_without_a_gpu_gets_the_cpu_build_and_keeps_it_up_to_date(tmp_path: Path) -> None:
    clone = Clone(tmp_path, ("cpu", "general"))
    first = clone.setup()
    assert first.returncode == 0, first.stderr
    assert clone.packages() == {*EVERYWHERE, f"torch=={TORCH}+cpu"}
    assert clone.python("import torch, vqnmt; print(vqnmt.__file__)").startswith(str(clone.root))
    assert not (clone.root / "elsewhere").exists()

    # Nothing changed: nothing happens.
    stamp = clone.root / ".venv" / "setup-done"
    before = stamp.stat().st_mtime_ns
    again = clone.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert stamp.stat().st_mtime_ns == before

    # A package came into the lock: the environment stays and gets it.
    clone.write_lock("extra==1.0")
    changed = clone.setup()
    assert changed.returncode == 0, changed.stderr
    assert "making .venv" not in changed.stderr
    assert "extra==1.0" in clone.packages()

    # A lock that cannot be had: one sentence after pip's; the next good lock works again.
    clone.write_lock("extra==2.0")
    failed = clone.setup()
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("setup: requirements.lock could not be")
    clone.write_lock("extra==1.0")
    assert "making .venv" not in clone.setup().stderr

    # Another set-up is at work: hands off. One that was killed: all anew.
    unfinished = clone.root / ".venv" / "setup-unfinished"
    unfinished.write_text(f"{os.getpid()}\n")
    busy = clone.setup()
    assert busy.returncode == 1
    assert f"process {os.getpid()}" in busy.stderr
    ended = subprocess.Popen(["true"])
    ended.wait()
    unfinished.write_text(f"{ended.pid}\n")
    (clone.root / ".venv" / "half-installed").touch()
    anew = clone.setup()
    assert anew.returncode == 0, anew.stderr
    assert "making .venv" in anew.stderr
    assert not (clone.root / ".venv" / "half-installed").exists()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has no +cpu build")
def test_general_build_for_a_gpu_and_as_last_resort(tmp_path: Path) -> None:
    clone = Clone(tmp_path, ("general",))
    no_cpu_build = clone.setup()
    assert no_cpu_build.returncode == 0, no_cpu_build.stderr
    assert f"found torch=={TORCH}+cpu neither" in no_cpu_build.stderr
    assert clone.packages() == {*EVERYWHERE, f"torch=={TORCH}", "cuda_packages==1.0"}

    clone.set_gpu(True)
    gpu = clone.setup()
    assert gpu.returncode == 0, gpu.stderr
    assert f"torch=={TORCH} for the NVIDIA GPU" in gpu.stderr
    assert "without CUDA" not in gpu.stderr
    # A shell of the same machine that sees no GPU keeps that environment.
    clone.set_gpu(False)
    assert clone.setup().stderr == ""


def test_no_usable_python_is_one_sentence(tmp_path: Path) -> None:
    clone = Clone(tmp_path, ("cpu",))
    old = clone.bin / "python3.9"
    old.write_text("#!/bin/sh\n[ \"$1\" = -V ] && echo 'Python 3.9.2'\n")
    old.chmod(0o755)
    for python, found in ((str(old), "Python 3.9.2"), ("/no/such/python", "does not run")):
        result = clone.setup(PYTHON=python)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert python in result.stderr and found in result.stderr and "3.11" in result.stderr
    assert not (clone.root / ".venv").exists()


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [
        re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s+]+)", line) for line in lines if line[0] != "#"
    ]
    assert all(found), "each line of requirements.lock is NAME==VERSION, without a local version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def expanded(wanted: list[str], extras: dict[str, list[str]]) -> Iterator[Requirement]:
    """Yield the requirements, and in the place of vqnmt itself those of its extras."""
    for requirement in map(Requirement, wanted):
        if requirement.name == "vqnmt":
            yield from expanded([one for e in requirement.extras for one in extras[e]], extras)
        else:
            yield requirement


def test_lock_meets_pyproject_and_is_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    extras, locked = project["project"]["optional-dependencies"], pins()
    for requirement in expanded(wanted + extras["dev"], extras):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier
    installed = {name: version(name).partition("+")[0] for name in locked}
    assert installed == locked
