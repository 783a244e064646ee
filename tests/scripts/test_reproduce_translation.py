"""The table of systems on a toy run: what is shared, what is done once, what is recorded."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from tests.conftest import SCRIPTS, Outcome
from vqnmt.evaluation.records import read_records, write_records
from vqnmt.experiments import reproduction
from vqnmt.pipeline.systems import BASELINES
from vqnmt.training.loop import Trainer
from vqnmt.translate.pytorch import Translator

ABLATIONS = sorted(path.stem for path in (SCRIPTS.parent / "configs/ablation").glob("*.yaml"))
PLACES = ("run=", "records=", "systems=", "seeds=", "main=", "ablation=")


@dataclass(frozen=True)
class Table:
    """What two starts of the script left, the first of them interrupted."""

    command: list[str]
    run: Path
    records: Path
    first: Outcome
    outcome: Outcome
    kept: dict[Path, bytes]
    """The scores that the first start had come to."""


def contents(folder: Path, pattern: str = "*") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


@pytest.fixture(scope="module")
def table(finished_run, tmp_path_factory, script: Callable) -> Table:
    folder = tmp_path_factory.mktemp("table")
    run, records = folder / "run", folder / "records"
    shutil.copytree(finished_run.folder, run)
    # The record of a run of train_nmt.py, in the same file.
    old = read_records(run / "results.json")
    write_records(records / "files-en-de.json", old)
    kept = [x for x in finished_run.overrides if not x.startswith(("records=", "student_training"))]
    command = [
        *kept,
        f"run={run}",
        f"records={records}",
        "systems=[nat_kd,nat_kd_npd10,ctc_nat_kd,ar_deep_shallow_kd,vq_em_kd_nc3,best]",
        "main=[ar_beam4,ar_greedy,best]",
        "seeds=[1,2]",
        "student_training.steps=4",
        "student_training.batch_tokens=2048",
        "student_training.validate_every=4",
        # The second autoregressive model of the two seeds.
        "teacher_training.steps=90",
    ]
    calls = mock.Mock(side_effect=reproduction.translate_sets)

    def interrupted(*arguments):
        if calls.call_count == 5:
            raise KeyboardInterrupt
        return calls(*arguments)

    with mock.patch.object(reproduction, "translate_sets", interrupted):
        first = script("reproduce_translation", *command)
    scores = contents(run / "systems")
    outcome = script("reproduce_translation", *command)
    assert outcome.status == 0, outcome.err
    return Table(command, run, records, first, outcome, scores)


def test_a_start_after_a_crash_goes_on(table: Table) -> None:
    assert table.first.status == 130
    assert "interrupted" in table.first.err.splitlines()[-1]
    assert len([path for path in table.kept if path.name == "record.json"]) == 5
    assert contents(table.run / "systems").items() >= table.kept.items()
    # All that is trained was trained at the first start.
    assert "student: step 4" in table.first.out + table.first.err
    assert "step" not in table.outcome.out


def test_shared_stages_are_used_and_left_as_they_were(finished_run, table: Table) -> None:
    for path in finished_run.folder.rglob("*"):
        if path.is_file():
            found = table.run / path.relative_to(finished_run.folder)
            assert found.read_bytes() == path.read_bytes(), found
    assert not list((table.run / "students").rglob("distilled"))


def test_systems_share_students_and_seeds_do_not(table: Table) -> None:
    students = sorted(path.name.rpartition("-")[0] for path in (table.run / "students").iterdir())
    # Those of vq_em_kd_nc3, best and its second seed are the last; both NATs are one.
    assert students == ["ar_2_1_kd", "ctc_nat_kd", "nat_kd", *["vq_em_ctc_kd_nc3"] * 3]
    assert [path.name for path in (table.run / "teachers").iterdir()] == ["seed-2"]


def test_the_autoregressive_rival_has_the_text_and_steps_of_best(table: Table) -> None:
    """Both seeds of `best` share teacher and text too."""
    found: dict[str, set[str]] = {}
    for path in (table.run / "students").glob("*/student/stage.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        text = json.dumps(
            {
                key: settings[key]
                for key in settings
                if key in ("distill", "student_training", "warm_start", "max_train_tokens")
                or key.startswith("digest of")
            },
            sort_keys=True,
        )
        found.setdefault(text, set()).add(path.parent.parent.name.rpartition("-")[0])
    with_made_up = {key: names for key, names in found.items() if "recombined-6" in key}
    assert list(with_made_up.values()) == [{"ar_2_1_kd", "vq_em_ctc_kd_nc3"}]


def test_made_up_sources_are_shared_by_the_seeds(finished_run, table: Table) -> None:
    [folder] = table.run.glob("recombined-*")
    sources, targets = (
        (folder / f"train.{code}").read_text(encoding="utf-8").split("\n")[:-1]
        for code in ("en", "de")
    )
    first = finished_run.lines("corpus/train.en")
    assert sources[: len(first)] == first
    assert targets[: len(first)] == finished_run.lines("distilled/train.de")
    made = sources[len(first) :]
    assert len(targets) == len(sources) > len(first)
    held_out = finished_run.lines("corpus/valid.en") + finished_run.lines("corpus/test.test.en")
    assert not set(made) & {*first, *held_out}
    teacher = Translator.from_pretrained(finished_run.folder / "teacher", device="cpu")
    again = [translation.text for translation in teacher.translate(made[:5], beam=4)]
    assert targets[len(first) :][:5] == again


def test_records_are_merged_by_system_seed_and_overrides(finished_run, table: Table) -> None:
    records = read_records(table.records / "files-en-de.json")
    old = read_records(finished_run.folder / "results.json")
    assert records[: len(old)] == old
    new = records[len(old) :]
    two = [*BASELINES, "best"]
    systems = [*BASELINES, "nat_kd", "nat_kd_npd10", "ctc_nat_kd", "ar_deep_shallow_kd"]
    systems += ["vq_em_kd_nc3", "best"]
    expected = {(s, seed) for s in systems for seed in ((1, 2) if s in two else (1,))}
    assert {(record.system, record.seed) for record in new} == expected
    assert len(new) == len(expected)
    for record in new:
        assert record.overrides[0] == f"experiment={record.system}"
        assert "student_training.steps=4" in record.overrides
        assert not any(change.startswith(PLACES) for change in record.overrides)
        timed = {"latency_ms.median", "sentences_per_second.batch_8", "speedup_over_ar_beam4"}
        assert (timed <= set(record.metrics)) == (record.seed == 1)
        assert {"bleu.test", "chrf.test", "bleu.valid", "bleu_signature"} <= set(record.metrics)
        assert "bleu_interval.test" in record.metrics
        for baseline in (*BASELINES, "ctc_nat_kd"):
            compared = f"p_value_against_{baseline}.test" in record.metrics
            assert compared == (record.system == "best")
        has_codes = record.system in ("vq_em_kd_nc3", "best")
        controls = {"bleu_oracle.valid", "bleu_random.valid", "code_bits.valid"}
        assert (controls <= set(record.metrics)) == has_codes
    first, second = (r for r in new if r.system == "best")
    assert first.wall_seconds != second.wall_seconds


def test_table_and_pictures(table: Table) -> None:
    text = (table.records / "files-en-de.md").read_text(encoding="utf-8")
    assert "| nat_kd_npd10 " in text and "| vq_em_kd_nc3 " in text
    assert "| vq_em_ctc_kd_nc3 " not in text
    assert text.startswith("Seeds 1, 2: a row with ± is the mean")
    for start in (r"oracle", r"ctc_nat_kd +\| test"):
        [row] = re.findall(rf"^\| best +\| {start}.*$", text, re.MULTILINE)
        assert " ± " in row
    assert table.outcome.out.endswith(f"\n\n{text}")
    for name in ("bleu_latency", "code_usage"):
        with Image.open(table.records / f"files-en-de_{name}.png") as image:
            image.verify()


def test_a_third_start_does_nothing(table: Table, script: Callable) -> None:
    before = contents(table.run) | contents(table.records, "*.json")
    broken = AssertionError("worked")
    with (
        mock.patch.object(Trainer, "train", side_effect=broken),
        mock.patch.object(Translator, "find", side_effect=broken),
        mock.patch.object(Translator, "reconstruct", side_effect=broken),
    ):
        outcome = script("reproduce_translation", *table.command)
    assert outcome.status == 0, outcome.err
    assert contents(table.run) | contents(table.records, "*.json") == before
    assert outcome.out.split("\n\n", 1)[1] == table.outcome.out.split("\n\n", 1)[1]


def test_ablation_runs_on_valid_alone(table: Table, script: Callable) -> None:
    kept = [x for x in table.command if not x.startswith("systems=")]
    outcome = script("reproduce_translation", *kept, "ablation=samples")
    assert outcome.status == 0, outcome.err
    records = read_records(table.records / "ablations" / "samples-files-en-de.json")
    assert [record.system for record in records] == [*BASELINES, "n_s1", "n_s5", "n_s10"]
    assert not any("test" in key for record in records for key in record.metrics)
    for record, samples in zip(records[2:], (1, 5, 10), strict=True):
        assert record.metrics["samples"] == samples
        change = f"student_model.quantizer.samples={samples}"
        assert record.overrides[:2] == ["experiment=vq_em_kd_nc3", change]
    assert "| n_s10 " in outcome.out


@pytest.mark.parametrize("choice", ["systems", *ABLATIONS])
def test_tables_compose(
    choice: str, overrides: list[str], script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All systems of a table share what they must, and differ from one another."""
    # What the command line sets is the same for all, so it would hide a difference.
    given = [x for x in overrides if not x.startswith("reward_training.")]
    if choice != "systems":
        given.append(f"ablation={choice}")
    monkeypatch.syspath_prepend(SCRIPTS)
    seen = {}

    class Stop(Exception):
        pass

    def look(rows, **_):
        seen.update(rows)
        config = rows[BASELINES[0]].config
        for row_name, row in rows.items():
            reproduction._check_shared(config, row.config, row_name)
        raise Stop

    with mock.patch("reproduce_translation.Reproduction", look), pytest.raises(Stop):
        script("reproduce_translation", *given)
    assert len(seen) >= 5
    configs = [repr(row.config) for row in seen.values()]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["ablation=sampels"], "ablation=sampels is not a known choice: did you mean samples?"),
        (["systems=bestt"], "experiment=bestt is not a known choice: did you mean best?"),
        (["seeds=[]"], "seeds is []; give one whole number or more"),
        (
            ["decoding.candidates=0"],
            "decoding.candidates is 0; it must be from 1 to 1,000",
        ),
        (
            ["evaluation.throughput_batches=[0]"],
            "evaluation.throughput_batches[0] is 0; it must be 1",
        ),
    ],
)
def test_mistakes_are_named_in_the_last_line(
    table: Table, script: Callable, changes: list[str], part: str
) -> None:
    keys = tuple(change.split("=")[0] + "=" for change in ["systems=", *changes])
    kept = [x for x in table.command if not x.startswith(keys)]
    outcome = script("reproduce_translation", *kept, "systems=[best]", *changes)
    assert outcome.status == 2
    assert part in outcome.err.rstrip("\n").splitlines()[-1]


def test_translations_are_kept_beside_the_scores(table: Table) -> None:
    for folder in (table.run / "systems").iterdir():
        (record,) = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        assert folder.name.startswith(record["system"])
        files = {"valid": "valid.de", "test": "test.test.de"}
        for name in json.loads((folder / "stage.json").read_text())["settings"]["sets"]:
            lines = (folder / f"{name}.de").read_text(encoding="utf-8").split("\n")[:-1]
            assert len(lines) == len((table.run / "corpus" / files[name]).read_text().splitlines())
