"""A model by class of text: which strings, what is counted, and what stands in the card."""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from tests.data.stand_ins import lines, repinned, write, write_wheel
from vqnmt.data.catalogue import CATALOGUE
from vqnmt.data.corpus import Corpus, ParallelText
from vqnmt.data.splits import text_hash
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.model_card import with_section
from vqnmt.evaluation.records import write_records
from vqnmt.experiments import classes
from vqnmt.experiments.tables import classes_table, examples_section
from vqnmt.spans import slot
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.translation import Translation

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
LABELS = ParallelText(
    ["Open", "Name"], ["Öffnen", "Name"], references=[["Öffnen", "Auf"], ["Name"]]
)
STRINGS = ParallelText(
    ["Move {n} files to {x}", "Wait 5 minutes for it", "Open the other door"],
    ["{n} Dateien nach {x}", "Warte 5 Minuten darauf", "Öffne die andere Tür"],
)


def test_labels_count_where_they_equal_any_reference() -> None:
    answers = {"Open": "Auf", "Name": "Nam"}
    found = classes.measure_class("labels", LABELS, {"s": answers.__getitem__}, "de")["s"]
    assert found.metrics["exact_match.labels"] == 50
    assert "bleu.labels" not in found.metrics and 0 < found.metrics["chrf.labels"] < 100
    assert "intact.labels" not in found.metrics and found.metrics["sentences.labels"] == 2
    assert found.translations == {"labels": ("Auf", "Nam")}


@pytest.mark.parametrize(
    ("answers", "intact"),
    [
        (STRINGS.targets, 100),
        (["{n} Dateien", "5 Minuten", "Tür"], 50),  # loses one
        (["{n} nach {x} {x}", "6 Minuten", "Tür"], 0),  # invents one, and has another number
    ],
)
def test_strings_are_intact_if_all_spans_come_through_and_no_others(answers, intact) -> None:
    answer = dict(zip(STRINGS.sources, answers, strict=True)).__getitem__
    found = classes.measure_class("spans", STRINGS, {"s": answer}, "de")["s"]
    assert found.metrics["intact.spans"] == intact
    assert (found.metrics["bleu.spans"] > 99) == (answers == STRINGS.targets)


def test_further_systems_translate_the_strings_with_spans_alone() -> None:
    texts = {"interface": STRINGS, "spans": STRINGS}
    found = classes.measure_classes(texts, {"s": str.upper}, {"s_unprotected": str.lower}, "de")
    assert list(found["s"].translations) == ["interface", "spans"]
    assert list(found["s_unprotected"].translations) == ["spans"]


class Echo(BatchTranslator):
    """Says what the model sees."""

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        return [[Translation("", tokens=row)] for row in rows]


def test_an_unprotected_model_sees_the_spans_and_the_protected_one_stays() -> None:
    text = [f"Press the button {i % 7} of {{name}}, then wait" for i in range(100)]
    translator = Echo(Vocabulary.train(text, 280, slots=2), "en", "de")
    bare = classes.unprotected(translator)
    with mock.patch.object(Echo, "find", autospec=True, side_effect=Echo.find) as seen:
        assert bare("Press {x}") == translator("Press {x}").text == "Press {x}"
    shown = [translator.vocabulary.decode(call.args[1])[0] for call in seen.call_args_list]
    assert shown == ["Press {x}", f"Press {slot(0)}"]


PO = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n' + "".join(
    f'\nmsgid "{source}"\nmsgstr "{target}"\n'
    for source, target in [
        *((f"Choose room {{{i}}} of this floor", f"Raum {{{i}}} wählen") for i in range(4)),
        *((f"Choose the room number {word}", f"Raum {word}") for word in ("one", "two", "three")),
        ("Choose a known room", "Bekannter Raum"),
        ("Room {x}", "Raum {x}"),
    ]
)


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Corpus:
    monkeypatch.setenv("VQNMT_DATA", str(tmp_path))
    (package,) = classes.ANOTHER_PROJECT.files("en", "de")
    member = "indico/translations/de_DE/LC_MESSAGES/messages-all.po"
    write_wheel(tmp_path / package.path, {member: PO})
    for code in ("en", "de"):
        file = f"multi30k-en-de/test_2016_flickr.{code}.gz"
        write(tmp_path / file, lines([f"A photograph {i} {code}" for i in range(3)]))
    project, captions = repinned(classes.ANOTHER_PROJECT, tmp_path), CATALOGUE["multi30k"]
    monkeypatch.setattr(classes, "ANOTHER_PROJECT", project)
    monkeypatch.setitem(CATALOGUE, "multi30k", repinned(captions, tmp_path))
    train = ParallelText(["choose a  known room", "Open"], ["Bekannt", "Öffnen"])
    test = {"interface": STRINGS, "labels": LABELS}
    return Corpus("toy", "en", "de", train, STRINGS, test, {})


def test_classes_are_chosen_by_hash_and_unknown_to_the_corpus(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(classes, "_SENTENCES", 5)
    monkeypatch.setattr(classes, "_SPANS", 4)
    found = classes.classes_of_text(corpus, tmp_path)
    names = ["interface", "labels", "seen_labels", "another_project", "spans", "captions"]
    assert list(found) == names
    assert found["seen_labels"].sources == ["Open"]
    assert found["captions"].targets == [f"A photograph {i} de" for i in range(3)]
    spans = [f"Choose room {{{i}}} of this floor" for i in range(4)] + ["Room {x}"]
    others = [f"Choose the room number {word}" for word in ("one", "two", "three")]
    assert found["spans"].sources == sorted(spans, key=text_hash)[:4]
    assert found["another_project"].sources == sorted(spans[:4] + others, key=text_hash)[:5]
    french = dataclasses.replace(corpus, target_language="fr")
    with pytest.raises(VqnmtError, match="no project has strings in both"):
        classes.classes_of_text(french, tmp_path)


def test_examples_are_the_first_by_hash_and_captions_our_own(tmp_path) -> None:
    texts = {"interface": STRINGS, "labels": LABELS, "captions": STRINGS}
    systems = {"student": str.upper}
    measured = classes.measure_classes(texts, systems, {}, "de")
    classes.write_examples(tmp_path / "a.json", texts, measured, systems, 2)
    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    chosen = [one["source"] for one in written if one["class"] == "interface"]
    assert chosen == sorted(STRINGS.sources, key=text_hash)[:2]
    captions = [one for one in written if one["class"] == "captions"]
    assert [one["source"] for one in captions] == list(classes.OWN_CAPTIONS)
    assert not {one["source"] for one in captions} & set(STRINGS.sources)
    assert captions[0]["translations"] == {"student": classes.OWN_CAPTIONS[0].upper()}
    section = examples_section(written, 1)
    assert re.findall(r"^\*\*(\w+)\*\*$", section, re.MULTILINE) == list(texts)
    assert section.count("\n| ") == 9  # three lines a table, whose example is one
    first = min(LABELS.sources, key=text_hash)
    references = dict(zip(LABELS.sources, LABELS.references, strict=True))[first]
    assert re.search(
        rf"^\| {first} +\| {first.upper()} +\| {' / '.join(references)} +\|$", section, re.MULTILINE
    )


def test_the_table_has_a_row_for_each_class_and_system(make_record) -> None:
    student = {"sentences.labels": 2, "exact_match.labels": 50.0, "latency_ms.labels": 1.5}
    spans = {"sentences.spans": 9, "bleu.spans": 40.25, "intact.spans": 99.96}
    records = [
        make_record("student", metrics=student | spans),
        make_record("bare", metrics=spans | {"bleu.spans": 30.0}),
    ]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in classes_table(records).splitlines()
    ]
    header = ["class", "system", "strings", "BLEU", "chrF++", "exact %", "intact %", "ms"]
    assert rows[0] == header
    assert rows[2:] == [
        ["labels", "student", "2", "-", "-", "50.0", "-", "1.50"],
        ["spans", "student", "9", "40.2", "-", "-", "100.0", "-"],
        ["spans", "bare", "9", "30.0", "-", "-", "100.0", "-"],
    ]


def test_a_section_of_a_card_is_put_before_its_limits_once() -> None:
    card = "# A\n\n## Quality\n\ngood\n\n## Limits\n\n- few\n"
    once = with_section(card, "By class", "one")
    assert once == "# A\n\n## Quality\n\ngood\n\n## By class\n\none\n\n## Limits\n\n- few\n"
    assert with_section(once, "By class", "two") == once.replace("one", "two")
    assert with_section("# A\n", "By class", "one") == "# A\n\n## By class\n\none\n"


def test_tables_and_examples_are_put_into_pages(tmp_path, monkeypatch, make_record) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    update_tables = importlib.import_module("update_tables")
    monkeypatch.setattr(update_tables, "ROOT", tmp_path)
    folder = tmp_path / "results" / "classes"
    folder.mkdir(parents=True)
    metrics = {"sentences.spans": 9, "bleu.spans": 40.25}
    write_records(folder / "a.json", [make_record("student", metrics=metrics)])
    texts, systems = {"interface": STRINGS}, {"student": str.upper}
    measured = classes.measure_classes(texts, systems, {}, "de")
    classes.write_examples(folder / "a-examples.json", texts, measured, systems, 3)
    page = update_tables.updated(
        "<!-- records: results/classes/a.json -->\n<!-- end -->\n"
        "<!-- records: results/classes/a-examples.json first=2 -->\n<!-- end -->\n"
    )
    assert re.search(r"\| spans +\| student +\| +9 \| 40.2 \|", page)
    assert page.count("FILES") + page.count("WAIT") + page.count("OPEN") == 2
    assert update_tables.updated(page) == page


@pytest.mark.slow
def test_evaluation_of_a_run(finished_run, tmp_path: Path, script: Callable, monkeypatch) -> None:
    pytest.importorskip("ctranslate2")
    text = {"interface": STRINGS, "labels": LABELS, "spans": STRINGS}
    monkeypatch.setattr("vqnmt.experiments.classes.classes_of_text", lambda *_: text)
    monkeypatch.setattr("evaluate_classes.classes_of_text", lambda *_: text, raising=False)
    card = tmp_path / "README.md"
    card.write_text("# A\n\n## Limits\n\n- few\n")
    outcome = script(
        "evaluate_classes", "--run", finished_run.folder, "--results", tmp_path, "--card", card
    )
    assert outcome.status == 0, outcome.err
    records = json.loads((tmp_path / "files-en-de.json").read_text())
    systems = ["student", "teacher_greedy", "teacher_beam4"]
    systems += ["student_unrepaired", "student_unprotected"]
    assert [record["system"] for record in records] == systems
    assert records[0]["parameters"] != records[1]["parameters"] == records[2]["parameters"]
    assert records[0]["metrics"]["intact.spans"] == 100
    assert "exact_match.labels" not in records[3]["metrics"]
    assert json.loads((tmp_path / "files-en-de-examples.json").read_text())
    assert f"<!-- records: {tmp_path / 'files-en-de.json'} -->" in card.read_text()
    assert outcome.out.count("| student ") == 3
