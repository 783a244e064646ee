import json
import re

import pytest
import yaml

from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.report import (
    CorpusFacts,
    Example,
    Picture,
    corpus_section,
    results_table,
    write_report,
)
from vqnmt.evaluation.tables import TABLE_WIDTH

CORPUS = CorpusFacts(
    name="homeassistant",
    source_language="en",
    target_language="de",
    licence="Apache-2.0",
    attribution="the Home Assistant authors",
    counts={"train": 12345, "valid": 500},
    dropped={"too long": 17},
)


@pytest.fixture
def measured(make_record):
    """Build a record with every number of the table."""

    def measure(system, bleu, median, speedup, **changes):
        metrics = {
            "bleu.valid": bleu - 1,
            "chrf.valid": bleu + 29,
            "bleu.test": bleu,
            "chrf.test": bleu + 30,
            "bleu_signature": "nrefs:1|tok:13a",
            "chrf_signature": "nrefs:1|nw:2",
            "latency_ms.median": median,
            "latency_ms.p90": median * 1.5,
            "speedup_over_ar_beam4": speedup,
        }
        return make_record(system, metrics=metrics, parameters=7_340_000, **changes)

    return measure


@pytest.fixture
def records(measured):
    return [measured("AR beam 4", 34.25, 61.0, 1.0), measured("student n_c=3", 30.5, 12.2, 5.0)]


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_row_has_scores_latency_speed_up_and_size(records):
    table = cells(results_table(records))
    heads = ["system", "test set", "BLEU", "chrF++", "median ms", "p90 ms", "speed-up", "param."]
    assert table[0] == heads
    assert table[2] == ["AR beam 4", "test", "34.25", "64.25", "61.0", "91.5", "1.00×", "7.3M"]
    assert table[3] == ["student n_c=3", "test", "30.50", "60.50", "12.2", "18.3", "5.00×", "7.3M"]
    assert table[4] == ["AR beam 4", "valid", "33.25", "63.25", "", "", "", ""]
    assert len(table) == 6


def test_labels_have_a_column_of_their_own(make_record):
    metrics = {"bleu.test": 20.0, "chrf.test": 40.0, "exact_match.labels": 45.25}
    table = cells(results_table([make_record("student", metrics=metrics), make_record("old")]))
    assert table[0][:5] == ["system", "test set", "BLEU", "chrF++", "exact %"]
    assert table[2][:5] == ["student", "test", "20.00", "40.00", "-"]
    assert table[4] == ["student", "labels", "-", "-", "45.25", "", "", "", ""]
    assert len(table) == 5
    card = model_card(
        title="t", description="d", corpus=CORPUS, records=[make_record("s", metrics=metrics)]
    )
    results = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    (labels,) = results[1]["metrics"]
    assert (labels["type"], labels["name"]) == ("exact_match", "exact match")
    assert labels["value"] == 45.25


def test_table_of_one_test_set_and_missing_numbers(make_record):
    table = cells(results_table([make_record("only BLEU", metrics={"bleu.test": 1.0})]))
    assert table[0][:2] == ["system", "BLEU"]
    assert table[2] == ["only BLEU", "1.00", "-", "-", "-", "-", "1.0K"]
    unscored = cells(results_table([make_record("fast", metrics={"latency_ms.median": 3.0})]))
    assert unscored[2] == ["fast", "-", "-", "3.0", "-", "-", "1.0K"]
    assert len(results_table([]).splitlines()) == 2


@pytest.mark.parametrize(
    ("parameters", "written"),
    [(12_345, "12.3K"), (99_999, "100.0K"), (100_000, "0.1M"), (7_340_000, "7.3M")],
)
def test_small_models_keep_their_size(make_record, parameters, written):
    table = cells(results_table([make_record(parameters=parameters)]))
    assert table[2][-1] == written


def test_table_lines_are_equally_long_and_fit_a_terminal(measured, records):
    long = measured("a very long system name " * 9, 34.25, 123456.0, 1.0)
    lines = results_table([long, *records]).splitlines()
    assert {len(line) for line in lines} == {TABLE_WIDTH}
    assert "…" in lines[2]
    assert len({len(line) for line in results_table(records).splitlines()}) == 1


def test_table_tells_seeds_and_corpora_apart(measured, records):
    first = records[0]
    records = [first, measured("AR beam 4", 33.0, 60.0, 1.0, seed=2)]
    table = results_table(records)
    assert "AR beam 4, seed 1" in table and "AR beam 4, seed 2" in table
    records = [first, measured("AR beam 4", 33.0, 60.0, 1.0, corpus="multi30k en-de")]
    assert "AR beam 4, multi30k en-de" in results_table(records)


def test_report(tmp_path, records):
    example = Example(
        source="Set {user_name} to | <b>*on*</b>\n_now_ \\",
        reference="Setze {name}",
        translations={"teacher": "Stelle {name}", "student": "Setze auf"},
        codes=[17, 3, 250],
        test_set="valid",
    )
    labels = [
        Example(source=one, reference=one.upper(), translations={"student": "-"}, test_set="labels")
        for one in ("open", "x|y")
    ]
    path = write_report(
        tmp_path,
        title="A run",
        records=records,
        corpus=CORPUS,
        settings={"seed": "1", "model.codes": "256"},
        wall_seconds={"corpus": 10.0, "teacher": 300.26},
        pictures=[Picture(file="usage.png", alt="Share of each code")],
        examples=[example] * 8 + labels,
    )
    assert path == tmp_path / "report.md"
    text = path.read_text(encoding="utf-8")
    assert results_table(records) in text
    assert "![Share of each code](usage.png)" in text
    assert "## 10 translations side by side" in text
    text = re.sub(" +", " ", text)  # tables are padded to align on a terminal
    # The corpus's own markup stays literal and within its cell.
    assert r"| source | Set {user_name} to \| &lt;b&gt;\*on\*&lt;/b&gt; \_now\_ \\ |" in text
    assert "| teacher | Stelle {name} |\n| student | Setze auf |\n| codes | 17 3 250 |" in text
    assert "### labels\n\n| source | reference | student |\n" in text
    assert "\n| open | OPEN | - |\n| x\\|y | X\\|Y | - |\n" in text
    assert text.index("### valid") < text.index("| 8 | |") < text.index("### labels")
    assert "| train | 12,345 |" in text and "| too long | 17 |" in text
    assert "Licence: Apache-2.0. Attribution: the Home Assistant authors" in text
    assert "| model.codes | 256 |" in text
    assert "| teacher | 300.3 |\n| all stages | 310.3 |" in text
    assert text.count("- BLEU: `nrefs:1|tok:13a`") == 1
    assert text.count("- chrF++: `nrefs:1|nw:2`") == 1
    assert "- Hardware: processor a processor, threads 2, torch 2" in text
    assert "- Commit abc (of the training: abb), seed 1" in text
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]


def test_a_corpus_without_attribution():
    fields = {key: getattr(CORPUS, key) for key in CORPUS.__slots__}
    own = CorpusFacts(**(fields | {"licence": "the user's own", "attribution": ""}))
    text = corpus_section(own)
    assert "en to de. Licence: the user's own.\n" in text and "Attribution" not in text
    assert "Attribution" not in model_card(title="t", description="d", corpus=own)


def front_matter(card):
    _, block, body = card.split("---\n", 2)
    return yaml.safe_load(block), body


def test_model_card(records):
    card = model_card(
        title='The "small" student: n_c=3',
        description="A discrete-latent model.",
        corpus=CORPUS,
        records=[records[1]],
        limits=["Takes at most 128 tokens."],
    )
    data, body = front_matter(card)
    assert data["language"] == ["en", "de"]
    assert data["license"] == "apache-2.0"
    assert data["metrics"] == ["bleu", "chrf"]
    assert "translation" in data["tags"]
    (model,) = data["model-index"]
    assert model["name"] == 'The "small" student: n_c=3'
    scores = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert scores == {
        ("homeassistant en-de valid", "bleu"): 29.5,
        ("homeassistant en-de valid", "chrf"): 59.5,
        ("homeassistant en-de test", "bleu"): 30.5,
        ("homeassistant en-de test", "chrf"): 60.5,
    }
    assert 'vqnmt.load_translator("DIR")' in body
    assert "vqnmt translate --model DIR < in.txt > out.txt" in body
    assert "nrefs:1|tok:13a" in body and "30.50" in body
    assert "- Takes at most 128 tokens." in body
    assert "the Home Assistant authors" in body


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [("CC BY 2.0", "cc-by-2.0"), ("MIT", "mit"), ("research use (captions: Flickr30k)", "other")],
)
def test_model_card_licence_and_no_language_of_yaml(licence, identifier):
    # "no" (Norwegian) is a boolean to YAML unless it is quoted.
    facts = {"source_language": "no", "target_language": "en", "licence": licence}
    fields = {key: getattr(CORPUS, key) for key in CORPUS.__slots__}
    card = model_card(title="t", description="d", corpus=CorpusFacts(**{**fields, **facts}))
    data, body = front_matter(card)
    assert data["language"] == ["no", "en"]
    assert data["license"] == identifier
    assert ("license_name" in data) == (identifier == "other")
    assert "model-index" not in data and "Not measured yet" in body
    assert json.dumps(data)
