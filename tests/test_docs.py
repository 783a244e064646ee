"""What README and docs say agrees with the records, the configs and the scripts."""

import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from vqnmt.commands.command_line import load_config

import pytest

import vqnmt
from vqnmt.evaluation.records import read_records
from vqnmt.settings import to_flat
from vqnmt.training.stage import as_text

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide"
REFERENCE = sorted([*(ROOT / "docs").glob("*.md"), *GUIDE.glob("*.md")])
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from update_tables import updated

    text = page.read_text(encoding="utf-8")
    assert updated(text) == text


def test_a_table_can_show_a_part_of_its_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from update_tables import updated

    def shown(options):
        return updated(f"<!-- records: results/translation/{options} -->\n<!-- end -->")

    whole, test = (
        shown("homeassistant_tatoeba-en-de.json"),
        shown("homeassistant_tatoeba-en-de.json test"),
    )
    assert "| valid " in whole
    assert "valid" not in test
    assert test.count("\n| ar_") + test.count("\n| vq_") == 4
    scores = shown("multi30k-en-de.json systems scores")
    assert scores.count("| best ") == 1
    _, head, table, _ = scores.split("\n\n")
    assert head.startswith("One seed; ") and table in shown("multi30k-en-de.json systems")
    none = shown("multi30k-en-de.json systems controls")
    assert "Nothing is recorded yet." in none or "| oracle " in none
    two = shown("homeassistant_tatoeba-en-de.json test rows=ar_greedy,vq_ctc_skd_nc3")
    assert re.findall(r"^\| (\w+)", two, re.MULTILINE) == ["system", "ar_greedy", "vq_ctc_skd_nc3"]


def headings(page):
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in headings(path), target


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    """Every link, anchor and name of the Python reference is found, README.md's among them."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first = (tmp_path / "index.html").read_text("utf-8")
    assert 'href="latency/"' in first and 'id="more"' in first
    assert (tmp_path / "results/latency/multi30k-en-de-threads-1.png").is_file()


def test_reference_is_short():
    """Trials, commits and slow hours belong in docs/notebook, which is not counted."""
    words = {page.name: len(page.read_text(encoding="utf-8").split()) for page in REFERENCE}
    assert len(words) == len(REFERENCE) > 18
    assert sum(words.values()) < 10_000, words
    page = (GUIDE / "what_codes_buy.md").read_text(encoding="utf-8")
    assert len(re.sub("<!-- records.*?<!-- end -->", "", page, flags=re.DOTALL).split()) <= 600


def test_the_glossary_has_every_part_of_the_names_of_systems():
    page = (GUIDE / "glossary.md").read_text("utf-8")
    terms = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", page, re.MULTILINE)))
    part = "|".join(re.sub(r"\d+", r"\\d+", term) for term in terms)
    names = {path.stem for path in (ROOT / "configs" / "experiment").iterdir()}
    names.remove("paper")  # no system: the base of several
    for folder in ("translation", "latency"):
        for path in (ROOT / "results" / folder).glob("*.json"):
            names |= {record.system for record in read_records(path)}
    assert len(names) > 30 and {"best", "vq_ctc_skd_nc3_lm"} <= names
    assert not [name for name in names if not re.fullmatch(rf"(?:(?:{part})(?:_|$))+", name)]


NAMED = re.compile(r"vqnmt(?:\.\w+|/\w+(?:\.py)?)+/?")


def test_modules_that_the_reference_names_exist():
    missing = []
    for page in [ROOT / "README.md", *REFERENCE]:
        # Names behind ::: are those of mkdocstrings, which finds each in the strict build.
        text = re.sub("^:::.*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name in NAMED.findall(text):
            parts = [part for part in re.split(r"[./]", name.removesuffix(".py")) if part]
            if parts[-1] in vqnmt.__all__:  # vqnmt.load_translator
                parts.pop()
            path = ROOT.joinpath(*parts)
            if not path.is_dir() and not path.with_suffix(".py").exists():
                missing.append(f"{page.name}: {name}")
    assert not missing


COMMAND = re.compile(
    r"\b(vqnmt (?:train|distill|images)|distill\.py|(?:train|reproduce|compare)_\w+\.py) ([^\n`]+)"
)
CONFIG_OF = {
    **dict.fromkeys(("vqnmt train", "vqnmt distill", "distill.py"), "train_nmt"),
    "vqnmt images": "train_image",
}


def test_command_lines_compose():
    found = defaultdict(set)
    for page in [*REFERENCE, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, arguments in COMMAND.findall(text):
            if not re.search(r"=(NAME|value|\.\.\.)|--multirun", arguments):
                words = [word for word in shlex.split(arguments, comments=True) if "=" in word]
                found[CONFIG_OF.get(command, command.removesuffix(".py"))].update(words)
    assert sum(map(len, found.values())) > 40
    for config, words in found.items():
        while words:
            several = {word.partition("=")[0]: word for word in sorted(words)}  # one of each key
            assert load_config(config, list(several.values())), several
            words -= set(several.values())


# A default in docs: a row "| `key` | default |" of a table, or "`key` (default `value`)" in a
# sentence. "value; other with `group=name` and `name`" adds those of other choices.
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \|", re.MULTILINE)
SENTENCE = re.compile(r"`([\w.]+)`\s+\(default\s+(`[^`]+`)\)")
CONFIGS = ("train_nmt", "train_image", "compare_quantizers", "reproduce_translation")


def test_defaults_that_docs_name_are_those_of_the_configs():
    defaults = {name: to_flat(load_config(name, [])) for name in CONFIGS}
    named, stated = set(), set()
    for page in REFERENCE:
        text = page.read_text(encoding="utf-8")
        tables = re.findall(r"^\| key \| default \|.*?(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        rows = [row for table in tables for row in ROW.findall(table)]
        for key, cell in [*rows, *SENTENCE.findall(text)]:
            config = next((name for name in CONFIGS if key in defaults[name]), None)
            assert config, f"{page.name}: {key} is in no configuration"
            first, *others = cell.replace("`", "").split("; ")
            assert as_text(defaults[config][key]) == first, f"{page.name}: {key}"
            for other in others:
                value, _, choices = other.partition(" with ")
                group, _, names = choices.partition("=")
                for name in re.findall(r"\w+", names.replace(" and ", " ")):
                    found = to_flat(load_config(config, [f"{group}={name}"]))[key]
                    assert as_text(found) == value, f"{page.name}: {key} with {group}={name}"
            stated.add(key)
        named |= set(re.findall(r"`([\w.]+\.\w+)(?:=[^`]*)?`", text))
    # null says that nothing is set, as of the files of corpus=files.
    keys = {k for values in defaults.values() for k, v in values.items() if v is not None}
    assert len(stated) > 20
    assert not (named & keys) - stated, "switches that docs name without their default"


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
