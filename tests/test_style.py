"""Lint, format and types pass; files stay short; imports point one way."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "vqnmt").rglob("*.py"))
LIBRARY_AND_SCRIPTS = [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]
MOST_LINES = 700


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        pytest.param(["mypy"], marks=[pytest.mark.slow]),
    ],
    ids=" ".join,
)
def test_tool_finds_nothing(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}{result.stderr}"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in LIBRARY_AND_SCRIPTS}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines, so to be split: {long}"


def test_imports_point_one_way() -> None:
    """The contracts of pyproject.toml hold: layers, independent rooms, no circles."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_quantizers_import_only_torch_and_errors() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "vqnmt.errors"}
    graph = grimp.build_graph("vqnmt", include_external_packages=True, cache_dir=None)
    inside = graph.find_descendants("vqnmt.quantizers") | {"vqnmt.quantizers"}
    outside = set().union(*(graph.find_modules_directly_imported_by(m) for m in inside)) - inside
    assert outside <= allowed, sorted(outside - allowed)


def test_the_root_holds_ground_files_and_rooms_only() -> None:
    """Every module of the root has its line in the contract, and what has a line is there."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in re.split("[|:]", layer)}
    found = {path.stem for path in (ROOT / "vqnmt").glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in (ROOT / "vqnmt").glob("*/__init__.py")}
    assert named == found
