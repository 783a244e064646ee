"""What README and docs say agrees with the records, the configs and the scripts."""

import re
from pathlib import Path

import pytest

from vqnmt.pipeline.stage import as_text
from vqnmt.settings import to_flat

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from update_tables import updated

    text = page.read_text(encoding="utf-8")
    assert updated(text) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_command_lines_of_the_readme_compose(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    command_line = __import__("command_line")
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"scripts/(?:train_nmt|distill)\.py ([^\n`]+)", text)
    assert commands
    for arguments in commands:
        overrides = [word for word in arguments.split() if "=" in word]
        assert command_line.load_config("train_nmt", overrides)


def test_defaults_that_training_md_names_are_those_of_the_configs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    load_config = __import__("command_line").load_config
    defaults = to_flat(load_config("train_nmt", []))
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", text, re.MULTILINE)
    settings = [(key, cell) for key, cell in rows if key in defaults]
    assert len(settings) > 10
    for key, cell in settings:
        first, *others = cell.replace("`", "").split("; ")
        assert as_text(defaults[key]) == first, key
        for other in others:
            value, _, choices = other.partition(" with ")
            group, _, names = choices.partition("=")
            for name in re.findall(r"\w+", names.replace(" and ", " ")):
                found = to_flat(load_config("train_nmt", [f"{group}={name}"]))[key]
                assert as_text(found) == value, (key, name)
