"""The wheel, installed by itself: the light runtime translates, and the rest says what it needs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

import vqnmt

ROOT = Path(__file__).parent.parent
SOURCES = ("vqnmt", "configs", "pretrained", "pyproject.toml", "setup.py", "README.md", "LICENSE")
pytestmark = pytest.mark.slow


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(
        [*map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def needed(names: set[str]) -> set[str]:
    """Add to distributions those that they require, without extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            plain = [line for line in requires(name) or [] if "extra ==" not in line]
            marked = [line for line in plain if "python_version" not in line and "win" not in line]
            names |= {re.match(r"[\w.-]+", line)[0] for line in marked}
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel; return an environment with it and what it requires, linked from here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip")
    offline = ("--no-deps", "--no-index", "-q")
    built = run(*pip, "wheel", "--no-build-isolation", *offline, "-w", folder / "dist", source)
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    environment = folder / "environment"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    python = environment / "bin" / "python"
    done = run(*pip, "--python", python, "install", *offline, wheel)
    assert done.returncode == 0, done.stderr
    (packages,) = environment.glob("lib/python*/site-packages")
    (metadata,) = packages.glob("vqnmt-*.dist-info/METADATA")
    light = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata.read_text("utf-8"), re.M)
    assert {"numpy", "onnxruntime", "sentencepiece"} <= set(light)
    for name in needed(set(light)):
        place = distribution(name)
        for part in {file.parts[0] for file in place.files or ()} - {"..", "__pycache__"}:
            if not (packages / part).exists():
                (packages / part).symlink_to(place.locate_file(part))
    return environment


def test_the_light_runtime_translates_from_any_folder(
    installed: Path, tmp_path: Path, script: Callable
) -> None:
    for package in ("torch", "transformers", "hydra", "accelerate"):
        missing = run(installed / "bin/python", "-c", f"import {package}", cwd=tmp_path)
        assert "ModuleNotFoundError" in missing.stderr
    text = "Turn on the light in the kitchen\nOpen the door\n"
    expected = script("translate", "--quiet", stdin=text.encode()).out
    command = installed / "bin" / "vqnmt"
    found = run(command, "translate", "--quiet", cwd=tmp_path, input=text)
    assert (found.stdout, found.stderr) == (expected, "")
    code = (
        "import vqnmt\n"
        f"found = vqnmt.load_translator().translate({text.splitlines()})\n"
        "print(*(one.text for one in found), sep='\\n')"
    )
    assert run(installed / "bin/python", "-c", code, cwd=tmp_path).stdout == expected
    assert run(command, "--version").stdout == f"vqnmt {vqnmt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train"], "train"),
        (["images"], "train"),
        (["serve"], "serve"),
        (["translate", "app.po", "-o", "app.de.po"], "localization"),
        (["export", "--model", "x", "--out", "y"], "train"),
        (["evaluate", "--source", "x", "--reference", "y"], "train"),
    ],
)
def test_what_needs_an_extra_names_it(
    installed: Path, tmp_path: Path, arguments: list[str], extra: str
) -> None:
    (tmp_path / "app.po").write_text('msgid ""\nmsgstr ""\n\nmsgid "Open"\nmsgstr ""\n')
    result = run(installed / "bin" / "vqnmt", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(rf"error: .* pip install 'vqnmt\[{extra}\]'\n", result.stderr)


def test_python_without_pytorch_has_help_and_names_the_extra(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import pydoc, vqnmt\n"
        "assert 'load_translator(folder' in pydoc.plain(pydoc.render_doc(vqnmt))\n"
        "for use in ('vqnmt.Translator', 'vqnmt.train()', 'from vqnmt import export'):\n"
        "    try: exec(use)\n"
        "    except vqnmt.VqnmtError as error: print(error)\n"
    )
    result = run(installed / "bin/python", "-c", code, cwd=tmp_path)
    assert result.stderr == "", result.stderr
    needs = r"this needs \w+: pip install 'vqnmt\[train\]'\n"
    assert re.fullmatch(f"({needs}){{3}}", result.stdout), result.stdout


def test_a_model_for_pytorch_names_its_extra(installed: Path, tmp_path: Path, finished_run) -> None:
    student = finished_run.folder / "student"
    result = run(installed / "bin/vqnmt", "translate", "--model", student, input="x\n")
    assert result.stderr == "error: this needs torch: pip install 'vqnmt[train]'\n"


def test_the_wheel_holds_configurations_and_types(installed: Path) -> None:
    (package,) = installed.glob("lib/python*/site-packages/vqnmt")
    assert (package / "py.typed").exists()
    for folder in ("configs", "pretrained/en-de"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        inside = {path.relative_to(package) for path in (package / folder).rglob("*")}
        assert files <= inside
    assert not (package / "pretrained/en-de-teacher").exists()


USER = """
import vqnmt

translator = vqnmt.load_translator(threads=2)
one: vqnmt.Translation = translator("Hello")
several: list[vqnmt.Translation] = translator(["Hello", "Good morning"])
score: float = translator.n_best(["Hello"], num_return_sequences=4)[0][0].score
length: int = translator("Hello")  # wrong
vqnmt.load_translator(threads="two")  # wrong
vqnmt.load_translators()  # wrong
translator.n_best(["Hello"], candidates=4)  # wrong
translator.codes(1)  # wrong
vqnmt.train("model=tiny", run="runs/x").upper()  # wrong
"""


def test_mypy_sees_the_types_in_a_project_of_a_user(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    mypy = (sys.executable, "-m", "mypy", "--python-executable", installed / "bin/python")
    found = run(*mypy, "--cache-dir", tmp_path, "user.py", cwd=tmp_path).stdout
    lines = USER.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    reported = {int(number) for number in re.findall(r"^user\.py:(\d+): error", found, re.M)}
    assert reported == wrong, found
