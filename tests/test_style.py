"""Lint, format and types pass; files stay short; imports point one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "vqnmt").rglob("*.py"))
LIBRARY_AND_SCRIPTS = [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]
MOST_LINES = 700

# Package -> what it must not import. scripts -> pipeline -> training, evaluation -> models ->
# quantizers, layers. The quantizers are stricter still: see the last test.
FORBIDDEN = {
    "vqnmt": ["hydra", "omegaconf"],
    "vqnmt.layers": [
        f"vqnmt.{name}"
        for name in ("data", "evaluation", "models", "pipeline", "quantizers", "training")
    ],
    "vqnmt.models": [
        "accelerate",
        *(f"vqnmt.{name}" for name in ("data", "evaluation", "pipeline", "training", "translator")),
    ],
    "vqnmt.data": [f"vqnmt.{name}" for name in ("evaluation", "models", "pipeline", "training")],
    "vqnmt.training": [
        *(f"vqnmt.{name}" for name in ("data", "evaluation", "pipeline")),
        # The loop knows nothing of any one model; of quantizers it knows what all have in common.
        *(f"vqnmt.quantizers.{name}" for name in ("build_quantizer", "ema", "learnt", "soft_em")),
        *(f"vqnmt.models.{name}" for name in ("autoregressive", "latent", "pretrained")),
    ],
    "vqnmt.evaluation": ["vqnmt.pipeline", "vqnmt.training"],
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute module) for every import in a file, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from vqnmt import training` imports vqnmt.training.
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {package} must not import {module}"
        for path in MODULES
        for package, forbidden in FORBIDDEN.items()
        if within(module_name(path), package)
        for line, module in imports(path)
        if any(within(module, name) for name in forbidden)
    ]
    assert not wrong, "\n".join(wrong)


def test_quantizers_import_only_torch_and_errors() -> None:
    allowed = (*sys.stdlib_module_names, "torch", "vqnmt.errors", "vqnmt.quantizers")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in MODULES
        if within(module_name(path), "vqnmt.quantizers")
        for line, module in imports(path)
        if not any(within(module, name) for name in allowed)
    ]
    assert not wrong, "\n".join(wrong)
