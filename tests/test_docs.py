"""What README and docs say agrees with the records, the configs and the scripts."""

import re
from pathlib import Path

import pytest

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


# "Roy et al. 2018", "Kim and Rush 2016", "Koehn 2004", also across the lines of a comment.
CITATION = re.compile(r"\b[A-Z]\w+(?: et al\.| and [A-Z]\w+|(?:, [A-Z]\w+)+)? (?:19|20)\d\d\b(?!-)")
NO_CITATION = {"IWSLT 2014"}
CITING = [
    path
    for folder in ("vqnmt", "docs", "configs", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml"} and path != Path(__file__)
]


def citations(text):
    return set(CITATION.findall(re.sub(r"\s+(?:# )?", " ", text))) - NO_CITATION


def test_citations_resolve():
    """A citation is an author and a year, as references.md has them, never the number of a file."""
    references = (ROOT / "docs" / "references.md").read_text(encoding="utf-8")
    entries = citations(" ".join(re.findall(r"^- \*\*(.+?)\*\*", references, re.MULTILINE)))
    assert len(entries) > 12
    unknown = {}
    for path in [ROOT / "README.md", *CITING]:
        text = path.read_text(encoding="utf-8")
        if missing := citations(text) - entries:
            unknown[str(path.relative_to(ROOT))] = missing
        assert not re.search(r"documents? 0\d\d", text, re.IGNORECASE), path
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", text):
            assert number in references, f"{path}: arXiv {number} is not in references.md"
    assert not unknown
