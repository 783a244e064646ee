"""A run leaves the repository as it was: only what is asked for is recorded there."""

import shutil
import subprocess
import sys
from pathlib import Path

from vqnmt.commands.command_line import load_config

import pytest

ROOT = Path(__file__).parent.parent
SHORT = ["teacher_training.steps=2", "student_training.steps=2", "evaluation.latency_sentences=2"]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh repository of all tracked files."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    folder = tmp_path_factory.mktemp("clone")
    for name in git(ROOT, "ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.mark.slow
def test_a_run_with_default_records_changes_no_file(clone: Path, overrides: list[str]) -> None:
    values = [value for value in overrides if not value.startswith("records=")]
    command = [sys.executable, "scripts/train_nmt.py", *values, *SHORT]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (clone / "runs" / "files-en-de" / "report.md").exists()
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "name",
    [
        "train_nmt",
        "train_image",
        "reproduce_translation",
        "reproduce_image",
        "compare_quantizers",
    ],
)
def test_no_configuration_records_by_default(name: str) -> None:
    values = load_config(name, [])
    assert values["records"] is None and values["run"].startswith("runs/")


def test_only_update_tables_knows_the_folder_of_results() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/*.py")}
    assert [
        name for name, text in scripts.items() if "results/" in text or '"results"' in text
    ] == ["update_tables.py"]
