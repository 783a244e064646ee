"""What is recorded in the repository is asked for: no configuration does it by default."""

from pathlib import Path

from vqnmt.commands.command_line import load_config

import pytest

ROOT = Path(__file__).parent.parent


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
